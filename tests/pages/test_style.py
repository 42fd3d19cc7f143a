"""Colours of the pages: contrasts by the definitions of WCAG 2.2."""

import itertools
import re

import pytest

from dcjax.pages import drawing, templating


def _palettes() -> dict[str, dict[str, str]]:
    """Returns the custom properties that are colours, for light and dark."""
    style = templating.static_text("style.css")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    return {
        theme: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for theme, block in zip(("light", "dark"), blocks, strict=True)
    }


def _contrast(first: str, second: str) -> float:
    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_on_white_is_21() -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)


def test_texts_and_lines_stand_out_in_light_and_dark() -> None:
    light, dark = _palettes().values()
    assert light.keys() == dark.keys()
    for colors in (light, dark):
        for text, background in itertools.product(
            ("text", "muted", "accent", "hit", "miss"), ("page", "surface")
        ):
            assert _contrast(colors[text], colors[background]) >= 4.5, text
        for number in range(1, drawing.NUM_COLORS + 1):
            assert _contrast(colors[f"series-{number}"], colors["page"]) >= 3, number
        assert _contrast(colors["edge"], colors["page"]) >= 3


def test_styles_and_scripts_name_no_other_place() -> None:
    for name in ("style.css", "report.css", "page.js", "map.js"):
        text = templating.static_text(name)
        assert "@import" not in text
        assert "url(" not in text
        assert re.findall(r"https?://\S+?(?=\")", text) in (
            [],
            ["http://www.w3.org/2000/svg"],  # a name, which is not loaded
        )
        assert "innerHTML" not in text
        assert "</" not in text  # would end the element that the file stands in
