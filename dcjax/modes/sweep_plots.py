"""Plots of the learning curves of a sweep: means over runs, differences to baselines, bands."""

from collections.abc import Mapping, Sequence

import numpy as np

from dcjax.analysis import differences, learning_curves
from dcjax.analysis.learning_curves import LearningCurve
from dcjax.modes import tables
from dcjax.modes.tables import Comparison, Evaluation, Row

# What may be the horizontal axis, with its label: the first that all evaluations have.
_PLACES = {"step": "steps", "images": "images seen", "seconds": "seconds of training"}
_CLASSES = {"test": "", "validation": ", validation classes"}
_LEAST = 2  # evaluations of a curve

Curves = Mapping[tuple[int, int], LearningCurve]  # of the runs of a row, by seed and fold
# Places, and there the mean and both ends of its interval, in percent.
Intervals = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def draw(
    rows: Sequence[Row], names: Sequence[str], *, comparison: Comparison, over: str
) -> dict[str, tuple[str, str]]:
    """Returns the plot of each score that was evaluated twice or more.

    Args:
      rows: of a sweep.
      names: of the scores.
      comparison: of the rows.
      over: what means are over.

    Returns:
      What the plot shows and the text of its SVG file, by "SCORE" for the test classes and
      "validation.SCORE" for the validation classes.
    """
    from dcjax.pages import templating  # which takes time to import

    plots = {}
    for classes, suffix in _CLASSES.items():
        evaluations = [x for row in rows for run in row.evaluations for x in run.get(classes, ())]
        place = next((x for x in _PLACES if all(x in each for each in evaluations)), "")
        for name in names if place else ():
            curves = {row.name: _curves(row, classes, place, name) for row in rows}
            of_score = f"{templating.score_name(name)}{suffix}"
            if plot := _draw(curves, place, of_score, comparison, over):
                plots[name if classes == "test" else f"{classes}.{name}"] = plot
    return plots


def _draw(
    curves: Mapping[str, Curves],
    place: str,
    title: str,
    comparison: Comparison,
    over: str,
) -> tuple[str, str] | None:
    """Returns what the plot of a score shows and the text of its file, None without curves."""
    scores, compared = {}, {}
    for row, runs in curves.items():
        if intervals := _mean_intervals(runs):
            scores[row] = intervals
            baseline = curves.get(comparison.baselines.get(row, ""), {})
            if found := _differences(runs, baseline, comparison):
                compared[row] = found
    if not scores:
        return None
    from dcjax.pages import bands  # which takes time to import

    notes = [
        f"Lines: mean over the {over} of a row. Bands: its 95 % interval at each place, by "
        "Student's t."
    ]
    if compared:
        notes.append(
            f"Below: difference to {comparison.common_baseline or tables.EACH}, between runs of "
            f"the same {tables.PAIRED_BY[over]}, by {comparison.method_over_seeds}."
        )
    svg = bands.plot(
        *({row: bands.Band(*x) for row, x in panel.items()} for panel in (scores, compared)),
        x_label=_PLACES[place],
        score=title,
        notes=notes,
    )
    return f"{title} over {_PLACES[place]}", svg


def _mean_intervals(runs: Curves) -> Intervals | None:
    """Returns the mean of the curves of a row; None if they have no place in common."""
    if not runs:
        return None
    places, values = learning_curves.align(list(runs.values()))
    return _intervals(places, [differences.t_interval(x) for x in values.T])


def _differences(runs: Curves, baseline: Curves, comparison: Comparison) -> Intervals | None:
    """Returns how much higher the curves of a row are than those of its baseline, by pairs."""
    pairs = [pair for pair in runs if pair in baseline]
    if not pairs:
        return None
    both = [runs[pair] for pair in pairs] + [baseline[pair] for pair in pairs]
    places, values = learning_curves.align(both)
    paired = values[: len(pairs)] - values[len(pairs) :]
    return _intervals(places, [comparison.mean_and_ends(x) for x in paired.T])


def _intervals(places: np.ndarray, found: Sequence[tuple[float, float, float]]) -> Intervals | None:
    if not found:
        return None
    mean, low, high = 100 * np.array(found).T
    return places, mean, low, high


def _curves(row: Row, classes: str, place: str, name: str) -> Curves:
    """Returns the curve of each run of a row that has one."""
    found = {}
    for pair, run in zip(row.pairs, row.evaluations, strict=False):
        points = _points(run.get(classes, ()), place, name)
        if len(points) >= _LEAST:
            found[pair] = LearningCurve(*map(np.array, zip(*sorted(points.items()), strict=True)))
    return found


def _points(evaluations: Sequence[Evaluation], place: str, name: str) -> dict[float, float]:
    return {x[place]: x[name] for x in evaluations if name in x}
