"""The masks that select each cluster's subspace of the embedding (P21 eq. 4, 5 and 8).

Masks have the static shape [K_max, D]; the rows of clusters that do not exist yet are exactly 0.
"""

import jax
import jax.numpy as jnp
from jax import Array

from dcjax.core.arrays import is_known, require_floats, require_integers
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_known, require_whole

KINDS = ("learned", "fixed", "none")
COMBINATIONS = ("sum", "sum_l1", "none")

_MIN_NORM = 1e-12
_MIN_NORM_PRODUCT = 1e-8


def initial(max_clusters: int, dim: int) -> Array:
    """Returns the masks[K_max, D] of one cluster: row 0 is all ones, the others exactly 0."""
    return jnp.zeros((max_clusters, dim), jnp.float32).at[0].set(1.0)


def inherit(masks: Array, parents: Array, kind: str) -> Array:
    """Returns the masks[K_max, D] after a division: row i comes from row parents[i].

    Args:
      masks: [K_max, D] before the division.
      parents: int[K_max], the cluster each cluster was a part of; -1 where there is no cluster.
      kind: "learned" and "none" copy the parent; "fixed" gives the r-th of n siblings the
        coordinates floor(r s / n) to floor((r + 1) s / n) of the s that their parent has.
    """
    require_known("kind of masks", kind, KINDS)
    masks = _require_masks(masks)
    parents = jnp.asarray(require_integers("parents", parents, len(masks), -1, len(masks) - 1))
    exists = parents >= 0
    children = jnp.where(exists[:, None], masks[jnp.where(exists, parents, 0)], 0)
    return _keep_block(children, parents) if kind == "fixed" else children


