"""Always-valid intervals hold their error after every seed, and decisions follow from them."""

import numpy as np
import pytest
from scipy import special

from dcjax.analysis import sequences


def _e_value(values: np.ndarray, mean: float) -> float:
    """Returns by plain sums the likelihood of values relative to that under a mean.

    The numerator is averaged over means in units of the deviation, N(0, 1 / c^2), and both over
    deviations with the density 1 / deviation.
    """
    log_deviation = np.linspace(-12, 8, 1501)[:, None]
    effects = np.linspace(-12, 12, 1201)
    deviation, x = np.exp(log_deviation), values - mean
    logs = -len(x) * log_deviation  # the density of log deviation is constant

    def log_likelihood(centre: np.ndarray | float) -> np.ndarray:
        squares = sum((value - centre) ** 2 for value in x)
        return logs - squares / (2 * deviation**2)

    prior = np.sqrt(0.5 / (2 * np.pi)) * np.exp(-0.5 * effects**2 / 2) * (effects[1] - effects[0])
    mixed = special.logsumexp(log_likelihood(effects * deviation), b=prior[None])
    return float(np.exp(mixed - special.logsumexp(log_likelihood(0.0))))


@pytest.mark.parametrize("num_values", [4, 6, 15])
def test_at_the_ends_the_likelihood_ratio_is_one_over_the_error(num_values: int) -> None:
    values = np.random.default_rng(0).normal(0.2, 0.7, num_values)
    low, high = sequences.confidence_sequence(values)
    for end in (low[-1], high[-1]):
        assert _e_value(values, end) == pytest.approx(20, rel=1e-3)


@pytest.mark.parametrize("law", ["normal", "laplace", "uniform"])
def test_in_runs_without_difference_at_most_one_in_twenty_is_ever_decided_otherwise(
    law: str,
) -> None:
    draws = np.random.default_rng(1)
    law_of_scores = {"normal": draws.normal, "laplace": draws.laplace, "uniform": draws.uniform}
    scores = law_of_scores[law](size=(2, 20_000, 30))
    low, high = sequences.confidence_sequence(scores[0] - scores[1])
    wrong = np.mean(np.any((low > 0) | (high < 0), axis=1))
    assert wrong <= 0.05
    assert wrong >= 0.01  # it is not merely wide

    n = np.arange(1, 31)
    differences = scores[0] - scores[1]
    means = np.cumsum(differences, axis=1) / n
    squares = np.cumsum(differences**2, axis=1) - n * means**2
    half = special.stdtrit(n[2:] - 1, 0.975) * np.sqrt(squares / n / np.maximum(n - 1, 1))[:, 2:]
    assert np.mean(np.any(np.abs(means[:, 2:]) > half, axis=1)) > 0.15  # of Student's t


def test_mean_is_covered_whatever_unit_and_mean_are() -> None:
    values = np.random.default_rng(2).normal(size=(10, 30))
    low, high = sequences.confidence_sequence(values)
    assert np.all(np.isinf(low[:, : sequences.LEAST_PAIRS - 1]))
    assert np.all(np.isfinite(low[:, sequences.LEAST_PAIRS - 1 :]))
    scaled = sequences.confidence_sequence(1000 + 0.01 * values)
    np.testing.assert_allclose(scaled, (1000 + 0.01 * low, 1000 + 0.01 * high), rtol=1e-9)


def test_decision_is_the_first_that_the_intervals_allow() -> None:
    noise = 0.1 * np.random.default_rng(3).normal(size=60)
    better = sequences.decide(0.2 + noise, 0.05)
    assert better.outcome == "better"
    low, _ = sequences.confidence_sequence(0.2 + noise)
    assert low[better.num_pairs - 1] > 0 >= low[better.num_pairs - 2]
    assert sequences.decide(-0.2 - noise, 0.05) == ("worse", better.num_pairs)
    assert sequences.decide(noise - noise.mean(), 0.05).outcome == "equal"
    assert sequences.decide(noise - noise.mean(), 0.001) == ("", 60)
    assert sequences.decide(np.zeros(5), 0.01) == ("equal", sequences.LEAST_PAIRS)
    assert sequences.decide(np.zeros(0), 0.01) == ("", 0)
