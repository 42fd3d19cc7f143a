"""Plans the batches of an epoch (Sanakoyeu et al., CVPR 2019, section 3).

Which images, in which batch, of which cluster: a batch holds images of one cluster only. All
clusters get the same number of batches, so that each has the same weight, and small ones start
again from the front.
"""

from dataclasses import dataclass

import numpy as np

from dcjax.division import Division

SAMPLERS = ("balanced", "uniform")
SMALL_CLASSES = ("other", "repeat")
CLUSTER_ORDERS = ("round_robin", "shuffled", "uniform")
ROUNDS = ("max", "mean", "min")

# Keep the draws of the order and of the images apart from each other, and from other modules'.
_ORDER_STREAM, _IMAGES_STREAM = 1, 2


@dataclass(frozen=True)
class Plan:
    """The batches of an epoch.

    Attributes:
      rows: int32 [S, C, B], the images of each cluster batch of each step.
      clusters: int32 [S, C], the cluster that each of them comes from.
    """

    rows: np.ndarray
    clusters: np.ndarray


def check(
    labels: np.ndarray,
    *,
    batch_size: int,
    images_per_class: int,
    sampler: str = "uniform",
    small_class: str = "other",
    cluster_order: str = "shuffled",
    rounds: str = "max",
    clusters_per_step: int = 1,
) -> None:
    """Raises ValueError unless epochs of images with these labels [N] can be planned like this."""
    for setting, value, known in (
        ("sampler", sampler, SAMPLERS),
        ("small_class", small_class, SMALL_CLASSES),
        ("cluster_order", cluster_order, CLUSTER_ORDERS),
        ("rounds", rounds, ROUNDS),
    ):
        if value not in known:
            raise ValueError(f"Unknown {setting} {value!r}; known values are {', '.join(known)}.")
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be integers of shape [N], got {labels.dtype} of shape {labels.shape}."
        )
    if not 4 <= batch_size <= len(labels) or clusters_per_step < 1:
        raise ValueError(  # fewer than 4 images cannot be two positive pairs
            f"Require 4 <= batch_size <= {len(labels)} images and clusters_per_step >= 1, "
            f"got batch_size={batch_size} and clusters_per_step={clusters_per_step}."
        )
    pairs = images_per_class >= 2 and batch_size >= 2 * images_per_class
    if sampler == "balanced" and not (pairs and batch_size % images_per_class == 0):
        raise ValueError(
            "Require images_per_class >= 2 for positive pairs, and batch_size to be a multiple of "
            "it and at least twice it for two classes, got "
            f"images_per_class={images_per_class} and batch_size={batch_size}."
        )


