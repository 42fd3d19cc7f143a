"""Triplet losses: hinge (P21 Table VI, P19 eq. 2) and soft (P21 Table VI)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.ranges import require_known, require_range
from dcjax.losses.loss import Loss, Output, Params, comparing, mean_distances
from dcjax.losses.mining import Miner
from dcjax.losses.pairs import Comparisons, Pairs, Triplets, as_pairs
from dcjax.losses.reductions import Rows, sum_over_positives, weighted_mean

_AVERAGES = ("all", "nonzero")


class TripletOptions(NamedTuple):
    """Options of the triplet loss.

    Attributes:
      miner: picks the triplets.
      margin: how much farther than the positive a negative has to be.
      squared: whether distances are squared, as in FaceNet and P19.
      average: mean over "all" triplets that were picked, or over those with a "nonzero" term.
    """

    miner: Miner
    margin: float
    squared: bool
    average: str


class SoftTripletOptions(NamedTuple):
    """Options of the soft triplet loss.

    Attributes:
      miner: picks the triplets.
    """

    miner: Miner


def triplet(
    distances: Array, mined: Pairs | Triplets, *, margin: float, average: str = "all"
) -> Array:
    """Returns the triplet loss, a scalar (Schroff et al. 2015, eq. 3; P19 eq. 2).

    L = mean of relu(d_ap - d_an + margin).

    Args:
      distances: d[B, R], squared or not, of L2-normalised embeddings.
      mined: triplets, or pairs, of which all triplets are taken, weighted by both pairs.
      margin: how much farther than the positive a negative has to be.
      average: over "all" triplets, or those with a "nonzero" term.
    """
    return _mean(distances, mined, lambda x: jax.nn.relu(x + margin), average)


def soft_triplet(distances: Array, mined: Pairs | Triplets) -> Array:
    """Returns the soft triplet loss, a scalar (Hermans et al. 2017, section 2).

    L = mean of log(1 + exp(d_ap - d_an)), over the triplets as in `triplet`.
    """
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


def _create_triplet(num_classes: int, embedding_dim: int, options: TripletOptions) -> Loss:
    require_range("margin", options.margin, 0)
    require_known("average", options.average, _AVERAGES)

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        mined = options.miner(key, compared)
        distances = compared.distances**2 if options.squared else compared.distances
        loss = triplet(distances, mined, margin=options.margin, average=options.average)
        return loss, mean_distances(compared, as_pairs(mined, compared))

    return comparing(compute)


def _create_soft_triplet(num_classes: int, embedding_dim: int, options: SoftTripletOptions) -> Loss:
    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        mined = options.miner(key, compared)
        loss = soft_triplet(compared.distances, mined)
        return loss, mean_distances(compared, as_pairs(mined, compared))

    return comparing(compute)


LOSSES: dict[str, Any] = {
    "triplet": (TripletOptions, _create_triplet),
    "soft_triplet": (SoftTripletOptions, _create_soft_triplet),
}
