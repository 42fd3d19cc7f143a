"""Plots as parts of a page."""

import re
import textwrap
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import pytest

from dcjax.pages import drawing, figures
from dcjax.pages.content import Curve
from dcjax.pages.drawing import Plot


def _curve(*values: float) -> Curve:
    return Curve(np.arange(1.0, 1 + len(values)), np.array(values))


def _plots() -> list[Plot]:
    values = np.linspace(0, 1, 60).reshape(6, 10)
    sizes = figures.plot_sizes("b", np.array([1, 3]), [np.array([]), np.array([3, 5])])
    assert sizes is not None
    return [
        figures.plot_curves(
            "a", {"R@1": _curve(0.5, 0.6), "NMI": _curve(0.1, 0.2)}, y_label="score",
            division_epochs=[1, 2],
        ),
        sizes,
        figures.plot_heat_map("c", values, x_label="x", y_label="y", description="A matrix."),
        figures.plot_bars("d", [1, np.nan], level=("all", 3), x_label="cluster", y_label="size"),
        figures.plot_histograms("e", {"within": values[0], "none": values[:0]}, x_label="distance"),
    ]  # fmt: skip


def test_plots_have_text_alternatives_and_follow_the_colors_of_the_page() -> None:
    described = [
        r"score over epochs\. R@1: 0\.5 at epoch 1, 0\.6 at epoch 2, between 0\.5 and 0\.6; NMI.*",
        r"Sizes .*: at first 2 clusters of 3 to 5 images, at last 2 clusters of 3 to 5 images\.",
        r"A matrix\. Values from 0\.00 to 1\.00, 0\.50 on average\.",
        r"size by cluster: 1\.0, not known\. all: 3\.0\.",
        r"distance\. within: 0\.08 on average, from 0\.00 to 0\.15\.",
    ]
    for plot, text in zip(_plots(), described, strict=True):
        root = ElementTree.fromstring(plot.svg)
        assert root.get("role") == "img"
        assert re.fullmatch(text, root.get("aria-label", ""))
        assert not root.findall(".//style")
        assert root.findall(".//text")
        assert all(
            "font-family" not in (x.get("style") or "") and len(x) == 0
            for x in root.findall(".//text")
        )
        colors = set(re.findall(r"(?:fill|stroke): (#\w{6})", plot.svg))
        assert colors <= {"#000000", "#ffffff"}  # the notes in cells, on colours of their own


def test_large_numbers_are_in_groups_of_three_digits() -> None:
    speed = figures.plot_curves("speed", {"images/s": _curve(12345.6, 20000)}, y_label="images/s")
    assert "12,346 at epoch 1, 20,000 at epoch 2, between 12,346 and 20,000" in speed.svg
    ticks = [x.text for x in ElementTree.fromstring(speed.svg).findall(".//text")]
    assert {"1", "2", "14,000", "20,000"} <= set(ticks)
    sizes = figures.plot_sizes("sizes", np.array([1.0]), [np.array([1000, 2500])])
    assert sizes is not None
    assert "2 clusters of 1,000 to 2,500 images" in sizes.svg


def test_parts_of_two_plots_have_different_names() -> None:
    ids: list[str] = []
    for plot in _plots():
        own = re.findall(r' id="([^"]+)"', plot.svg)
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', plot.svg)) == set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_the_same_plot_is_the_same_text() -> None:
    assert [plot.svg for plot in _plots()] == [plot.svg for plot in _plots()]


def test_names_are_in_the_legend_alone_and_lines_differ_without_color() -> None:
    names = ["$x_1$", "_hidden", "🐦", "<b>", *(f"run {i}" for i in range(16))]
    curves = {name: _curve(0.1, 0.2) for name in names}
    plot = figures.plot_curves("a", curves, y_label="$x$ as it is")
    assert [key.name for key in plot.keys] == names
    drawn = [x.text or "" for x in ElementTree.fromstring(plot.svg).findall(".//text")]
    assert not set(names) & set(drawn)
    assert "$x$ as it is" in drawn  # no formula
    assert len({(key.dashes, key.marker) for key in plot.keys}) == len(names)


def test_lines_and_legend_agree() -> None:
    """The dashes, colours and number of corners that are drawn are those of the legend."""
    plot = figures.plot_curves(
        "a", {str(i): _curve(0.1, 0.2) for i in range(4)}, y_label="loss", limits=(0, 1)
    )
    lines = _data_lines(plot)
    assert [x["stroke"] for x in lines] == [key.color for key in plot.keys]
    # Dashes are in widths of a line of 1.8 points, as matplotlib has them.
    for line, key in zip(lines, plot.keys, strict=True):
        lengths = [float(x) / 1.8 for x in line.get("stroke-dasharray", "").split(",") if x]
        assert lengths == pytest.approx([float(x) for x in (key.dashes or "").split()])


def test_divisions_are_marked_by_lines_unless_there_are_too_many() -> None:
    curve = {"loss": _curve(*np.linspace(1, 0, 100))}
    few, many = (
        figures.plot_curves("a", curve, y_label="loss", division_epochs=np.arange(number))
        for number in (10, 80)
    )
    assert few.svg.count("stroke-dasharray: 0.8,1.6") == 10
    assert many.svg.count("stroke-dasharray: 0.8,1.6") == 0
    assert [key.name for key in many.keys] == ["loss", "a division, before the next epoch"]


def test_curves_without_a_value_are_drawn_as_nothing() -> None:
    gaps = {"a": _curve(np.nan, np.nan), "b": _curve(), "c": _curve(np.nan, 0.25)}
    plot = figures.plot_curves("a", gaps, y_label="NMI")
    label = ElementTree.fromstring(plot.svg).get("aria-label")
    assert label == (
        "NMI over epochs. a: no values; b: no values; c: 0.25 at epoch 2, 0.25 at epoch 2, "
        "between 0.25 and 0.25."
    )
    assert figures.plot_sizes("a", np.array([1]), [np.array([])]) is None


def test_file_has_its_legend_and_both_palettes() -> None:
    names = ["<b> & \0", "a long name " * 9, ""]
    curves = {name: _curve(0.1, 0.2) for name in names}
    plot = figures.plot_curves("a", curves, y_label="loss")
    root = ElementTree.fromstring(drawing.to_file(plot, ["A note."]))
    space = "{http://www.w3.org/2000/svg}"
    drawn = [x.text for x in root.findall(f"{space}g[@font-size]/{space}text")]
    expected = ["<b> & \ufffd", *textwrap.wrap(names[1], 54), "", "A note."]
    assert [text or "" for text in drawn] == expected
    markers = [x.attrib["points"] for x in root.iter(f"{space}polygon")]
    assert markers == [key.marker for key in plot.keys]
    style = root.findtext(f"{space}style") or ""
    assert style.count("--series-1:") == style.count("--page:") == 2  # light and dark
    assert "var(--page)" in {x.get("fill") for x in root.iter(f"{space}rect")}
    heights = [float(text.attrib["y"]) for text in root.iter(f"{space}text") if "y" in text.attrib]
    assert max(heights) < float(root.attrib["viewBox"].split()[3])


def _data_lines(plot: Plot) -> Sequence[dict[str, str]]:
    """Returns the styles of the lines of data."""
    styles = [
        dict(part.split(": ") for part in (x.get("style") or "").split("; ") if part)
        for x in ElementTree.fromstring(plot.svg).iter("path")
        if x.get("clip-path")
    ]
    return [x for x in styles if x.get("stroke", "").startswith("var(--series")]
