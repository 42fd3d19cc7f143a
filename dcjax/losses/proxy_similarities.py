"""The parameters and similarities that losses of proxies have in common."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.errors import InputError
from dcjax.division import masks
from dcjax.losses.loss import Loss, Output, Params
from dcjax.losses.pairs import products

# From this number of classes on, rows are padded, to divide over devices of any usual number.
_MANY_CLASSES = 1024
_ROWS_MULTIPLE = 128


class Similarities(NamedTuple):
    """Similarities of B embeddings to their own classes and to the others.

    Attributes:
      own: [B], to the own class.
      others: [B, rows], to other classes; -inf to the own one and where there is no class.
    """

    own: Array
    others: Array


def with_proxies(
    num_classes: int, embedding_dim: int, compute: Callable[[Similarities, Array], Array]
) -> Loss:
    """Makes a loss of one proxy for each class.

    Args:
      num_classes: number of classes.
      embedding_dim: D.
      compute: function (similarities, labels[B]) -> scalar.

    Raises:
      InputError: if there are not two classes to tell from each other.
    """

    def compare_own(embeddings: Array, proxies: Array) -> Array:
        return jnp.sum(embeddings * proxies, axis=1)

    def compare_all(embeddings: Array, proxies: Array) -> tuple[Array, None]:
        return proxy_similarities(embeddings, proxies), None

    def compute_loss(similarities: Similarities, labels: Array, _: None) -> Array:
        return compute(similarities, labels)

    shape = (embedding_dim,)
    return with_centers("proxies", num_classes, shape, compare_own, compare_all, compute_loss)


def with_centers(
    name: str,
    num_classes: int,
    shape: tuple[int, ...],
    compare_own: Callable[[Array, Array], Array],
    compare_all: Callable[[Array, Array], tuple[Array, Any]],
    compute: Callable[[Similarities, Array, Any], Array],
) -> Loss:
    """Makes a loss of one or more centers for each class.

    Args:
      name: of the parameters.
      num_classes: number of classes.
      shape: of what a class has, (D,) or (K, D).
      compare_own: function (embeddings[B, D], normalised centers[B, *shape]) -> the similarities
        [B] of each embedding to one class. They get no gradient, see `_separate`.
      compare_all: function (embeddings[B, D], centers[rows, *shape]) -> similarities to all classes
        [B, rows], and what else the loss needs of the centers, which may have any length.
      compute: function (similarities, labels[B], what else it needs) -> scalar.

    Raises:
      InputError: if there are not two classes to tell from each other.
    """
    if num_classes < 2:
        raise InputError(f"Losses of proxies require num_classes >= 2, got {num_classes}.")

    def init(key: Array) -> Params:
        # Directions are uniform, as Kim et al. 2020 (section 4.2) start. Length has no part in a
        # loss; about 1, a learning rate means the same at any D.
        drawn = jax.random.normal(key, (num_rows(num_classes), *shape))
        return {name: drawn / math.sqrt(shape[-1])}

    def apply(
        params: Params, embeddings: Array, labels: Array, key: Array, *, mask: Array | None = None
    ) -> Output:
        del key  # nothing is random
        x = embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))
        centers = params[name].astype(x.dtype)
        centers = centers if mask is None else centers * mask
        own = compare_own(x, masks.l2_normalize(centers[labels]))
        to_all, more = compare_all(x, centers)
        similarities = _separate(own, to_all, labels, num_classes)
        return compute(similarities, labels, more), _metrics(similarities)

    return Loss(init, apply, takes=("mask",))


@jax.custom_vjp
def proxy_similarities(embeddings: Array, proxies: Array) -> Array:
    """Returns <x, p> / ||p|| [B, rows].

    Without an array of all normalised proxies, which would be as large as the parameters.

    Args:
      embeddings: x[B, D].
      proxies: p[rows, D], of any length; those shorter than 1e-12 get no gradient.
    """
    return _compare(embeddings, proxies)[0]


def _compare(embeddings: Array, proxies: Array) -> tuple[Array, Any]:
    norms, cut_off = masks.norms(proxies)
    return products(embeddings, proxies) / norms[:, 0], (embeddings, proxies, norms, cut_off)


def _gradients(kept: Any, gradient: Array) -> tuple[Array, Array]:
    embeddings, proxies, norms, cut_off = kept
    to_products = gradient / norms[:, 0]
    to_proxies = products(to_products.T, embeddings.T)
    # Less the part along the proxy, which its norm takes away.
    along = jnp.sum(to_proxies * proxies, axis=1, keepdims=True) / norms**2
    to_proxies = jnp.where(cut_off, 0, to_proxies - along * proxies)
    return products(to_products, proxies.T), to_proxies


proxy_similarities.defvjp(_compare, _gradients)


def center(centers: Array, k: Array) -> Array:
    """Returns center k of all classes [rows, D], of centers [rows, K, D]."""
    return jax.lax.dynamic_index_in_dim(centers, k, axis=1, keepdims=False)


def with_center(centers: Array, values: Array, k: Array) -> Array:
    """Returns centers [rows, K, D] with these values [rows, D] for center k of all classes."""
    return jax.lax.dynamic_update_index_in_dim(centers, values, k, axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _separate(own: Array, to_all: Array, labels: Array, num_classes: int) -> Similarities:
    """Returns the similarities to the own class and to the others.

    The gradient of `own` is that of the same numbers in `to_all`, since a look-up's own gradient is
    an array as large as the parameters. That they are not taken from there has a reason too: unless
    `to_all` is used once, [B, rows] is in memory twice, see `log_sum_exp`.

    Args:
      own: similarities to the own class, [B].
      to_all: similarities to all classes, [B, rows].
      labels: int [B].
      num_classes: number of classes; rows from there on are ignored.
    """
    rows = jnp.arange(to_all.shape[1])
    is_other = (rows != labels[:, None]) & (rows < num_classes)
    return Similarities(own, jnp.where(is_other, to_all, -jnp.inf))


def _separate_and_keep(
    own: Array, to_all: Array, labels: Array, num_classes: int
) -> tuple[Similarities, Array]:
    return _separate(own, to_all, labels, num_classes), labels


def _join(num_classes: int, labels: Array, gradients: Similarities) -> tuple[Array, Array, None]:
    own, others = gradients
    rows = jnp.arange(others.shape[1])
    to_others = jnp.where(rows < num_classes, others, 0)
    to_all = jnp.where(rows == labels[:, None], own[:, None], to_others)
    return jnp.zeros_like(own), to_all, None


_separate.defvjp(_separate_and_keep, _join)


def num_rows(num_classes: int) -> int:
    """Returns the rows of the parameters of so many classes; those past them belong to none.

    From 1,024 classes on it is a multiple of 128, on any number of devices, so that checkpoints
    have the same shape on all of them.
    """
    multiple = _ROWS_MULTIPLE if num_classes >= _MANY_CLASSES else 1
    return -(-num_classes // multiple) * multiple


def log_sum_exp(similarities: Array, scale: float) -> Array:
    """Returns log sum_j exp(scale s_ij) [B] of similarities s[B, rows].

    Each intermediate [B, rows] is used by the next one only, not by the gradient, so XLA reuses one
    buffer for all of them.
    """
    largest = jax.lax.stop_gradient(jnp.max(similarities, axis=1))
    exponentials = jnp.exp(scale * (similarities - largest[:, None]))
    return scale * largest + jnp.log(jnp.sum(exponentials, axis=1))


def cross_entropy(own_logits: Array, others_log_sum: Array) -> Array:
    """Returns the mean soft-max cross-entropy, a scalar.

    L = mean_i -log( exp(z_i) / (exp(z_i) + exp(o_i)) ).

    Args:
      own_logits: z[B], of the own class.
      others_log_sum: o[B], from `log_sum_exp` over the other classes.
    """
    return jnp.mean(jax.nn.softplus(others_log_sum - own_logits))


def _metrics(similarities: Similarities) -> dict[str, Array]:
    """Returns the mean similarities to the own class and to the nearest other."""
    own, others = jax.lax.stop_gradient(similarities)
    return {
        "own_similarity": jnp.mean(own),
        "nearest_other_similarity": jnp.mean(jnp.max(others, axis=1)),
    }
