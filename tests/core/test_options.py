"""Options of a part are read from its signature; unknown ones are refused by name."""

import dataclasses

import pytest

from dcjax.core import options
from dcjax.division import host_kmeans, masks
from dcjax.losses import mining, pairwise
from dcjax.training import rates


def part(size: int, *, margin: float = 0.1, kind: str, **others: int) -> None:
    """A part with one optional and one required option."""


@dataclasses.dataclass
class Recipe:
    size: int
    crop: str = "random"
    scale: tuple[float, float] = (0.5, 1.0)


def test_options_are_parameters_with_a_default_or_keyword_only() -> None:
    assert options.of(part) == {"margin": 0.1, "kind": options.REQUIRED}
    assert options.of(Recipe) == {"crop": "random", "scale": (0.5, 1.0)}


def test_options_read_from_the_text_equal_those_of_the_signature() -> None:
    parts = (pairwise.margin, mining.distance_weighted, masks.combine, rates.create)
    for function in parts:
        place = function.__module__.removeprefix("dcjax.") + f":{function.__name__}"
        assert options.read(place) == options.of(function)
    # A constant of the module, beside a type that is no literal and is not asked for.
    assert options.read("division.host_kmeans:kmeans", "num_iterations") == {
        "num_iterations": host_kmeans.NUM_ITERATIONS
    }
    assert options.read("models.vit:create", "mlp", "registers") == {"registers": 0, "mlp": "gelu"}


def test_functions_and_options_that_are_not_there_are_refused() -> None:
    for place, name in (("losses.pairwise:marign", "beta"), ("losses.pairwise:margin", "bteta")):
        with pytest.raises(ValueError, match=r"Require .*losses.pairwise.* got .*(marign|bteta)"):
            options.read(place, name)
    with pytest.raises(ValueError, match="malformed"):  # an expression
        options.read("models.vit:create", "dtype")


def test_unknown_and_missing_options_are_refused_with_the_known_ones() -> None:
    known = options.of(part)
    options.require("part", ["kind"], known)
    options.require("part", {"kind": 1, "margin": 2}, known)
    for given, message in (
        (
            ["kind", "marign"],
            "Unknown option 'marign' of part; known .* margin, kind; the nearest is margin.",
        ),
        (["kind", "zzz"], "Unknown option 'zzz' of part; known options are margin, kind."),
        (["margin"], "The part lacks the options kind, which have no default."),
    ):
        with pytest.raises(ValueError, match=message):
            options.require("part", given, known)
    with pytest.raises(ValueError, match="known options are none"):
        options.require("part", ["kind"], {})
