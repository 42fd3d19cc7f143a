"""Retrieval scores (PAMI 2021, section 4; MAP@R of Musgrave et al., ECCV 2020, section 4).

Exact for any number of images on any devices, in the sense of `ranking.rank`. Queries are processed
in blocks, so that no array of all pairs ever exists.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from dcjax.core import streams
from dcjax.core.arrays import require_integers
from dcjax.core.errors import InputError
from dcjax.core.ranges import require_whole
from dcjax.core.streams import Stream
from dcjax.distributed import sharded_rows
from dcjax.distributed.sharded_rows import Rows
from dcjax.retrieval import galleries, ranking
from dcjax.retrieval.galleries import Set
from dcjax.retrieval.near_ties import Places


def score(
    queries: ArrayLike | Rows,
    query_labels: ArrayLike,
    gallery: ArrayLike | Rows | None = None,
    gallery_labels: ArrayLike | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    block: int | None = None,
    mesh: Mesh | None = None,
    cameras: Sequence[np.ndarray] | None = None,
) -> dict[str, float]:
    """Scores how well queries retrieve images of their own class.

    The gallery is ranked by Euclidean distance to the query, ties by index: as by a stable sort of
    `np.sum((gallery.astype(np.float64) - query) ** 2, axis=1)`, for any finite float32 embeddings.
    With R the number of gallery images of the query's class and h_j = 1 if the j-th nearest is one
    of them:

      recall_at_k  1 if any of h_1 .. h_k is 1, else 0
      map_at_r     1/R sum_{j <= R} h_j (h_1 + ... + h_j) / j
      marp_paper   the same sum divided by the hits h_1 + ... + h_R, as in the papers' tables
      r_precision  (h_1 + ... + h_R) / R

    Recall is the mean over all queries: one with no image of its class in the gallery counts as
    missed. The others, undefined for R = 0, are means over the queries that have one (0 if none
    has). Each device holds its share of the embeddings twice, one block of queries and their
    distances to its share of the gallery. The time is little more than that of the Q G D products,
    divided over the devices. It is more if float32 cannot tell many distances apart, as for
    embeddings in a few narrow clusters: hosts then compute them in float64. All processes call this
    together and get the same.

    With cameras, the protocol is that of re-identification (Zheng et al., ICCV 2015): images of the
    query's class that its own camera took are left out of its ranking, those of other classes stay.
    A query that has nothing to find counts in no score, not even in recall, and there is one score
    more, for which hosts rank the whole gallery in float64:

      map          1/R sum_{j <= G} h_j (h_1 + ... + h_j) / j

    map_at_r is the same sum of the first R images alone, and so never more.

    Args:
      queries: embeddings [Q, D], used as float32; need not be normalised. An array that is the
        same on every process, or rows that are sharded over the devices (`sharded_rows.Rows`).
      query_labels: integer classes [Q].
      gallery: embeddings [G, D], like queries. None: each query searches all others.
      gallery_labels: integer classes [G]; required with a gallery, and only then.
      ks: the numbers of neighbours that recall is reported at; large ones cost no more.
      block: number of queries that are ranked at a time; None chooses one that fits memory.
      mesh: the devices that the gallery is sharded over; None: the first device.
      cameras: names or numbers of the cameras that took the queries [Q] and, if there is one, the
        gallery [G]; None: no matter.

    Returns:
      recall_at_{k} for every k of ks, map_at_r, marp_paper and r_precision; with cameras also map.
    """
    return mean(
        score_queries(
            queries,
            query_labels,
            gallery,
            gallery_labels,
            ks=ks,
            block=block,
            mesh=mesh,
            cameras=cameras,
        )
    )


def score_queries(
    queries: ArrayLike | Rows,
    query_labels: ArrayLike,
    gallery: ArrayLike | Rows | None = None,
    gallery_labels: ArrayLike | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    block: int | None = None,
    mesh: Mesh | None = None,
    cameras: Sequence[np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Returns the scores of each query [Q], float64, whose means `score` returns.

    Those that are undefined, since the gallery has no image of the query's class, are NaN. All
    arguments are as in `score`.
    """
    mesh = _mesh(mesh)
    queries, query_labels = _as_set("queries", queries, query_labels, mesh)
    if gallery is None and gallery_labels is None:
        _, classes = np.unique(query_labels, return_inverse=True)
        everything = _whole_set(queries, classes)
        if cameras is not None:
            everything = everything._replace(cameras=_number_cameras(cameras, queries.num)[0])
            return _score_all(everything, everything, exclude_self=True, ks=ks)
        return _score(everything, everything, exclude_self=True, ks=ks, block=block)
    if gallery is None or gallery_labels is None:
        raise InputError("Require gallery and gallery_labels together or neither, got only one.")
    gallery, gallery_labels = _as_set("gallery", gallery, gallery_labels, mesh)
    if queries.values.shape[1] != gallery.values.shape[1]:
        raise InputError(
            "queries and gallery must have the same embedding size, "
            f"got {queries.values.shape[1]} and {gallery.values.shape[1]}."
        )
    # Numbers of classes, which fit int32, in place of labels, which may be any integers.
    _, classes = np.unique(np.concatenate([query_labels, gallery_labels]), return_inverse=True)
    query_classes, gallery_classes = np.split(classes, [queries.num])
    query_set = _whole_set(queries, query_classes)
    gallery_set = _whole_set(gallery, gallery_classes)
    if cameras is not None:
        of_queries, of_gallery = _number_cameras(cameras, queries.num, gallery.num)
        return _score_all(
            query_set._replace(cameras=of_queries),
            gallery_set._replace(cameras=of_gallery),
            exclude_self=False,
            ks=ks,
        )
    return _score(query_set, gallery_set, exclude_self=False, ks=ks, block=block)


