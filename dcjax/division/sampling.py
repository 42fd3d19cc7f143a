"""Plans the batches of an epoch (Sanakoyeu et al., CVPR 2019, section 3).

A plan says which images are in which batch. A batch holds images of one cluster only. All clusters
get the same number of batches, so each has the same weight, and images of small clusters are
repeated.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from dcjax.core import options, streams
from dcjax.core.arrays import require_integers
from dcjax.core.errors import InputError, SettingError
from dcjax.core.ranges import require_known, require_whole
from dcjax.core.streams import Stream
from dcjax.division import counting, draws
from dcjax.division.division import Division

SAMPLERS = ("balanced", "uniform")
SMALL_CLASSES = ("other", "repeat")
CLUSTER_ORDERS = ("round_robin", "shuffled", "uniform")
ROUNDS = ("max", "mean", "min")
LEAST_IMAGES = 4  # of a batch: two positive pairs


class Block(NamedTuple):
    """Some steps of a plan.

    Attributes:
      rows: int32 [s, C, B], the images of each cluster batch.
      clusters: int32 [s, C], the cluster that each comes from.
      number: of the block in the plan, from 0 on.
      skipped: steps of the block before these.
    """

    rows: np.ndarray
    clusters: np.ndarray
    number: int = 0
    skipped: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Steps of the whole block, cluster batches in a step and images in a cluster batch."""
        return (self.skipped + len(self.rows), *self.rows.shape[1:])

    def skip(self, steps: int) -> "Block":
        """Returns the block without its first steps."""
        rows, clusters = self.rows[steps:], self.clusters[steps:]
        return Block(rows, clusters, self.number, self.skipped + steps)


