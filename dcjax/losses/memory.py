"""A cross-batch memory: embeddings of past steps, for losses to compare a batch with.

X. Wang et al., Cross-Batch Memory for Embedding Learning, 2020, section 3.3. It holds embeddings
before the mask, so that a cluster's mask can be applied to them as to its batch. A batch is
compared with images of its own cluster only.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.arrays import require_integers
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_whole
from dcjax.division import masks
from dcjax.losses.pairs import References

Memory = dict[str, Array]


def empty(size: int, dim: int, dtype: Any = jnp.float32) -> Memory:
    """Returns a memory for so many embeddings [size, dim], {} for none.

    Its arrays: "embeddings" [M, D], "labels" int32 [M] (-1 where there is nothing), "clusters"
    int32 [M], and "count" int32 [], the number of embeddings enqueued so far.
    """
    if not require_whole("size", size, 0):
        return {}
    require_whole("dim", dim, 1)
    return {
        "embeddings": jnp.zeros((size, dim), dtype),
        # Two arrays: a step that donates its state cannot be given one buffer twice.
        "labels": jnp.full((size,), -1, jnp.int32),
        "clusters": jnp.full((size,), -1, jnp.int32),
        "count": jnp.zeros((), jnp.int32),
    }


def forget(memory: Memory) -> Memory:
    """Returns an empty memory of the same size, for a new division with other clusters."""
    if not memory:
        return {}
    size, dim = memory["embeddings"].shape
    return empty(size, dim, memory["embeddings"].dtype)


def enqueue(memory: Memory, embeddings: Array, labels: Array, clusters: Array) -> Memory:
    """Returns the memory with C batches in place of the oldest embeddings.

    Args:
      memory: of at least C B embeddings; {} stays so.
      embeddings: [C, B, D], L2-normalised, before the mask.
      labels: int [C, B].
      clusters: int [C], the cluster of each batch.
    """
    if not memory:
        return {}
    size, dim = memory["embeddings"].shape
    shape = jnp.shape(embeddings)
    if shape != (*jnp.shape(labels), dim) or shape[:1] != jnp.shape(clusters) or len(shape) != 3:
        raise InputError(
            f"Require embeddings [C, B, {dim}], labels [C, B] and clusters [C], got the shapes "
            f"{shape}, {jnp.shape(labels)} and {jnp.shape(clusters)}."
        )
    if labels.size > size:
        raise InputError(f"A memory of {size} embeddings cannot take {labels.size} at a time.")
    require_integers("labels", labels.reshape(-1), low=0)
    require_integers("clusters", clusters, low=0)
    new = {
        "embeddings": jax.lax.stop_gradient(embeddings).reshape(-1, embeddings.shape[-1]),
        "labels": labels.reshape(-1),
        "clusters": jnp.repeat(clusters, labels.shape[1]),
    }
    place = (memory["count"] + jnp.arange(labels.size)) % len(memory["labels"])
    filled = {name: memory[name].at[place].set(rows) for name, rows in new.items()}
    return filled | {"count": memory["count"] + labels.size}


def references(
    memory: Memory, mask: Array, cluster: Array, is_used: Array | bool = True
) -> References | None:
    """Returns what a batch of a cluster is compared with; None without a memory.

    Args:
      memory: of past batches.
      mask: [D], that of the batch.
      cluster: int [], that of the batch; -1 compares with the images of all clusters.
      is_used: false compares with nothing.
    """
    if not memory:
        return None
    belongs = ((memory["clusters"] == cluster) | (cluster < 0)) & is_used
    # No gradient, as in the paper: the mask learns from the batch alone.
    masked = jax.lax.stop_gradient(masks.apply(memory["embeddings"], mask))
    return References(masked, jnp.where(belongs, memory["labels"], -1))
