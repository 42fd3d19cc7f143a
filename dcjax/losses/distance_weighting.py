"""Distance-weighted sampling of negatives, in log space (P21 Table VI).

C.-Y. Wu et al., Sampling Matters in Deep Embedding Learning, 2017, section 4.
"""

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.arrays import require_floats, require_integers
from dcjax.losses.pairs import Triplets, smallest

# Weights relative to the likeliest negative of the anchor (1.0): no negative is impossible, and one
# beyond the upper cutoff, whose margin loss is zero, is likelier than one of vanishing density.
_MIN_WEIGHT = 1e-9
_BEYOND_UPPER = 1e-6


def effective_dim(embeddings: Array) -> Array:
    """Returns how many coordinates of embeddings[B, D] are non-zero in any row, as a scalar."""
    return jnp.sum(jnp.any(embeddings != 0, axis=0))


def log_weights(
    distances: Array, negatives: Array, *, dim: int | Array, cutoff: float, upper: float
) -> Array:
    """Returns log w[B, R], the log weight of column j as negative of anchor i; -inf if not one.

    With d = max(distance, cutoff): log w = (2 - dim) log d - (dim - 3)/2 log(1 - d^2/4), the
    inverse density of distances on the unit sphere, relative to the row's largest (Wu et al. 2017,
    section 4). It stays in log space: at dim=512 the weights span e^350.

    Args:
      distances: [B, R], of L2-normalised embeddings.
      negatives: bool [B, R], whether column j is a negative of anchor i.
      dim: dimension of the sphere's space; may be traced.
      cutoff: smaller distances count as this one.
      upper: pairs beyond this distance get one small constant weight.
    """
    ordinary = negatives & (distances < upper)
    # Rounding makes the distance of opposite embeddings exceed 2, where the formula has no value.
    d = jnp.maximum(jnp.where(ordinary, distances, cutoff), cutoff)
    dim = jnp.asarray(dim, d.dtype)
    weights = (2 - dim) * jnp.log(d) - (dim - 3) / 2 * jnp.log(1 - d**2 / 4)
    weights = jnp.where(ordinary, weights, 0.0)
    weights -= jnp.max(weights, axis=1, keepdims=True)
    weights = jnp.logaddexp(weights, jnp.log(_MIN_WEIGHT))
    weights = jnp.where(distances > upper, jnp.log(_BEYOND_UPPER), weights)
    # Last, so that a positive beyond the upper cutoff is never drawn as a negative.
    return jnp.where(negatives, weights, -jnp.inf)


def distance_weighted_probabilities(
    distances: Array, labels: Array, *, dim: int | Array, cutoff: float, upper: float
) -> Array:
    """Returns the probability [B, B] that column j is the first negative drawn for anchor i.

    Rows sum to 1; the row of an anchor without negatives is 0. Wu et al. 2017, section 4.
    """
    labels = jnp.asarray(require_integers("labels", labels))
    distances = jnp.asarray(require_floats("distances", distances, (len(labels), len(labels))))
    negatives = labels[:, None] != labels[None, :]
    weights = jnp.exp(log_weights(distances, negatives, dim=dim, cutoff=cutoff, upper=upper))
    total = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def draw(
    key: Array,
    distances: Array,
    positives: Array,
    negatives: Array,
    *,
    dim: int | Array,
    cutoff: float,
    upper: float,
) -> Triplets:
    """Draws as many positives as negatives for each anchor that has a positive.

    q = floor(mean positives per anchor + 1/2), at least 1, at most the negatives of any anchor.
    Negatives: q without replacement, by distance-weighted probability. Positives: a random q of
    them, or q with replacement where there are fewer. Wu et al. 2017, section 4.

    Args:
      key: of the draw.
      distances: [B, R], of L2-normalised embeddings.
      positives: bool [B, R], the positives of each anchor.
      negatives: bool [B, R], its negatives.
      dim: as in `log_weights`, like the next two.
      cutoff: smaller distances count as this one.
      upper: farther negatives are next to never drawn.

    Returns:
      Triplets with R slots, of which the first q are valid.
    """
    distances = jax.lax.stop_gradient(distances)
    num_draws = _num_draws(positives, negatives)
    positive_key, negative_key = jax.random.split(key)
    weights = log_weights(distances, negatives, dim=dim, cutoff=cutoff, upper=upper)
    slot = jnp.arange(positives.shape[1])
    return Triplets(
        positives=_draw_positives(positive_key, positives, num_draws),
        negatives=_draw_negatives(negative_key, weights, num_draws),
        valid=(slot < num_draws) & jnp.any(positives, axis=1, keepdims=True),
    )


def _num_draws(positives: Array, negatives: Array) -> Array:
    """Returns q, in integers, so that halves round up on every device."""
    num_anchors = len(positives)
    rounded_mean = (2 * jnp.sum(positives) + num_anchors) // (2 * num_anchors)
    return jnp.minimum(jnp.maximum(rounded_mean, 1), jnp.min(jnp.sum(negatives, axis=1)))


def _draw_positives(key: Array, positives: Array, num_draws: Array) -> Array:
    """Returns columns [B, R] whose first num_draws are drawn from an anchor's positives[B, R]."""
    order_key, slot_key = jax.random.split(key)
    count = jnp.sum(positives, axis=1, keepdims=True)
    shuffled = jnp.where(positives, jax.random.uniform(order_key, positives.shape), 2.0)
    order = smallest(shuffled, num_draws)
    slot = jnp.arange(positives.shape[1])[None, :]
    with_replacement = jax.random.randint(slot_key, positives.shape, 0, jnp.maximum(count, 1))
    return jnp.take_along_axis(order, jnp.where(count < num_draws, with_replacement, slot), axis=1)


def _draw_negatives(key: Array, weights: Array, num_draws: Array) -> Array:
    """Returns columns [B, R] whose first num_draws are drawn by log weights[B, R], each once."""
    # Gumbel top-q: the largest log w + Gumbel noise are a draw without replacement by w.
    noise = jax.random.gumbel(key, weights.shape, weights.dtype)
    return smallest(-(weights + noise), num_draws)
