"""Plots as SVG inside a page, which follow its colours and fonts in light and dark.

Matplotlib draws with reserved colours, each of which stands for a colour of `static/style.css`. No
text of a user is drawn: names are in the legend, which the page shows beside the plot.
"""

import dataclasses
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import markupsafe
import numpy as np

from dcjax.pages.content import Curve

_SIZE = (4.8, 2.9)  # inches, so that the texts are legible on a phone too
_FONT_SIZE = 10.5
DIVIDED_EPOCH = "divided at the start of epoch"  # a label
NUM_COLORS = 8  # --series-1 to --series-8
_TEXT, _MUTED, _LINE = "#010101", "#010102", "#010103"
_SERIES = [f"#0102{number:02x}" for number in range(1, NUM_COLORS + 1)]
_PAGE_COLORS = {
    _TEXT: "currentColor",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    **{color: f"var(--series-{number})" for number, color in enumerate(_SERIES, 1)},
}
# Dashes (in widths of the line) and markers (sides, angle). Each list has another length than that
# of the colours, so that lines of one colour differ in these.
_DASHES: Sequence[tuple[float, ...]] = ((), (6, 2), (2, 1.5), (7, 2, 2, 2), (10, 3))
_MARKERS = ((16, 0), (4, 45), (3, 0), (4, 0), (3, 180), (5, 0), (6, 0))
_MAX_MARKED_POINTS = 40
_MAX_LINES_OF_DIVISIONS = 40
_MAX_NOTED_CELLS = 64  # of a heat map, whose values are written into it

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # texts are texts, in the font of the page
    "svg.hashsalt": "dcjax",  # the same plot has the same names of its parts
    "text.parse_math": False,
    "font.size": _FONT_SIZE,
    "axes.labelsize": _FONT_SIZE,
    "xtick.labelsize": _FONT_SIZE,
    "ytick.labelsize": _FONT_SIZE,
    "text.color": _TEXT,
    "axes.labelcolor": _MUTED,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": "none",
    "image.interpolation": "none",  # cells stay as they are, however large they are shown
}


@dataclasses.dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
      name: what the line shows.
      color: a CSS colour.
      dashes: of the line, in the form of SVG's stroke-dasharray; "" if unbroken, None for no line.
      marker: corners of the marker, in the form of SVG's points, around 0; "" for none.
    """

    name: str
    color: str
    dashes: str | None
    marker: str


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
      svg: the drawing, whose text alternative is part of it.
      keys: its legend.
    """

    svg: markupsafe.Markup
    keys: Sequence[Key] = ()


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
            _draw_line(axes, number, curve.epochs, curve.values)
        if len(division_epochs) <= _MAX_LINES_OF_DIVISIONS:
            for epoch in division_epochs:
                axes.axvline(epoch, color=_MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
        else:  # short marks at the bottom, since lines would cover the plot
            axes.vlines(
                division_epochs, 0, 0.04, color=_MUTED, linewidth=0.8,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(*limits)
        _use_whole_epochs(axes)

    keys = [_key(number, text) for number, text in enumerate(curves)]
    if len(division_epochs):
        keys.append(Key("a division, before the next epoch", "var(--muted)", "1 2", ""))
    texts = [f"{label}: {_describe(curve)}" for label, curve in curves.items()]
    return Plot(_draw(name, draw, f"{y_label} over epochs. {'; '.join(texts)}."), keys)


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
            s=16, color=_SERIES[0], alpha=0.55, linewidths=0,
        )  # fmt: skip
        _draw_line(axes, 1, at, medians)
        axes.set(xlabel=DIVIDED_EPOCH, ylabel="images in a cluster")
        axes.set_ylim(bottom=0)
        _use_whole_epochs(axes)

    first, last = known[0][1], known[-1][1]
    text = (
        f"Sizes of clusters at each division: at first {_describe_sizes(first)}, "
        f"at last {_describe_sizes(last)}."
    )
    keys = [dataclasses.replace(_key(0, "a cluster"), dashes=None), _key(1, "median")]
    return Plot(_draw(name, draw, text), keys)


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
        _use_whole_numbers(axes.xaxis)
        _use_whole_numbers(axes.yaxis)
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
    return Plot(_draw(name, draw, text))


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
        axes.bar(np.arange(len(values)), np.nan_to_num(values), color=_SERIES[0], width=0.7)
        axes.axhline(level[1], color=_SERIES[1], linestyle=(0, _DASHES[1]))
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(False, axis="x")
        _use_whole_numbers(axes.xaxis)

    each = ", ".join(f"{value:.1f}" if np.isfinite(value) else "not known" for value in values)
    text = f"{y_label} by {x_label}: {each}. {level[0]}: {level[1]:.1f}."
    return Plot(_draw(name, draw, text), [dataclasses.replace(_key(1, level[0]), marker="")])


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
            axes.stairs(density, edges, fill=True, color=_SERIES[number], alpha=0.25)
            axes.stairs(
                density, edges, color=_SERIES[number], linewidth=1.6,
                linestyle=(0, _DASHES[number]) if _DASHES[number] else "solid",
            )  # fmt: skip
        axes.set(xlabel=x_label, ylabel="density")
        axes.set_yticks([])
        axes.set_ylim(bottom=0)

    texts = [
        f"{label}: {np.mean(values):.2f} on average, from {np.min(values):.2f} to "
        f"{np.max(values):.2f}"
        for label, values in filled.items()
    ]
    keys = [dataclasses.replace(_key(i, text), marker="") for i, text in enumerate(filled)]
    return Plot(_draw(name, draw, f"{x_label}. {'; '.join(texts)}."), keys)


def _draw(name: str, draw: Callable[[Any], None], description: str) -> markupsafe.Markup:
    """Returns a plot of one pair of axes as an <svg> element with a text alternative."""
    import matplotlib  # slow to import, and only the modes that make pages need it
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own matplotlibrc says
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: _format_tick(value))
        draw(axes)
        text = io.StringIO()
        metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        FigureCanvasSVG(figure).print_svg(text, metadata=metadata)
    return _inline(text.getvalue(), name, description)