def plan_epoch(
    division: Division,
    labels: np.ndarray,
    *,
    batch_size: int,
    images_per_class: int,
    seed: int,
    epoch: int,
    sampler: str = "uniform",
    small_class: str = "other",
    cluster_order: str = "shuffled",
    rounds: str = "max",
    clusters_per_step: int = 1,
) -> Plan:
    """Plans an epoch; a pure function of its arguments.

    Every round visits each cluster that has images once. Incomplete batches are dropped, but a
    cluster smaller than a batch repeats images.

    Args:
      division: the clusters.
      labels: integer classes [N].
      batch_size: images in a batch of one cluster, B.
      images_per_class: images of a class in a batch, m, which divides B ("balanced" only).
      seed: seed of the run.
      epoch: number of the epoch.
      sampler: "uniform" walks through a cluster in random order, "balanced" draws B / m classes
        for each batch.
      small_class: what fills up a class of fewer than m images: "other" images of the cluster that
        are not in the batch yet, or the same ones, "repeat" ("balanced" only).
      cluster_order: order of the clusters within a round: "shuffled", always the same
        ("round_robin"), or each batch from a cluster drawn at random, without rounds ("uniform").
      rounds: the number of rounds is the "max", "min" or "mean" over clusters of whole batches in
        the cluster, but at least 1.
      clusters_per_step: cluster batches in a step, C. The last batches are left out, or if there
        are fewer than C the first visits repeated, so that every step is full.

    Returns:
      The plan.
    """
    labels = np.asarray(labels)
    check(
        labels,
        batch_size=batch_size,
        images_per_class=images_per_class,
        sampler=sampler,
        small_class=small_class,
        cluster_order=cluster_order,
        rounds=rounds,
        clusters_per_step=clusters_per_step,
    )
    filled = np.flatnonzero(division.sizes)
    if not filled.size:
        raise ValueError("The division must hold images to train on, got only empty clusters.")
    num_rounds = _num_rounds(division.sizes[filled], batch_size, rounds)
    key = (division.period, epoch)
    rng = _generator(seed, _ORDER_STREAM, *key)
    order = _cluster_order(rng, filled, num_rounds, cluster_order)
    num_steps = max(1, len(order) // clusters_per_step)
    order = np.resize(order, num_steps * clusters_per_step)

    rows = np.zeros((len(order), batch_size), np.int32)
    for cluster, count in zip(*np.unique(order, return_counts=True), strict=True):
        members = np.flatnonzero(division.cluster == cluster)
        classes = labels[members]
        rng = _generator(seed, _IMAGES_STREAM, *key, int(cluster))
        if sampler == "uniform":
            batches = _uniform(rng, classes, count, batch_size)
        else:
            batches = _balanced(rng, classes, count, batch_size, images_per_class, small_class)
        rows[order == cluster] = members[batches]
    shape = (num_steps, clusters_per_step)
    return Plan(rows.reshape(*shape, batch_size), order.reshape(shape).astype(np.int32))


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _num_rounds(sizes: np.ndarray, batch_size: int, rounds: str) -> int:
    batches = sizes // batch_size
    wanted = {"max": batches.max(), "mean": batches.mean(), "min": batches.min()}[rounds]
    return max(1, round(float(wanted)))


def _cluster_order(
    rng: np.random.Generator, clusters: np.ndarray, num_rounds: int, cluster_order: str
) -> np.ndarray:
    """Returns the cluster of every batch, [num_rounds * number of clusters]."""
    order = np.tile(clusters, (num_rounds, 1))
    if cluster_order == "shuffled":
        order = rng.permuted(order, axis=1)
    elif cluster_order == "uniform":
        order = rng.choice(clusters, order.shape)
    return order.ravel()


def _uniform(
    rng: np.random.Generator, classes: np.ndarray, count: int, batch_size: int
) -> np.ndarray:
    """Returns batches of the images 0 .. n - 1 of a cluster in random order, [count, B]."""
    n, batches, num_batches = len(classes), [], 0
    several = np.any(classes != classes[0])
    while num_batches < count:
        # A cluster smaller than a batch: as many turns of its images as fill one.
        walk = np.concatenate([rng.permutation(n) for _ in range(-(-batch_size // n))])
        walk = walk[: len(walk) // batch_size * batch_size].reshape(-1, batch_size)
        if several:
            # A batch of a single class has no negatives and would teach nothing.
            walk = walk[np.any(classes[walk] != classes[walk[:, :1]], axis=1)]
        batches.append(walk)
        num_batches += len(walk)
    return np.concatenate(batches)[:count]


def _balanced(
    rng: np.random.Generator,
    classes: np.ndarray,
    count: int,
    batch_size: int,
    images_per_class: int,
    small_class: str,
) -> np.ndarray:
    """Returns batches of the images 0 .. n - 1 of a cluster with m of each class, [count, B]."""
    stacks = _ClassStacks(rng, classes)
    batches = np.zeros((count, batch_size), np.int64)
    for batch in batches:
        chosen, quotas = _quotas(rng, len(stacks.sizes), batch_size, images_per_class)
        if small_class == "other":
            quotas = np.minimum(quotas, stacks.sizes[chosen])
        images = np.concatenate([stacks.take(*pair) for pair in zip(chosen, quotas, strict=True)])
        batch[: len(images)] = images
        batch[len(images) :] = _others(rng, len(classes), images, batch_size)
    return batches


def _quotas(
    rng: np.random.Generator, num_classes: int, batch_size: int, images_per_class: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the classes of a batch and says how many images each gives."""
    chosen_classes = min(batch_size // images_per_class, num_classes)
    chosen = rng.choice(num_classes, chosen_classes, replace=False)
    # With too few classes each gives more; the first of the drawn ones give what is left over.
    share, rest = divmod(batch_size, chosen_classes)
    return chosen, share + (np.arange(chosen_classes) < rest)


def _others(rng: np.random.Generator, n: int, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Draws what a batch lacks from a cluster's n images, repeating one only if it must."""
    missing = batch_size - len(images)
    if not missing:
        return images[:0]
    # Among B different images, at most B - missing are in the batch: enough are left.
    candidates = rng.choice(n, min(n, batch_size), replace=False)
    fresh = candidates[~np.isin(candidates, images)][:missing]
    if len(fresh) == missing:
        return fresh
    return np.concatenate([fresh, np.resize(rng.permutation(n), missing - len(fresh))])


class _ClassStacks:
    """Every class's images in shuffled order, taken from the front and reshuffled at the end."""

    def __init__(self, rng: np.random.Generator, classes: np.ndarray) -> None:
        _, codes, self.sizes = np.unique(classes, return_inverse=True, return_counts=True)
        self._rng = rng
        shuffled = np.lexsort((rng.random(len(classes)), codes))
        self._stacks = np.split(shuffled, np.cumsum(self.sizes)[:-1])
        self._taken = np.zeros(len(self.sizes), np.int64)

    def take(self, c: int, quota: int) -> np.ndarray:
        """Returns quota images of class c, repeated only if the class has fewer."""
        stack, taken = self._stacks[c], self._taken[c]
        if taken + quota > len(stack):
            # Too few are left: a random choice of the whole class, which then starts again.
            images, taken = np.resize(self._rng.permutation(stack), quota), len(stack)
        else:
            images, taken = stack[taken : taken + quota].copy(), taken + quota
        if taken == len(stack):
            self._rng.shuffle(stack)
            taken = 0
        self._taken[c] = taken
        return images
