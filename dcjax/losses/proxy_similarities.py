"""The parameters and similarities that losses of proxies have in common."""

import math
from collections.abc import Callable
from typing import NamedTuple

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

    def compare(embeddings: Array, proxies: Array, labels: Array) -> tuple[Array, Array]:
        return jnp.sum(embeddings * proxies[labels], axis=1), products(embeddings, proxies)

    def compute_all(similarities: Similarities, labels: Array, _: Array) -> Array:
        return compute(similarities, labels)

    return with_centers("proxies", num_classes, (embedding_dim,), compare, compute_all)


def with_centers(
    name: str,
    num_classes: int,
    shape: tuple[int, ...],
    compare: Callable[[Array, Array, Array], tuple[Array, Array]],
    compute: Callable[[Similarities, Array, Array], Array],
) -> Loss:
    """Makes a loss of one or more centers for each class.

    Args:
      name: of the parameters.
      num_classes: number of classes.
      shape: of what a class has, (D,) or (K, D).
      compare: function (embeddings[B, D], centers[rows, *shape], labels[B]) -> similarities to the
        own class [B], and to all [B, rows]. It does not take the first from the second: unless they
        are used once, [B, rows] is in memory twice, see `log_sum_exp`.
      compute: function (similarities, labels[B], centers) -> scalar.

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
        centers = masks.l2_normalize(centers if mask is None else centers * mask)
        own, to_all = compare(x, centers, labels)
        rows = jnp.arange(to_all.shape[1])
        other = (rows != labels[:, None]) & (rows < num_classes)
        similarities = Similarities(own, jnp.where(other, to_all, -jnp.inf))
        return compute(similarities, labels, centers), _metrics(similarities)

    return Loss(init, apply, takes=("mask",))


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
