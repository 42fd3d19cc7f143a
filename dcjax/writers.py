"""What a run tells: lines, tables and a progress bar to the terminal, scalars to files."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import rich.box
import rich.console
import rich.markup
import rich.progress
import rich.table
import tensorboardX

_WIDTH_OF_FILES = 120  # columns, where the output is not a terminal
_HEADINGS = {
    "map_at_r": "MAP@R",
    "marp_paper": "mARP of the papers",
    "r_precision": "R-precision",
    "nmi": "NMI",
}


class Console:
    """The terminal."""

    def __init__(self) -> None:
        self._console = rich.console.Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDTH_OF_FILES

    def line(self, text: str) -> None:
        """Prints one line, however long."""
        self._console.print(rich.markup.escape(text), soft_wrap=True)

    def table(self, title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
        """Prints scores by name, one row for each entry."""
        table = rich.table.Table("", title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        for name in columns:
            heading = _HEADINGS.get(name, name.replace("recall_at_", "R@"))
            table.add_column(heading, justify="right", no_wrap=True)
        for label, row in rows.items():
            cells = (f"{row[name]:.4f}" if name in row else "" for name in columns)
            table.add_row(rich.markup.escape(label), *cells)
        self._console.print(table)

    @contextlib.contextmanager
    def progress(self, label: str, *, total: int, done: int) -> Iterator[Callable[[str], None]]:
        """Shows a bar with the time left while the block runs, on a terminal only.

        Yields:
          A function that moves the bar on by one step and shows its text.
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
            yield lambda text: bar.update(task, advance=1, text=text)


class Scalars:
    """Curves of a run: `metrics.jsonl`, one object a line, and TensorBoard."""

    def __init__(self, workdir: str, *, step: int) -> None:
        """Opens both; forgets what a killed run wrote after `step`, which is done again."""
        path = pathlib.Path(workdir) / "metrics.jsonl"
        known = path.read_text().splitlines(keepends=True) if path.exists() else []
        path.write_text("".join(line for line in known if _written_by(line, step)))
        self._lines = path.open("a", buffering=1)
        self._tensorboard = tensorboardX.SummaryWriter(
            str(pathlib.Path(workdir) / "tensorboard"), purge_step=step + 1 if step else None
        )

    def write(self, step: int, values: Mapping[str, Any], *, group: str) -> None:
        """Writes the values of one step as `group/name`."""
        named = {f"{group}/{name}": value for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, **named}) + "\n")
        for name, value in named.items():
            if isinstance(value, int | float):
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        self._lines.close()
        self._tensorboard.close()


def _written_by(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except json.JSONDecodeError:  # the line that a kill cut
        return False
