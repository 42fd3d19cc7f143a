"""What a division does to learning: harder negatives, separated positives, narrower clusters.

Figures of a division by name, from what is there when it is made: the labels, the features that
were clustered, the masks. The features are sampled, so that the figures of many images take no
longer than those of thousands.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import sparse

from dcjax.analysis import clusters, subspaces
from dcjax.core import streams
from dcjax.core.streams import Stream
from dcjax.distributed import sharded_rows
from dcjax.division import division as dividing
from dcjax.division import sampling
from dcjax.division.division import Division
from dcjax.losses import pairs

_NUM_IN_BATCHES = 2048  # images in the batches of clusters, and in those of the whole set
_NUM_IMAGES = 4096  # whose variance is taken, and the dimension of subspaces
_NUM_SUBSPACES = 8  # whose dimension is taken, at most


def label_figures(division: Division, labels: np.ndarray) -> dict[str, float]:
    """Returns what a division does to the classes [N] of images.

    Returns:
      "separated_pairs": share of pairs of images of one class that no batch can have, those of an
      image that is left out included; "classes_per_cluster": the mean over clusters with images.
    """
    counts = clusters.count(labels, division.cluster)
    num_classes = clusters.num_classes(counts, division.num_clusters)
    return {
        "separated_pairs": clusters.share_separated(counts),
        "classes_per_cluster": float(num_classes[num_classes > 0].mean()),
    }


def feature_figures(
    division: Division,
    labels: np.ndarray,
    features: np.ndarray | Array,
    *,
    seed: int,
    sampler: str,
    batch_size: int,
    images_per_class: int,
    small_class: str,
) -> dict[str, float]:
    """Returns what a division does to the features of the images in a batch.

    With features on the devices of several processes, all of these call it together.

    Args:
      division: the clusters.
      labels: integer classes [N].
      features: [N, F] on the host, or [N', F] sharded by rows, N' >= N.
      seed: of the run; each period has random numbers of its own.
      sampler: this and the others are those of `sampling.plan_epoch`.
      batch_size: images in a batch.
      images_per_class: images of a class in a batch.
      small_class: what fills up smaller classes.

    Returns:
      "nearest_negative_ratio": mean distance of an image to the nearest image of another class in
      its batch, in batches of clusters over batches of the whole set; NaN if there is none.
      "variance_within": variance of the features within clusters over that of all of them, see
      `variance_within`; NaN if it is not defined.
    """
    rng = streams.generator(seed, Stream.EFFECTS, division.period)
    draw = functools.partial(
        sampling.sample_batches,
        labels=labels,
        rng=rng,
        num_batches=-(-_NUM_IN_BATCHES // batch_size),
        sampler=sampler,
        batch_size=batch_size,
        images_per_class=images_per_class,
        small_class=small_class,
    )
    in_whole = draw(dividing.single_cluster(labels, period=division.period))
    in_clusters = in_whole if division.num_clusters == 1 else draw(division)
    rows = np.sort(rng.permutation(np.flatnonzero(division.cluster >= 0))[:_NUM_IMAGES])
    return {
        "nearest_negative_ratio": _nearest_negative(features, labels, in_clusters)
        / _nearest_negative(features, labels, in_whole),
        "variance_within": variance_within(_fetch(features, rows), division.cluster[rows]),
    }


def mask_figures(masks: np.ndarray, num_clusters: int) -> dict[str, float]:
    """Returns how much the masks [K_max, D] of so many clusters overlap.

    Returns:
      "mask_cosine": mean cosine of two masks (P21 eq. 5), without an entry for one cluster.
    """
    if num_clusters == 1:
        return {}
    active = np.maximum(masks[:num_clusters], 0).astype(np.float64)
    norms = np.linalg.norm(active, axis=1, keepdims=True)
    directions = active / np.where(norms > 0, norms, 1)
    # All products of two are those of the sum with itself, less those of each with itself.
    products = np.sum(np.square(directions.sum(axis=0))) - np.sum(np.square(directions))
    return {"mask_cosine": float(products / (num_clusters * (num_clusters - 1)))}


def subspace_figures(
    embeddings: np.ndarray | Array,
    num_images: int,
    masks: np.ndarray,
    num_clusters: int,
    *,
    kind: str,
) -> dict[str, float]:
    """Returns how many dimensions the subspaces of an embedding use.

    Args:
      embeddings: [N, D] on the host, or [N', D] sharded by rows, N' >= N.
      num_images: N.
      masks: [K_max, D].
      num_clusters: K.
      kind: how the masks are combined, see `masks.combine`.

    Returns:
      "subspace_dimension": the mean effective dimension over some clusters, of the embeddings of
      some images. It has three decimals, since the last digits depend on the number of threads.
    """
    rows = np.linspace(0, num_images - 1, min(num_images, _NUM_IMAGES)).astype(int)
    chosen = np.linspace(0, num_clusters - 1, min(num_clusters, _NUM_SUBSPACES)).astype(int)
    sample = _fetch(embeddings, rows)
    dimensions = [
        subspaces.effective_dimension(subspaces.project(sample, masks, number, kind))
        for number in chosen
    ]
    return {"subspace_dimension": round(float(np.mean(dimensions)), 3)}


def variance_within(features: np.ndarray, cluster: np.ndarray) -> float:
    """Returns the variance of features [n, F] within their clusters [n], as a share of the total.

    W / (n - K) over T / (n - 1), with W the squared distances to the means of the clusters and T
    those to the mean of all: 1 is expected of random clusters, whatever n and the number K of
    clusters that have images. NaN where one of the two is not defined.
    """
    _, place, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    centered = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    member = (np.ones(len(place), np.float32), (place, np.arange(len(place))))
    sums = sparse.csr_array(member, shape=(len(sizes), len(place))) @ centered
    total = float(np.sum(np.square(centered)))
    within = total - float(np.sum(np.square(sums) / sizes[:, None]))
    freedom = len(place) - len(sizes)
    if not freedom or not total:
        return np.nan
    return max(within, 0.0) / freedom / (total / (len(place) - 1))


def _nearest_negative(
    features: np.ndarray | Array, labels: np.ndarray, batches: np.ndarray
) -> float:
    """Returns the mean distance to the nearest negative in batches [V, B]; NaN without negatives.

    The images that have one count equally.
    """
    points = _fetch(features, batches.ravel()).reshape(*batches.shape, -1)
    distances, counts = jax.device_get(_sum_nearest(points, labels[batches].astype(np.int32)))
    count = int(np.sum(counts))
    return float(np.sum(distances, dtype=np.float64) / count) if count else np.nan


@jax.jit
def _sum_nearest(points: Array, labels: Array) -> tuple[Array, Array]:
    """Returns the sums of distances to nearest negatives [V], and how many images have one [V].

    In JAX, where a product is rounded in the same way whatever other threads do. One batch after
    the other, so that distances of one batch are in memory.

    Args:
      points: [V, B, F].
      labels: [V, B].
    """

    def add_up(batch: tuple[Array, Array]) -> tuple[Array, Array]:
        compared = pairs.compare(*batch)
        nearest = jnp.min(jnp.where(compared.negatives, compared.distances, jnp.inf), axis=1)
        has_negative = jnp.isfinite(nearest)
        return jnp.sum(jnp.where(has_negative, nearest, 0)), jnp.sum(has_negative)

    return jax.lax.map(add_up, (points, labels))


def _fetch(features: np.ndarray | Array, rows: np.ndarray) -> np.ndarray:
    """Returns rows [n] of features on the host, [n, F]."""
    if isinstance(features, np.ndarray):
        return features[rows]
    return sharded_rows.fetch_rows(features, rows, len(rows))
