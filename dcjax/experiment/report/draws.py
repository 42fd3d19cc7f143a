"""The random numbers of a report: functions of what they are for, so that reports are alike."""

import enum

import numpy as np

from dcjax.core import streams
from dcjax.core.streams import Stream


class Part(enum.IntEnum):
    """What is drawn.

    Attributes:
      QUERIES: the random queries.
      NEAREST: queries whose nearest distance is the measure of what is near.
      MAP: images of the map.
      PAIRS: pairs whose distances are shown.
      CLUSTERS: training images that are embedded.
      COVARIANCE: embeddings whose covariance is taken.
      DIFFERENCES: classes of a bootstrap.
    """

    QUERIES = 0
    NEAREST = 1
    MAP = 2
    PAIRS = 3
    CLUSTERS = 4
    COVARIANCE = 5
    DIFFERENCES = 6


def generator(part: Part) -> np.random.Generator:
    """Returns the generator of a part, at its start."""
    return streams.generator(0, Stream.REPORT, part)
