"""How certain a difference is: of two runs over the same queries, of two settings over seeds."""

from collections.abc import Sequence

import numpy as np
from scipy import special

_NUM_DRAWS = 1000
_LEAST_PAIRS = 3  # that are drawn from
_MAX_DRAWN = 2**18  # classes drawn at a time
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


def two_level_interval(
    differences: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Returns the mean of paired differences, and its 95 % interval over seeds and classes.

    An interval over seeds alone is one for these queries; this one is for other seeds and other
    classes. A bootstrap of residuals (Carpenter, Goldstein & Rasbash 2003): the mean of each seed,
    and that of each class over the seeds, are drawn with repetition, both independently. What the
    means of classes vary by chance of the seeds is in those of the seeds already, and is taken out
    of their deviation. Deviations of n drawn means are multiplied by t / z sqrt(n / (n - 1)), t and
    z the 97.5 % quantiles of Student's t and the normal distribution, since a bootstrap of few
    values is too narrow.

    Args:
      differences: of a score of each query, for each pair of runs [S, Q]; NaN where undefined.
      labels: classes of the queries [Q].
      generator: of the draws.

    Returns:
      The mean and both ends, which are infinite for fewer than three pairs or a single class: two
      pairs would still make the interval too narrow.
    """
    is_defined = ~np.isnan(differences).any(axis=0)
    differences, labels = differences[:, is_defined], labels[is_defined]
    if not differences.size:
        return 0.0, -np.inf, np.inf
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(place, weights=of_pair) for of_pair in differences])
    num_pairs, num_classes = sums.shape
    of_seeds = sums.sum(axis=1) / counts.sum()
    mean = float(of_seeds.mean())
    if num_pairs < _LEAST_PAIRS or num_classes == 1:
        return mean, -np.inf, np.inf
    # Sums over the queries of each class of what differs from the mean of the pair [S, C].
    deviations = sums - of_seeds[:, None] * counts
    of_classes = deviations.mean(axis=0)
    residuals = ((deviations - of_classes) ** 2).sum() / (num_pairs - 1)
    total = num_pairs * (of_classes**2).sum()
    true_share = max(0.0, 1 - residuals / total) if total else 0.0
    of_seeds = (of_seeds - mean) * _few_factor(num_pairs)
    of_classes = of_classes * np.sqrt(true_share) * _few_factor(num_classes)
    seeds = generator.integers(num_pairs, size=(_NUM_DRAWS, num_pairs))
    means = of_seeds[seeds].mean(axis=1)
    num_rows = max(1, _MAX_DRAWN // num_classes)  # draws at a time, which bounds the memory
    for start in range(0, _NUM_DRAWS, num_rows):
        rows = means[start : start + num_rows]  # a view
        drawn = generator.integers(num_classes, size=(len(rows), num_classes))
        rows += of_classes[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, _ENDS)
    return mean, mean + float(low), mean + float(high)


def _few_factor(number: int) -> float:
    """Returns the factor by which a bootstrap of the mean of so many values is too narrow."""
    quantiles = special.stdtrit(number - 1, _ENDS[1]) / special.ndtri(_ENDS[1])
    return float(quantiles * np.sqrt(number / (number - 1)))
