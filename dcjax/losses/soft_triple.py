"""SoftTriple: a few learned centers for each class (Qian et al. 2019)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.ranges import DISTANCE, POSITIVE, require_range, require_whole
from dcjax.division import masks
from dcjax.losses.loss import Loss
from dcjax.losses.proxy_similarities import (
    Similarities,
    center,
    cross_entropy,
    log_sum_exp,
    proxy_similarities,
    with_center,
    with_centers,
)
from dcjax.losses.reductions import square_root


def soft_triple_loss(similarities: Similarities, *, la: float, margin: float) -> Array:
    """Returns SoftTriple without its regulariser, a scalar (Qian et al. 2019, section 3).

    The soft-max of la S_ic, with la (S_iy - margin) for the own class, S as in
    `compare_with_centers`.

    Args:
      similarities: S.
      la: scale of the similarities.
      margin: taken from the similarity to the own class.
    """
    own = la * (similarities.own - margin)
    return cross_entropy(own, log_sum_exp(similarities.others, la))


def center_spread(distances: Array, num_centers: int) -> Array:
    """Returns SoftTriple's regulariser of centers, a scalar (Qian et al. 2019, section 3).

    sum_c R_c / (C K (K - 1)), half the mean distance of two centers of a class; 0 for K = 1.

    Args:
      distances: R[C], as in `compare_with_centers`.
      num_centers: K.
    """
    return jnp.sum(distances) / (len(distances) * max(num_centers * (num_centers - 1), 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def compare_with_centers(
    embeddings: Array, centers: Array, gamma: float, has_distances: bool = True
) -> tuple[Array, Array | None]:
    """Returns similarities to classes S[B, rows], and the distances between their centers R[rows].

      S_ic = sum_k q_k s_k,  q = softmax(s / gamma),  s_k = <x_i, w_ck>
      R_c  = sum_{k < l} sqrt(2 - 2 <w_ck, w_cl>)

    (Qian et al. 2019, section 3). One center of all classes after the other, and again for the
    gradient: half a dozen arrays [B, rows], and two of [rows, K, K]. The gradient of a distance is
    0 where two centers are the same.

    Args:
      embeddings: x[B, D].
      centers: w[rows, K, D], of any length; w / ||w|| stands for w.
      gamma: temperature.
      has_distances: whether R is wanted; else it is None.
    """
    return _compare_and_keep(embeddings, centers, gamma, has_distances)[0]


def _relax(embeddings: Array, centers: Array, gamma: float) -> tuple[Array, Array]:
    """Returns S [B, rows] and log sum_k exp(s_k / gamma) [B, rows]."""

    def add(k: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        largest, total, weighted = sums
        s = proxy_similarities(embeddings, center(centers, k))
        logits = s / gamma
        # Sums are relative to the largest term; either it or the new term is 1.
        smaller, is_larger = jnp.exp(-jnp.abs(logits - largest)), logits > largest
        before, weight = jnp.where(is_larger, smaller, 1), jnp.where(is_larger, 1, smaller)
        return (
            jnp.maximum(largest, logits),
            before * total + weight,
            before * weighted + weight * s,
        )

    none = jnp.zeros((len(embeddings), len(centers)), embeddings.dtype)
    start = none - jnp.inf, none, none
    largest, total, weighted = jax.lax.fori_loop(0, centers.shape[1], add, start)
    return weighted / total, largest + jnp.log(total)


def _distances(centers: Array) -> tuple[Array, Array]:
    """Returns R [rows], and m[rows, K, K] with the gradient sum_l m_kl w_l of R by w_k."""
    norms, _ = masks.norms(centers)
    scale = 1 / (norms * jnp.swapaxes(norms, 1, 2))
    precision = jax.lax.Precision.HIGHEST
    cosines = scale * jnp.einsum("ckd,cld->ckl", centers, centers, precision=precision)
    itself = jnp.eye(centers.shape[1], dtype=bool)
    distances = square_root(jnp.where(itself, 0, 2 - 2 * cosines))
    # The slope by a cosine, which depends on w_k by <w_k, w_l> and by ||w_k||.
    slopes = jnp.where(distances > 0, -1 / jnp.where(distances > 0, distances, 1), 0)
    along = jnp.sum(slopes * cosines, axis=2, keepdims=True) / norms**2
    return jnp.sum(distances, axis=(1, 2)) / 2, slopes * scale - jnp.where(itself, along, 0)


def _compare_and_keep(
    embeddings: Array, centers: Array, gamma: float, has_distances: bool
) -> tuple[Any, Any]:
    relaxed, log_sum = _relax(embeddings, centers, gamma)
    distances, mix = _distances(centers) if has_distances else (None, None)
    return (relaxed, distances), (embeddings, centers, relaxed, log_sum, mix)


def _gradients(
    gamma: float, _: bool, kept: Any, gradients: tuple[Array, Array | None]
) -> tuple[Array, Array]:
    """Returns the gradients by dS / ds_k = q_k (1 + (s_k - S) / gamma)."""
    embeddings, centers, relaxed, log_sum, mix = kept
    to_relaxed, to_distances = gradients

    def add(k: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        to_embeddings, to_centers = sums
        s, pull = jax.vjp(proxy_similarities, embeddings, center(centers, k))
        weight = jnp.exp(s / gamma - log_sum)
        more, to_center = pull(to_relaxed * weight * (1 + (s - relaxed) / gamma))
        return to_embeddings + more, with_center(to_centers, center(to_centers, k) + to_center, k)

    of_distances = jnp.zeros_like(centers)
    if to_distances is not None:
        cut_off = masks.norms(centers)[1]
        mix = jnp.where(cut_off, 0, to_distances[:, None, None] * mix)
        of_distances = jnp.einsum("ckl,cld->ckd", mix, centers, precision=jax.lax.Precision.HIGHEST)
    start = jnp.zeros_like(embeddings), of_distances
    return jax.lax.fori_loop(0, centers.shape[1], add, start)


compare_with_centers.defvjp(_compare_and_keep, _gradients)


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

    L = `soft_triple_loss` + tau `center_spread`, of what `compare_with_centers` returns. The
    default values are those of the paper's section 4.

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

    def compare_own(embeddings: Array, centers: Array) -> Array:
        s = jnp.sum(embeddings[:, None, :] * centers, axis=2)
        return jnp.sum(jax.nn.softmax(s / gamma, axis=1) * s, axis=1)

    def compare_all(embeddings: Array, centers: Array) -> tuple[Array, Array | None]:
        return compare_with_centers(embeddings, centers, gamma, tau > 0)

    def compute(similarities: Similarities, labels: Array, distances: Array | None) -> Array:
        loss = soft_triple_loss(similarities, la=la, margin=margin)
        if distances is None:
            return loss
        return loss + tau * center_spread(distances[:num_classes], num_centers)

    shape = (num_centers, embedding_dim)
    return with_centers("centers", num_classes, shape, compare_own, compare_all, compute)
