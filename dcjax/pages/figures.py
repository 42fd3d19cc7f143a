"""Plots of a report: curves, sizes of clusters, matrices, bars and densities."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dcjax.pages import drawing
from dcjax.pages.content import Curve
from dcjax.pages.drawing import Key, Plot

DIVIDED_EPOCH = "divided at the start of epoch"  # a label
_MAX_LINES_OF_DIVISIONS = 40
_MAX_NOTED_CELLS = 64  # of a heat map, whose values are written into it


def plot_curves(
    name: str,
    curves: Mapping[str, Curve],
    *,
    x_label: str = "epochs trained",
    y_label: str,
    division_epochs: Sequence[float] | np.ndarray = (),
    limits: tuple[float | None, float | None] = (None, None),
) -> Plot:
    """Draws quantities over epochs, and when the training set was divided.

    Args:
      name: of the plot, unique in the page.
      curves: by name.
      x_label: how the epochs are counted.
      y_label: what the vertical axis shows.
      division_epochs: epochs trained before each division, marked by vertical lines.
      limits: of the vertical axis; None for those of the data.
    """

    def draw(axes: Any) -> None:
        for number, curve in enumerate(curves.values()):
            drawing.draw_line(axes, number, curve.epochs, curve.values)
        if len(division_epochs) <= _MAX_LINES_OF_DIVISIONS:
            for epoch in division_epochs:
                axes.axvline(
                    epoch, color=drawing.MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0
                )
        else:  # short marks at the bottom, since lines would cover the plot
            axes.vlines(
                division_epochs, 0, 0.04, color=drawing.MUTED, linewidth=0.8,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(*limits)
        _use_whole_epochs(axes)

    keys = [drawing.key(number, text) for number, text in enumerate(curves)]
    if len(division_epochs):
        keys.append(Key("a division, before the next epoch", "var(--muted)", "1 2", ""))
    texts = [f"{label}: {_describe(curve)}" for label, curve in curves.items()]
    return Plot(drawing.draw(name, [draw], f"{y_label} over epochs. {'; '.join(texts)}."), keys)


def plot_sizes(name: str, epochs: np.ndarray, sizes: Sequence[np.ndarray]) -> Plot | None:
    """Draws the sizes of all clusters at each division; None if none were recorded.

    Args:
      name: of the plot, unique in the page.
      epochs: at whose start the divisions were made, counted from 1, [P].
      sizes: of the clusters of each division, or none.
    """
    known = [(epoch, size) for epoch, size in zip(epochs, sizes, strict=True) if len(size)]
    if not known:
        return None
    at = np.array([epoch for epoch, _ in known])
    medians = np.array([np.median(size) for _, size in known])

    def draw(axes: Any) -> None:
        axes.scatter(
            np.repeat(at, [len(size) for _, size in known]),
            np.concatenate([size for _, size in known]),
            s=16, color=drawing.SERIES[0], alpha=0.55, linewidths=0,
        )  # fmt: skip
        drawing.draw_line(axes, 1, at, medians)
        axes.set(xlabel=DIVIDED_EPOCH, ylabel="images in a cluster")
        axes.set_ylim(bottom=0)
        _use_whole_epochs(axes)

    first, last = known[0][1], known[-1][1]
    text = (
        f"Sizes of clusters at each division: at first {_describe_sizes(first)}, "
        f"at last {_describe_sizes(last)}."
    )
    keys = [dataclasses.replace(drawing.key(0, "a cluster"), dashes=None), drawing.key(1, "median")]
    return Plot(drawing.draw(name, [draw], text), keys)


def plot_heat_map(
    name: str,
    values: np.ndarray,
    *,
    x_label: str,
    y_label: str,
    description: str,
    limits: tuple[float | None, float | None] = (None, None),
) -> Plot:
    """Draws a matrix as colours, dark for low and bright for high values.

    Args:
      name: of the plot, unique in the page.
      values: [rows, columns].
      x_label: what columns are.
      y_label: what rows are.
      description: what is shown, in words.
      limits: values of the darkest and of the brightest colour; None for those of the data.
    """
    noted = values.size <= _MAX_NOTED_CELLS

    def draw(axes: Any) -> None:
        image = axes.imshow(
            values, cmap="cividis", aspect="auto", vmin=limits[0], vmax=limits[1], zorder=1
        )
        axes.grid(False)
        axes.set(xlabel=x_label, ylabel=y_label)
        drawing.use_whole_numbers(axes.xaxis)
        drawing.use_whole_numbers(axes.yaxis)
        bar = axes.figure.colorbar(image, ax=axes, pad=0.03, fraction=0.06)
        bar.outline.set_visible(False)
        if noted:
            middle = sum(image.get_clim()) / 2
            for (row, column), value in np.ndenumerate(values):
                color = "#000000" if value > middle else "#ffffff"
                axes.text(
                    column, row, f"{value:.2f}", color=color, ha="center", va="center",
                    fontsize=8, zorder=2,
                )  # fmt: skip

    text = (
        f"{description} Values from {np.min(values):.2f} to {np.max(values):.2f}, "
        f"{np.mean(values):.2f} on average."
    )
    return Plot(drawing.draw(name, [draw], text))


def plot_bars(
    name: str, values: Sequence[float], *, level: tuple[str, float], x_label: str, y_label: str
) -> Plot:
    """Draws a bar for each value, and one more value as a line across.

    Args:
      name: of the plot, unique in the page.
      values: of 0, 1, 2, ...; bars that are not finite are left out.
      level: name and height of the line.
      x_label: what bars are.
      y_label: what their height is.
    """

    def draw(axes: Any) -> None:
        axes.bar(np.arange(len(values)), np.nan_to_num(values), color=drawing.SERIES[0], width=0.7)
        axes.axhline(level[1], color=drawing.SERIES[1], linestyle=(0, drawing.DASHES[1]))
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(False, axis="x")
        drawing.use_whole_numbers(axes.xaxis)

    each = ", ".join(f"{value:.1f}" if np.isfinite(value) else "not known" for value in values)
    text = f"{y_label} by {x_label}: {each}. {level[0]}: {level[1]:.1f}."
    return Plot(
        drawing.draw(name, [draw], text), [dataclasses.replace(drawing.key(1, level[0]), marker="")]
    )


def plot_histograms(name: str, samples: Mapping[str, np.ndarray], *, x_label: str) -> Plot:
    """Draws the densities of samples over each other.

    Args:
      name: of the plot, unique in the page.
      samples: by name; empty ones are left out.
      x_label: what the values are.
    """
    filled = {label: values for label, values in samples.items() if len(values)}

    def draw(axes: Any) -> None:
        if filled:
            low = min(float(np.min(values)) for values in filled.values())
            high = max(float(np.max(values)) for values in filled.values())
            edges = np.linspace(low, max(high, low + 1e-6), 50)
        for number, values in enumerate(filled.values()):
            density, _ = np.histogram(values, edges, density=True)
            axes.stairs(density, edges, fill=True, color=drawing.SERIES[number], alpha=0.25)
            axes.stairs(
                density, edges, color=drawing.SERIES[number], linewidth=1.6,
                linestyle=(0, drawing.DASHES[number]) if drawing.DASHES[number] else "solid",
            )  # fmt: skip
        axes.set(xlabel=x_label, ylabel="density")
        axes.set_yticks([])
        axes.set_ylim(bottom=0)

    texts = [
        f"{label}: {np.mean(values):.2f} on average, from {np.min(values):.2f} to "
        f"{np.max(values):.2f}"
        for label, values in filled.items()
    ]
    keys = [dataclasses.replace(drawing.key(i, text), marker="") for i, text in enumerate(filled)]
    return Plot(drawing.draw(name, [draw], f"{x_label}. {'; '.join(texts)}."), keys)


def _use_whole_epochs(axes: Any) -> None:
    """Puts ticks at whole epochs, of which at least two are visible."""
    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim((low + high - 1) / 2, (low + high + 1) / 2)
    drawing.use_whole_numbers(axes.xaxis)


def _describe(curve: Curve) -> str:
    """Returns where a curve starts and ends, in words."""
    known = np.isfinite(curve.values)
    epochs, values = curve.epochs[known], curve.values[known]
    if not len(values):
        return "no values"
    first, last, low, high = map(
        _format_value, (values[0], values[-1], np.min(values), np.max(values))
    )
    return (
        f"{first} at epoch {epochs[0]:.4g}, {last} at epoch {epochs[-1]:.4g}, between {low} and "
        f"{high}"
    )


def _format_value(value: float) -> str:
    """Returns a value with four digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _describe_sizes(sizes: np.ndarray) -> str:
    return f"{len(sizes):,} clusters of {np.min(sizes):,} to {np.max(sizes):,} images"