@dataclass(frozen=True, eq=False)
class Plan:
    """The batches of an epoch; the images of each block of steps are drawn when it is needed.

    Attributes:
      clusters: int32 [S, C], the cluster that each cluster batch of each step comes from. All
        others are arguments of `plan_epoch`.
    """

    clusters: np.ndarray
    division: Division
    labels: np.ndarray
    seed: int
    epoch: int
    sampler: str
    batch_size: int
    images_per_class: int
    small_class: str
    images_at_once: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Steps, cluster batches in a step and images in a cluster batch, (S, C, B)."""
        return (*self.clusters.shape, self.batch_size)

    @property
    def num_steps(self) -> int:
        """Number of steps, S."""
        return len(self.clusters)

    def first(self, num_steps: int) -> "Plan":
        """Returns the plan without the steps after the first ones, which have the same images."""
        return replace(self, clusters=self.clusters[:num_steps])

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The images of all cluster batches at once, int32 [S, C, B]."""
        return np.concatenate([block.rows for block in self.blocks()])

    def blocks(self, first_step: int = 0) -> Iterator[Block]:
        """Yields the steps from `first_step` on; the first block takes longest: it sorts images.

        Earlier steps are drawn and dropped, so that the later ones are the same.
        """
        batch_streams = self._batch_streams()
        steps_at_once = max(1, self.images_at_once // (self.clusters.shape[1] * self.batch_size))
        for number, start in enumerate(range(0, self.num_steps, steps_at_once)):
            clusters = self.clusters[start : start + steps_at_once]
            block = Block(_take(batch_streams, clusters, self.batch_size), clusters, number)
            if start + len(clusters) > first_step:
                yield block.skip(max(first_step - start, 0))

    def _batch_streams(self) -> dict[int, draws.Batches]:
        """Returns the stream of batches of each cluster that has steps, at its start."""
        key = (self.division.period, self.epoch)
        return _batch_streams(
            self.division,
            self.labels,
            {
                cluster: streams.generator(self.seed, Stream.IMAGE_ORDER, *key, cluster)
                for cluster in np.unique(self.clusters).tolist()
            },
            sampler=self.sampler,
            batch_size=self.batch_size,
            images_per_class=self.images_per_class,
            small_class=self.small_class,
        )


def check_options(
    *,
    sampler: str,
    batch_size: int,
    images_per_class: int,
    small_class: str,
    cluster_order: str,
    rounds: str,
    epoch_steps: int,
    clusters_per_step: int,
) -> None:
    """Raises InputError unless an epoch can be planned with these options for some images."""
    for setting, value, known in (
        ("sampler", sampler, SAMPLERS),
        ("small_class", small_class, SMALL_CLASSES),
        ("cluster_order", cluster_order, CLUSTER_ORDERS),
        ("rounds", rounds, ROUNDS),
    ):
        require_known(setting, value, known)
    for setting, number in (
        ("batch_size", batch_size),
        ("images_per_class", images_per_class),
        ("epoch_steps", epoch_steps),
        ("clusters_per_step", clusters_per_step),
    ):
        require_whole(setting, number, 0)
    if batch_size < LEAST_IMAGES or clusters_per_step < 1:
        raise SettingError(
            f"Require {LEAST_IMAGES} <= sampling.batch_size and 1 <= sampling.clusters_per_step, "
            f"got batch_size={batch_size} and clusters_per_step={clusters_per_step}."
        )
    pairs = images_per_class >= 2 and batch_size >= 2 * images_per_class
    if sampler == "balanced" and not (pairs and batch_size % images_per_class == 0):
        raise SettingError(
            "Require sampling.images_per_class >= 2 for positive pairs, and sampling.batch_size to "
            "be a multiple of it and at least twice it for two classes, got "
            f"images_per_class={images_per_class} and batch_size={batch_size}."
        )


def check(labels: np.ndarray, **given: Any) -> None:
    """Raises InputError unless an epoch of images with these labels [N] can be planned.

    Args:
      labels: the classes [N].
      **given: options of `check_options`; those left out have the defaults of `plan_epoch`.
    """
    defaults = options.of(plan_epoch)
    chosen = {name: defaults[name] for name in options.of(check_options)} | given
    check_options(**chosen)
    labels = require_integers("labels", labels)
    if chosen["batch_size"] > len(labels):
        raise InputError(
            f"Require {LEAST_IMAGES} <= sampling.batch_size <= {len(labels)} images of the "
            f"training set, got batch_size={chosen['batch_size']}."
        )


def plan_epoch(
    division: Division,
    labels: np.ndarray,
    *,
    seed: int,
    epoch: int,
    sampler: str = "balanced",
    batch_size: int = 80,
    images_per_class: int = 2,
    small_class: str = "other",
    cluster_order: str = "shuffled",
    rounds: str = "max",
    epoch_steps: int = 0,
    clusters_per_step: int = 1,
    images_at_once: int = 2**20,
) -> Plan:
    """Plans an epoch; a pure function of its arguments.

    Every round visits each cluster that has images once. Incomplete batches are dropped, but a
    cluster smaller than a batch repeats images.

    Args:
      division: the clusters.
      labels: integer classes [N].
      seed: seed of the run.
      epoch: number of the epoch.
      sampler: "uniform" draws all images of a cluster equally often, in random order; "balanced"
        draws B / m classes for each batch, all classes equally often. This and the next two are
        those of P21's recipe for Stanford Online Products.
      batch_size: images in a batch of one cluster, B.
      images_per_class: images of a class in a batch, m, which divides B ("balanced" only).
      small_class: what fills up a class of fewer than m images: "other" images of the cluster that
        are not in the batch yet, as in P21's code, or the same ones, "repeat" ("balanced" only).
      cluster_order: order of the clusters within a round: "shuffled"; "round_robin", always the
        same, continued from where the epoch before ended; or "uniform", without rounds: each batch
        is of a cluster drawn at random.
      rounds: the number of rounds is the "max" (as in P21's code), "min" or "mean" over clusters
        of full batches in the cluster, but at least 1. Further images of a cluster are left out,
        others in each epoch.
      epoch_steps: steps of the epoch in place of so many rounds, the last of which may be cut;
        0: none.
      clusters_per_step: cluster batches in a step, C. Batches that do not fill a last step are left
        out; if there are fewer than C in all, the first are repeated.
      images_at_once: about how many images a block has. It changes no image, but the crops, which
        are drawn for a block.

    Returns:
      The plan, whose images are not drawn yet.
    """
    labels = np.asarray(require_integers("labels", labels, len(division.cluster)))
    require_integers("division.cluster", division.cluster, None, -1, division.num_clusters - 1)
    require_whole("images_at_once", images_at_once, 1)
    check(
        labels,
        sampler=sampler,
        batch_size=batch_size,
        images_per_class=images_per_class,
        small_class=small_class,
        cluster_order=cluster_order,
        rounds=rounds,
        epoch_steps=epoch_steps,
        clusters_per_step=clusters_per_step,
    )
    sizes = division.sizes
    filled = np.flatnonzero(sizes)
    if not filled.size:
        raise InputError("The division must hold images to train on, got only empty clusters.")
    num_rounds = _num_rounds(sizes[filled], batch_size, rounds)
    rng = streams.generator(seed, Stream.CLUSTER_ORDER, division.period, epoch)
    num_steps = epoch_steps or max(1, num_rounds * len(filled) // clusters_per_step)
    num_batches = num_steps * clusters_per_step
    if epoch_steps:
        num_rounds = -(-num_batches // len(filled))
    if cluster_order == "round_robin":
        # Starts where the epoch before ended; else every epoch would leave out the same clusters.
        order = filled[(epoch * num_batches + np.arange(num_batches)) % len(filled)]
    else:
        order = np.resize(_draw_order(rng, filled, num_rounds, cluster_order), num_batches)
    return Plan(
        clusters=order.reshape(num_steps, clusters_per_step).astype(np.int32),
        division=division,
        labels=labels,
        seed=seed,
        epoch=epoch,
        sampler=sampler,
        batch_size=batch_size,
        images_per_class=images_per_class,
        small_class=small_class,
        images_at_once=images_at_once,
    )


def sample_batches(
    division: Division,
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    num_batches: int,
    sampler: str,
    batch_size: int,
    images_per_class: int,
    small_class: str,
) -> np.ndarray:
    """Draws batches as epochs have them, of all clusters that have images equally often.

    Args:
      division: the clusters.
      labels: integer classes [N].
      rng: the source of all draws.
      num_batches: batches wanted, V; with more clusters, some of these have none.
      sampler: this and the others are those of `plan_epoch`.
      batch_size: images in a batch, B.
      images_per_class: images of a class in a batch.
      small_class: what fills up smaller classes.

    Returns:
      The images of the batches, int32 [V, B].
    """
    filled = rng.permutation(np.flatnonzero(division.sizes))
    clusters = np.resize(filled, num_batches)
    batch_streams = _batch_streams(
        division,
        labels,
        dict.fromkeys(np.unique(clusters).tolist(), rng),
        sampler=sampler,
        batch_size=batch_size,
        images_per_class=images_per_class,
        small_class=small_class,
    )
    return _take(batch_streams, clusters, batch_size)


def one_class_shares(
    division: Division, labels: np.ndarray, *, batch_size: int, sampler: str
) -> np.ndarray:
    """Returns the expected share of batches of a single class, of each cluster [K].

    Such batches have no negatives. Of n images in random order, the first B are all of a class of c
    with the probability C(c, B) / C(n, B).

    Args:
      division: the clusters.
      labels: integer classes [N].
      batch_size: images in a batch, B.
      sampler: as in `plan_epoch`; "balanced" draws several classes if the cluster has them.
    """
    labels = np.asarray(require_integers("labels", labels, len(division.cluster)))
    shares = np.zeros(division.num_clusters)
    drawn = np.arange(batch_size)
    for cluster, members in enumerate(counting.groups(division.cluster, division.num_clusters)):
        counts = np.unique_counts(labels[members]).counts
        if sampler == "balanced" or len(members) < batch_size:
            shares[cluster] = len(counts) == 1
        else:
            large = counts[counts >= batch_size, None]
            shares[cluster] = np.sum(np.prod((large - drawn) / (len(members) - drawn), axis=1))
    return shares


def _batch_streams(
    division: Division,
    labels: np.ndarray,
    generators: Mapping[int, np.random.Generator],
    *,
    sampler: str,
    batch_size: int,
    images_per_class: int,
    small_class: str,
) -> dict[int, draws.Batches]:
    """Returns the stream of batches of each cluster that has a generator."""
    if sampler == "uniform":
        members = counting.groups(division.cluster, division.num_clusters)
    else:
        members = _group_by_class(division, labels)
    batch_streams = {}
    for cluster, rng in generators.items():
        images = members[cluster]
        if sampler == "uniform":
            batches = draws.uniform_batches(rng, images, batch_size)
        else:
            batches = draws.balanced_batches(
                rng, images, labels, batch_size, images_per_class, small_class
            )
        batch_streams[cluster] = draws.Batches(batches)
    return batch_streams


def _group_by_class(division: Division, labels: np.ndarray) -> list[np.ndarray]:
    """Returns the images of each cluster, int32, sorted by class."""
    # Two counting sorts, by class and then by cluster; the second is stable.
    if labels.min() < 0 or labels.max() >= len(labels):
        labels = np.unique(labels, return_inverse=True)[1]
    by_class, _ = counting.sort(labels, int(labels.max()) + 1)
    places = counting.groups(division.cluster[by_class], division.num_clusters)
    return [by_class[members] for members in places]


def _take(batches: dict[int, draws.Batches], clusters: np.ndarray, batch_size: int) -> np.ndarray:
    """Takes the next batch of each of the clusters [s, C] from its stream, int32 [s, C, B]."""
    rows = np.empty((clusters.size, batch_size), np.int32)
    order = np.argsort(clusters, axis=None, kind="stable")
    names, counts = np.unique(clusters, return_counts=True)
    parts = np.split(order, np.cumsum(counts)[:-1])
    for cluster, places in zip(names.tolist(), parts, strict=True):
        rows[places] = batches[cluster].take(len(places))
    return rows.reshape(*clusters.shape, batch_size)


def _num_rounds(sizes: np.ndarray, batch_size: int, rounds: str) -> int:
    batches = sizes // batch_size
    wanted = {"max": batches.max(), "mean": batches.mean(), "min": batches.min()}[rounds]
    return max(1, round(float(wanted)))


def _draw_order(
    rng: np.random.Generator, clusters: np.ndarray, num_rounds: int, cluster_order: str
) -> np.ndarray:
    """Returns the cluster of every batch, [num_rounds * number of clusters]."""
    if cluster_order == "uniform":
        return rng.choice(clusters, num_rounds * len(clusters))
    return rng.permuted(np.tile(clusters, (num_rounds, 1)), axis=1).ravel()