def _format_tick(value: float) -> str:
    """Returns the label of a tick, written as all numbers of the page are, "1,500"."""
    return f"{value:,.9g}".replace("-", "\N{MINUS SIGN}")


def _inline(svg: str, name: str, description: str) -> markupsafe.Markup:
    """Returns an SVG file of matplotlib as an element of a page.

    Names of its parts get the plot's name as prefix, since pages have many plots; its size, fonts
    and colours become those of the page.
    """
    root = ElementTree.fromstring(svg)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}style"):  # would apply to the whole page
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        for key, value in attributes.items():
            attributes[key] = _in_page(key, value, name)
        element.attrib.clear()
        element.attrib.update(attributes)
        element.tail = None
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute)
    root.attrib |= {"class": "plot", "role": "img", "aria-label": description}
    return markupsafe.Markup(ElementTree.tostring(root, encoding="unicode"))


def _in_page(key: str, value: str, name: str) -> str:
    """Returns an attribute of a plot as it is in a page."""
    if key == "id":
        return f"{name}-{value}"
    if key == "d":
        return value.replace("\n", "").strip()
    if key == "href":
        return re.sub("^#", f"#{name}-", value)
    value = value.replace("url(#", f"url(#{name}-")
    if key == "style":
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        value = re.sub(r"#01\w{4}", lambda match: _PAGE_COLORS.get(match[0], match[0]), value)
    return value


def _local(tag: str) -> str:
    """Returns a name without its namespace, which parsers of HTML know by themselves."""
    return tag.rpartition("}")[2]


def _draw_line(axes: Any, number: int, x: np.ndarray, y: np.ndarray) -> None:
    dashes, (sides, angle) = _line_style(number)
    axes.plot(
        x, y,
        color=_SERIES[number % NUM_COLORS],
        linestyle=(0, dashes) if dashes else "solid",
        marker=(sides, 0, angle) if len(x) <= _MAX_MARKED_POINTS else "",
    )  # fmt: skip


def _line_style(number: int) -> tuple[tuple[float, ...], tuple[int, float]]:
    """Returns dashes and marker (sides, angle) of a line."""
    return _DASHES[number % len(_DASHES)], _MARKERS[number % len(_MARKERS)]


def _key(number: int, name: str) -> Key:
    dashes, (sides, angle) = _line_style(number)
    turns = (2 * math.pi * (side / sides) - math.radians(angle) for side in range(sides))
    corners = [f"{-4 * math.sin(turn):.1f},{-4 * math.cos(turn):.1f}" for turn in turns]
    return Key(
        name,
        f"var(--series-{number % NUM_COLORS + 1})",
        " ".join(f"{length:g}" for length in dashes),
        " ".join(corners),
    )


def _use_whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def _use_whole_epochs(axes: Any) -> None:
    """Puts ticks at whole epochs, of which at least two are visible."""
    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim((low + high - 1) / 2, (low + high + 1) / 2)
    _use_whole_numbers(axes.xaxis)


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
