"""Losses of pairs that a miner picks: margin (P21 Table VI), contrastive, multi-similarity."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from dcjax.core.errors import InputError
from dcjax.core.ranges import SMALLEST, require_floats, require_known, require_range
from dcjax.losses.loss import Loss, Output, Params, comparing, mean_distances
from dcjax.losses.mining import Miner
from dcjax.losses.pairs import Comparisons, Pairs, as_pairs
from dcjax.losses.reductions import log_one_plus_sum_exp, weighted_mean


class MarginOptions(NamedTuple):
    """Options of the margin loss.

    Attributes:
      miner: picks the pairs.
      beta: the boundary between positive and negative distances; its start where it is learned.
      margin: how far from the boundary a pair has to be, to either side.
      nu: weight of the L1 norm of beta.
      learn_beta: "none", "shared" (one beta) or "per_class" (one for each class of the anchor).
    """

    miner: Miner
    beta: float
    margin: float
    nu: float
    learn_beta: str


class ContrastiveOptions(NamedTuple):
    """Options of the contrastive loss.

    Attributes:
      miner: picks the pairs.
      positive_margin: positives nearer than this have no loss.
      negative_margin: negatives farther than this have no loss.
      squared: whether what lies beyond a margin counts by its square.
    """

    miner: Miner
    positive_margin: float
    negative_margin: float
    squared: bool


class MultiSimilarityOptions(NamedTuple):
    """Options of the multi-similarity loss.

    Attributes:
      miner: picks the pairs.
      alpha: sharpness among positives.
      beta: sharpness among negatives.
      base: lambda, the similarity from which pairs are weighed.
    """

    miner: Miner
    alpha: float
    beta: float
    base: float


def margin(
    distances: Array,
    positives: Array,
    negatives: Array,
    *,
    beta: ArrayLike,
    margin: float,
    nu: float = 0.0,
) -> Array:
    """Returns the margin loss of the given pairs, a scalar (Wu et al. 2017, section 4).

    L = ( sum_ij P_ij relu(d_ij - beta_i + margin) + N_ij relu(beta_i - d_ij + margin)
          + nu sum_i n_i |beta_i| ) / number of pairs with a non-zero term;  0 if there is none.

    Args:
      distances: d[B, B], of L2-normalised embeddings.
      positives: P[B, B], how often the ordered pair (anchor i, j) counts as a positive one.
      negatives: N[B, B], how often it counts as a negative one.
      beta: boundary, a scalar or one for each anchor [B].
      margin: half the width of the band around the boundary in which pairs have a loss.
      nu: weight of the L1 norm of beta, which counts once for each of an anchor's n_i positives.
    """
    distances = jnp.asarray(require_floats("distances", distances, (None, None)))
    for name, weights in (("positives", positives), ("negatives", negatives)):
        if jnp.shape(weights) != distances.shape:
            raise InputError(
                f"{name} must be of the shape of distances, {distances.shape}, got "
                f"{jnp.shape(weights)}."
            )
    if jnp.shape(beta) not in ((), distances.shape[:1]):
        raise InputError(
            f"beta must be a scalar or of shape {distances.shape[:1]}, one for each anchor, got "
            f"shape {jnp.shape(beta)}."
        )
    dtype = distances.dtype
    positives, negatives = jnp.asarray(positives), jnp.asarray(negatives)
    positives, negatives = positives.astype(dtype), negatives.astype(dtype)
    beta = jnp.reshape(jnp.asarray(beta, dtype), (-1, 1))
    pull = jax.nn.relu(distances - beta + margin)
    push = jax.nn.relu(beta - distances + margin)
    count = jnp.sum(positives * (pull > 0) + negatives * (push > 0))
    pairs = jnp.sum(positives * pull + negatives * push)  # 0 if nothing counts, NaN if one is
    regulariser = nu * jnp.sum(jnp.sum(positives, axis=1, keepdims=True) * jnp.abs(beta))
    return (pairs + jnp.where(count > 0, regulariser, 0.0)) / jnp.maximum(count, 1)


def contrastive(
    distances: Array, pairs: Pairs, *, positive_margin: float, negative_margin: float, squared: bool
) -> Array:
    """Returns the contrastive loss of the given pairs, a scalar (Hadsell et al. 2006, section 2).

    L = mean of relu(d_ij - m_p)^k over positive pairs + mean of relu(m_n - d_ij)^k over negative
    ones, each over the pairs with a non-zero term;  k = 2 if squared, the exponent as published,
    else 1.

    Args:
      distances: d[B, R], of L2-normalised embeddings.
      pairs: how often each counts.
      positive_margin: m_p, 0 as published.
      negative_margin: m_n.
      squared: whether k is 2.
    """
    power = 2 if squared else 1
    pull = jax.nn.relu(distances - positive_margin)
    push = jax.nn.relu(negative_margin - distances)
    return weighted_mean(pull**power, pairs.positives * (pull > 0)) + weighted_mean(
        push**power, pairs.negatives * (push > 0)
    )


def multi_similarity(
    similarities: Array, pairs: Pairs, *, alpha: float, beta: float, base: float
) -> Array:
    """Returns the multi-similarity loss of the given pairs, a scalar (Wang et al. 2019, section 4).

    L = mean_i ( log(1 + sum_j P_ij exp(-alpha (s_ij - base))) / alpha
                 + log(1 + sum_j N_ij exp(beta (s_ij - base))) / beta ).

    Args:
      similarities: s[B, R], inner products of L2-normalised embeddings.
      pairs: how often each counts.
      alpha: sharpness among positives.
      beta: sharpness among negatives.
      base: lambda of the paper.
    """
    above = similarities - base
    positive = log_one_plus_sum_exp(-alpha * above, pairs.positives) / alpha
    negative = log_one_plus_sum_exp(beta * above, pairs.negatives) / beta
    return jnp.mean(positive + negative)


def _create_margin(num_classes: int, embedding_dim: int, options: MarginOptions) -> Loss:
    require_known("learn_beta", options.learn_beta, ("none", "shared", "per_class"))
    require_range("margin", options.margin, 0)
    require_range("nu", options.nu, 0)
    require_range("beta", options.beta, 0, 2)

    def init(key: Array) -> Params:
        del key  # beta starts as told
        shapes = {"shared": (), "per_class": (num_classes,)}
        if options.learn_beta == "none":
            return {}
        return {"beta": jnp.full(shapes[options.learn_beta], options.beta, jnp.result_type(float))}

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        # The papers' code takes sqrt(||x_i - x_j||^2 + 1e-8) here and these distances for mining.
        # They differ by 5e-7 at 0.01 and less beyond: one matrix serves both.
        pairs = as_pairs(options.miner(key, compared), compared)
        beta = params.get("beta", jnp.asarray(options.beta, compared.distances.dtype))
        if options.learn_beta == "per_class":
            beta = beta[labels]
        loss = margin(compared.distances, *pairs, beta=beta, margin=options.margin, nu=options.nu)
        return loss, mean_distances(compared, pairs) | {"beta": jnp.mean(beta)}

    return comparing(compute, init)


def _create_contrastive(num_classes: int, embedding_dim: int, options: ContrastiveOptions) -> Loss:
    require_range("positive_margin", options.positive_margin, 0, 2)
    require_range("negative_margin", options.negative_margin, 0)

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        pairs = as_pairs(options.miner(key, compared), compared)
        loss = contrastive(
            compared.distances,
            pairs,
            positive_margin=options.positive_margin,
            negative_margin=options.negative_margin,
            squared=options.squared,
        )
        return loss, mean_distances(compared, pairs)

    return comparing(compute)


def _create_multi_similarity(
    num_classes: int, embedding_dim: int, options: MultiSimilarityOptions
) -> Loss:
    require_range("alpha", options.alpha, SMALLEST)
    require_range("beta", options.beta, SMALLEST)
    require_range("base", options.base, -1, 1)

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        pairs = as_pairs(options.miner(key, compared), compared)
        loss = multi_similarity(
            compared.similarities, pairs, alpha=options.alpha, beta=options.beta, base=options.base
        )
        return loss, mean_distances(compared, pairs)

    return comparing(compute)


LOSSES: dict[str, Any] = {
    "margin": (MarginOptions, _create_margin),
    "contrastive": (ContrastiveOptions, _create_contrastive),
    "multi_similarity": (MultiSimilarityOptions, _create_multi_similarity),
}
