"""Counting and grouping by integer codes agree with plain loops."""

import numpy as np

from dcjax.division import counting


def test_groups_list_the_positions_of_each_code_in_order():
    codes = np.random.default_rng(0).integers(-1, 6, 500)
    codes[codes == 4] = 2
    groups = counting.groups(codes, 7)
    assert len(groups) == 7
    for code, places in enumerate(groups):
        assert places.dtype == np.int32
        np.testing.assert_array_equal(places, np.flatnonzero(codes == code))


def test_grouped_is_a_stable_sort():
    codes = np.random.default_rng(0).integers(0, 50, 1000)
    order, first = counting.sort(codes, 60)
    np.testing.assert_array_equal(order, np.argsort(codes, kind="stable"))
    np.testing.assert_array_equal(first, np.searchsorted(np.sort(codes), np.arange(61)))


def test_counts_equal_those_of_plain_loops():
    rng = np.random.default_rng(0)
    n = 2**20 + 1000  # more than one block of counting
    first, second = rng.integers(-1, 4, (2, n), dtype=np.int32)
    np.testing.assert_array_equal(
        counting.sizes(first, 5), [np.sum(first == code) for code in range(5)]
    )
    table = counting.table(first, second, 4)
    slow = [[np.sum((first == i) & (second == j)) for j in range(-1, 4)] for i in range(-1, 4)]
    np.testing.assert_array_equal(table, slow)
