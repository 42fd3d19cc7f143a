"""What each query finds: the classes that it is confused with, and images that nearly coincide."""

from typing import NamedTuple

import numpy as np

from dcjax.retrieval.neighbors import Gallery

_LARGEST_FRACTION = 0.25  # of the median distance to a nearest image


class ClassRecall(NamedTuple):
    """Retrieval of the queries of one class.

    Attributes:
      label: the class.
      num_queries: its queries.
      recall_at_1: share of them whose nearest image is of the class.
      confused_with: the class of most wrong nearest images, the first of several; -1: none.
      share_confused: share of the queries whose nearest image is of that class.
    """

    label: int
    num_queries: int
    recall_at_1: float
    confused_with: int
    share_confused: float


def nearest_of_other_classes(
    gallery: Gallery, queries: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest image of another class to each query, and its distance.

    It is the nearest image of all if the query misses. No query needs to be left out of the
    gallery, since it is of its own class.

    Args:
      gallery: with labels.
      queries: [Q, D].
      labels: their classes [Q].

    Returns:
      Rows of the gallery, int [Q], -1 where all images are of the class, and float64 [Q].
    """
    rows, distances = gallery.nearest(queries, 1, other_than=labels)
    return rows[:, 0], distances[:, 0]


def recall_by_class(
    labels: np.ndarray, is_found: np.ndarray, other_labels: np.ndarray
) -> list[ClassRecall]:
    """Returns the recall of each class that has queries, the worst first, ties by label.

    Args:
      labels: classes of the queries [Q].
      is_found: whether the nearest image is of the class [Q].
      other_labels: class of the nearest image of another class [Q].
    """
    classes, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    recalls = np.bincount(place, weights=is_found) / counts
    confused, confused_counts = _most_confused(
        place[~is_found], other_labels[~is_found], len(classes)
    )
    return [
        ClassRecall(
            int(classes[c]),
            int(counts[c]),
            float(recalls[c]),
            int(confused[c]),
            float(confused_counts[c] / counts[c]),
        )
        for c in np.argsort(recalls, kind="stable")
    ]


def _most_confused(
    place: np.ndarray, others: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the most frequent other class of each class, -1 if there is none, and its count."""
    pairs, counts = np.unique(np.stack([place, others]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    found, first = np.unique(pairs[0][order], return_index=True)
    most, most_counts = np.full(num_classes, -1), np.zeros(num_classes, int)
    most[found] = pairs[1][order[first]]
    most_counts[found] = counts[order[first]]
    return most, most_counts


def suspect_distance(nearest_distances: np.ndarray, num_queries: int, dimension: float) -> float:
    """Returns the distance up to which two images of different classes nearly coincide.

    In m dimensions, the share of nearest images within a fraction f of their median distance is
    about f^m / 2. With f = Q^(-1/m), half a query of Q has one so near by chance: what is nearer is
    hardly another object that looks alike. f is at most 1/4, since embeddings are no uniform cloud.

    Args:
      nearest_distances: of images to the nearest other one, of any class [n]; a sample.
      num_queries: Q.
      dimension: m, the effective dimension of the embeddings.
    """
    finite = nearest_distances[np.isfinite(nearest_distances)]
    if not len(finite) or not dimension:
        return 0.0
    fraction = min(_LARGEST_FRACTION, num_queries ** (-1 / dimension))
    return fraction * float(np.median(finite))


def suspects(
    rows: np.ndarray, distances: np.ndarray, *, farthest: float, is_same_set: bool
) -> np.ndarray:
    """Returns the pairs of images of different classes that nearly coincide, the nearest first.

    Args:
      rows: the nearest image of another class to each query [Q], -1 if there is none.
      distances: to it [Q].
      farthest: see `suspect_distance`.
      is_same_set: whether queries and gallery are the same images, so that a pair may be there
        twice.

    Returns:
      int [P, 2], a query and an image of the gallery.
    """
    queries = np.flatnonzero((rows >= 0) & (distances <= farthest))
    pairs = np.stack([queries, rows[queries]], axis=1)
    pairs = pairs[np.argsort(distances[queries], kind="stable")]
    unordered = np.sort(pairs, axis=1) if is_same_set else pairs
    _, first = np.unique(unordered, axis=0, return_index=True)
    return pairs[np.sort(first)]


def worst_queries(
    precisions: np.ndarray, distances: np.ndarray, labels: np.ndarray, count: int
) -> np.ndarray:
    """Returns the queries of the lowest average precision at R, one of a class if there are enough.

    Many queries find nothing among their first R; of these, the worst is the one that has the image
    of another class nearest: it is wrong with the most confidence.

    Args:
      precisions: average precision at R of each query [Q], NaN where it is undefined.
      distances: to the nearest image of another class [Q].
      labels: classes of the queries [Q].
      count: how many.
    """
    defined = np.flatnonzero(~np.isnan(precisions))
    order = defined[np.lexsort((distances[defined], precisions[defined]))]
    return _first_of_classes(order, labels, count)


def best_queries(
    precisions: np.ndarray, distances: np.ndarray, labels: np.ndarray, count: int
) -> np.ndarray:
    """Returns the queries of the highest average precision at R, one of a class if possible.

    Of equal ones, the best is the one that has all images of other classes farthest away. The
    arguments are those of `worst_queries`.
    """
    defined = np.flatnonzero(~np.isnan(precisions))
    order = defined[np.lexsort((-distances[defined], -precisions[defined]))]
    return _first_of_classes(order, labels, count)


def _first_of_classes(order: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` of the queries in this order: the first of each class, then others."""
    _, first = np.unique(labels[order], return_index=True)
    leading = np.sort(first)[:count]
    others = np.setdiff1d(np.arange(len(order)), leading)[: count - len(leading)]
    return order[np.concatenate([leading, others]).astype(int)]
