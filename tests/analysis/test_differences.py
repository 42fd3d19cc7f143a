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
