"""Sub-center ArcFace: the nearest of a few centers of each class (Deng et al. 2020)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from dcjax.core.ranges import require_whole
from dcjax.losses.loss import Loss
from dcjax.losses.pairs import products
from dcjax.losses.proxies import arcface_objective
from dcjax.losses.proxy_similarities import Similarities, with_centers

MOST_CENTERS = 1000


@jax.custom_vjp
def nearest_similarities(embeddings: Array, centers: Array) -> Array:
    """Returns similarities to classes S[B, rows], S_ic = max_k <x_i, w_ck>.

    One center of all classes after the other, and again for the gradient: a few arrays [B, rows],
    whatever K is.

    Args:
      embeddings: x[B, D].
      centers: w[rows, K, D].
    """
    return _nearest(embeddings, centers)[0]


def _nearest(embeddings: Array, centers: Array) -> tuple[Array, Array]:
    """Returns S and the number of the nearest center, int16 [B, rows]."""

    def compare(nearest: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Any, None]:
        (largest, number), (k, of_all) = nearest, other
        s = products(embeddings, of_all)
        return (jnp.maximum(largest, s), jnp.where(s > largest, k, number)), None

    numbers = jnp.arange(centers.shape[1], dtype=jnp.int16)
    none = jnp.full((len(embeddings), len(centers)), -jnp.inf, embeddings.dtype)
    start = none, jnp.zeros_like(none, jnp.int16)
    return jax.lax.scan(compare, start, (numbers, jnp.moveaxis(centers, 1, 0)))[0]


def _nearest_and_keep(embeddings: Array, centers: Array) -> tuple[Array, Any]:
    largest, number = _nearest(embeddings, centers)
    return largest, (embeddings, centers, number)


def _nearest_gradients(kept: Any, gradient: Array) -> tuple[Array, Array]:
    embeddings, centers, number = kept

    def add(total: Array, center: tuple[Array, Array]) -> tuple[Array, Array]:
        k, of_all = center
        to_s = jnp.where(number == k, gradient, 0)
        return total + products(to_s, of_all.T), products(to_s.T, embeddings.T)

    numbers = jnp.arange(centers.shape[1], dtype=jnp.int16)
    to_embeddings, to_centers = jax.lax.scan(
        add, jnp.zeros_like(embeddings), (numbers, jnp.moveaxis(centers, 1, 0))
    )
    return to_embeddings, jnp.moveaxis(to_centers, 0, 1)


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

    def compare(embeddings: Array, centers: Array, labels: Array) -> tuple[Array, Array]:
        to_own = jnp.sum(embeddings[:, None, :] * centers[labels], axis=2)
        return jnp.max(to_own, axis=1), nearest_similarities(embeddings, centers)

    def compute(similarities: Similarities, labels: Array, _: Array) -> Array:
        return of_similarities(similarities, labels)

    shape = (num_centers, embedding_dim)
    return with_centers("centers", num_classes, shape, compare, compute)
