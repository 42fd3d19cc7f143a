"""Learning curves of several runs at the same places, for means and differences of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class LearningCurve(NamedTuple):
    """A score of one run over its training.

    Attributes:
      places: where it was evaluated, such as steps, ascending [E].
      values: the score there [E].
    """

    places: np.ndarray
    values: np.ndarray


def align(curves: Sequence[LearningCurve]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores of runs at common places.

    Epochs of two runs may have different numbers of steps. Between its evaluations, the score of a
    run is interpolated linearly; beyond the first and the last one it is not known. So the places
    begin with the run that begins last, end with the one that ends first, and between these are
    those of the first run.

    Args:
      curves: of R runs, one or more.

    Returns:
      Places, ascending [P], and scores [R, P]; P is 0 if there is no place that all runs reach.
    """
    start = max((curve.places[0] for curve in curves if len(curve.places)), default=0)
    end = min((curve.places[-1] if len(curve.places) else -np.inf) for curve in curves)
    if end < start:
        return np.zeros(0), np.zeros((len(curves), 0))
    places = np.unique(np.clip(curves[0].places, start, end))
    return places, np.stack([np.interp(places, *curve) for curve in curves])
