"""Sorts and counts small integers in linear time, without wide copies of many of them."""

from collections.abc import Iterator

import numpy as np
from scipy import sparse


def groups(codes: np.ndarray, num_groups: int) -> list[np.ndarray]:
    """Returns the ascending places, int32, at which each code 0 .. num_groups - 1 stands in [N].

    Codes of -1 are in no group.
    """
    order, first = grouped(codes + 1, num_groups + 1)
    return np.split(order, first[1:-1])[1:]


def grouped(codes: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorts codes [N], which are 0 .. num_groups - 1; equal ones keep their order.

    Returns:
      The place of each sorted code, int32 [N], and among them the first of each group,
      int32 [num_groups + 1].
    """
    # A table of one entry per row, stored by columns instead: a counting sort, in C.
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
    # NumPy counts in int64: some at a time, but not so few that adding up takes longer.
    at_once = max(2**20, num_counts)
    return (slice(start, start + at_once) for start in range(0, n, at_once))


def _count(parts: Iterator[np.ndarray], num_counts: int) -> np.ndarray:
    total = np.zeros(num_counts, np.int64)
    for part in parts:
        total += np.bincount(part, minlength=num_counts)
    return total
