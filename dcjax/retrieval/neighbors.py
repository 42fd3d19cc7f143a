"""The nearest images to a query, exactly, for what people look at: lists with rows and distances.

`ranking` serves the scores of all queries on many devices; this serves some queries on one device.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dcjax.core.arrays import require_floats, require_integers
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_whole
from dcjax.retrieval import selection

# Distances that the device computes, and coordinates that the host holds, at a time: 64 MiB each.
_DISTANCES_PER_BLOCK = 2**24
_COORDINATES_PER_BLOCK = 2**23
# Images that are listed in excess of k, since rounding may hide their order.
_NUM_SPARE = 8


class Gallery:
    """Embeddings that are searched.

    Attributes:
      embeddings: float32 [G, D].
      labels: integers [G], not negative; zeros if none were given.
    """

    def __init__(self, embeddings: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Places the embeddings [G, D], finite, with labels [G] if there are any, on a device.

        Raises:
          InputError: if they are not as required.
        """
        embeddings = np.asarray(require_floats("gallery", embeddings, (None, None)), np.float32)
        if not np.isfinite(embeddings).all():
            raise InputError("gallery must be finite, got NaN or infinity.")
        if labels is None:
            labels = np.zeros(len(embeddings), np.int32)
        self.embeddings = embeddings
        self.labels = np.asarray(require_integers("labels", labels, len(embeddings), low=0))
        self._known, self._classes = np.unique(self.labels, return_inverse=True)
        self._placed = jnp.asarray(embeddings)
        self._squared_norms = jnp.sum(self._placed**2, axis=1)
        self._placed_classes = jnp.asarray(self._classes, jnp.int32)
        self._largest_norm = float(jnp.sqrt(self._squared_norms.max()))

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        self_rows: np.ndarray | None = None,
        other_than: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k nearest images to each query by Euclidean distance, ties by index.

        The order is that of a stable sort of the squared distances that NumPy computes in float64,
        `np.sum((gallery.astype(np.float64) - query) ** 2, axis=1)`. The device computes in float32
        and lists a few more than k; the host sorts these in float64. It computes all distances of
        a query whose list may be incomplete by the bound of the rounding errors, as one with many
        duplicates.

        Args:
          queries: [Q, D], finite.
          k: how many.
          self_rows: int [Q], the row that is the query itself, which is left out; None: none.
          other_than: int [Q], a label of the gallery whose images are left out; None: none.
          allowed: bool [G], the images that are searched; None: all.

        Returns:
          Rows of the gallery, int [Q, k], and their distances, float64 [Q, k]; -1 and infinity
          where fewer than k images can be found.

        Raises:
          InputError: if the arguments are not as required.
        """
        num_rows, dim = self.embeddings.shape
        queries = np.asarray(require_floats("queries", queries, (None, dim)), np.float32)
        if not np.isfinite(queries).all():
            raise InputError("queries must be finite, got NaN or infinity.")
        k = min(require_whole("k", k, 1), num_rows)
        nobody = np.full(len(queries), -1)
        self_rows = nobody if self_rows is None else self_rows
        excluded = nobody if other_than is None else self._class_numbers(other_than)
        allowed = np.ones(num_rows, bool) if allowed is None else allowed
        # A power of two, so that few numbers are compiled.
        num_listed = min(num_rows, 1 << (k + _NUM_SPARE - 1).bit_length())
        per_block = max(1, min(len(queries), _DISTANCES_PER_BLOCK // num_rows))
        rows = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k))
        for start in range(0, len(queries), per_block):
            block = slice(start, start + per_block)
            # The last block has the shape of the others, so that nothing is compiled for it.
            which = np.resize(np.arange(len(queries))[block], per_block)
            lists = _list(
                queries[which],
                self_rows[which],
                excluded[which],
                allowed,
                self._placed,
                self._squared_norms,
                self._placed_classes,
                num_listed=num_listed,
            )
            near, listed = (values[: len(queries[block])] for values in jax.device_get(lists))
            rows[block], distances[block] = self._sort(queries[block], near, listed, k)
            for query in start + np.flatnonzero(self._is_open(queries[block], near, k)):
                searched = allowed & (self._classes != excluded[query])
                if self_rows[query] >= 0:
                    searched[self_rows[query]] = False
                candidates = np.flatnonzero(searched)[None]
                rows[query], distances[query] = self._sort(
                    queries[query][None], np.zeros(candidates.shape), candidates, k
                )
        return rows, distances

    def farthest(self, queries: np.ndarray) -> np.ndarray:
        """Returns the distance of each query [Q, D] to the farthest image, float64 [Q].

        Of images that float32 cannot tell apart it may be any.
        """
        per_block = max(1, min(len(queries), _DISTANCES_PER_BLOCK // len(self.embeddings)))
        rows = []
        for start in range(0, len(queries), per_block):
            which = np.resize(np.arange(len(queries))[start : start + per_block], per_block)
            found = _find_farthest(queries[which], self._placed, self._squared_norms)
            rows.append(np.asarray(found)[: len(queries) - start])
        differences = self.embeddings[np.concatenate(rows)].astype(np.float64) - queries
        return np.linalg.norm(differences, axis=1)

    def _class_numbers(self, labels: np.ndarray) -> np.ndarray:
        """Returns the place of each label among those of the gallery, -1 if it is not there."""
        places = np.minimum(np.searchsorted(self._known, labels), len(self._known) - 1)
        return np.where(self._known[places] == labels, places, -1)

    def _is_open(self, queries: np.ndarray, near: np.ndarray, k: int) -> np.ndarray:
        """Returns for which queries [Q] an image that is not listed may be among the k nearest."""
        num_rows, dim = self.embeddings.shape
        if near.shape[1] == num_rows:
            return np.zeros(len(queries), bool)
        norms = np.linalg.norm(queries, axis=1) + self._largest_norm
        # Twice the unit roundoff, 2^-24, covers that the norms above are rounded, too.
        bound = (dim + 4) * 2.0**-23 * norms**2
        return (near[:, -1] < np.inf) & (near[:, -1] <= near[:, k - 1] + 2 * bound)

    def _sort(
        self, queries: np.ndarray, near: np.ndarray, rows: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k nearest of candidates [Q, C], in float64; infinitely far ones are none."""
        squared = np.full(rows.shape, np.inf)
        dim = self.embeddings.shape[1]
        num_columns = max(1, _COORDINATES_PER_BLOCK // (len(queries) * dim))
        for start in range(0, rows.shape[1], num_columns):
            part = np.s_[:, start : start + num_columns]
            differences = self.embeddings[rows[part]].astype(np.float64) - queries[:, None]
            squared[part] = np.sum(differences**2, axis=2)
        squared[near == np.inf] = np.inf
        order = np.lexsort((rows, squared), axis=1)[:, :k]
        squared = np.take_along_axis(squared, order, axis=1)
        rows = np.where(squared < np.inf, np.take_along_axis(rows, order, axis=1), -1)
        missing = ((0, 0), (0, k - rows.shape[1]))
        return (
            np.pad(rows, missing, constant_values=-1),
            np.pad(np.sqrt(squared), missing, constant_values=np.inf),
        )


@jax.jit
def _find_farthest(queries: Array, gallery: Array, squared_norms: Array) -> Array:
    """Returns the row of the farthest image to each query, [Q]."""
    products = jnp.einsum("gd,qd->qg", gallery, queries, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmax(squared_norms - 2 * products, axis=1)


@partial(jax.jit, static_argnames="num_listed")
def _list(
    queries: Array,
    self_rows: Array,
    excluded: Array,
    allowed: Array,
    gallery: Array,
    squared_norms: Array,
    classes: Array,
    *,
    num_listed: int,
) -> tuple[Array, Array]:
    """Returns the `num_listed` nearest rows [Q, n] and ||g||^2 - 2 <q, g>, infinite if left out."""
    products = jnp.einsum("gd,qd->gq", gallery, queries, precision=jax.lax.Precision.HIGHEST)
    distances = squared_norms[:, None] - 2 * products
    is_searched = allowed[:, None] & (classes[:, None] != excluded)
    is_searched &= jnp.arange(len(gallery))[:, None] != self_rows
    return selection.nearest(jnp.where(is_searched, distances, jnp.inf), num_listed)
