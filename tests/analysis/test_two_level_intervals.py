"""Intervals over seeds and classes hold the difference that other seeds and classes have."""

import numpy as np
import pytest

from dcjax.analysis import differences

_NUM_SIMULATIONS = 600
_QUERIES = np.array([2, 3, 4, 6])  # of a class


def _coverage(
    num_seeds: int, num_classes: int, *, seeds: float, classes: float, both: float
) -> tuple[float, float, float]:
    """Returns how often intervals hold the true difference, and their mean widths.

    Args:
      num_seeds: of a study.
      num_classes: of a study, with unequal numbers of queries.
      seeds: deviation of the difference between seeds.
      classes: and between classes.
      both: and of a class with a seed.

    Returns:
      The share of the intervals over seeds and classes that hold it, that of the intervals over
      seeds alone, and the ratio of their mean widths.
    """
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), np.resize(_QUERIES, num_classes))
    held, held_by_seeds, widths, widths_of_seeds = 0, 0, 0.0, 0.0
    for _ in range(_NUM_SIMULATIONS):
        of_seeds = generator.normal(0, seeds, (num_seeds, 1))
        of_classes = generator.normal(0, classes, num_classes)
        of_both = generator.normal(0, both, (num_seeds, num_classes))
        noise = generator.normal(0, 0.3, (num_seeds, len(labels)))
        values = 0.5 + of_seeds + (of_classes + of_both)[:, labels] + noise
        mean, low, high = differences.two_level_interval(values, labels, generator)
        assert mean == pytest.approx(values.mean())
        held += low <= 0.5 <= high
        widths += high - low
        _, low, high = differences.t_interval(values.mean(axis=1))
        held_by_seeds += low <= 0.5 <= high
        widths_of_seeds += high - low
    return held / _NUM_SIMULATIONS, held_by_seeds / _NUM_SIMULATIONS, widths / widths_of_seeds


@pytest.mark.parametrize(
    ("num_seeds", "num_classes", "deviations"),
    [
        (3, 40, {"seeds": 0.5, "classes": 0.5, "both": 0.5}),
        (5, 12, {"seeds": 0.1, "classes": 0.5, "both": 0.2}),
        (12, 40, {"seeds": 0.3, "classes": 1.0, "both": 1.0}),
    ],
)
def test_95_of_100_intervals_hold_the_difference(
    num_seeds: int, num_classes: int, deviations: dict[str, float]
) -> None:
    coverage, _, _ = _coverage(num_seeds, num_classes, **deviations)
    # Three deviations of the share that so many simulations find.
    assert abs(coverage - 0.95) <= 3 * np.sqrt(0.95 * 0.05 / _NUM_SIMULATIONS)


def test_intervals_over_seeds_alone_miss_what_other_classes_have() -> None:
    coverage, by_seeds, _ = _coverage(12, 12, seeds=0.02, classes=0.5, both=0.1)
    assert coverage >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / _NUM_SIMULATIONS)
    assert by_seeds < 0.5


def test_interval_is_that_of_the_seeds_where_classes_differ_by_chance_alone() -> None:
    coverage, _, ratio = _coverage(8, 40, seeds=0.05, classes=0.0, both=1.0)
    assert coverage >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / _NUM_SIMULATIONS)
    assert 1 <= ratio < 1.25  # twice as much, and more, if chance counted for both


def test_two_pairs_or_one_class_have_no_interval() -> None:
    generator = np.random.default_rng(0)
    values = np.array([[0.25, 0.5, np.nan], [0.5, 0.75, np.nan], [0.75, 0.25, np.nan]])
    for pairs, labels in ((2, [0, 1, 2]), (3, [0, 0, 1])):
        mean, low, high = differences.two_level_interval(
            values[:pairs], np.array(labels), generator
        )
        assert (mean, low, high) == (np.nanmean(values[:pairs]), -np.inf, np.inf)
    assert differences.two_level_interval(values[:, 2:], np.array([1]), generator)[0] == 0
