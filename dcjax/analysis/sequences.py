"""Always-valid intervals: how certain a mean is when one looks after every value, and stops then.

An interval by Student's t is one for a number of values that is chosen beforehand. Who adds values
until it leaves zero finds a difference where there is none, sooner or later.
"""

from typing import NamedTuple

import numpy as np

_ERROR = 0.05  # probability that any of all intervals misses the mean
# Precision c^2 of the mixture, over means in units of the deviation: with 1/2 the intervals are
# within a tenth of the narrowest for 5 to 30 values. It changes their width alone.
_PRECISION = 0.5
LEAST_PAIRS = 4  # from which on an interval is finite


class Decision(NamedTuple):
    """What differences of two settings show.

    Attributes:
      outcome: "better", "worse" or "equal"; "" as long as none of them is shown.
      num_pairs: differences after which it was, or all of them.
    """

    outcome: str
    num_pairs: int


def confidence_sequence(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the 95 % interval of the mean after each of the values.

    For independent normal values of unknown variance, all intervals together hold the mean with
    a probability of 95 % or more, whatever their number: Gaussian mixture of scale-invariant
    likelihood ratios (Wang & Ramdas 2024, "Anytime-valid t-tests and confidence sequences for
    Gaussian means with unknown variance"). With the mean m of n values, the sum Q of
    squares around it, error a and R = ((n + c^2) / (a^2 c^2))^(1 / n), it is

        m ± sqrt(Q / n (R - 1) / (1 - R c^2 / (n + c^2))),

    and infinite where the last bracket is not positive.

    Args:
      values: in the order in which they became known [..., N].

    Returns:
      Lower and upper ends, [..., N] each.
    """
    values = np.asarray(values, np.float64)
    n = np.arange(1, values.shape[-1] + 1)
    first = values[..., :1]  # against cancellation
    sums = np.cumsum(values - first, axis=-1)
    squares = np.cumsum((values - first) ** 2, axis=-1) - sums**2 / n
    means = first + sums / n
    ratios = ((n + _PRECISION) / (_ERROR**2 * _PRECISION)) ** (1 / n)
    brackets = 1 - ratios * _PRECISION / (n + _PRECISION)
    is_finite = brackets > 0
    factors = (ratios - 1) / (n * np.where(is_finite, brackets, 1))
    half = np.where(is_finite, np.sqrt(np.maximum(squares, 0) * factors), np.inf)
    return means - half, means + half


def decide(differences: np.ndarray, margin: float) -> Decision:
    """Returns the first decision that the intervals after each of the differences allow.

    Better or worse: the interval lies on one side of zero. Equal: it lies within the margin.

    Args:
      differences: of a score of two settings, for one seed after the other [N].
      margin: up to which a difference does not matter.
    """
    low, high = confidence_sequence(differences)
    outcomes = {
        "better": low > 0,
        "worse": high < 0,
        "equal": (low >= -margin) & (high <= margin),
    }
    is_decided = np.any([*outcomes.values()], axis=0)
    if not is_decided.any():
        return Decision("", len(differences))
    first = int(is_decided.argmax())
    return Decision(next(name for name, x in outcomes.items() if x[first]), first + 1)
