"""Counting sorts and counts of small integers, in linear time and without int64 copies of all."""

from collections.abc import Iterator

import numpy as np
from scipy import sparse


def groups(codes: np.ndarray, num_groups: int) -> list[np.ndarray]:
    """Returns for each code 0 .. num_groups - 1 its places in codes [N], ascending, int32.

    Codes of -1 are in no group.
    """
    order, first = sort(codes + 1, num_groups + 1)
    return np.split(order, first[1:-1])[1:]


def sort(codes: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorts codes [N], which are 0 .. num_groups - 1, stably.

    Returns:
      The places of the sorted codes, int32 [N], and the start of each group among them, int32
      [num_groups + 1].
    """
    # SciPy's conversion from rows to columns is a counting sort, in C. The sparse matrix
    # [N, num_groups] has one entry in each row, in the column of its code.
    n = len(codes)
    parts = (np.ones(n, bool), codes.astype(np.int32, copy=False), np.arange(n + 1, dtype=np.int32))
    by_column = sparse.csr_array(parts, shape=(n, num_groups)).tocsc()
    return by_column.indices, by_column.indptr


def sizes(codes: np.ndarray, num_groups: int) -> np.ndarray:
    """Returns how often each code 0 .. num_groups - 1 is in [N], int64; -1 is not counted."""
    return _count((codes[part] + 1 for part in _parts(len(codes), num_groups)), num_groups + 1)[1:]


def table(first: np.ndarray, second: np.ndarray, num_groups: int) -> np.ndarray:
    """Returns how often each pair of codes -1 .. num_groups - 1 is in [N] and [N].

    Returns:
      int64 [num_groups + 1, num_groups + 1]; row and column 0 are those of -1.
    """
    side = num_groups + 1
    pairs = (
        (first[part].astype(np.int64) + 1) * side + second[part] + 1
        for part in _parts(len(first), side**2)
    )
    return _count(pairs, side**2).reshape(side, side)


def _parts(n: int, num_counts: int) -> Iterator[slice]:
    # np.bincount makes int64 copies, so it counts parts. They are at least as long as the result,
    # so that adding up the counts takes no longer than counting.
    at_once = max(2**20, num_counts)
    return (slice(start, start + at_once) for start in range(0, n, at_once))


def _count(parts: Iterator[np.ndarray], num_counts: int) -> np.ndarray:
    total = np.zeros(num_counts, np.int64)
    for part in parts:
        total += np.bincount(part, minlength=num_counts)
    return total