def split(masks: Array, num_clusters: int | Array, kind: str) -> Array:
    """Returns the masks[K_max, D] of 2K clusters; cluster c becomes 2c and 2c + 1.

    num_clusters may be traced, and is checked only where it is not.
    """
    masks = _require_masks(masks)
    max_clusters = len(masks)
    if is_known(num_clusters) and require_whole("num_clusters", num_clusters, 1) > max_clusters / 2:
        raise InputError(
            f"Splitting needs 1 <= num_clusters <= {max_clusters // 2}, half the rows of masks, "
            f"got num_clusters={num_clusters}."
        )
    rows = jnp.arange(max_clusters)
    return inherit(masks, jnp.where(rows < 2 * num_clusters, rows // 2, -1), kind)


def apply(embeddings: Array, mask: Array) -> Array:
    """Returns l2_normalize(e * relu(m)) for embeddings[..., D] and mask[D] (P21 eq. 4).

    The mask may have any shape that broadcasts, for example [B, D], a mask for each image.

    Raises:
      InputError: if the mask's last dimension is not D.
    """
    if jnp.ndim(mask) < 1 or jnp.shape(mask)[-1:] != jnp.shape(embeddings)[-1:]:
        raise InputError(
            "A mask must be as wide as the embeddings, got the shapes "
            f"{jnp.shape(mask)} and {jnp.shape(embeddings)}."
        )
    return l2_normalize(embeddings * jax.nn.relu(mask))


def l2_normalize(vectors: Array) -> Array:
    """Returns v / max(||v||, 1e-12) over the last axis, with gradient 0 where that is cut off."""
    v = _at_least_float32(vectors)
    lengths, cut_off = norms(v)
    # Without the stop a zero embedding would send a gradient of 1e12 into the backbone.
    return jnp.where(cut_off, jax.lax.stop_gradient(v), v) / lengths


def norms(vectors: Array) -> tuple[Array, Array]:
    """Returns max(||v||, 1e-12) over the last axis, kept as 1, and whether that is cut off."""
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    cut_off = squared <= _MIN_NORM**2
    return jnp.sqrt(jnp.where(cut_off, _MIN_NORM**2, squared)), cut_off


def combine(masks: Array, kind: str = "sum") -> Array:
    """Returns one mask[D] for the whole space from masks[K_max, D] (P21 eq. 8).

    Args:
      masks: [K_max, D].
      kind: "sum": sum_k relu(m_k); "sum_l1": each relu(m_k) divided by its L1 norm first;
        "none": ones.
    """
    require_known("combination of masks", kind, COMBINATIONS)
    active = jax.nn.relu(_at_least_float32(_require_masks(masks)))
    if kind == "sum":
        return jnp.sum(active, axis=0)
    if kind == "sum_l1":
        norms = jnp.sum(active, axis=1, keepdims=True)
        return jnp.sum(active / jnp.where(norms > 0, norms, 1.0), axis=0)
    return jnp.ones_like(active[0])


def to_subspace(embeddings: Array, masks: Array, cluster: int | Array, kind: str) -> Array:
    """Returns embeddings in the subspace of a cluster, from those in the whole space (P21 eq. 4).

    A coordinate whose combined mask is 0 is masked in every cluster, so that nothing is lost there.

    Args:
      embeddings: [..., D], as `apply` returns them with the combined mask.
      masks: [K_max, D].
      cluster: its number.
      kind: how the masks are combined, see `combine`.

    Returns:
      [..., D], L2-normalised, equal up to rounding to `apply(unmasked, masks[cluster])`; zeros if
      the embedding has no part in the subspace.
    """
    combined = combine(masks, kind)
    unmasked = embeddings / jnp.where(combined > 0, combined, 1.0)
    return apply(unmasked, masks[cluster])


def training_masks(masks: Array, clusters: Array, full_embedding: Array | bool, kind: str) -> Array:
    """Returns the mask that each cluster batch is trained with [..., D], not negative.

    Args:
      masks: [K_max, D].
      clusters: int [...], the cluster of each batch.
      full_embedding: whether the combined mask replaces those of all clusters (P21 section 3.4).
      kind: how it is combined, see `combine`.
    """
    return jnp.where(full_embedding, combine(masks, kind), jax.nn.relu(masks[clusters]))


def orthogonality(masks: Array, num_clusters: int | Array) -> Array:
    """Returns the mean cosine between the relu masks of different clusters, a scalar (P21 eq. 5).

    L = sum_{i != j < K} <r_i, r_j> / max(||r_i|| ||r_j||, 1e-8) / (K (K - 1)),  r = relu(m);
    0 for K = 1. Rows of masks[K_max, D] from num_clusters on are ignored.
    """
    masks = _at_least_float32(_require_masks(masks))
    if is_known(num_clusters):
        require_whole("num_clusters", num_clusters, 1, len(masks))
    rows = jnp.arange(len(masks))
    exists = rows < num_clusters
    active = jax.nn.relu(jnp.where(exists[:, None], masks, 0))
    squared = jnp.sum(active**2, axis=1)
    # The root of 0 has an infinite gradient: dead masks take 1, and their products are 0 anyway.
    norms = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
    products = jnp.matmul(active, active.T, precision=jax.lax.Precision.HIGHEST)
    cosines = products / jnp.maximum(norms[:, None] * norms[None, :], _MIN_NORM_PRODUCT)
    num_pairs = jnp.maximum(num_clusters * (num_clusters - 1), 1)
    return jnp.sum(jnp.where(rows[:, None] != rows[None, :], cosines, 0)) / num_pairs


def _keep_block(children: Array, parents: Array) -> Array:
    """Returns children[K_max, D], of which each keeps an equal block of the siblings' support."""
    sibling = parents[:, None] == parents[None, :]
    num_siblings = jnp.sum(sibling, axis=1, keepdims=True)
    rank = jnp.sum(jnp.tril(sibling, -1), axis=1, keepdims=True)
    support = children != 0
    size = jnp.sum(support, axis=1, keepdims=True)
    position = jnp.cumsum(support, axis=1) - 1
    first, last = rank * size // num_siblings, (rank + 1) * size // num_siblings
    return jnp.where((position >= first) & (position < last), children, 0)


def _require_masks(masks: Array) -> Array:
    return jnp.asarray(require_floats("masks", masks, (None, None)))


def _at_least_float32(x: Array) -> Array:
    """Returns x in float32 if it was of lower precision, else as it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
