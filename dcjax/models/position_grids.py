"""Resizes position embeddings to another grid of patches, as the code of their source does."""

from typing import NamedTuple

import numpy as np


class Method(NamedTuple):
    """How a source's code interpolates, bicubically.

    Attributes:
      antialias: whether the kernel grows with the step between positions, as Pillow's does.
      offset: added to the new size, by which DINO's code avoided an error of rounding.
    """

    antialias: bool
    offset: float


TIMM = Method(antialias=True, offset=0.0)
HUGGING_FACE = Method(antialias=False, offset=0.0)
DINOV2 = Method(antialias=False, offset=0.1)


def resize(grid: np.ndarray, size: int, method: Method) -> np.ndarray:
    """Resizes a square grid of embeddings.

    Args:
      grid: [rows, rows, width].
      size: new number of rows.
      method: how the source does.

    Returns:
      float64 [size, size, width]; the grid itself if the size is the same.
    """
    if len(grid) == size:
        return grid
    weights = _weights(len(grid), size, method)
    return np.einsum("ai,bj,ijc->abc", weights, weights, grid.astype(np.float64), optimize=True)


def _weights(old: int, new: int, method: Method) -> np.ndarray:
    """Returns what each old position adds to each new one, [new, old]."""
    step = old / (new + method.offset)
    centers = (np.arange(new) + 0.5) * step - 0.5
    if method.antialias:
        distances = (centers[:, None] - np.arange(old)) / max(step, 1)
        weights = _cubic(distances, -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    weights = np.zeros((new, old))
    for tap in (-1, 0, 1, 2):
        neighbors = np.floor(centers).astype(int) + tap
        # Beyond its edge, the grid is continued by its edge.
        inside = np.clip(neighbors, 0, old - 1)
        np.add.at(weights, (np.arange(new), inside), _cubic(centers - neighbors, -0.75))
    return weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Returns the weights of cubic convolution (Keys 1981), 0 from a distance of 2 on."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
