"""Which positives and negatives each anchor sees: distance-weighted sampling (P21 Table VI).

C.-Y. Wu et al., Sampling Matters in Deep Embedding Learning, 2017, section 4.
"""

import jax
import jax.numpy as jnp
from jax import Array

# Weights relative to the likeliest negative of the anchor (1.0): no negative is impossible, and one
# beyond the upper cutoff, whose margin loss is zero, is likelier than one of vanishing density.
_FLOOR = 1e-9
_BEYOND_UPPER = 1e-6


def effective_dim(embeddings: Array) -> Array:
    """Returns how many coordinates of embeddings[B, D] are non-zero in any row, as a scalar."""
    return jnp.sum(jnp.any(embeddings != 0, axis=0))


def distance_weighted_log_weights(
    distances: Array, labels: Array, *, dim: int | Array, cutoff: float, upper: float
) -> Array:
    """Returns log w[B, B], the log weight of column j as negative of anchor i; -inf if not one.

    With d = max(distance, cutoff): log w = (2 - dim) log d - (dim - 3)/2 log(1 - d^2/4), the
    inverse density of distances on the unit sphere, relative to the row's largest (Wu et al. 2017,
    section 4). It stays in log space: at dim=512 the weights span e^350.

    Args:
      distances: [B, B], of L2-normalised embeddings.
      labels: [B], integers.
      dim: dimension of the sphere's space; may be traced.
      cutoff: smaller distances count as this one.
      upper: pairs beyond this distance get one small constant weight.
    """
    same = labels[:, None] == labels[None, :]
    ordinary = ~same & (distances < upper)
    # Rounding makes the distance of opposite embeddings exceed 2, where the formula has no value.
    d = jnp.maximum(jnp.where(ordinary, distances, cutoff), cutoff)
    dim = jnp.asarray(dim, d.dtype)
    log_weights = (2 - dim) * jnp.log(d) - (dim - 3) / 2 * jnp.log(1 - d**2 / 4)
    log_weights = jnp.where(ordinary, log_weights, 0.0)
    log_weights -= jnp.max(log_weights, axis=1, keepdims=True)
    log_weights = jnp.logaddexp(log_weights, jnp.log(_FLOOR))
    log_weights = jnp.where(distances > upper, jnp.log(_BEYOND_UPPER), log_weights)
    # Last, so that a positive beyond the upper cutoff is never drawn as a negative.
    return jnp.where(same, -jnp.inf, log_weights)


def distance_weighted_probabilities(
    distances: Array, labels: Array, *, dim: int | Array, cutoff: float, upper: float
) -> Array:
    """Returns the probability [B, B] that column j is the first negative drawn for anchor i.

    Rows sum to 1; the row of an anchor without negatives is 0. Wu et al. 2017, section 4.
    """
    weights = jnp.exp(
        distance_weighted_log_weights(distances, labels, dim=dim, cutoff=cutoff, upper=upper)
    )
    total = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def distance_weighted_pairs(
    key: Array, distances: Array, labels: Array, *, dim: int | Array, cutoff: float, upper: float
) -> tuple[Array, Array]:
    """Draws as many positives as negatives for each anchor that has a positive.

    q = floor(mean positives per image + 1/2), at least 1, at most B - size of the largest class.
    Negatives: q without replacement, by distance-weighted probability. Positives: a random q of
    them, or q with replacement where there are fewer. Wu et al. 2017, section 4.

    Returns:
      positives[B, B], negatives[B, B]: how often each ordered pair (anchor, other) was drawn.
    """
    distances = jax.lax.stop_gradient(distances)
    same = labels[:, None] == labels[None, :]
    positives = same & ~jnp.eye(len(labels), dtype=bool)
    num_draws = _num_draws(same)
    positive_key, negative_key = jax.random.split(key)
    log_weights = distance_weighted_log_weights(
        distances, labels, dim=dim, cutoff=cutoff, upper=upper
    )
    drawn_positives = _draw_positives(positive_key, positives, num_draws)
    drawn_negatives = _draw_negatives(negative_key, log_weights, num_draws)
    has_positive = jnp.any(positives, axis=1, keepdims=True)
    dtype = distances.dtype
    return drawn_positives.astype(dtype), (drawn_negatives * has_positive).astype(dtype)


def _num_draws(same: Array) -> Array:
    """Returns q from same[B, B], in integers, so that halves round up on every device."""
    batch_size = len(same)
    class_sizes = jnp.sum(same, axis=1)
    num_positives = jnp.sum(class_sizes - 1)
    rounded_mean = (2 * num_positives + batch_size) // (2 * batch_size)
    return jnp.minimum(jnp.maximum(rounded_mean, 1), batch_size - jnp.max(class_sizes))


def _draw_positives(key: Array, positives: Array, num_draws: Array) -> Array:
    """Returns how often [B, B] each of an anchor's positives[B, B] is among its num_draws."""
    order_key, slot_key = jax.random.split(key)
    count = jnp.sum(positives, axis=1, keepdims=True)
    shuffled = jnp.where(positives, jax.random.uniform(order_key, positives.shape), 2.0)
    order = jnp.argsort(shuffled, axis=1)
    draw = jnp.arange(len(positives))[None, :]
    with_replacement = jax.random.randint(slot_key, positives.shape, 0, jnp.maximum(count, 1))
    slot = jnp.where(count < num_draws, with_replacement, draw)
    columns = jnp.take_along_axis(order, slot, axis=1)
    return _count(columns, (draw < num_draws) & (count > 0))


def _draw_negatives(key: Array, log_weights: Array, num_draws: Array) -> Array:
    """Returns 1 [B, B] for the num_draws columns drawn without replacement by log_weights[B, B]."""
    # Gumbel top-q: the largest log w + Gumbel noise are a draw without replacement by w.
    noise = jax.random.gumbel(key, log_weights.shape, log_weights.dtype)
    order = jnp.argsort(log_weights + noise, axis=1, descending=True)
    return _count(order, jnp.arange(len(order))[None, :] < num_draws)


def _count(columns: Array, valid: Array) -> Array:
    """Returns how often [B, B] each column occurs in its row of columns[B, B] where valid."""
    rows = jnp.arange(len(columns))[:, None]
    valid = jnp.broadcast_to(valid, columns.shape).astype(jnp.int32)
    # A scatter and not a comparison of all draws with all columns, which takes B^3 memory.
    return jnp.zeros(columns.shape, jnp.int32).at[rows, columns].add(valid)