def score_one_per_class(
    embeddings: ArrayLike | Rows,
    labels: ArrayLike,
    *,
    ks: Sequence[int],
    num_draws: int,
    block: int | None = None,
    mesh: Mesh | None = None,
) -> dict[str, float]:
    """Scores how well images retrieve the one image of their class that is in the gallery.

    The protocol of vehicle re-identification (Liu et al., CVPR 2016): a random image of
    each class is the gallery, all others are queries; the scores (`score`) are means over draws. A
    query has one image to find, R = 1, so that all scores but recall_at_k equal recall_at_1. The
    only image of a class is in every gallery and is never a query.

    The galleries are a function of the labels alone, so that all embeddings are scored on the same
    ones. In draw i the gallery has image number `generator.integers(counts)` of each class, with
    the classes in sorted order, `counts` their sizes, and the generator NumPy's Philox, seeded by
    (0, 6, i).

    Args:
      embeddings: [N, D], used as float32; need not be normalised.
      labels: integer classes [N].
      ks: as in `score`, at most the number of classes.
      num_draws: galleries to draw.
      block: as in `score`.
      mesh: as in `score`.

    Returns:
      recall_at_{k} for every k of ks, map_at_r, marp_paper and r_precision.
    """
    embeddings, labels = _as_set("embeddings", embeddings, labels, _mesh(mesh))
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    if require_whole("num_draws", num_draws, 0) < 1 or max(counts) < 2:
        raise InputError(
            "Require num_draws >= 1 and a class of two images, one that searches and one to find, "
            f"got num_draws={num_draws} and {max(counts)} images in the largest class."
        )
    _, classes = np.unique(labels, return_inverse=True)
    gallery_rows = []
    for draw in range(num_draws):
        generator = streams.generator(0, Stream.GALLERIES, draw)
        gallery_rows.append(np.sort(by_class[starts + generator.integers(counts)]))
    most = max(galleries.count_per_device(rows, embeddings.values).max() for rows in gallery_rows)
    everything = _whole_set(embeddings, classes)
    moved = ranking.move(everything, everything)
    draws: list[dict[str, float]] = []
    for rows in gallery_rows:
        others = np.delete(everything.rows, rows)
        queries, gallery = (everything.part(part) for part in (others, rows))
        scores = _score(
            queries,
            gallery,
            exclude_self=False,
            ks=ks,
            block=block,
            rows_per_device=int(most),
            moved=moved,
        )
        draws.append(mean(scores))
    return {name: float(np.mean([scores[name] for scores in draws])) for name in draws[0]}


