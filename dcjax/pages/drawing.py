"""Drawing of plots as SVG, in the colours and fonts of a page in light and dark.

Matplotlib draws with reserved colours, each of which stands for a colour of `static/style.css`. No
text of a user is drawn: names are in the legend, which stands beside the plot.
"""

import dataclasses
import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import markupsafe
import numpy as np

from dcjax.pages import templating

_SIZE = (4.8, 2.9)  # inches, so that the texts are legible on a phone too
_FONT_SIZE = 10.5
NUM_COLORS = 8  # --series-1 to --series-8
_TEXT, MUTED, _LINE = "#010101", "#010102", "#010103"
SERIES = [f"#0102{number:02x}" for number in range(1, NUM_COLORS + 1)]
_PAGE_COLORS = {
    _TEXT: "currentColor",
    MUTED: "var(--muted)",
    _LINE: "var(--line)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)},
}
# Dashes (in widths of the line) and markers (sides, angle). Each list has another length than that
# of the colours, so that lines of one colour differ in these.
DASHES: Sequence[tuple[float, ...]] = ((), (6, 2), (2, 1.5), (7, 2, 2, 2), (10, 3))
_MARKERS = ((16, 0), (4, 45), (3, 0), (4, 0), (3, 180), (5, 0), (6, 0))
_MAX_MARKED_POINTS = 40
# Of the legend in a file, in points: height of a line, length of a stroke, margin.
_LEGEND_LINE, _LEGEND_STROKE, _LEGEND_MARGIN = 16, 30, 10
_LEGEND_CHARACTERS, _NOTE_CHARACTERS = 54, 62  # of a line, at which it is broken
_NO_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # texts are texts, in the font of the page
    "svg.hashsalt": "dcjax",  # the same plot has the same names of its parts
    "text.parse_math": False,
    "font.size": _FONT_SIZE,
    "axes.labelsize": _FONT_SIZE,
    "xtick.labelsize": _FONT_SIZE,
    "ytick.labelsize": _FONT_SIZE,
    "text.color": _TEXT,
    "axes.labelcolor": MUTED,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
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


def draw(name: str, panels: Sequence[Callable[[Any], None]], description: str) -> markupsafe.Markup:
    """Returns a plot as an <svg> element with a text alternative.

    Args:
      name: of the plot, unique in the page.
      panels: draw into the axes that they get, one pair below the other, with one horizontal axis.
      description: what is shown, in words.
    """
    import matplotlib  # slow to import, and only the modes that make pages need it
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own matplotlibrc says
        matplotlib.rcParams.update(_STYLE)
        width, height = _SIZE
        figure = Figure(figsize=(width, height * len(panels)), layout="constrained")
        all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for draw_panel, axes in zip(panels, all_axes, strict=True):
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda value, _: _format_tick(value))
            draw_panel(axes)
        text = io.StringIO()
        metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        FigureCanvasSVG(figure).print_svg(text, metadata=metadata)
    return _inline(text.getvalue(), name, description)


