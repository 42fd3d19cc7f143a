"""Paired differences: their interval is over classes."""

import numpy as np
import pytest

from dcjax.analysis import differences


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_interval_is_that_of_the_mean_of_classes() -> None:
    generator = np.random.default_rng(1)
    of_classes = generator.normal(0.1, 0.2, 400)
    labels = np.repeat(np.arange(400), 25)
    mean, low, high = differences.interval(of_classes[labels], labels, _generator())
    assert mean == pytest.approx(of_classes.mean())
    half = 1.96 * of_classes.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.15 * half)


def test_equal_runs_differ_by_0_and_undefined_differences_do_not_count() -> None:
    labels = np.array([0, 0, 1, 1])
    assert differences.interval(np.zeros(4), labels, _generator()) == (0, 0, 0)
    values = np.array([0.5, np.nan, 0.5, np.nan])
    assert differences.interval(values, labels, _generator()) == (0.5, 0.5, 0.5)
    assert differences.interval(np.full(4, np.nan), labels, _generator()) == (0, 0, 0)


def test_larger_classes_weigh_more() -> None:
    labels = np.repeat([0, 1], [90, 10])
    values = np.repeat([1.0, 0.0], [90, 10])
    assert differences.interval(values, labels, _generator()) == (0.9, 0.0, 1.0)


def test_interval_of_seeds_is_student_s_t() -> None:
    # Student's sleep data (1908), as R's t.test(extra ~ group, paired = TRUE) prints it.
    less = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert differences.t_interval(less) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-7)
    assert differences.t_interval([0.5]) == (0.5, -np.inf, np.inf)
    assert differences.t_interval([0.25, 0.25]) == (0.25, 0.25, 0.25)


def test_interval_of_three_seeds_misses_the_mean_once_in_twenty_times() -> None:
    drawn = _generator().normal(0.3, 2.0, (20_000, 3))
    found = np.array([differences.t_interval(values) for values in drawn])
    missed = np.mean((found[:, 1] > 0.3) | (found[:, 2] < 0.3))
    assert missed == pytest.approx(0.05, abs=0.006)