def _score(
    queries: Set,
    gallery: Set,
    *,
    exclude_self: bool,
    ks: Sequence[int],
    block: int | None,
    rows_per_device: int = 0,
    moved: ranking.Moved | None = None,
) -> dict[str, np.ndarray]:
    """Implements `score_queries` for sharded embeddings; see `ranking.rank` for the arguments."""
    ks = _check_sizes(ks, block, num_candidates=len(gallery.rows) - exclude_self)
    most = 1 + max(queries.classes.max(), gallery.classes.max())
    num_relevant = np.bincount(gallery.classes, minlength=most)[queries.classes] - exclude_self
    ranked = ranking.rank(
        queries,
        gallery,
        exclude_self=exclude_self,
        block=block,
        rows_per_device=rows_per_device,
        ks=ks,
        moved=moved,
    )
    parts = [_query_scores(before, hits, num_relevant[rows], ks) for rows, before, hits in ranked]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _score_all(
    queries: Set, gallery: Set, *, exclude_self: bool, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """Returns the scores of queries that leave out images of their cameras; see `score_queries`."""
    ks = _check_sizes(ks, None, num_candidates=len(gallery.rows) - exclude_self)
    ranked = ranking.rank_all(queries, gallery, exclude_self=exclude_self)
    parts = [whole_ranking_scores(places, rows.stop - rows.start, ks) for rows, places in ranked]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def whole_ranking_scores(
    hits: Places, num_queries: int, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """Returns the scores of queries [B] by the places of all images that they are to find.

    Args:
      hits: the places of these images in the rankings of a gallery.
      num_queries: B.
      ks: of recall at k.

    Returns:
      See `score` with cameras; all NaN for a query with nothing to find.
    """
    queries, places = hits
    num_relevant = np.bincount(queries, minlength=num_queries)
    # Of its query's hits each is number 1, 2, ...
    number = np.arange(1, len(queries) + 1) - (np.cumsum(num_relevant) - num_relevant)[queries]
    is_first_r = places < num_relevant[queries]

    def count(is_counted: np.ndarray) -> np.ndarray:
        return np.bincount(queries[is_counted], minlength=num_queries)

    def sum_precisions(is_counted: np.ndarray) -> np.ndarray:
        precisions = (number / (places + 1))[is_counted]
        return np.bincount(queries[is_counted], weights=precisions, minlength=num_queries)

    num_found, found = count(is_first_r), sum_precisions(is_first_r)
    some = np.maximum(num_relevant, 1)
    scores: dict[str, np.ndarray] = {f"recall_at_{k}": count(places < k) > 0 for k in ks}
    scores |= {
        "map": sum_precisions(places >= 0) / some,
        "map_at_r": found / some,
        "marp_paper": found / np.maximum(num_found, 1),
        "r_precision": num_found / some,
    }
    return {name: np.where(num_relevant > 0, values, np.nan) for name, values in scores.items()}


def _query_scores(
    num_before: np.ndarray, hits: np.ndarray, num_relevant: np.ndarray, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """Returns the scores [B] of ranked queries (`ranking.rank`) from their R [B], in float64.

    Those that are undefined for R = 0 are NaN.
    """
    place = np.arange(1, hits.shape[1] + 1)
    is_hit = hits & (place <= num_relevant[:, None])
    num_found = is_hit.sum(axis=1)
    precisions = np.sum(is_hit * np.cumsum(is_hit, axis=1) / place, axis=1)
    recalls = {f"recall_at_{k}": (num_before < k).astype(np.float64) for k in ks}
    others = {
        "map_at_r": precisions / np.maximum(num_relevant, 1),
        "marp_paper": precisions / np.maximum(num_found, 1),
        "r_precision": num_found / np.maximum(num_relevant, 1),
    }
    return recalls | {
        name: np.where(num_relevant > 0, values, np.nan) for name, values in others.items()
    }


def is_answerable(
    query_labels: np.ndarray, gallery_labels: np.ndarray, cameras: Sequence[np.ndarray]
) -> np.ndarray:
    """Returns for which queries, bool [Q], the gallery has an image that another camera took.

    Args:
      query_labels: classes [Q].
      gallery_labels: classes [G].
      cameras: of the queries [Q] and the gallery [G]; of the queries alone if they are the gallery.
    """
    seen = [*cameras, *cameras][:2]
    of_queries, of_gallery = _number_cameras(seen, len(query_labels), len(gallery_labels))
    _, classes = np.unique(np.concatenate([query_labels, gallery_labels]), return_inverse=True)
    query_classes, gallery_classes = np.split(classes, [len(query_labels)])
    num_cameras = 1 + max(of_queries.max(), of_gallery.max())
    by_class = np.bincount(gallery_classes, minlength=classes.max() + 1)
    views, counts = np.unique(gallery_classes * num_cameras + of_gallery, return_counts=True)
    view_of_queries = query_classes * num_cameras + of_queries
    places = np.searchsorted(views, view_of_queries)
    places = np.minimum(places, len(views) - 1)
    is_same_view = views[places] == view_of_queries
    return by_class[query_classes] > np.where(is_same_view, counts[places], 0)


def mean(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the mean of each score over the queries for which it is defined, 0 if it is for none.

    Args:
      scores: as `score_queries` returns them.
    """
    defined = {name: values[~np.isnan(values)] for name, values in scores.items()}
    return {name: float(x.mean()) if x.size else 0.0 for name, x in defined.items()}


def _mesh(mesh: Mesh | None) -> Mesh:
    """Returns a mesh of the same devices with default axis types; None: of the first device."""
    if mesh is None:
        return Mesh(np.array(jax.local_devices()[:1]), ("device",))
    return Mesh(mesh.devices, mesh.axis_names)


def _whole_set(embeddings: Rows, classes: np.ndarray) -> Set:
    return Set(
        embeddings.values, np.arange(embeddings.num, dtype=np.int32), classes.astype(np.int32)
    )


def _number_cameras(cameras: Sequence[np.ndarray], *sizes: int) -> list[np.ndarray]:
    """Returns the numbers int32 of the cameras of each set, from 0 on, or raises InputError."""
    if [len(names) for names in cameras] != list(sizes):
        raise InputError(
            f"Require a camera for each image, of {' and '.join(map(str, sizes))} images, got "
            f"{' and '.join(str(len(names)) for names in cameras) or 'none'}."
        )
    _, numbers = np.unique(np.concatenate(cameras), return_inverse=True)
    return np.split(numbers.astype(np.int32), np.cumsum(sizes)[:-1])


def _as_set(
    name: str, embeddings: ArrayLike | Rows, labels: ArrayLike, mesh: Mesh
) -> tuple[Rows, np.ndarray]:
    """Places embeddings [N, D] as float32; returns them and labels [N], or raises InputError."""
    if not isinstance(embeddings, Rows):
        with np.errstate(over="ignore"):  # an overflow is reported below
            embeddings = np.asarray(embeddings, dtype=np.float32)
        if embeddings.ndim != 2 or embeddings.size == 0:
            raise InputError(f"{name} must be of shape [N, D], not empty, got {embeddings.shape}.")
    rows = sharded_rows.place(embeddings, mesh)
    labels = np.asarray(require_integers(f"Labels of {name}", labels, rows.num))
    num_broken, first = jax.device_get(_count_not_finite(rows.values))
    if num_broken:
        raise InputError(
            f"{name} must be finite as float32, got NaN or infinity in {num_broken} rows, "
            f"first in row {first}."
        )
    return rows, labels.astype(np.int64)


@jax.jit
def _count_not_finite(embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns how many rows are not finite, and the first of them."""
    is_not_finite = ~jnp.all(jnp.isfinite(embeddings), axis=1)
    return jnp.sum(is_not_finite), jnp.argmax(is_not_finite)


def _check_sizes(ks: Sequence[int], block: int | None, *, num_candidates: int) -> tuple[int, ...]:
    """Returns the ks as ints, or raises InputError."""
    given = tuple(ks) if np.iterable(ks) else ()
    numbers = tuple(require_whole("every k of ks", k, 0) for k in given)
    if not numbers or min(numbers) < 1 or max(numbers) > num_candidates:
        raise InputError(
            f"Require 1 <= k <= {num_candidates}, the images that a query can retrieve, "
            f"for every k of ks, got ks={given}."
        )
    if block is not None and require_whole("block", block, 0) < 1:
        raise InputError(f"Require block >= 1, got block={block}.")
    return numbers
