"""The map of embeddings: where its points are, and what a script shows at each."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from dcjax.pages import templating
from dcjax.pages.content import Image, Map
from dcjax.pages.drawing import NUM_COLORS

_WIDTH, _HEIGHT, _MARGIN = 1000, 640, 16
_SHAPES = ("round", "square")


@dataclasses.dataclass(frozen=True)
class Key:
    """How the points of a class look.

    Attributes:
      class_name: of the class.
      color: number of the colour, from 1.
      shape: CSS class of the shape.
    """

    class_name: str
    color: int
    shape: str


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a projection.

    Attributes:
      name: of its image.
      x: from the left.
      y: from the top.
    """

    name: str
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Group(Key):
    """The points of one class.

    Attributes:
      points: of its images.
    """

    points: Sequence[Point]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A projection that fits into the map.

    Attributes:
      name: of the projection.
      groups: its points, by class.
    """

    name: str
    groups: Sequence[Group]


@dataclasses.dataclass(frozen=True)
class View:
    """What the template of the map shows.

    Attributes:
      width: of the map, in its own units.
      height: of the map.
      projections: each with all points.
      keys: the legend.
      num_classes: of the images.
      repeats: whether classes share their look with others.
      data: for the script: images, and points [M, 2] of each projection.
    """

    width: int
    height: int
    projections: Sequence[Layout]
    keys: Sequence[Key]
    num_classes: int
    repeats: bool
    data: dict[str, Any]


def lay_out(content: Map) -> View:
    """Returns the map of images."""
    names = sorted({image.class_name for image in content.images})
    looks = itertools.cycle(itertools.product(_SHAPES, range(1, NUM_COLORS + 1)))
    keys = [Key(name, color, shape) for name, (shape, color) in zip(names, looks, strict=False)]
    number_of = {name: number for number, name in enumerate(names)}
    places = [_fit(projection.points) for projection in content.projections]
    return View(
        width=_WIDTH,
        height=_HEIGHT,
        projections=[
            Layout(projection.name, _group(content.images, points, keys))
            for projection, points in zip(content.projections, places, strict=True)
        ],
        keys=keys,
        num_classes=len(names),
        repeats=len(names) > len(_SHAPES) * NUM_COLORS,
        data={
            "classes": names,
            "images": [
                [image.name, number_of[image.class_name], templating.data_uri(image.picture)]
                for image in content.images
            ],
            "projections": [points.tolist() for points in places],
        },
    )


def _fit(points: np.ndarray) -> np.ndarray:
    """Returns points [M, 2] as whole numbers in the middle of the map, in their proportions."""
    size = np.array([_WIDTH, _HEIGHT])
    low, high = points.min(axis=0), points.max(axis=0)
    scale = np.min((size - 2 * _MARGIN) / np.maximum(high - low, 1e-12))
    centered = (points - (low + high) / 2) * min(scale, 1e12)
    return np.rint(size / 2 + centered * [1, -1]).astype(int)


def _group(images: Sequence[Image], points: np.ndarray, keys: Sequence[Key]) -> list[Group]:
    members: dict[str, list[Point]] = {key.class_name: [] for key in keys}
    for image, (x, y) in zip(images, points.tolist(), strict=True):
        members[image.class_name].append(Point(image.name, x, y))
    return [Group(key.class_name, key.color, key.shape, members[key.class_name]) for key in keys]
