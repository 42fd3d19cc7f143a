"""Comparisons of embeddings, and the pairs or triplets of them that a miner picks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.arrays import require_floats, require_integers

_MIN_SQUARED_DISTANCE = 1e-4


class References(NamedTuple):
    """What a batch is compared with besides itself, as a cross-batch memory holds it.

    Attributes:
      embeddings: [M, D], L2-normalised.
      labels: int [M], -1 where there is nothing.
    """

    embeddings: Array
    labels: Array


class Comparisons(NamedTuple):
    """Each of B anchors beside each of R references: the anchors again, then a memory.

    Attributes:
      anchors: [B, D], L2-normalised.
      distances: [B, R], Euclidean, see `pairwise_distances`.
      similarities: [B, R], inner products.
      positives: bool [B, R], whether of the anchor's class and not the anchor itself.
      negatives: bool [B, R], whether of another class.
    """

    anchors: Array
    distances: Array
    similarities: Array
    positives: Array
    negatives: Array


class Pairs(NamedTuple):
    """How much each pair counts.

    Attributes:
      positives: float [B, R], weight of the ordered pair (anchor, reference) as a positive one.
      negatives: float [B, R], as a negative one.
    """

    positives: Array
    negatives: Array


class Triplets(NamedTuple):
    """At most T triplets of each anchor.

    Attributes:
      positives: int32 [B, T], the references that are positives.
      negatives: int32 [B, T], those that are negatives.
      valid: bool [B, T], whether there is such a triplet.
    """

    positives: Array
    negatives: Array
    valid: Array


def compare(embeddings: Array, labels: Array, memory: References | None = None) -> Comparisons:
    """Compares embeddings[B, D] of these labels[B] with each other, and with a memory if given.

    All in float32, or wider where the embeddings are.

    Raises:
      InputError: unless embeddings are floats, and labels integers from 0 on, one for each.
    """
    embeddings = jnp.asarray(require_floats("embeddings", embeddings, (None, None)))
    labels = jnp.asarray(require_integers("labels", labels, len(embeddings), 0))
    x = embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))
    blocks, reference_labels = [x], labels
    if memory is not None:
        # In two blocks: the gradient of one array would include a product for the memory.
        blocks.append(memory.embeddings.astype(x.dtype))
        reference_labels = jnp.concatenate([labels, memory.labels])
    same = labels[:, None] == reference_labels[None, :]
    itself = jnp.eye(len(labels), len(reference_labels), dtype=bool)
    similarities = [products(x, y) for y in blocks]
    distances = [_distances(x, y, s) for y, s in zip(blocks, similarities, strict=True)]
    return Comparisons(
        anchors=x,
        distances=jnp.concatenate(distances, axis=1),
        similarities=jnp.concatenate(similarities, axis=1),
        positives=same & ~itself,
        negatives=~same & (reference_labels >= 0),
    )


def pairwise_distances(embeddings: Array) -> Array:
    """Returns Euclidean distances [B, B] = sqrt(max(||x_i||^2 + ||x_j||^2 - 2 <x_i, x_j>, 1e-4)).

    The gradient is 0 where the distance is cut off at 0.01, as it is from a row to itself.
    """
    x = embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))
    return _distances(x, x, products(x, x))


def products(x: Array, y: Array) -> Array:
    """Returns inner products [B, R] of x[B, D] and y[R, D]."""
    # GPUs and TPUs keep 10 or 7 bits of the factors by default, too few for small distances.
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def _distances(x: Array, y: Array, inner_products: Array) -> Array:
    squared = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1) - 2 * inner_products
    # Written so that NaN stays NaN, and a diverged network is detected.
    return jnp.sqrt(jnp.where(squared < _MIN_SQUARED_DISTANCE, _MIN_SQUARED_DISTANCE, squared))


def as_pairs(mined: Pairs | Triplets, compared: Comparisons) -> Pairs:
    """Returns how often each pair was mined, [B, R]."""
    if isinstance(mined, Pairs):
        return mined
    rows = jnp.arange(len(mined.valid))[:, None]
    none = jnp.zeros_like(compared.distances)
    # A scatter, since a comparison of all draws with all columns takes B T R memory.
    return Pairs(*(none.at[rows, columns].add(mined.valid) for columns in mined[:2]))


def fold_positives(step: Callable[[Any, Array], Any], initial: Any, positives: Array) -> Any:
    """Folds `step` over each anchor's positives, starting from `initial`.

    Step t takes the t-th positive of every anchor. There are as many steps as the largest number of
    positives of an anchor, which is small beside the number of references.

    Args:
      step: function (carried, bool [B, R], where each anchor's positive is) -> carried. An anchor
        with fewer positives has none in its row.
      initial: carried into the first step.
      positives: bool [B, R].
    """

    def take(state: tuple[Array, Any]) -> tuple[Array, Any]:
        remaining, carried = state
        column = jnp.arange(positives.shape[1])
        first = jnp.min(jnp.where(remaining, column, len(column)), axis=1, keepdims=True)
        is_first = column == first
        return remaining & ~is_first, step(carried, is_first)

    return jax.lax.while_loop(lambda state: jnp.any(state[0]), take, (positives, initial))[1]


def smallest(values: Array, number: Array) -> Array:
    """Returns columns int32 [B, R] that begin with those of the smallest values, in order.

    One pass over the values for each: for few columns, far faster on a CPU than a sort.

    Args:
      values: [B, R].
      number: int [], how many columns are wanted; the others are 0.
    """
    values = jax.lax.stop_gradient(values)
    column = jnp.arange(values.shape[1])

    def take(slot: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        remaining, columns = state
        is_least = remaining == jnp.min(remaining, axis=1, keepdims=True)
        first = jnp.min(jnp.where(is_least, column, len(column)), axis=1, keepdims=True)
        remaining = jnp.where(column == first, jnp.inf, remaining)
        return remaining, jnp.where(column == slot, first, columns)

    return jax.lax.fori_loop(0, number, take, (values, jnp.zeros(values.shape, column.dtype)))[1]
