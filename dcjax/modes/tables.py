"""The table of a sweep: means, differences to baselines by seed, costs, a paper's figures."""

import csv
import dataclasses
import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from dcjax.analysis import differences, sequences
from dcjax.core import naming, streams
from dcjax.core.errors import SettingError
from dcjax.core.streams import Stream
from dcjax.runs.query_scores import LABELS

_MARKDOWN = re.compile(r"[\\`*\[|]")  # what begins code, stress, links and cells
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
# What a run took to train, with the heading of its column.
COSTS = {"steps": "steps", "images": "images seen", "seconds": "seconds"}
# An evaluation of a run: scores by name, "epoch", and "step", "images" and "seconds" before it.
Evaluation = Mapping[str, float]
_METHODS = ("Student's t", "always-valid t, for seeds that are added until it decides")
_BOOTSTRAP = "bootstrap over seeds and classes, of scores that are means over queries"
_NO_INTERVAL = (
    "A difference without an interval is of fewer than three pairs, or of runs that did not keep "
    "the score of each query."
)
_SELECTED = {
    "best": "best epoch by the validation classes, on the test classes",
    "last": "last epoch",
}
# What runs of two rows have in common, by what means are over.
PAIRED_BY = {"seeds": "seed", "folds": "fold", "seeds x folds": "seed and fold"}
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
      pairs: seed and fold of each of these runs, by which rows are paired.
      costs: what each of these runs took, by the names of `COSTS`.
      evaluations: of each of these runs, in order, by the classes "test" and "validation".
      queries: the scores of each query of these runs, by selection, and their "labels".
    """

    name: str
    results: Sequence[Mapping[str, Mapping[str, float]]]
    paper: Mapping[str, float]
    divisions: Sequence[Mapping[str, float]] = ()
    pairs: Sequence[tuple[int, int]] = ()
    costs: Sequence[Mapping[str, float]] = ()
    evaluations: Sequence[Mapping[str, Sequence[Evaluation]]] = ()
    queries: Sequence[Mapping[str, Mapping[str, np.ndarray]]] = ()

    def scores(self, selection: str, name: str) -> list[float]:
        """Returns a score in every finished run; none where one of them lacks it."""
        found = [result.get(selection, {}) for result in self.results]
        values = [scores[name] for scores in found if name in scores]
        return values if len(values) == len(self.results) else []

    def division_figures(self, name: str) -> list[float]:
        """Returns a figure of the last division of every finished run; none where one lacks it."""
        return self._of_all(self.divisions, name)

    def cost(self, name: str) -> list[float]:
        """Returns what every finished run took; none where it is not known of one of them."""
        return self._of_all(self.costs, name)

    def differences_to(self, other: "Row", selection: str, name: str) -> list[float]:
        """Returns how much higher a score is than another row's, by seed and fold of both."""
        scores, others = (
            dict(zip(row.pairs, row.scores(selection, name), strict=False)) for row in (self, other)
        )
        return [score - others[pair] for pair, score in scores.items() if pair in others]

    def query_differences_to(
        self, other: "Row", selection: str, name: str
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns how much higher a score of each query is than another row's.

        Returns:
          The differences, one row for each seed and fold of both [S, Q], and the labels of the
          queries [Q]; None if a run of both lacks the score of its queries.
        """
        of_row, of_other = (
            {pair: x.get(selection, {}) for pair, x in zip(row.pairs, row.queries, strict=False)}
            for row in (self, other)
        )
        both = [(of_row[pair], of_other[pair]) for pair in of_row if pair in of_other]
        if not both or any(name not in scores for pair in both for scores in pair):
            return None
        labels = both[0][0][LABELS]
        if any(not np.array_equal(scores[LABELS], labels) for pair in both for scores in pair):
            return None  # other test images, of which no pair can be made
        return np.stack([scores[name] - others[name] for scores, others in both]), labels

    def _of_all(self, figures: Sequence[Mapping[str, float]], name: str) -> list[float]:
        values = [of_run[name] for of_run in figures if name in of_run]
        return values if len(values) == len(self.results) else []


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the rows of a table are compared.

    Attributes:
      baselines: the name of the row that a row is compared with, by its own name; rows that are
        not compared are not in it.
      margin: difference up to which rows count as equal, as a share of 1, where seeds are added
        until that is decided; 0: the seeds were chosen beforehand.
      bootstraps: whether intervals are over seeds and classes of the queries, not seeds alone.
    """

    baselines: Mapping[str, str] = dataclasses.field(default_factory=dict)
    margin: float = 0.0
    bootstraps: bool = False

    def baseline(self, row: Row, rows: Sequence[Row]) -> Row | None:
        """Returns the row among others that a row is compared with."""
        name = self.baselines.get(row.name)
        return next((other for other in rows if other.name == name), None)

    def difference(self, row: Row, rows: Sequence[Row], selection: str, name: str) -> list[Any]:
        """Returns how much higher a row's score is than its baseline's, and its interval.

        Returns:
          The mean over pairs and both ends, "" in place of what is unknown.
        """
        compared = self.baseline(row, rows)
        paired = [] if compared is None else row.differences_to(compared, selection, name)
        if compared is None or not paired:
            return ["", "", ""]
        mean, *ends = self.mean_and_ends(paired)
        if self.bootstraps:
            of_queries = row.query_differences_to(compared, selection, name)
            ends = [math.inf, math.inf]
            if of_queries is not None:
                generator = streams.generator(0, Stream.INTERVALS)
                _, *ends = differences.two_level_interval(*of_queries, generator)
        return [mean, *(end if math.isfinite(end) else "" for end in ends)]

    def mean_and_ends(self, paired: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
        """Returns mean and ends of the interval over seeds alone, which may be infinite."""
        mean, low, high = differences.t_interval(paired)
        if self.margin:
            low, high = (float(x[-1]) for x in sequences.confidence_sequence(np.array(paired)))
        return mean, low, high

    @property
    def common_baseline(self) -> str:
        """The name of the row that all others are compared with; "" if there are several."""
        names = {*self.baselines.values()}
        return names.pop() if len(names) == 1 else ""

    @property
    def method(self) -> str:
        """How the intervals of `difference` are computed, in words."""
        return _BOOTSTRAP if self.bootstraps else self.method_over_seeds

    @property
    def method_over_seeds(self) -> str:
        """How those of `mean_and_ends` are computed."""
        return _METHODS[self.margin > 0]

    def decisions(self, rows: Sequence[Row], best_by: str) -> dict[str, sequences.Decision]:
        """Returns what is known of compared rows, by a score; nothing if seeds are not added."""
        if not self.margin:
            return {}
        selection = _deciding(rows)
        return {
            row.name: sequences.decide(
                np.array(row.differences_to(compared, selection, best_by)), self.margin
            )
            for row in rows
            if (compared := self.baseline(row, rows))
        }


_NONE = Comparison()
EACH = "the baseline of each row"  # where there are several
_NO_PLOTS: Mapping[str, str] = {}


def find_baselines(asked: str, rows: Mapping[str, str]) -> dict[str, str]:
    """Returns the name of the row that a row is compared with, by its own name.

    Args:
      asked: the row that all others are compared with; "": as the rows say, or the first one if
        none says.
      rows: what each says, by its own name, in the order of the table; "": nothing.

    Raises:
      SettingError: if a row is to be compared with one that there is not.
    """
    for setting, name in [
        ("--baseline", asked),
        *((f"the baseline of {x}", rows[x]) for x in rows),
    ]:
        if name and name not in rows:
            raise SettingError(
                f"Require {setting} to be a row of the table, got {name!r}; rows are "
                f"{', '.join(rows)}."
            )
    if asked or not any(rows.values()):
        rows = dict.fromkeys(rows, asked or next(iter(rows)))
    return {name: baseline for name, baseline in rows.items() if baseline not in ("", name)}


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


def summarize(
    rows: Sequence[Row], best_by: str, comparison: Comparison, over: str
) -> dict[str, dict[str, str]]:
    """Returns mean, difference to its baseline, decision and steps of each row, by heading.

    Args:
      rows: of a table.
      best_by: name of the score.
      comparison: of the rows.
      over: what the means are over.
    """
    selection, decisions = _deciding(rows), comparison.decisions(rows, best_by)
    summary = {}
    for row in rows:
        difference = _difference(row, comparison, rows, selection, best_by)
        summary[row.name] = {
            over: str(len(row.results)),
            best_by: _percent(row.scores(selection, best_by)),
            f"difference to {comparison.common_baseline or EACH}": difference,
            **({"decision": _decision(decisions[row.name])} if row.name in decisions else {}),
            COSTS["steps"]: _whole(row.cost("steps")),
        }
    return summary


def describe_steps(rows: Sequence[Row]) -> str:
    """Returns which rows trained the fewest and the most steps, "" if all trained equally many."""
    steps = {row.name: row.cost("steps") for row in rows}
    if len({count for counts in steps.values() for count in counts}) < 2:
        return ""
    means = {name: statistics.fmean(counts) for name, counts in steps.items() if counts}
    least, most = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return (
        f"Runs differ in steps, on average from {means[least]:,.0f} ({least}) to "
        f"{means[most]:,.0f} ({most}): a part of a difference may be that of longer training. With "
        "train.num_steps all end after as many."
    )


def format_markdown(
    title: str,
    command: str,
    rows: Sequence[Row],
    names: Sequence[str],
    *,
    best_by: str = "",
    comparison: Comparison = _NONE,
    over: str = "seeds",
    plots: Mapping[str, str] = _NO_PLOTS,
) -> str:
    """Returns a table of percents, one part for the last and one for the best epochs.

    Args:
      title: its heading.
      command: the command of the sweep.
      rows: its rows.
      names: its scores in order; all that there are, if empty.
      best_by: name of the score by which a row is chosen, if there are validation classes.
      comparison: of its rows.
      over: what its means are over.
      plots: file of each plot beside the table, by what it shows.
    """
    lines = [
        f"# {title}",
        "",
        f"    {command}",
        "",
        f"Percent: mean ± sample deviation over the finished {over}.",
    ]
    if len(rows) > 1 and (chosen := choose(rows, best_by)):
        lines += ["", f"Chosen: {_escape(describe_choice(chosen, best_by))}."]
    if any(row.paper for row in rows):
        lines.append("The paper has one figure for both parts of the table.")
    if unequal := describe_steps(rows):
        lines += ["", _escape(unequal)]
    if decisions := comparison.decisions(rows, best_by):
        words = "; ".join(
            f"{_escape(name)}: {_decision(found)}" for name, found in decisions.items()
        )
        lines += [
            "",
            f"Decision by {best_by}, {_SELECTED[_deciding(rows)]}, within a margin of "
            f"{100 * comparison.margin:g} percent: {words}.",
        ]
    for selection, heading in _selections(rows).items():
        columns = _columns(rows, selection, names)
        headings = [
            text for name, compared in columns.items() for text in [name, "paper"][: 1 + compared]
        ]
        lines += ["", f"## {heading}", ""]
        lines += [_line(["", over, *headings]), _line(["---"] * (2 + len(headings)))]
        for row in rows:
            cells = [_escape(row.name), str(len(row.results))]
            for name, compared in columns.items():
                cells.append(_percent(row.scores(selection, name)))
                if compared:
                    cells.append(f"{row.paper[name]:.2f}" if name in row.paper else "")
            lines.append(_line(cells))
        lines += _compare(rows, selection, list(columns), comparison, over)
    if plots:
        lines += ["", "## Learning curves"]
        lines += [x for name, file in plots.items() for x in ("", f"![{name}]({quote(file)})")]
    if costs := [name for name in COSTS if any(row.cost(name) for row in rows)]:
        lines += ["", "## Training", "", "Of a run; seconds without those of evaluations.", ""]
        lines += [_line(["", *map(COSTS.__getitem__, costs)]), _line(["---"] * (1 + len(costs)))]
        lines += [_line([_escape(row.name), *(_whole(row.cost(x)) for x in costs)]) for row in rows]
    if figures := _known_figures(rows):
        lines += ["", "## Last division", "", "Not in percent.", ""]
        lines += [_line(["", *figures]), _line(["---"] * (1 + len(figures)))]
        for row in rows:
            cells = [_mean(row.division_figures(name)) for name in figures]
            lines.append(_line([_escape(row.name), *cells]))
    return "\n".join(lines) + "\n"


def format_csv(rows: Sequence[Row], names: Sequence[str], comparison: Comparison = _NONE) -> str:
    """Returns one line for each row, selection and score, in full precision.

    Mean and deviation are shares of 1, as are the difference to the baseline, over so many pairs,
    and the ends of its 95 % interval ("always_low" and "always_high" where seeds are added until
    it decides, "bootstrap_low" and "bootstrap_high" over seeds and classes); the paper's figure is
    in percent. Costs have the selection "training", figures of the last division "division".
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    headings = ["row", "score", "selection", "seeds", "mean", "deviation", "paper_percent"]
    kind = "always_" if comparison.margin else "bootstrap_" if comparison.bootstraps else ""
    writer.writerow([*headings, "baseline", "pairs", "difference", f"{kind}low", f"{kind}high"])
    for row in rows:
        compared = comparison.baseline(row, rows)
        cells = [
            (name, selection, row.scores(selection, name), row.paper.get(name, ""))
            for selection in _selections(rows)
            for name in _columns(rows, selection, names)
        ]
        cells += [(name, "training", row.cost(name), "") for name in COSTS if row.cost(name)]
        cells += [
            (name, "division", row.division_figures(name), "") for name in _known_figures(rows)
        ]
        for name, selection, values, paper in cells:
            mean: Any = statistics.fmean(values) if values else ""
            deviation: Any = statistics.stdev(values) if len(values) > 1 else ""
            paired = row.differences_to(compared, selection, name) if compared else []
            found = [len(values), mean, deviation, paper]
            found += [comparison.baselines.get(row.name, ""), len(paired)]
            found += comparison.difference(row, rows, selection, name)
            writer.writerow([row.name, name, selection, *found])
    return text.getvalue()


def _deciding(rows: Sequence[Row]) -> str:
    """Returns the selection of epochs whose scores decide between rows."""
    return "best" if "best" in _selections(rows) else "last"


def _compare(
    rows: Sequence[Row],
    selection: str,
    names: Sequence[str],
    comparison: Comparison,
    over: str,
) -> list[str]:
    """Returns the lines of a table of differences to the baselines; none without pairs."""
    compared = {row: other for row in rows if (other := comparison.baseline(row, rows))}
    scored = [name for name in names if any(x.scores(selection, name) for x in compared.values())]
    cells = {
        row: [_difference(row, comparison, rows, selection, name) for name in scored]
        for row in compared
    }
    if not any(map(any, cells.values())):
        return []
    pairs = {row: len(set(row.pairs) & set(other.pairs)) for row, other in compared.items()}
    against = {
        row: "" if comparison.common_baseline else f" against {_escape(other.name)}"
        for row, other in compared.items()
    }
    lacks = any(cell and "[" not in cell for each in cells.values() for cell in each)
    return [
        "",
        f"Difference to {_escape(comparison.common_baseline or EACH)}, between runs of the same "
        f"{PAIRED_BY[over]}: mean and 95 % interval ({comparison.method}).",
        "",
        _line(["", "pairs", *scored]),
        _line(["---"] * (2 + len(scored))),
        *(_line([_escape(x.name) + against[x], str(pairs[x]), *cells[x]]) for x in compared),
        *(["", _NO_INTERVAL] if lacks and comparison.bootstraps else []),
    ]


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


def _difference(
    row: Row, comparison: Comparison, rows: Sequence[Row], selection: str, name: str
) -> str:
    """Returns the mean difference in percent and its interval, "" without pairs."""
    found = comparison.difference(row, rows, selection, name)
    if not (known := [value for value in found if value != ""]):
        return ""
    mean, *ends = (f"{100 * value:+.2f}" for value in known)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def _decision(decision: sequences.Decision) -> str:
    return f"{decision.outcome or 'undecided'} after {decision.num_pairs} seeds"


def _whole(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):,.0f}" if values else ""


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3g}{deviation}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(name: str) -> str:
    """Returns the name of a row for Markdown, without the sense that its characters have there."""
    return _MARKDOWN.sub(r"\\\g<0>", naming.escape(name)).replace("<", "&lt;")
