"""Losses of pairs that a miner picks: margin (P21 Table VI), contrastive and recent ones."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from dcjax.core.arrays import require_floats
from dcjax.core.errors import InputError
from dcjax.core.ranges import COSINE, DISTANCE, POSITIVE, Bounds, require_known, require_range
from dcjax.losses.loss import Loss, Output, Params, from_comparisons, mean_distances
from dcjax.losses.mining import Miner, as_miner
from dcjax.losses.pairs import Comparisons, Pairs, as_pairs
from dcjax.losses.reductions import log_one_plus_sum_exp, weighted_mean

BETAS = ("none", "shared", "per_class")
CIRCLE_MARGIN = Bounds(0, 1)


def margin_loss(
    distances: Array,
    positives: Array,
    negatives: Array,
    *,
    beta: ArrayLike,
    margin: float,
    nu: float,
) -> Array:
    """Returns the margin loss of the given pairs, a scalar; the formula is that of `margin`.

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


def contrastive_loss(
    distances: Array, pairs: Pairs, *, positive_margin: float, negative_margin: float, squared: bool
) -> Array:
    """Returns the contrastive loss of the given pairs, a scalar; the formula is in `contrastive`.

    Args:
      distances: d[B, R], of L2-normalised embeddings.
      pairs: how often each counts.
      positive_margin: m_p.
      negative_margin: m_n.
      squared: whether k is 2.
    """
    power = 2 if squared else 1
    pull = jax.nn.relu(distances - positive_margin)
    push = jax.nn.relu(negative_margin - distances)
    return weighted_mean(pull**power, pairs.positives * (pull > 0)) + weighted_mean(
        push**power, pairs.negatives * (push > 0)
    )


def multi_similarity_loss(
    similarities: Array, pairs: Pairs, *, alpha: float, beta: float, base: float
) -> Array:
    """Returns the loss of the given pairs, a scalar; the formula is that of `multi_similarity`.

    Args:
      similarities: s[B, R], inner products of L2-normalised embeddings.
      pairs: how often each counts, P and N.
      alpha: sharpness among positives.
      beta: sharpness among negatives.
      base: lambda of the paper.
    """
    above = similarities - base
    positive = log_one_plus_sum_exp(-alpha * above, pairs.positives) / alpha
    negative = log_one_plus_sum_exp(beta * above, pairs.negatives) / beta
    return jnp.mean(positive + negative)


def circle_loss(similarities: Array, pairs: Pairs, *, margin: float, gamma: float) -> Array:
    """Returns the circle loss of the given pairs, a scalar; the formula is that of `circle`.

    Args:
      similarities: s[B, R], inner products of L2-normalised embeddings.
      pairs: how often each counts, P and N.
      margin: m.
      gamma: scale of the similarities.
    """
    # The weights of pairs are constants of the gradient, as in the paper (section 3.1).
    now = jax.lax.stop_gradient(similarities)
    pull = gamma * jax.nn.relu(1 + margin - now) * (1 - margin - similarities)
    push = gamma * jax.nn.relu(now + margin) * (similarities - margin)
    # -inf, and so no loss, where an anchor has no pair of a kind.
    log_sums = jax.nn.logsumexp(pull, axis=1, b=pairs.positives)
    log_sums += jax.nn.logsumexp(push, axis=1, b=pairs.negatives)
    count = jnp.sum(log_sums > -jnp.inf)
    return jnp.sum(jax.nn.softplus(log_sums)) / jnp.maximum(count, 1)


def margin(
    num_classes: int,
    embedding_dim: int,
    *,
    miner: str | Miner = "distance_weighted",
    margin: float = 0.2,
    beta: float = 1.2,
    nu: float = 0.0,
    learn_beta: str = "none",
) -> Loss:
    """Creates the margin loss (Wu et al. 2017, section 4; P21 Table VI).

    L = ( sum_ij P_ij relu(d_ij - beta_i + margin) + N_ij relu(beta_i - d_ij + margin)
          + nu sum_i n_i |beta_i| ) / number of pairs with a non-zero term;  0 if there is none.
    P_ij and N_ij are how often the miner picks a positive and a negative pair, n_i = sum_j P_ij.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      miner: what picks the pairs, or its name. P21 draws them by distance-weighted sampling.
      margin: half the width of the band around the boundary in which pairs have a loss. The value
        is that of P21 section 4.2, as is that of beta.
      beta: the boundary between positive and negative distances; its start where it is learned.
      nu: weight of the L1 norm of beta; 0 in P21's code, as is the learning rate of beta.
      learn_beta: "none", as in P21's code, "shared" (one beta), or "per_class" (one for each class
        of the anchor).
    """
    require_known("learn_beta", learn_beta, BETAS)
    require_range("margin", margin, 0)
    require_range("nu", nu, 0)
    require_range("beta", beta, *DISTANCE)
    mine = as_miner(miner)

    def init(key: Array) -> Params:
        del key  # beta starts at its given value
        shapes = {"shared": (), "per_class": (num_classes,)}
        if learn_beta == "none":
            return {}
        return {"beta": jnp.full(shapes[learn_beta], beta, jnp.result_type(float))}

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        # The papers' code takes sqrt(||x_i - x_j||^2 + 1e-8) here and these distances for mining.
        # They differ by 5e-7 at 0.01 and less beyond: one matrix serves both.
        pairs = as_pairs(mine(key, compared), compared)
        boundary = params.get("beta", jnp.asarray(beta, compared.distances.dtype))
        if learn_beta == "per_class":
            boundary = boundary[labels]
        loss = margin_loss(compared.distances, *pairs, beta=boundary, margin=margin, nu=nu)
        return loss, mean_distances(compared, pairs) | {"beta": jnp.mean(boundary)}

    return from_comparisons(compute, init)


