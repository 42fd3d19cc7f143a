"""The terminal: lines, tables and a progress bar."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import rich.box
import rich.console
import rich.measure
import rich.progress
import rich.table

_WIDTH_OF_FILES = 120  # columns, where the output is not a terminal
_HEADINGS = {
    "map": "mAP",
    "map_at_r": "MAP@R",
    "marp_paper": "mARP",
    "r_precision": "R-prec.",
    "nmi": "NMI",
}
# Beginnings of the names of scores at a value that follows.
_BEGINNINGS = {"recall_at_": "R@", "fnmr_at_fmr_": "FNMR@", "threshold_at_fmr_": "dist.@"}


def score_heading(name: str) -> str:
    """Returns how a table is headed for a score: "R@1" for recall_at_1."""
    for beginning, short in _BEGINNINGS.items():
        name = name.replace(beginning, short)
    return _HEADINGS.get(name, name)


class Console:
    """The terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Prints to stdout; nothing if quiet."""
        self._console = rich.console.Console(
            markup=False, emoji=False, highlight=False, quiet=quiet
        )
        if not self._console.is_terminal:
            self._console.width = _WIDTH_OF_FILES

    def print_line(self, text: str) -> None:
        """Prints one line, however long."""
        self._console.print(self._encodable(text), soft_wrap=True)

    def print_scores(self, title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
        """Prints a table of scores by name, one row for each entry."""
        headed = {
            label: {score_heading(name): f"{score:.4f}" for name, score in row.items()}
            for label, row in rows.items()
        }
        self.print_table(title, headed)

    def print_table(self, title: str, rows: Mapping[str, Mapping[str, str]]) -> None:
        """Prints a table of texts by heading, one row for each entry; labels wrap, texts do not."""
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column(self._encodable(title), overflow="fold")
        longest_first = sorted(rows.values(), key=len, reverse=True)
        columns = list(dict.fromkeys(name for row in longest_first for name in row))
        for name in columns:
            table.add_column(name, justify="right", no_wrap=True)
        for label, row in rows.items():
            table.add_row(self._encodable(label), *(row.get(name, "") for name in columns))
        options = self._console.options
        needed = rich.measure.Measurement.get(self._console, options.update(width=1000), table)
        width = max(options.max_width, needed.minimum)
        self._console.print(table, width=width, crop=False)

    def _encodable(self, text: str) -> str:
        """Returns a text in which characters that the terminal's encoding lacks are escaped."""
        encoding = self._console.encoding
        return text.encode(encoding, "backslashreplace").decode(encoding)

    @contextlib.contextmanager
    def progress(self, label: str, *, total: int, done: int) -> Iterator[Callable[..., None]]:
        """Shows a bar with the time left while the block runs, on a terminal only.

        Yields:
          A function (text, steps=1) that advances the bar and shows a text.
        """
        bar = rich.progress.Progress(
            "{task.description}",
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            "{task.fields[text]}",
            rich.progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        with bar:
            task = bar.add_task(label, total=total, completed=done, text="")
            yield lambda text, steps=1: bar.update(task, advance=steps, text=text)
