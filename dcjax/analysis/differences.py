"""How certain a difference is: of two runs over the same queries, of two settings over seeds."""

from collections.abc import Sequence

import numpy as np
from scipy import special

_NUM_DRAWS = 1000
_ENDS = (0.025, 0.975)


def interval(
    differences: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Returns the mean of the differences of queries, and its 95 % interval by bootstrap.

    Classes are drawn with repetition, each with all its queries: queries of one class find the same
    images and fail together, and what is wanted is how the runs differ on other classes. An
    interval over queries would be too narrow. With few classes, it is a rough one.

    Args:
      differences: of a score of each query [Q], NaN where it is undefined.
      labels: classes of the queries [Q].
      generator: of the draws.

    Returns:
      The mean and both ends; 0 if no difference is defined.
    """
    is_defined = ~np.isnan(differences)
    differences, labels = differences[is_defined], labels[is_defined]
    if not len(differences):
        return 0.0, 0.0, 0.0
    _, place = np.unique(labels, return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    sums = np.bincount(place, weights=differences)
    means = []
    for _ in range(_NUM_DRAWS):
        drawn = generator.integers(len(counts), size=len(counts))
        means.append(sums[drawn].sum() / counts[drawn].sum())
    low, high = np.quantile(means, _ENDS)
    return float(differences.mean()), float(low), float(high)


def t_interval(differences: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Returns the mean of paired differences, and its 95 % interval by Student's t.

    With deviation s of n differences it is the mean ± t s / sqrt(n), t the 97.5 % quantile with
    n - 1 degrees of freedom: exact for normal differences, also of few pairs. A bootstrap over few
    pairs would be too narrow.

    Args:
      differences: of a score, one for each pair of runs [n].

    Returns:
      The mean and both ends, which are infinite for a single pair.
    """
    values = np.asarray(differences, np.float64)
    mean, num_pairs = float(values.mean()), len(values)
    if num_pairs == 1:
        return mean, -np.inf, np.inf
    quantile = special.stdtrit(num_pairs - 1, _ENDS[1])
    half = float(quantile * values.std(ddof=1) / np.sqrt(num_pairs))
    return mean, mean - half, mean + half