def contrastive(
    num_classes: int,
    embedding_dim: int,
    *,
    miner: str | Miner = "all",
    positive_margin: float = 0.0,
    negative_margin: float = 1.0,
    squared: bool = False,
) -> Loss:
    """Creates the contrastive loss (Hadsell et al. 2006, section 2).

    L = mean of relu(d_ij - m_p)^k over positive pairs + mean of relu(m_n - d_ij)^k over negative
    ones, each over the pairs with a non-zero term;  k = 2 if squared, else 1.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      miner: what picks the pairs, or its name.
      positive_margin: m_p, positives nearer than this have no loss; 0 as published.
      negative_margin: m_n, negatives farther than this have no loss. The paper gives no value; at
        1, unit vectors are 60 degrees apart.
      squared: whether what lies beyond a margin counts by its square, as published, or as it is.
    """
    require_range("positive_margin", positive_margin, *DISTANCE)
    require_range("negative_margin", negative_margin, 0)

    def compute(compared: Comparisons, pairs: Pairs) -> Array:
        return contrastive_loss(
            compared.distances,
            pairs,
            positive_margin=positive_margin,
            negative_margin=negative_margin,
            squared=squared,
        )

    return _from_pairs(miner, compute)


def multi_similarity(
    num_classes: int,
    embedding_dim: int,
    *,
    miner: str | Miner = "multi_similarity",
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
) -> Loss:
    """Creates the multi-similarity loss (Wang et al. 2019, section 4).

    L = mean_i ( log(1 + sum_j P_ij exp(-alpha (s_ij - base))) / alpha
                 + log(1 + sum_j N_ij exp(beta (s_ij - base))) / beta ).
    P_ij and N_ij are how often the miner picks a positive and a negative pair.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      miner: what picks the pairs, or its name; that of the paper by default.
      alpha: sharpness among positives, as in the paper.
      beta: sharpness among negatives, as in the paper.
      base: lambda, the similarity from which pairs are weighed: 1 in the paper, 0.5 in its code.
    """
    require_range("alpha", alpha, *POSITIVE)
    require_range("beta", beta, *POSITIVE)
    require_range("base", base, *COSINE)

    def compute(compared: Comparisons, pairs: Pairs) -> Array:
        return multi_similarity_loss(
            compared.similarities, pairs, alpha=alpha, beta=beta, base=base
        )

    return _from_pairs(miner, compute)


def circle(
    num_classes: int,
    embedding_dim: int,
    *,
    miner: str | Miner = "all",
    margin: float = 0.4,
    gamma: float = 80.0,
) -> Loss:
    """Creates the circle loss (Sun et al. 2020, eq. 6).

    L = mean_i log(1 + sum_j P_ij exp(gamma a_ij (1 - m - s_ij))
                       sum_j N_ij exp(gamma b_ij (s_ij - m)))
    over the anchors with a pair of each kind, with the weights a_ij = relu(1 + m - s_ij) and
    b_ij = relu(s_ij + m), through which no gradient flows. P_ij and N_ij are how often the miner
    picks a positive and a negative pair.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      miner: what picks the pairs, or its name.
      margin: m, how far from 1 and 0 positive and negative similarities are at the decision
        boundary. The values are those of the paper's section 4.1 for fine-grained retrieval.
      gamma: scale of the similarities.
    """
    require_range("margin", margin, *CIRCLE_MARGIN)
    require_range("gamma", gamma, *POSITIVE)

    def compute(compared: Comparisons, pairs: Pairs) -> Array:
        return circle_loss(compared.similarities, pairs, margin=margin, gamma=gamma)

    return _from_pairs(miner, compute)


def _from_pairs(miner: str | Miner, compute_loss: Callable[[Comparisons, Pairs], Array]) -> Loss:
    """Creates a loss of the pairs that a miner picks, whose mean distances are its metrics."""
    mine = as_miner(miner)

    def compute(params: Params, compared: Comparisons, labels: Array, key: Array) -> Output:
        pairs = as_pairs(mine(key, compared), compared)
        return compute_loss(compared, pairs), mean_distances(compared, pairs)

    return from_comparisons(compute)
