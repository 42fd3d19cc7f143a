"""What an epoch trains on: its clusters, its plan, and batches that are read ahead of it."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dcjax.data import pipeline
from dcjax.data.datasets import ImageSet, Splits
from dcjax.distributed import devices, processes
from dcjax.division import division, sampling
from dcjax.experiment import build, inputs, schedule
from dcjax.retrieval import evaluation
from dcjax.runs.progress import Progress
from dcjax.training import state


class Epoch(NamedTuple):
    """The clusters in force, the plan drawn from them, and the plan's batches."""

    clusters: division.Division
    plan: sampling.Plan
    batches: Iterator[pipeline.Batch]


def prepare(
    config: ConfigDict,
    splits: Splits,
    read: inputs.ReadImages,
    embed: build.EmbedImages,
    host: Executor,
    progress: Progress,
    clusters: division.Division | None,
    run: state.TrainState,
) -> Callable[[], Epoch]:
    """Divides if it is due, plans the next epoch and begins to read its images.

    What the devices do is done at once: features, and K-means if it is theirs. The rest is the
    host's, and goes on while the devices do something else: of many hosts the first one's, whose
    clusters all of them take.

    Args:
      config: the experiment.
      splits: its image sets.
      read: gives the reader of an image set.
      embed: function (images, variables, output) -> features.
      host: runs what is the host's.
      progress: says which epoch is next, and how much of it is done.
      clusters: in force so far; None before the first epoch.
      run: the network as it is.

    Returns:
      A function that waits for the epoch; all processes call it together.
    """
    images, epoch = splits.train, progress.epoch
    period, num_clusters = schedule.period(config, epoch), schedule.num_clusters(config, epoch)
    in_force = clusters if clusters is not None and clusters.period == period else None
    on_devices = config.division.kmeans == "devices"
    features = None
    if in_force is None and num_clusters > 1 and config.division.grouping == "kmeans":
        embedded = embed(images, variables=run.variables, output=config.division.features)
        is_asked = processes.is_first()
        features = (
            embedded if on_devices else evaluation.whole(embedded, len(images), is_asked=is_asked)
        )
    divide = functools.partial(_divide, config, images, features, clusters, period, num_clusters)

    def begin(current: division.Division) -> Epoch:
        plan = sampling.plan_epoch(
            current, images.labels, seed=config.seed, epoch=epoch, **config.sampling
        )
        batches = read(images).train_batches(plan, epoch=epoch, first_step=progress.epoch_step)
        return Epoch(current, plan, batches)

    if in_force is None and features is not None and on_devices:
        # Not beside other programs on the devices: processes might start them in different orders,
        # and would wait for each other for ever.
        in_force = divide()
    if in_force is not None or jax.process_count() == 1:
        return host.submit(lambda: begin(in_force or divide())).result

    def divided_by_first() -> division.Division | None:
        mine = divide() if processes.is_first() else None
        processes.wait_for_all(f"division {period}")
        return mine

    found = host.submit(divided_by_first)
    return lambda: begin(_of_first(found.result(), len(images), num_clusters, period))


def _of_first(
    found: division.Division | None, num_images: int, num_clusters: int, period: int
) -> division.Division:
    """Returns on all processes what the first one has found."""
    like = np.zeros(num_images, np.int32), np.zeros(num_clusters, np.int32)
    cluster, parents = processes.from_first((found.cluster, found.parents) if found else like)
    return division.Division(cluster, parents, period)


def _divide(
    config: ConfigDict,
    images: ImageSet,
    features: np.ndarray | jax.Array | None,
    previous: division.Division | None,
    period: int,
    num_clusters: int,
) -> division.Division:
    """Divides the training set, by K-means if there are features; one cluster is all of it."""
    settings, labels = config.division, images.labels
    if num_clusters == 1:
        return division.undivided(labels, period=period)
    if settings.grouping == "labels":
        return division.by_super_class(
            images.super_class_labels, labels, previous, num_clusters=num_clusters, period=period
        )
    return division.divide(
        features,
        labels,
        previous,
        num_clusters=num_clusters,
        period=period,
        seed=config.seed,
        matching=settings.matching,
        num_trials=settings.num_trials,
        num_iterations=settings.num_iterations,
        mesh=devices.create_mesh() if settings.kmeans == "devices" else None,
    )
