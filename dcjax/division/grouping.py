"""Groups images by K-means (P21 section 3), at random or by super-classes (P21 Table I)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dcjax.core import streams
from dcjax.core.errors import InputError
from dcjax.core.streams import Stream
from dcjax.division import counting, device_kmeans, host_kmeans

GROUPINGS = ("kmeans", "random", "labels")
KMEANS = ("host", "devices")

# Function (ascending rows [n], number of clusters K, number of the group that the rows are, number
# of the trial) -> cluster of each row, int32 [n].
Partition = Callable[[np.ndarray, int, int, int], np.ndarray]


def kmeans_partition(
    features: np.ndarray | jax.Array,
    num_iterations: int,
    mesh: Mesh | None = None,
    *,
    seed: int,
    period: int,
    start: np.ndarray | None = None,
) -> Partition:
    """Returns the function that clusters rows of features by K-means.

    Args:
      features: [N, F]; on devices, they may have more rows at the end.
      num_iterations: of each K-means.
      mesh: the devices that run it; None: the host.
      seed: seed of the run.
      period: number of the period.
      start: clusters [N], or -1: where all rows are grouped, the first trial starts from their
        means, if none is empty. All other trials, and all if None, start from random rows.
    """
    cluster: Callable[..., tuple[np.ndarray, np.ndarray]]
    means: Callable[..., np.ndarray]
    if mesh is None:
        features = np.asarray(features, np.float32)
        if not np.all(np.isfinite(features)):
            raise InputError("features must be finite, got NaN or infinity.")
        cluster = partial(_cluster_on_host, features)
        means = partial(host_kmeans.means, features)
    else:
        # Rows of other groups stay in the array: each size of a part would have to be compiled.
        features = device_kmeans.shard(features, mesh)
        cluster = partial(device_kmeans.kmeans, features)
        means = partial(device_kmeans.means, features)

    def partition(rows: np.ndarray, k: int, which: int, trial: int) -> np.ndarray:
        key, first = (seed, Stream.DIVISION, period, which, trial), None
        if start is not None and which == trial == 0 and counting.sizes(start, k).all():
            first = means(start, k)
        return cluster(k, seed=key, num_iterations=num_iterations, rows=rows, start=first)[0]

    return partition


def _cluster_on_host(
    features: np.ndarray, k: int, *, rows: np.ndarray, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    # All rows are used without a copy, which may take gigabytes.
    chosen = features if len(rows) == len(features) else features[rows]
    return host_kmeans.kmeans(chosen, k, **options)


def random_partition(*, seed: int, period: int) -> Partition:
    """Returns the function that assigns rows to clusters of equal size at random."""

    def partition(rows: np.ndarray, k: int, which: int, trial: int) -> np.ndarray:
        generator = streams.generator(seed, Stream.RANDOM_GROUPS, period, which, trial)
        return generator.permutation(np.arange(len(rows), dtype=np.int32) % k)

    return partition


def group_by_super_class(super_classes: np.ndarray, num_clusters: int) -> np.ndarray:
    """Groups whole super-classes, in their order, into clusters of about equal size.

    A super-class whose middle is at t in [0, 1) of all images, ordered by super-class, is in
    cluster floor(K t). So cluster c of K is divided into 2c and 2c + 1 of 2K.

    Args:
      super_classes: the super-class of each image, integers from 0 on [N].
      num_clusters: K.

    Returns:
      The cluster of each image, int32 [N]; some may be empty.
    """
    sizes = np.bincount(super_classes)
    doubled_middles = 2 * np.cumsum(sizes) - sizes  # integers: nothing to round
    clusters = num_clusters * doubled_middles // (2 * len(super_classes))
    return clusters[super_classes].astype(np.int32)


def group(
    partition: Partition,
    labels: np.ndarray,
    num_trials: int,
    rows: np.ndarray,
    num_clusters: int,
    which: int,
) -> np.ndarray:
    """Groups images, in several trials if needed, until each cluster can be trained on.

    Args:
      partition: of `kmeans_partition` or `random_partition`.
      labels: the classes of all images [N].
      num_trials: trials at most. The last one is taken in any case.
      rows: the images to group, ascending [n].
      num_clusters: K.
      which: number of these rows among those that are grouped in the same period, the `group` of
        `streams.Stream`.

    Returns:
      The cluster of each row, int32 [n].
    """
    cluster = np.zeros(len(rows), np.int32)
    # Fewer images than clusters are not divided: all go to the first cluster.
    if num_clusters == 1 or len(rows) < num_clusters:
        return cluster
    for trial in range(num_trials):
        cluster = partition(rows, num_clusters, which, trial)
        if _is_trainable(cluster, labels[rows], num_clusters).all():
            break
    return cluster


def drop_singletons(cluster: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sets to -1 the clusters [N] of images without another of their class in their cluster."""
    kept = cluster.astype(np.int32)
    for rows in counting.groups(cluster, int(cluster.max()) + 1):
        _, classes, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
        kept[rows[counts[classes] == 1]] = -1
    return kept


def check(
    labels: np.ndarray,
    super_classes: np.ndarray | None,
    *,
    max_clusters: int,
    smaller: Sequence[int],
) -> None:
    """Raises InputError unless there is enough to train on in each of max_clusters clusters.

    Args:
      labels: the classes [N].
      super_classes: the super-class of each image [N], if they are what is grouped.
      max_clusters: clusters wanted.
      smaller: numbers of clusters that may be chosen instead, descending to 2.
    """
    _, counts = np.unique(labels, return_counts=True)
    num_classes = int(np.sum(counts >= 2))
    if num_classes < 2 * max_clusters:
        raise InputError(
            "Every cluster needs two classes with two images each: require at least "
            f"{2 * max_clusters} such classes for division.max_clusters={max_clusters}, got "
            f"{num_classes}; "
            + (f"choose division.max_clusters <= {num_classes // 2} or " if num_classes > 1 else "")
            + "add images."
        )
    if super_classes is None:
        return

    def num_untrainable(k: int) -> int:
        is_trainable = _is_trainable(group_by_super_class(super_classes, k), labels, k)
        return int(np.sum(~is_trainable))

    if number := num_untrainable(max_clusters):
        choice = next((k for k in smaller if not num_untrainable(k)), None)
        raise InputError(
            "Every cluster of whole super-classes needs two classes with two images each: of "
            f"division.max_clusters={max_clusters} made of {len(np.unique(super_classes))} "
            f"super-classes {number} would lack them; "
            + (f"choose division.max_clusters={choice} or " if choice else "choose ")
            + "other super-classes."
        )


def _is_trainable(cluster: np.ndarray, labels: np.ndarray, num_clusters: int) -> np.ndarray:
    """Returns which clusters have two classes with at least two images each, bool [K]."""
    counts = (
        np.unique_counts(labels[rows]).counts for rows in counting.groups(cluster, num_clusters)
    )
    return np.array([np.count_nonzero(count >= 2) >= 2 for count in counts])