def to_file(plot: Plot, notes: Sequence[str] = ()) -> str:
    """Returns a plot as the text of an SVG file, with its legend below it.

    It has a background, and follows a reader's choice of light or dark.

    Args:
      plot: the plot.
      notes: sentences below its legend.
    """
    root = ElementTree.fromstring(plot.svg)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    legend = ElementTree.Element("g", {"font-size": str(_FONT_SIZE)})
    for entry in plot.keys:
        legend.append(_legend_stroke(entry, height + _LEGEND_LINE / 2))
        place = {"x": f"{_LEGEND_MARGIN + _LEGEND_STROKE + 6}", "fill": "var(--text)"}
        height = _add_text(legend, entry.name, place, height, _LEGEND_CHARACTERS)
    for note in notes:
        place = {"x": f"{_LEGEND_MARGIN}", "fill": "var(--muted)"}
        height = _add_text(legend, note, place, height + 4, _NOTE_CHARACTERS)
    height += _LEGEND_MARGIN
    root.append(legend)
    style = ElementTree.Element("style")
    style.text = (
        templating.palette() + "svg { color: var(--text); font-family: system-ui, sans-serif }"
    )
    page = ElementTree.Element("rect", {"width": "100%", "height": "100%", "fill": "var(--page)"})
    root.insert(0, page)
    root.insert(0, style)
    pixels = {"width": f"{width / 0.75:g}", "height": f"{height / 0.75:g}"}
    root.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width:g} {height:g}"}
    root.attrib |= pixels
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_text(
    legend: ElementTree.Element, text: str, place: Mapping[str, str], top: float, length: int
) -> float:
    """Adds a text below a height of the drawing, in lines of a length; returns where it ends."""
    for line in textwrap.wrap(_replace_control(text), length) or [""]:
        at = {**place, "y": f"{top + 0.75 * _LEGEND_LINE:g}"}
        ElementTree.SubElement(legend, "text", at).text = line
        top += _LEGEND_LINE
    return top


def _legend_stroke(entry: Key, middle: float) -> ElementTree.Element:
    """Returns the line and the marker of an entry, at this height of the drawing."""
    place = f"translate({_LEGEND_MARGIN + _LEGEND_STROKE / 2:g} {middle:g})"
    group = ElementTree.Element("g", {"transform": place, "style": f"color: {entry.color}"})
    if entry.dashes is not None:
        half = _LEGEND_STROKE / 2
        stroke = {"d": f"M{-half:g} 0H{half:g}", "stroke": "currentColor", "stroke-width": "1.8"}
        # Dashes are in widths of the line, as in the drawing.
        lengths = [f"{1.8 * float(length):g}" for length in entry.dashes.split()]
        stroke |= {"stroke-dasharray": " ".join(lengths)} if lengths else {}
        ElementTree.SubElement(group, "path", stroke)
    if entry.marker:
        ElementTree.SubElement(group, "polygon", {"points": entry.marker, "fill": "currentColor"})
    return group


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
    root.attrib |= {"class": "plot", "role": "img", "aria-label": _replace_control(description)}
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


def _replace_control(text: str) -> str:
    """Returns a text without the characters that XML does not allow, as those of control."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _local(tag: str) -> str:
    """Returns a name without its namespace, which parsers of HTML know by themselves."""
    return tag.rpartition("}")[2]


def series(number: int) -> str:
    """Returns the colour of what is drawn for the line of this number."""
    return SERIES[number % NUM_COLORS]


def draw_line(axes: Any, number: int, x: np.ndarray, y: np.ndarray) -> None:
    """Draws the line of this number of a plot; `key` has its place in the legend."""
    dashes, (sides, angle) = _line_style(number)
    axes.plot(
        x, y,
        color=series(number),
        linestyle=(0, dashes) if dashes else "solid",
        marker=(sides, 0, angle) if len(x) <= _MAX_MARKED_POINTS else "",
    )  # fmt: skip


def _line_style(number: int) -> tuple[tuple[float, ...], tuple[int, float]]:
    """Returns dashes and marker (sides, angle) of a line."""
    return DASHES[number % len(DASHES)], _MARKERS[number % len(_MARKERS)]


def key(number: int, name: str) -> Key:
    """Returns the entry of the line of this number."""
    dashes, (sides, angle) = _line_style(number)
    turns = (2 * math.pi * (side / sides) - math.radians(angle) for side in range(sides))
    corners = [f"{-4 * math.sin(turn):.1f},{-4 * math.cos(turn):.1f}" for turn in turns]
    return Key(
        name,
        f"var(--series-{number % NUM_COLORS + 1})",
        " ".join(f"{length:g}" for length in dashes),
        " ".join(corners),
    )


def use_whole_numbers(axis: Any) -> None:
    """Puts ticks at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
