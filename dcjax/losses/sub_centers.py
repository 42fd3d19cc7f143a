"""Sub-center ArcFace: the nearest of a few centers of each class (Deng et al. 2020)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from dcjax.core.ranges import require_whole
from dcjax.losses.loss import Loss
from dcjax.losses.proxies import arcface_objective
from dcjax.losses.proxy_similarities import (
    Similarities,
    center,
    proxy_similarities,
    with_center,
    with_centers,
)

MOST_CENTERS = 1000


@jax.custom_vjp
def nearest_similarities(embeddings: Array, centers: Array) -> Array:
    """Returns similarities to classes S[B, rows], S_ic = max_k <x_i, w_ck>.

    One center of all classes after the other, and again for the gradient: a few arrays [B, rows],
    whatever K is.

    Args:
      embeddings: x[B, D].
      centers: w[rows, K, D], of any length; w / ||w|| stands for w.
    """
    return _nearest(embeddings, centers)[0]


def _nearest(embeddings: Array, centers: Array) -> tuple[Array, Array]:
    """Returns S and the number of the nearest center, int16 [B, rows]."""

    def compare(k: Array, nearest: tuple[Array, Array]) -> tuple[Array, Array]:
        largest, number = nearest
        s = proxy_similarities(embeddings, center(centers, k))
        return jnp.maximum(largest, s), jnp.where(s > largest, k.astype(jnp.int16), number)

    none = jnp.full((len(embeddings), len(centers)), -jnp.inf, embeddings.dtype)
    start = none, jnp.zeros_like(none, jnp.int16)
    return jax.lax.fori_loop(0, centers.shape[1], compare, start)


def _nearest_and_keep(embeddings: Array, centers: Array) -> tuple[Array, Any]:
    largest, number = _nearest(embeddings, centers)
    return largest, (embeddings, centers, number)


def _nearest_gradients(kept: Any, gradient: Array) -> tuple[Array, Array]:
    embeddings, centers, number = kept

    def add(k: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        to_embeddings, to_centers = sums
        _, pull = jax.vjp(proxy_similarities, embeddings, center(centers, k))
        more, to_center = pull(jnp.where(number == k, gradient, 0))
        return to_embeddings + more, with_center(to_centers, to_center, k)

    start = jnp.zeros_like(embeddings), jnp.zeros_like(centers)
    return jax.lax.fori_loop(0, centers.shape[1], add, start)


nearest_similarities.defvjp(_nearest_and_keep, _nearest_gradients)


def sub_center_arcface(
    num_classes: int,
    embedding_dim: int,
    class_sizes: ArrayLike | None,
    *,
    centers: int = 3,
    margin: float = 0.5,
    scale: float = 64.0,
    size_exponent: float = 0.0,
    least_margin: float = 0.0,
) -> Loss:
    """Creates sub-center ArcFace (Deng et al. 2020, section 3.3).

    `proxies.arcface` of the similarities to the nearest of K centers of each class,
    s_iz = max_k <x_i, w_zk>: an image has to be near one center of its class only, so that a class
    may have several looks, or some wrong labels.

    Args:
      num_classes: number of training classes.
      embedding_dim: D, size of the embedding.
      class_sizes: as in `proxies.arcface`.
      centers: K, for each class; the values are those of the paper.
      margin: radians, added to the angle to the nearest center of the own class.
      scale: of the similarities.
      size_exponent: as in `proxies.arcface`.
      least_margin: as in `proxies.arcface`.
    """
    num_centers = require_whole("centers", centers, 1, MOST_CENTERS)
    of_similarities = arcface_objective(
        num_classes,
        class_sizes,
        margin=margin,
        scale=scale,
        size_exponent=size_exponent,
        least_margin=least_margin,
    )

    def compare_own(embeddings: Array, centers: Array) -> Array:
        return jnp.max(jnp.sum(embeddings[:, None, :] * centers, axis=2), axis=1)

    def compare_all(embeddings: Array, centers: Array) -> tuple[Array, None]:
        return nearest_similarities(embeddings, centers), None

    def compute(similarities: Similarities, labels: Array, _: None) -> Array:
        return of_similarities(similarities, labels)

    shape = (num_centers, embedding_dim)
    return with_centers("centers", num_classes, shape, compare_own, compare_all, compute)
