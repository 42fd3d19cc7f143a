"""The interface of a loss, a pair of pure functions, and checks of its arguments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core import streams
from dcjax.core.arrays import is_known, require_floats, require_integers
from dcjax.core.errors import InputError
from dcjax.core.streams import DeviceStream
from dcjax.losses.pairs import Comparisons, Pairs, References, compare
from dcjax.losses.reductions import weighted_mean

Params = dict[str, Array]
Output = tuple[Array, dict[str, Array]]  # the loss, and scalars to log


_TAKES = ("mask", "memory")
_RESERVED = ("loss", "orthogonality")  # scalars of each step


class Loss(NamedTuple):
    """A loss: init(key) -> params; apply(params, embeddings[B, D], labels[B], key) -> loss, stats.

    Losses of `losses.create` check their arguments: they raise InputError unless embeddings are
    floats of shape [B, D] and labels integers [B], and, for a loss with parameters of each class
    such as proxies, labels are from 0 to num_classes - 1 and D = embedding_dim. The values of
    traced labels, as in `jax.jit`, are not known: if one is out of range, the loss and its
    gradients are NaN.

    Attributes:
      init: makes the loss's own trainable parameters, {} if it has none.
      apply: returns a scalar and a dict of scalars to log.
      takes: further keywords of `apply`. "mask": [D], not negative, the mask by which embeddings
        were multiplied before they were normalised, for parameters in the same space; None: no
        mask. "memory": `pairs.References`, further embeddings to compare with; or None.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Output]
    takes: tuple[str, ...] = ()


def with_argument_checks(loss: Loss, num_classes: int, embedding_dim: int) -> Loss:
    """Returns a loss that checks its arguments as `Loss` says."""

    def init() -> Params:
        return loss.init(streams.device_key(0, DeviceStream.INITIALIZATION))

    # Without parameters of each class, labels are only compared with each other.
    by_class = any(leaf.ndim for leaf in jax.tree.leaves(jax.eval_shape(init)))
    limits = (0, num_classes - 1) if by_class else ()

    def apply(params: Params, embeddings: Array, labels: Array, key: Array, **more: Any) -> Output:
        x = require_floats("embeddings", embeddings, (None, embedding_dim if by_class else None))
        y = require_integers("labels", labels, len(x), *limits)
        dim = x.shape[1]
        mask = more.get("mask")
        if mask is not None and jnp.shape(mask) != (dim,):
            raise InputError(f"mask must be of shape ({dim},), got shape {jnp.shape(mask)}.")
        if (memory := more.get("memory")) is not None:
            num = len(require_floats("memory.embeddings", memory.embeddings, (None, dim)))
            require_integers("memory.labels", memory.labels, num)
        value, stats = loss.apply(params, jnp.asarray(x), jnp.asarray(y), key, **more)
        if not by_class or is_known(y):
            return value, stats
        # For a label out of range JAX looks up the parameters of another class. Multiplied by 1,
        # the loss and its gradients do not change by a bit.
        signed = y.astype(jnp.int64 if y.dtype.itemsize == 8 else jnp.int32)
        is_right = jnp.all((signed >= 0) & (signed < num_classes))
        return value * jnp.where(is_right, 1, jnp.nan).astype(value.dtype), stats

    return loss._replace(apply=apply)


def no_params(key: Array) -> Params:
    """Returns the parameters of a loss that has none."""
    del key
    return {}


def with_output_checks(name: str, loss: Loss) -> Loss:
    """Returns a custom loss with checks of what it takes and returns.

    Raises:
      InputError: if it takes an unknown keyword; and when it is applied, if it does not return a
        scalar and a dict of scalars whose names are not reserved.
    """
    if not set(loss.takes) <= set(_TAKES):
        raise InputError(f"{name} may take {' and '.join(_TAKES)} besides, got {loss.takes}.")

    def apply(*arguments: Any, **more: Any) -> Output:
        output = loss.apply(*arguments, **more)
        is_pair = isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], dict)
        if not is_pair or any(jnp.shape(leaf) for leaf in jax.tree.leaves(output)):
            shapes = jax.tree.map(jnp.shape, output)
            raise InputError(
                f"{name} must return a scalar and a dict of scalars, got the shapes {shapes}."
            )
        if reserved := sorted(set(output[1]) & set(_RESERVED)):
            raise InputError(f"{name} must not call a scalar {reserved[0]!r}: every step has one.")
        return output

    return loss._replace(apply=apply)


def from_comparisons(
    compute: Callable[[Params, Comparisons, Array, Array], Output],
    init: Callable[[Array], Params] = no_params,
) -> Loss:
    """Creates a loss that compares embeddings with each other, and with a memory.

    Args:
      compute: function (params, comparisons, labels[B], key) -> loss, scalars to log.
      init: as in `Loss`.
    """

    def apply(
        params: Params,
        embeddings: Array,
        labels: Array,
        key: Array,
        *,
        memory: References | None = None,
    ) -> Output:
        loss, stats = compute(params, compare(embeddings, labels, memory), labels, key)
        return loss, jax.lax.stop_gradient(stats)

    return Loss(init, apply, takes=("memory",))


def mean_distances(compared: Comparisons, pairs: Pairs | None = None) -> dict[str, Array]:
    """Returns the mean distances of positive and of negative pairs, by default of all, to log."""
    positives, negatives = pairs or (compared.positives, compared.negatives)
    return {
        "positive_distance": weighted_mean(compared.distances, positives),
        "negative_distance": weighted_mean(compared.distances, negatives),
    }
