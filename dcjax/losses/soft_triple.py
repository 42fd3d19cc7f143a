"""SoftTriple: a few learned centers for each class (Qian et al. 2019)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.ranges import DISTANCE, POSITIVE, require_range, require_whole
from dcjax.losses.loss import Loss
from dcjax.losses.pairs import products
from dcjax.losses.proxy_similarities import Similarities, cross_entropy, log_sum_exp, with_centers
from dcjax.losses.reductions import square_root


def soft_triple_loss(similarities: Similarities, *, la: float, margin: float) -> Array:
    """Returns SoftTriple without its regulariser, a scalar (Qian et al. 2019, section 3).

    The soft-max of la S_ic, with la (S_iy - margin) for the own class, S as in
    `relaxed_similarities`.

    Args:
      similarities: S.
      la: scale of the similarities.
      margin: taken from the similarity to the own class.
    """
    own = la * (similarities.own - margin)
    return cross_entropy(own, log_sum_exp(similarities.others, la))


def center_spread(centers: Array, num_classes: int) -> Array:
    """Returns SoftTriple's regulariser of centers, a scalar (Qian et al. 2019, section 3).

    R = sum_c sum_{k < l} sqrt(2 - 2 <w_ck, w_cl>) / (C K (K - 1)), half the mean distance of two
    centers of a class; 0 for K = 1. Its gradient is 0 where they are the same.

    Args:
      centers: w[rows, K, D], L2-normalised; rows from num_classes on are ignored.
      num_classes: C.
    """
    num_centers = centers.shape[1]
    cosines = jnp.einsum("ckd,cld->ckl", centers, centers, precision=jax.lax.Precision.HIGHEST)
    counts = jnp.triu(jnp.ones((num_centers, num_centers), bool), 1)
    counts &= (jnp.arange(len(centers)) < num_classes)[:, None, None]
    distances = square_root(jnp.where(counts, 2 - 2 * cosines, 0))
    return jnp.sum(distances) / (num_classes * max(num_centers * (num_centers - 1), 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def relaxed_similarities(embeddings: Array, centers: Array, gamma: float) -> Array:
    """Returns similarities to classes S[B, rows] (Qian et al. 2019, section 3).

    S_ic = sum_k q_k s_k,  q = softmax(s / gamma),  s_k = <x_i, w_ck>. One center of all classes
    after the other, and again for the gradient: a dozen arrays [B, rows], whatever K is.

    Args:
      embeddings: x[B, D].
      centers: w[rows, K, D].
      gamma: temperature.
    """
    return _relax(embeddings, centers, gamma)[0]


def _relax(embeddings: Array, centers: Array, gamma: float) -> tuple[Array, Array]:
    """Returns S [B, rows] and log sum_k exp(s_k / gamma) [B, rows]."""

    def add(sums: tuple[Array, Array, Array], of_all: Array) -> tuple[Any, None]:
        largest, total, weighted = sums
        s = products(embeddings, of_all)
        larger = jnp.maximum(largest, s / gamma)
        before, weight = jnp.exp(largest - larger), jnp.exp(s / gamma - larger)
        return (larger, before * total + weight, before * weighted + weight * s), None

    none = jnp.zeros((len(embeddings), len(centers)), embeddings.dtype)
    (largest, total, weighted), _ = jax.lax.scan(
        add, (none - jnp.inf, none, none), jnp.moveaxis(centers, 1, 0)
    )
    return weighted / total, largest + jnp.log(total)


def _relax_and_keep(embeddings: Array, centers: Array, gamma: float) -> tuple[Array, Any]:
    relaxed, log_sum = _relax(embeddings, centers, gamma)
    return relaxed, (embeddings, centers, relaxed, log_sum)


def _relax_gradients(gamma: float, kept: Any, gradient: Array) -> tuple[Array, Array]:
    """Returns the gradients by dS / ds_k = q_k (1 + (s_k - S) / gamma)."""
    embeddings, centers, relaxed, log_sum = kept

    def add(total: Array, of_all: Array) -> tuple[Array, Array]:
        s = products(embeddings, of_all)
        weight = jnp.exp(s / gamma - log_sum)
        to_s = gradient * weight * (1 + (s - relaxed) / gamma)
        return total + products(to_s, of_all.T), products(to_s.T, embeddings.T)

    to_embeddings, to_centers = jax.lax.scan(
        add, jnp.zeros_like(embeddings), jnp.moveaxis(centers, 1, 0)
    )
    return to_embeddings, jnp.moveaxis(to_centers, 0, 1)


relaxed_similarities.defvjp(_relax_and_keep, _relax_gradients)


def soft_triple(
    num_classes: int,
    embedding_dim: int,
    *,
    centers: int = 10,
    la: float = 20.0,
    gamma: float = 0.1,
    tau: float = 0.2,
    margin: float = 0.01,
) -> Loss:
    """Creates SoftTriple, in the letters of its paper (Qian et al. 2019, section 3).

    L = `soft_triple_loss` of `relaxed_similarities` + tau `center_spread`. The default values are
    those of the paper's section 4.

    Args:
      num_classes: number of training classes, C.
      embedding_dim: D, size of the embedding.
      centers: K, for each class.
      la: lambda, scale of the similarities to classes.
      gamma: temperature of the soft-max over the centers of a class.
      tau: weight of the regulariser, which draws the centers of a class together.
      margin: delta, taken from the similarity to the own class.
    """
    num_centers = require_whole("centers", centers, 1)
    require_range("la", la, *POSITIVE)
    require_range("gamma", gamma, *POSITIVE)
    require_range("tau", tau, 0)
    require_range("margin", margin, *DISTANCE)

    def compare(embeddings: Array, centers: Array, labels: Array) -> tuple[Array, Array]:
        s = jnp.sum(embeddings[:, None, :] * centers[labels], axis=2)
        own = jnp.sum(jax.nn.softmax(s / gamma, axis=1) * s, axis=1)
        return own, relaxed_similarities(embeddings, centers, gamma)

    def compute(similarities: Similarities, labels: Array, centers: Array) -> Array:
        loss = soft_triple_loss(similarities, la=la, margin=margin)
        return loss + tau * center_spread(centers, num_classes)

    shape = (num_centers, embedding_dim)
    return with_centers("centers", num_classes, shape, compare, compute)
