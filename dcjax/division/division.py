"""The division stage (Sanakoyeu et al., CVPR 2019, section 3; PAMI 2021, eq. 3).

At every division the training set is clustered, the new clusters get the numbers of the old ones
that they resemble most, and each is bisected while there are fewer than K_max.
"""

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh
from scipy.optimize import linear_sum_assignment

from dcjax.core.arrays import require_integers
from dcjax.core.errors import InputError, SettingError
from dcjax.core.ranges import require_known, require_whole
from dcjax.division import counting, grouping, host_kmeans

HIERARCHIES = ("direct", "progressive")
MATCHINGS = ("iou", "overlap")
STARTS = ("previous", "random")


@dataclass(frozen=True)
class Division:
    """The clusters that a period of training draws its batches from.

    Attributes:
      cluster: int32 [N], the cluster of each image; -1 where it is not trained on in this period.
      parents: int32 [K], the cluster of the period before that each cluster comes from.
      period: number of the period, counted from 0.
    """

    cluster: np.ndarray
    parents: np.ndarray
    period: int

    @property
    def num_clusters(self) -> int:
        """Number of clusters K, those without images included."""
        return len(self.parents)

    @property
    def checksum(self) -> int:
        """A checksum of 32 bits of clusters, parents and period."""
        parents, cluster = map(np.ascontiguousarray, (self.parents, self.cluster))
        return zlib.crc32(parents.data, zlib.crc32(cluster.data, self.period))

    @property
    def sizes(self) -> np.ndarray:
        """Number of images trained on in each cluster [K]."""
        return counting.sizes(self.cluster, self.num_clusters)

    def padded_parents(self, max_clusters: int) -> np.ndarray:
        """Returns `parents` as int32 [max_clusters], -1 where there is no cluster."""
        padded = np.full(max_clusters, -1, np.int32)
        padded[: self.num_clusters] = self.parents
        return padded


