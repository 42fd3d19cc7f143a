"""Learning curves at common places, against a slow plain loop."""

import numpy as np

from dcjax.analysis.learning_curves import LearningCurve, align


def _value(curve: LearningCurve, place: float) -> float:
    """Returns the value on the straight line between the two evaluations around a place."""
    for i in range(len(curve.places) - 1):
        before, after = curve.places[i], curve.places[i + 1]
        if before <= place <= after:
            share = (place - before) / (after - before)
            return float((1 - share) * curve.values[i] + share * curve.values[i + 1])
    raise AssertionError("beyond the curve")


def test_curves_are_interpolated_at_the_places_of_the_first_that_all_reach() -> None:
    generator = np.random.default_rng(0)
    curves = [
        LearningCurve(np.cumsum(generator.integers(1, 9, size)), generator.random(size))
        for size in (12, 9, 15)
    ]
    places, values = align(curves)
    start = max(curve.places[0] for curve in curves)
    end = min(curve.places[-1] for curve in curves)
    inner = [place for place in curves[0].places if start < place < end]
    np.testing.assert_array_equal(places, [start, *inner, end])
    expected = [[_value(curve, place) for place in places] for curve in curves]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_curves_at_equal_places_stay_as_they_are() -> None:
    curves = [LearningCurve(np.array([10, 20]), np.array(x)) for x in ([0.5, 0.25], [1.0, 0.75])]
    places, values = align(curves)
    assert places.tolist() == [10, 20]
    assert values.tolist() == [[0.5, 0.25], [1.0, 0.75]]


def test_runs_without_a_common_place_have_none() -> None:
    early, late = (LearningCurve(np.array(x), np.ones(2)) for x in ([10, 20], [30, 40]))
    places, values = align([early, late])
    assert places.shape == (0,)
    assert values.shape == (2, 0)
