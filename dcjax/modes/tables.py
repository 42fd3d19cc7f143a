"""The table of a sweep: means and deviations over seeds, beside a paper's figures."""

import csv
import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# Figures of a division that a table has; `analysis.effects` says what they are.
DIVISION_FIGURES = (
    "nearest_negative_ratio",
    "separated_pairs",
    "classes_per_cluster",
    "variance_within",
    "left_out",
    "mask_cosine",
    "subspace_dimension",
)
# What scores.json holds, and how a table is headed; of runs with validation classes alone:
_VALIDATED = {
    "best": "Best epoch by the validation classes, on the test classes",
    "best_validation": "Best epoch by the validation classes, on these",
    "refit": "Trained again on all classes until that epoch, on the test classes",
}
# and of all runs.
_SELECTIONS = {
    "last": "Last epoch",
    "best_test": "Best epoch, chosen on the test classes that are scored",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One row of a table.

    Attributes:
      name: its label.
      results: of its finished runs, each the content of scores.json.
      paper: a paper's scores, in percent.
      divisions: figures of the last division of these runs, by name.
    """

    name: str
    results: Sequence[Mapping[str, Mapping[str, float]]]
    paper: Mapping[str, float]
    divisions: Sequence[Mapping[str, float]] = ()

    def scores(self, selection: str, name: str) -> list[float]:
        """Returns a score in every finished run; none where one of them lacks it."""
        found = [result.get(selection, {}) for result in self.results]
        values = [scores[name] for scores in found if name in scores]
        return values if len(values) == len(self.results) else []

    def division_figures(self, name: str) -> list[float]:
        """Returns a figure of the last division of every finished run; none where one lacks it."""
        values = [figures[name] for figures in self.divisions if name in figures]
        return values if len(values) == len(self.results) else []


def choose(rows: Sequence[Row], best_by: str) -> Row | None:
    """Returns the row whose mean score on validation classes is highest.

    None while rows differ in their number of finished runs, or if they lack such scores.

    Args:
      rows: of a table.
      best_by: name of the score.
    """
    if len({len(row.results) for row in rows}) > 1:
        return None
    means = {
        row: statistics.fmean(scores)
        for row in rows
        if (scores := row.scores("best_validation", best_by))
    }
    return max(means, key=means.__getitem__, default=None)


def describe_choice(row: Row, best_by: str) -> str:
    """Returns the score by which a row is chosen, and its score on the test classes."""
    validated, tested = (row.scores(x, best_by) for x in ("best_validation", "best"))
    return (
        f"{row.name}, by {best_by} {_percent(validated)} on the validation classes; on the test "
        f"classes {_percent(tested)}"
    )


def format_markdown(
    title: str,
    command: str,
    rows: Sequence[Row],
    names: Sequence[str],
    *,
    best_by: str = "",
    over: str = "seeds",
) -> str:
    """Returns a table of percents, one part for the last and one for the best epochs.

    Args:
      title: its heading.
      command: the command of the sweep.
      rows: its rows.
      names: its scores in order; all that there are, if empty.
      best_by: name of the score by which a row is chosen, if there are validation classes.
      over: what its means are over.
    """
    lines = [
        f"# {title}",
        "",
        f"    {command}",
        "",
        f"Percent: mean ± sample deviation over the finished {over}.",
    ]
    if len(rows) > 1 and (chosen := choose(rows, best_by)):
        lines += ["", f"Chosen: {describe_choice(chosen, best_by)}."]
    if any(row.paper for row in rows):
        lines.append("The paper has one figure for both parts of the table.")
    for selection, heading in _selections(rows).items():
        columns = _columns(rows, selection, names)
        headings = [
            text for name, compared in columns.items() for text in [name, "paper"][: 1 + compared]
        ]
        lines += ["", f"## {heading}", ""]
        lines += [_line(["", over, *headings]), _line(["---"] * (2 + len(headings)))]
        for row in rows:
            cells = [row.name, str(len(row.results))]
            for name, compared in columns.items():
                cells.append(_percent(row.scores(selection, name)))
                if compared:
                    cells.append(f"{row.paper[name]:.2f}" if name in row.paper else "")
            lines.append(_line(cells))
    if figures := _known_figures(rows):
        lines += ["", "## Last division", "", "Not in percent.", ""]
        lines += [_line(["", *figures]), _line(["---"] * (1 + len(figures)))]
        for row in rows:
            cells = [_mean(row.division_figures(name)) for name in figures]
            lines.append(_line([row.name, *cells]))
    return "\n".join(lines) + "\n"


def format_csv(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Returns one line for each row, selection and score, in full precision.

    Mean and deviation are shares of 1, the paper's figure is in percent. Figures of the last
    division have the selection "division".
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "score", "selection", "seeds", "mean", "deviation", "paper_percent"])
    for row in rows:
        cells = [
            (name, selection, row.scores(selection, name), row.paper.get(name, ""))
            for selection in _selections(rows)
            for name in _columns(rows, selection, names)
        ]
        cells += [
            (name, "division", row.division_figures(name), "") for name in _known_figures(rows)
        ]
        for name, selection, values, paper in cells:
            mean: Any = statistics.fmean(values) if values else ""
            deviation: Any = statistics.stdev(values) if len(values) > 1 else ""
            writer.writerow([row.name, name, selection, len(values), mean, deviation, paper])
    return text.getvalue()


def _selections(rows: Sequence[Row]) -> dict[str, str]:
    """Returns the parts of a table and their headings."""
    available = {name for row in rows for result in row.results for name in result}
    validated = {name: text for name, text in _VALIDATED.items() if name in available}
    return validated | _SELECTIONS


def _columns(rows: Sequence[Row], selection: str, names: Sequence[str]) -> dict[str, bool]:
    """Returns the scores that a run or the paper has, and whether the paper has them."""
    available = dict.fromkeys(
        name for row in rows for result in row.results for name in result.get(selection, {})
    )
    compared = {name for row in rows for name in row.paper}
    wanted = names or [name for name in available if name != "epoch"]
    return {name: name in compared for name in wanted if name in available or name in compared}


def _known_figures(rows: Sequence[Row]) -> list[str]:
    """Returns the figures of divisions that a row has."""
    return [name for name in DIVISION_FIGURES if any(row.division_figures(name) for row in rows)]


def _percent(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    deviation = f" ± {100 * statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return f"{100 * statistics.fmean(scores):.2f}{deviation}"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3g}{deviation}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
