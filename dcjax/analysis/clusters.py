"""What the clusters of a division hold: classes, positive pairs, negatives, visual modes.

A cluster of -1 is that of images which are not trained on.
"""

from typing import NamedTuple

import numpy as np

_ROWS_PER_BLOCK = 256


class Counts(NamedTuple):
    """Images by class and cluster; a class without images in a cluster has no entry there.

    Attributes:
      labels: class of each entry, ascending [E].
      clusters: its cluster, ascending within a class [E].
      images: images of the class in the cluster [E].
    """

    labels: np.ndarray
    clusters: np.ndarray
    images: np.ndarray


def count(labels: np.ndarray, cluster: np.ndarray) -> Counts:
    """Counts the images [N] of each class in each cluster."""
    side = int(cluster.max(initial=-1)) + 2
    # One integer for each pair: a sort of pairs takes ten times as long.
    entries, images = np.unique(labels.astype(np.int64) * side + cluster + 1, return_counts=True)
    return Counts(entries // side, entries % side - 1, images)


def num_classes(counts: Counts, num_clusters: int) -> np.ndarray:
    """Returns the number of classes that have images in each cluster [K]."""
    return np.bincount(counts.clusters[counts.clusters >= 0], minlength=num_clusters)


def share_separated(counts: Counts) -> float:
    """Returns the share of pairs of images of one class that no batch can have.

    These are the pairs in different clusters, and those with an image that is in none.
    """
    _, place = np.unique(counts.labels, return_inverse=True)
    per_class = np.bincount(place, weights=counts.images)
    together = counts.images[counts.clusters >= 0]
    num_pairs = float(np.sum(per_class * (per_class - 1)))
    return 1 - float(np.sum(together * (together - 1.0))) / num_pairs if num_pairs else 0.0


def classes_with_modes(counts: Counts, most: int) -> np.ndarray:
    """Returns the classes that are divided most evenly between two clusters at least.

    Ordered by the share of the class that the second largest of its clusters has, then by size.
    """
    is_in = counts.clusters >= 0
    order = np.lexsort((-counts.images[is_in], counts.labels[is_in]))
    labels, images = counts.labels[is_in][order], counts.images[is_in][order]
    classes, first, num_parts = np.unique(labels, return_index=True, return_counts=True)
    totals = np.add.reduceat(images, first) if len(first) else images
    divided = num_parts > 1
    second = images[first[divided] + 1] / totals[divided]
    ranked = np.lexsort((-totals[divided], -second))[:most]
    return classes[divided][ranked]


def sample(cluster: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Returns rows of about `size` images, as many of each cluster as it has, or an equal share."""
    clusters = np.unique(cluster[cluster >= 0])
    most = max(1, size // max(1, len(clusters)))
    order = generator.permutation(np.flatnonzero(cluster >= 0))
    order = order[np.argsort(cluster[order], kind="stable")]
    _, first, counts = np.unique(cluster[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, counts)
    return np.sort(order[place < most])


def negative_distances(
    embeddings: np.ndarray, labels: np.ndarray, cluster: np.ndarray, sizes: np.ndarray
) -> tuple[float, float]:
    """Returns the mean distance of images to negatives: of their own cluster, and of all images.

    Within clusters, the mean over all that hold two classes, since each has as many batches as any
    other. At random, each pair weighs as often as it is drawn from the whole set.

    Args:
      embeddings: of a sample [n, D].
      labels: its classes [n].
      cluster: its clusters [n], none -1.
      sizes: images of each cluster in the whole set [K].

    Returns:
      Both; NaN if there are no negatives.
    """
    num_clusters = len(sizes)
    sampled = np.bincount(cluster, minlength=num_clusters)
    weights = sizes[cluster] / sampled[cluster]
    squares = np.sum(embeddings.astype(np.float64) ** 2, axis=1)
    within, pairs = np.zeros(num_clusters), np.zeros(num_clusters)
    total, total_weight = 0.0, 0.0
    for start in range(0, len(embeddings), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        products = embeddings[rows] @ embeddings.T
        distances = np.sqrt(np.maximum(squares[rows, None] + squares - 2 * products, 0))
        is_negative = labels[rows, None] != labels
        weight = weights[rows, None] * weights * is_negative
        total += float(np.sum(weight * distances))
        total_weight += float(np.sum(weight))
        is_inside = is_negative & (cluster[rows, None] == cluster)
        within += np.bincount(
            cluster[rows], np.sum(distances * is_inside, axis=1), minlength=num_clusters
        )
        pairs += np.bincount(cluster[rows], np.sum(is_inside, axis=1), minlength=num_clusters)
    is_mixed = pairs > 0
    return (
        float(np.mean(within[is_mixed] / pairs[is_mixed])) if is_mixed.any() else np.nan,
        total / total_weight if total_weight else np.nan,
    )


def nearest_to_centers(
    embeddings: np.ndarray, cluster: np.ndarray, num_clusters: int, most: int
) -> list[np.ndarray]:
    """Returns the images nearest to the mean of each cluster, the nearest first.

    Args:
      embeddings: [n, D].
      cluster: [n].
      num_clusters: K.
      most: images of each, if it has so many.

    Returns:
      Rows for each cluster.
    """
    nearest = []
    for number in range(num_clusters):
        rows = np.flatnonzero(cluster == number)
        members = embeddings[rows].astype(np.float64)
        center = members.mean(axis=0) if len(rows) else np.zeros(embeddings.shape[1])
        distances = np.sum((members - center) ** 2, axis=1)
        nearest.append(rows[np.argsort(distances, kind="stable")[:most]])
    return nearest
