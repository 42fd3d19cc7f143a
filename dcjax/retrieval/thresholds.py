"""Distances beyond which the answer is "no match", for open sets: FNMR at a given FMR.

A pair of two images is called a match if their Euclidean distance is below a threshold. The false
match rate (FMR, ISO/IEC 19795-1) is the share of pairs of different classes that are; the false
non-match rate (FNMR), that of pairs of one class that are not. For an FMR r of n pairs of different
classes the threshold is their distance number floor(r n) + 1, so that floor(r n) pairs or fewer are
nearer.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from dcjax.core.errors import InputError

# Distances of a block of queries: 16 MiB of float64.
_DISTANCES_PER_BLOCK = 2**21


def score(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    *,
    rates: Sequence[float],
    cameras: Sequence[np.ndarray] | None = None,
) -> dict[str, float]:
    """Returns thresholds and FNMRs at some FMRs, over all pairs.

    Distances are those of float64, up to its rounding. The host holds those of a block of queries,
    and the nearest pairs of different classes, as many as the largest FMR allows.

    Args:
      queries: embeddings float32 [Q, D].
      query_labels: integer classes [Q].
      gallery: [G, D], whose pairs with queries count; None: all pairs of two queries.
      gallery_labels: [G]; required with a gallery, and only then.
      rates: FMRs, above 0 and below 1.
      cameras: of the queries and, if there is one, the gallery: pairs of one class and camera do
        not count; None: no matter.

    Returns:
      fnmr_at_fmr_{r} and threshold_at_fmr_{r}, a distance, for every r of rates.

    Raises:
      InputError: if there are too few pairs of different classes for an FMR, or none of one class.
    """
    allowed, num_mated = _count(query_labels, gallery_labels, rates, cameras)
    is_same_set = gallery is None or gallery_labels is None
    x = queries.astype(np.float64)
    y = x if gallery is None else gallery.astype(np.float64)
    labels = query_labels if gallery_labels is None else gallery_labels
    seen = None if cameras is None else (cameras[0], cameras[-1])
    nearest = _nearest_others(x, query_labels, y, labels, 1 + max(allowed), is_same_set=is_same_set)
    limits = nearest[allowed]
    num_matched = np.zeros(len(rates), np.int64)
    for squared in _mated(x, query_labels, y, labels, seen, is_same_set=is_same_set):
        num_matched += np.searchsorted(np.sort(squared), limits)
    scores: dict[str, float] = {}
    for rate, limit, count in zip(rates, limits.tolist(), num_matched.tolist(), strict=True):
        scores[f"fnmr_at_fmr_{rate:g}"] = 1 - count / num_mated
        scores[f"threshold_at_fmr_{rate:g}"] = math.sqrt(limit)
    return scores


def check(
    query_labels: np.ndarray,
    gallery_labels: np.ndarray | None = None,
    *,
    rates: Sequence[float],
    cameras: Sequence[np.ndarray] | None = None,
) -> None:
    """Checks that images of these labels have the pairs that `score` needs; its arguments.

    Raises:
      InputError: as `score` does.
    """
    if rates:
        _count(query_labels, gallery_labels, rates, cameras)


def _count(
    query_labels: np.ndarray,
    gallery_labels: np.ndarray | None,
    rates: Sequence[float],
    cameras: Sequence[np.ndarray] | None,
) -> tuple[list[int], int]:
    """Returns how many pairs of different classes each FMR allows, and how many of one there are.

    Raises:
      InputError: if these are none.
    """
    is_same_set = gallery_labels is None
    labels = query_labels if gallery_labels is None else gallery_labels
    seen = None if cameras is None else (cameras[0], cameras[-1])
    num_alike, num_mated = _count_pairs(query_labels, labels, seen, is_same_set=is_same_set)
    num_rows = len(query_labels)
    num_pairs = num_rows * (num_rows - 1) // 2 if is_same_set else num_rows * len(labels)
    num_others = num_pairs - num_alike
    allowed = [math.floor(rate * num_others) for rate in rates]
    if not num_mated or min(allowed) < 1:
        raise InputError(
            f"An FMR of {min(rates):g} requires {math.ceil(1 / min(rates)):,} pairs of images of "
            f"different classes, and one of one class, got {num_others:,} and {num_mated:,}; take "
            "larger values of eval.fmr, or more test images."
        )
    return allowed, num_mated


def _count_pairs(
    labels: np.ndarray,
    other_labels: np.ndarray,
    cameras: Sequence[np.ndarray] | None,
    *,
    is_same_set: bool,
) -> tuple[int, int]:
    """Returns how many pairs are of one class, and how many of these are not of one camera."""
    num_alike = _count_equal([labels], [other_labels], is_same_set=is_same_set)
    if cameras is None:
        return num_alike, num_alike
    views = [labels, cameras[0]], [other_labels, cameras[1]]
    return num_alike, num_alike - _count_equal(*views, is_same_set=is_same_set)


def _count_equal(
    columns: Sequence[np.ndarray], others: Sequence[np.ndarray], *, is_same_set: bool
) -> int:
    """Returns how many pairs of a row and another one are equal in all columns."""
    numbers = np.zeros(len(columns[0]) + len(others[0]), np.int64)
    for one, other in zip(columns, others, strict=True):
        _, column = np.unique(np.concatenate([one, other]), return_inverse=True)
        _, numbers = np.unique(numbers * (column.max() + 1) + column, return_inverse=True)
    sizes = [
        np.bincount(part, minlength=numbers.max() + 1).astype(np.int64)
        for part in np.split(numbers, [len(columns[0])])
    ]
    return int(np.sum(sizes[0] * (sizes[0] - 1) // 2 if is_same_set else sizes[0] * sizes[1]))


def _nearest_others(
    x: np.ndarray,
    labels: np.ndarray,
    y: np.ndarray,
    other_labels: np.ndarray,
    count: int,
    *,
    is_same_set: bool,
) -> np.ndarray:
    """Returns the smallest squared distances of pairs of different classes, sorted, [count]."""
    nearest = np.empty(0)
    for rows, squared in _blocks(x, y):
        counts = labels[rows, None] != other_labels
        if is_same_set:  # each pair once
            counts &= np.arange(len(y)) > rows[:, None]
        if len(nearest) == count:
            counts &= squared < nearest[-1]
        nearest = np.concatenate([nearest, squared[counts]])
        if len(nearest) > count:
            nearest = np.partition(nearest, count - 1)[:count]
        nearest.sort()
    return nearest


def _mated(
    x: np.ndarray,
    labels: np.ndarray,
    y: np.ndarray,
    other_labels: np.ndarray,
    cameras: Sequence[np.ndarray] | None,
    *,
    is_same_set: bool,
) -> Iterator[np.ndarray]:
    """Yields the squared distances of all pairs of one class, but for those of one camera, [n]."""
    by_class = np.argsort(other_labels, kind="stable")
    classes, starts = np.unique(other_labels[by_class], return_index=True)
    for label, columns in zip(classes, np.split(by_class, starts[1:]), strict=True):
        own = np.flatnonzero(labels == label)
        for places, squared in _blocks(x[own], y[columns]):
            rows = own[places]
            counts = np.ones(squared.shape, bool)
            if is_same_set:
                counts &= columns > rows[:, None]
            if cameras is not None:
                counts &= cameras[0][rows, None] != cameras[1][columns]
            yield squared[counts]


def _blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rows of x and their squared distances to y [B, G], a block at a time."""
    squares = np.einsum("gd,gd->g", y, y)
    size = max(1, _DISTANCES_PER_BLOCK // len(y))
    for start in range(0, len(x), size):
        part = x[start : start + size]
        squared = np.einsum("qd,qd->q", part, part)[:, None] + squares - 2 * part @ y.T
        yield np.arange(start, start + len(part)), np.maximum(squared, 0)