def num_clusters_at(
    epoch: int, *, divide_every_epochs: int, max_clusters: int, hierarchy: str
) -> int:
    """Returns the number of clusters K(e): min(K_max, 2^floor(e / T)), or K_max if "direct"."""
    require_known("hierarchy", hierarchy, HIERARCHIES)
    require_whole("epoch", epoch, 0)
    require_whole("divide_every_epochs", divide_every_epochs, 1)
    require_whole("max_clusters", max_clusters, 1)
    if hierarchy == "direct":
        return max_clusters
    doublings = min(epoch // divide_every_epochs, max_clusters.bit_length())
    return min(max_clusters, 2**doublings)


def check_options(*, max_clusters: int, hierarchy: str) -> None:
    """Raises InputError unless some images can be divided into max_clusters."""
    require_known("hierarchy", hierarchy, HIERARCHIES)
    if max_clusters < 1 or (hierarchy == "progressive" and max_clusters & (max_clusters - 1)):
        raise SettingError(
            "division.max_clusters must be a power of two, since every division doubles the "
            "clusters, or any number >= 1 with division.hierarchy=direct, got "
            f"max_clusters={max_clusters}."
        )


def check(
    labels: np.ndarray,
    *,
    max_clusters: int,
    hierarchy: str,
    super_classes: np.ndarray | None = None,
) -> None:
    """Raises InputError unless images with these labels [N] can be divided into max_clusters.

    Args:
      labels: the classes [N].
      max_clusters: K_max.
      hierarchy: "direct" or "progressive".
      super_classes: the super-class of each image [N], if they are what is grouped.
    """
    check_options(max_clusters=max_clusters, hierarchy=hierarchy)
    doubles = hierarchy == "progressive"
    smaller = [k for k in range(max_clusters - 1, 1, -1) if not (doubles and k & (k - 1))]
    grouping.check(labels, super_classes, max_clusters=max_clusters, smaller=smaller)


def single_cluster(labels: np.ndarray, *, period: int) -> Division:
    """Returns a division of all images [N] as one cluster, without classes of a single image."""
    labels = np.asarray(require_integers("labels", labels))
    cluster = np.zeros(len(labels), np.int32)
    return _create(cluster, labels, None, 1, period)


def divide(
    features: np.ndarray | jax.Array | None,
    labels: np.ndarray,
    previous: Division | None,
    *,
    num_clusters: int,
    period: int,
    seed: int,
    matching: str = "iou",
    num_trials: int = 30,
    num_iterations: int = host_kmeans.NUM_ITERATIONS,
    start: str = "random",
    mesh: Mesh | None = None,
) -> Division:
    """Divides the training set by K-means or at random, keeping the order of previous clusters.

    Args:
      features: [N, F], what K-means clusters; on devices, they may have more rows at the end. None:
        images are grouped at random instead.
      labels: [N], the classes.
      previous: the division in force so far; None for the first, which is not matched to anything.
      num_clusters: clusters wanted; with a previous division, as many as it has or twice as many.
        Twice as many bisect cluster c into 2c and 2c + 1.
      period: number of the new period.
      seed: seed of the run; each grouping of each period has random numbers of its own.
      matching: the similarity of two clusters, "iou" (P21 eq. 3) or "overlap"; see match.
      num_trials: trials, at most, until every cluster holds two classes with two images each. The
        last one is taken in any case. 30 in P21's code.
      num_iterations: iterations of each K-means.
      start: what the K-means of all images starts from: "random" images, as in P21's code, or the
        centers that the "previous" clusters have in these features. A bisection, and any
        trial after the first, starts from random images.
      mesh: the devices that run K-means; None: it runs on the host.

    Returns:
      The division. An image that is the only one of its class in its cluster belongs to none.
    """
    labels = np.asarray(require_integers("labels", labels))
    require_known("matching", matching, MATCHINGS)
    require_known("start", start, STARTS)
    _check_previous(previous, len(labels), num_clusters)
    require_whole("num_trials", num_trials, 1)
    require_whole("num_iterations", num_iterations, 0)
    if features is None:
        partition = grouping.random_partition(seed=seed, period=period)
    else:
        surplus = len(features) - len(labels)
        if surplus < 0 or (surplus and isinstance(features, np.ndarray)):
            raise InputError(
                "features and labels must hold one row per image, got "
                f"{len(features)} and {len(labels)} rows."
            )
        partition = grouping.kmeans_partition(
            features,
            num_iterations,
            mesh,
            seed=seed,
            period=period,
            start=previous.cluster if previous is not None and start == "previous" else None,
        )
    group = functools.partial(grouping.group, partition, labels, num_trials)
    everything = np.arange(len(labels), dtype=np.int32)
    if previous is None:
        cluster = group(everything, num_clusters, 0)
    else:
        current = previous.num_clusters
        cluster = match(group(everything, current, 0), previous.cluster, current, score=matching)
        if num_clusters == 2 * current:
            cluster = _bisect(group, cluster)
    return _create(cluster, labels, previous, num_clusters, period)


def divide_by_super_class(
    super_classes: np.ndarray,
    labels: np.ndarray,
    previous: Division | None,
    *,
    num_clusters: int,
    period: int,
) -> Division:
    """Divides by whole super-classes of images [N], as `grouping.group_by_super_class` does.

    Such clusters keep their order, and twice as many bisect them, so nothing has to be matched.
    """
    labels = np.asarray(require_integers("labels", labels))
    super_classes = require_integers("super_classes", super_classes, len(labels), 0)
    _check_previous(previous, len(labels), num_clusters)
    cluster = grouping.group_by_super_class(super_classes, num_clusters)
    return _create(cluster, labels, previous, num_clusters, period)


def match(current: np.ndarray, previous: np.ndarray, num_clusters: int, score: str) -> np.ndarray:
    """Renames clusters so that they resemble the previous ones as much as possible.

    Current cluster i becomes p(i), where the permutation p maximises the sum of the scores of
    (i, p(i)): P21 eq. 3.

    Args:
      current: clusters now [N]; -1 is in no cluster and stays so.
      previous: clusters before [N]; -1 was in no cluster.
      num_clusters: number of clusters, the same in both.
      score: "iou", images in both over images in either, or "overlap", images in both.

    Returns:
      The renamed current clusters, int32 [N].
    """
    require_known("matching", score, MATCHINGS)
    last = require_whole("num_clusters", num_clusters, 1) - 1
    current = np.asarray(require_integers("current", current, low=-1, high=last))
    previous = np.asarray(require_integers("previous", previous, len(current), -1, last))
    counts = counting.table(current, previous, num_clusters)
    table = overlap = counts[1:, 1:]
    if score == "iou":
        sizes, sizes_before = counts[1:].sum(axis=1), counts[:, 1:].sum(axis=0)
        table = overlap / np.maximum(sizes[:, None] + sizes_before - overlap, 1)
    _, renamed = linear_sum_assignment(table, maximize=True)
    # -1 looks up the last entry, -1.
    return np.append(renamed, -1).astype(np.int32)[current]


def agreement(division: Division, previous: Division) -> float:
    """Returns the NMI of two divisions over the images trained on in both; 0 if there are none."""
    both = (division.cluster >= 0) & (previous.cluster >= 0)
    if not both.any():
        return 0.0
    return host_kmeans.nmi(previous.cluster[both], division.cluster[both])


def _create(
    cluster: np.ndarray,
    labels: np.ndarray,
    previous: Division | None,
    num_clusters: int,
    period: int,
) -> Division:
    """Creates the division into these clusters [N], without images alone of their class."""
    require_whole("period", period, 0)
    before = 1 if previous is None else previous.num_clusters
    parents = np.arange(num_clusters) * before // num_clusters
    kept = grouping.drop_singletons(cluster, labels)
    return Division(kept, parents.astype(np.int32), period)


def _bisect(group: Callable[[np.ndarray, int, int], np.ndarray], cluster: np.ndarray) -> np.ndarray:
    """Divides every cluster c in two, 2c and 2c + 1."""
    children = 2 * cluster
    for c, rows in enumerate(counting.groups(cluster, int(cluster.max()) + 1)):
        if len(rows):
            children[rows] += group(rows, 2, 1 + c)
    return children


def _check_previous(previous: Division | None, num_images: int, num_clusters: int) -> None:
    require_whole("num_clusters", num_clusters, 1)
    if previous is None:
        return
    if len(previous.cluster) != num_images:
        raise InputError(
            "The previous division must be of the same images, got "
            f"{len(previous.cluster)} and {num_images} of them."
        )
    current = previous.num_clusters
    if num_clusters not in (current, 2 * current):
        raise InputError(
            f"num_clusters must be that of the previous division or twice it, {current} or "
            f"{2 * current}, got num_clusters={num_clusters}."
        )
