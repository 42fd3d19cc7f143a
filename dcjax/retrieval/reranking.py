"""Re-ranking with k-reciprocal encoding (Zhong et al., CVPR 2017).

Two images are k-reciprocal neighbours if each is among the k nearest of the other. The paper's
encoding v_i of an image i among all N = Q + G queries and gallery images has at j

  exp(-d_ij), divided by the sum over j, if j is in R*(i), else 0

where d_ij is the squared distance divided by the largest from i, R(i, k) are the k-reciprocal
neighbours (i among them), and R*(i) is R(i, k1), with R(j, k1 / 2) added for each j in R(i, k1) of
which more than two thirds are in R(i, k1). Then v_i is the mean over the k2 nearest of i. The
distance by which a query is ranked anew is

  (1 - lambda) (1 - sum_m min(v_im, v_jm) / sum_m max(v_im, v_jm)) + lambda d_ij

As in the paper's code, it is computed for all pairs of a query and a gallery image, here a block of
queries at a time. The encodings are sparse: memory grows with N k1, not with its square.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse

from dcjax.core.ranges import require_whole
from dcjax.retrieval import metrics, near_ties
from dcjax.retrieval.near_ties import Places
from dcjax.retrieval.neighbors import Gallery

# Distances of a block of queries, and neighbours of neighbours, that are held at a time: 16 MiB.
_NUMBERS_PER_BLOCK = 2**21


def score_queries(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    ks: Sequence[int],
    cameras: Sequence[np.ndarray] | None,
    k1: int = 20,
    k2: int = 6,
    original_weight: float = 0.3,
) -> dict[str, np.ndarray]:
    """Returns the scores of each query [Q] by its new ranking, as `metrics.score_queries` does.

    Labels and cameras have no part in the new ranking; images of a query's class and camera are
    left out of it afterwards, as of any other.

    Args:
      queries: embeddings float32 [Q, D].
      query_labels: integer classes [Q].
      gallery: float32 [G, D].
      gallery_labels: [G].
      ks: of recall at k.
      cameras: of queries and gallery, as in `metrics.score`; None: no matter.
      k1: neighbours of an image that may be reciprocal.
      k2: nearest images whose encodings are averaged; 1: none but its own.
      original_weight: lambda, of the distance that there was before.
    """
    parts = []
    for rows, distances in rerank(queries, gallery, k1=k1, k2=k2, original_weight=original_weight):
        hits = query_labels[rows, None] == gallery_labels
        if cameras is not None:
            is_left_out = hits & (cameras[0][rows, None] == cameras[1])
            distances[is_left_out] = np.inf
            hits &= ~is_left_out
        order = np.argsort(distances, axis=1, kind="stable")
        places = Places(*np.nonzero(np.take_along_axis(hits, order, axis=1)))
        parts.append(metrics.whole_ranking_scores(places, len(hits), ks))
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if cameras is not None:
        return scores
    # Without cameras, a query without an answer is one that is missed.
    del scores["map"]
    return {
        name: np.nan_to_num(values) if "recall" in name else values
        for name, values in scores.items()
    }


def rerank(
    queries: np.ndarray, gallery: np.ndarray, *, k1: int, k2: int, original_weight: float
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields the new distances of queries to the gallery, a block of queries at a time.

    Args:
      queries: float32 [Q, D].
      gallery: float32 [G, D].
      k1: as in `score_queries`.
      k2: as in `score_queries`.
      original_weight: as in `score_queries`.

    Yields:
      Which queries they are, and float64 [B, G].
    """
    require_whole("k1", k1, 1)
    require_whole("k2", k2, 1)
    images = np.concatenate([queries, gallery])
    index = Gallery(images)
    nearest, _ = index.nearest(images, max(k1 + 1, k2))
    largest = np.square(index.farthest(images))
    largest[largest == 0] = 1  # all images are the same
    encodings = _encode(images, nearest[:, : k1 + 1], largest, k1)
    if k2 > 1:
        averaged = nearest[:, :k2]
        size = averaged.shape[1]
        starts = np.arange(len(images) + 1) * size
        weights = np.full(averaged.size, 1 / size)
        encodings = scipy.sparse.csr_array((weights, averaged.ravel(), starts)) @ encodings
    of_gallery = encodings[len(queries) :].tocsc()
    x, y = queries.astype(np.float64), gallery.astype(np.float64)
    squares = np.einsum("gd,gd->g", y, y)
    size = max(1, _NUMBERS_PER_BLOCK // len(gallery))
    for start in range(0, len(queries), size):
        block = slice(start, min(start + size, len(queries)))
        original = np.einsum("qd,qd->q", x[block], x[block])[:, None] + squares
        original -= 2 * x[block] @ y.T
        shared = np.stack(
            [
                _sum_of_minima(encodings, query, of_gallery)
                for query in range(block.start, block.stop)
            ]
        )
        # The entries of an encoding sum to 1, so that minima and maxima of two sum to 2.
        jaccard = 1 - shared / (2 - shared)
        original /= largest[block, None]
        yield block, (1 - original_weight) * jaccard + original_weight * original


def _sum_of_minima(
    encodings: scipy.sparse.csr_array, query: int, of_gallery: scipy.sparse.csc_array
) -> np.ndarray:
    """Returns sum_m min(v_m, w_m) of a query's encoding v and each one w of the gallery, [G]."""
    part = slice(encodings.indptr[query], encodings.indptr[query + 1])
    columns = of_gallery[:, encodings.indices[part]]
    own = np.repeat(encodings.data[part], np.diff(columns.indptr))
    return np.bincount(
        columns.indices, weights=np.minimum(columns.data, own), minlength=of_gallery.shape[0]
    )


def _encode(
    images: np.ndarray, nearest: np.ndarray, largest: np.ndarray, k1: int
) -> scipy.sparse.csr_array:
    """Returns the encodings [N, N], a row for each image, before they are averaged.

    Args:
      images: float32 [N, D].
      nearest: rows of the k1 + 1 nearest to each image, itself among them, [N, k1 + 1].
      largest: squared distance of each image to the farthest, [N].
      k1: which is halved as in the paper's code, half a number to the even one.
    """
    halves = nearest[:, : int(np.around(k1 / 2)) + 1]
    is_mutual, is_mutual_half = _are_mutual(nearest), _are_mutual(halves)
    members: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for row, image in enumerate(images):
        mutual = nearest[row, is_mutual[row]]
        others, are_mutual = halves[mutual], is_mutual_half[mutual]
        num_shared = np.sum(np.isin(others, mutual) & are_mutual, axis=1)
        is_added = 3 * num_shared > 2 * are_mutual.sum(axis=1)
        added = others[is_added][are_mutual[is_added]]
        chosen = np.unique(np.concatenate([mutual, added]))
        squared = near_ties.squared_distances(images[chosen], image)
        nearness = np.exp(-squared / largest[row])
        members.append(chosen)
        weights.append(nearness / nearness.sum())
    starts = np.concatenate([[0], np.cumsum([len(chosen) for chosen in members])])
    columns = np.concatenate(members)
    shape = (len(images), len(images))
    return scipy.sparse.csr_array((np.concatenate(weights), columns, starts), shape=shape)


def _are_mutual(nearest: np.ndarray) -> np.ndarray:
    """Returns whether each image is among the nearest of those that are its own, bool [N, k]."""
    are_mutual = np.empty(nearest.shape, bool)
    size = max(1, _NUMBERS_PER_BLOCK // nearest.shape[1] ** 2)
    for start in range(0, len(nearest), size):
        rows = np.arange(start, min(start + size, len(nearest)))
        are_mutual[rows] = np.any(nearest[nearest[rows]] == rows[:, None, None], axis=2)
    return are_mutual
