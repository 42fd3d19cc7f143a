"""Plots of learning curves of several settings: means over runs, with the intervals around them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dcjax.pages import drawing

_ALPHA = 0.16  # of a band, through which lines of others are seen


@dataclasses.dataclass(frozen=True)
class Band:
    """A mean over runs, and the interval around it.

    Attributes:
      places: on the horizontal axis, ascending [P].
      mean: at each place [P].
      low: lower end of the interval [P], not finite where there is none.
      high: its upper end [P].
    """

    places: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def plot(
    scores: Mapping[str, Band],
    differences: Mapping[str, Band],
    *,
    x_label: str,
    score: str,
    notes: Sequence[str],
) -> str:
    """Returns the text of an SVG file: scores, and below them differences to one of the settings.

    Args:
      scores: by name of the setting, in percent.
      differences: likewise, of some of these settings; none: no second panel.
      x_label: what the horizontal axis shows.
      score: name of the score.
      notes: what lines and bands are, for the legend.
    """
    numbers = {name: number for number, name in enumerate(scores)}
    limits, is_cut = _limits([*scores.values()])
    if is_cut:
        notes = [*notes, "Bands reach beyond the frame where they end at it."]

    def draw_bands(axes: Any, bands: Mapping[str, Band], y_label: str) -> None:
        for name, band in bands.items():
            axes.fill_between(
                band.places, band.low, band.high,
                where=np.isfinite(band.high - band.low),
                color=drawing.series(numbers[name]), alpha=_ALPHA, linewidth=0,
            )  # fmt: skip
        for name, band in bands.items():
            drawing.draw_line(axes, numbers[name], band.places, band.mean)
        axes.set(ylabel=y_label)

    def draw_scores(axes: Any) -> None:
        draw_bands(axes, scores, f"{score}, percent")
        axes.set_ylim(*limits)

    def draw_differences(axes: Any) -> None:
        axes.axhline(0, color=drawing.MUTED, linewidth=1)
        draw_bands(axes, differences, "difference, points")

    panels = [draw_scores, draw_differences][: 2 if differences else 1]

    def draw_last(axes: Any) -> None:
        panels[-1](axes)
        axes.set(xlabel=x_label)

    texts = [_describe(f"{name}, {score}", band, x_label) for name, band in scores.items()]
    texts += [_describe(f"{name}, difference", band, x_label) for name, band in differences.items()]
    svg = drawing.draw("bands", [*panels[:-1], draw_last], "; ".join(texts))
    keys = [drawing.key(number, name) for name, number in numbers.items()]
    return drawing.to_file(drawing.Plot(svg, keys), notes)


def _limits(bands: Sequence[Band]) -> tuple[tuple[float | None, float | None], bool]:
    """Returns limits within which lines are seen, and whether they cut a band.

    Bands of two or three runs may be far wider than what their lines do. Without a difference
    between lines, limits are those of the data, None.
    """
    means = np.concatenate([band.mean for band in bands])
    ends = np.concatenate([x for band in bands for x in (band.low, band.high)])
    low, high = float(means.min()), float(means.max())
    room = high - low
    if not room:
        return (None, None), False
    drawn = np.append(ends[np.isfinite(ends)], [low, high])
    lowest, highest = float(drawn.min()) - 0.05 * room, float(drawn.max()) + 0.05 * room
    limits = max(lowest, low - room), min(highest, high + room)
    return limits, limits != (lowest, highest)


def _describe(name: str, band: Band, x_label: str) -> str:
    """Returns where a line starts and ends, in words."""
    first, last = (
        f"{band.mean[i]:.2f} [{band.low[i]:.2f}, {band.high[i]:.2f}]"
        if np.isfinite(band.high[i] - band.low[i])
        else f"{band.mean[i]:.2f}"
        for i in (0, -1)
    )
    return f"{name}: {first} at {band.places[0]:,.0f}, {last} at {band.places[-1]:,.0f} {x_label}"
