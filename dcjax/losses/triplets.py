"""Triplet losses: hinge (P21 Table VI, P19 eq. 2) and soft (P21 Table VI)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.ranges import require_known, require_range
from dcjax.losses.loss import Loss, Output, Params, from_comparisons, mean_distances
from dcjax.losses.mining import Miner, as_miner
from dcjax.losses.pairs import Comparisons, Pairs, Triplets, as_pairs
from dcjax.losses.reductions import Rows, sum_over_positives, weighted_mean

AVERAGES = ("all", "nonzero")


def triplet_loss(
    distances: Array, mined: Pairs | Triplets, *, margin: float, average: str
) -> Array:
    """Returns the triplet loss, a scalar; the formula is that of `triplet`.

    Args:
      distances: d[B, R], squared or not, of L2-normalised embeddings.
      mined: triplets, or pairs, of which all triplets are taken, weighted by both pairs.
      margin: how much farther than the positive a negative has to be.
      average: over "all" triplets, or those with a "nonzero" term.
    """
    return _mean(distances, mined, lambda x: jax.nn.relu(x + margin), average)


def soft_triplet_loss(distances: Array, mined: Pairs | Triplets) -> Array:
    """Returns the soft triplet loss, a scalar, of triplets as in `triplet_loss`."""
    return _mean(distances, mined, jax.nn.softplus, "all")


def _mean(
    distances: Array, mined: Pairs | Triplets, term: Callable[[Array], Array], average: str
) -> Array:
    """Returns the mean of term(d_ap - d_an) over triplets."""
    if isinstance(mined, Triplets):
        to_positive = jnp.take_along_axis(distances, mined.positives, axis=1)
        to_negative = jnp.take_along_axis(distances, mined.negatives, axis=1)
        terms = term(to_positive - to_negative)
        counted = mined.valid & (terms > 0) if average == "nonzero" else mined.valid
        return weighted_mean(terms, counted.astype(distances.dtype))

    def sum_terms(positive: Rows, all_references: Rows, _: Array) -> Array:
        (to_positive, weight, _), (d, _, weights) = positive, all_references
        return jnp.sum(term(to_positive - d) * weight * weights, axis=1)

    def count_terms(positive: Rows, all_references: Rows, _: Array) -> Array:
        (to_positive, weight, _), (d, _, weights) = positive, all_references
        return jnp.sum((term(to_positive - d) > 0) * weight * weights, axis=1)

    rows, chosen = (distances, *mined), mined.positives > 0
    if average == "nonzero":
        count = jnp.sum(sum_over_positives(count_terms, rows, chosen))
    else:
        count = jnp.sum(jnp.sum(mined.positives, axis=1) * jnp.sum(mined.negatives, axis=1))
    total = jnp.sum(sum_over_positives(sum_terms, rows, chosen))
    return total / jnp.where(count > 0, count, 1)


def triplet(
    num_classes: int,
    embedding_dim: int,
    *,
    miner: str | Miner = "semi_hard",
    margin: float = 0.2,
    squared: bool = False,
    average: str = "all",
) -> Loss:
    """Creates the triplet loss (Schroff et al. 2015, eq. 3; P19 eq. 2; P21 Table VI).

    L = mean of relu(d_ap - d_an + margin).

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      miner: what picks the triplets, or its name; semi-hard ones, as in Schroff et al.
      margin: how much farther than the positive a negative has to be; 0.2 in Schroff et al.
      squared: whether distances are squared, as in Schroff et al. and P19; P21's code has them
        plain.
      average: mean over "all" triplets that were picked, as in P21's code, or over those with a
        "nonzero" term.
    """
    require_range("margin", margin, 0)
    require_known("average", average, AVERAGES)
    mine = as_miner(miner)

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        mined = mine(key, compared)
        distances = compared.distances**2 if squared else compared.distances
        loss = triplet_loss(distances, mined, margin=margin, average=average)
        return loss, mean_distances(compared, as_pairs(mined, compared))

    return from_comparisons(compute)


def soft_triplet(num_classes: int, embedding_dim: int, *, miner: str | Miner = "semi_hard") -> Loss:
    """Creates the soft triplet loss (Hermans et al. 2017, section 2; P21 Table VI).

    L = mean of log(1 + exp(d_ap - d_an)).

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      miner: what picks the triplets, or its name; semi-hard ones in P21's code.
    """
    mine = as_miner(miner)

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        mined = mine(key, compared)
        loss = soft_triplet_loss(compared.distances, mined)
        return loss, mean_distances(compared, as_pairs(mined, compared))

    return from_comparisons(compute)
