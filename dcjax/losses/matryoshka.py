"""Matryoshka representation learning (Kusupati et al. 2022): embeddings that may be cut short."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core import streams
from dcjax.core.arrays import require_floats
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_whole
from dcjax.core.streams import DeviceStream
from dcjax.division import masks
from dcjax.losses.loss import Loss, Output, Params
from dcjax.losses.pairs import References


def nest(make: Callable[[int], Loss], embedding_dim: int, dims: Sequence[int]) -> Loss:
    """Makes a loss of embeddings whose first coordinates are embeddings too.

    L = mean over d of L_d(first d coordinates, L2-normalised), d among dims and D (Kusupati et al.
    2022, eq. 1, with equal weights). Parameters are shared: those of L_d are the first coordinates
    of those of L_D, as the paper ties its classifiers (section 3, MRL-E). Masked embeddings, and
    the mask, are cut in the same way, so that each L_d is that of the subspace's first coordinates.

    Args:
      make: function embedding_dim -> loss.
      embedding_dim: D.
      dims: the d, ascending.

    Raises:
      InputError: unless dims are whole numbers, ascending, from 1 to D.
    """
    numbers = [require_whole("every number of loss.matryoshka", d, 1, embedding_dim) for d in dims]
    if sorted(set(numbers)) != numbers:
        raise InputError(f"Require numbers of loss.matryoshka that ascend, got {tuple(dims)}.")
    whole = make(embedding_dim)
    parts = {dim: make(dim) for dim in numbers if dim < embedding_dim}
    shapes = {dim: _shapes(part) for dim, part in parts.items()}

    def apply(params: Params, embeddings: Array, labels: Array, key: Array, **more: Any) -> Output:
        x = jnp.asarray(require_floats("embeddings", embeddings, (None, embedding_dim)))
        value, stats = whole.apply(params, x, labels, key, **more)
        values = {embedding_dim: value}
        for dim, part in parts.items():
            cut = jax.tree.map(_corner, params, shapes[dim])
            short, also = masks.l2_normalize(x[:, :dim]), _cut_keywords(more, dim)
            values[dim], _ = part.apply(cut, short, labels, key, **also)
        stats = stats | {f"loss@{dim}": jax.lax.stop_gradient(of) for dim, of in values.items()}
        return jnp.mean(jnp.stack(list(values.values()))), stats

    return Loss(whole.init, apply, whole.takes)


def _shapes(loss: Loss) -> Any:
    """Returns the shapes of a loss's parameters; nothing is drawn."""
    return jax.eval_shape(
        lambda: loss.init(streams.device_key(0, DeviceStream.INITIALIZATION)),
    )


def _corner(leaf: Array, cut: jax.ShapeDtypeStruct) -> Array:
    """Returns the first elements along each axis: all but of that of the embedding."""
    return leaf[tuple(map(slice, cut.shape))]


def _cut_keywords(more: Mapping[str, Any], dim: int) -> dict[str, Any]:
    """Returns the keywords of `Loss.takes` for the first coordinates."""
    cut = dict(more)
    if (mask := more.get("mask")) is not None:
        cut["mask"] = mask[:dim]
    if (memory := more.get("memory")) is not None:
        short = masks.l2_normalize(memory.embeddings[:, :dim])
        cut["memory"] = References(short, memory.labels)
    return cut
