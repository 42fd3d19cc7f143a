"""What an epoch trains on: its clusters, its plan, and batches that are read ahead of it."""

import functools
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from dcjax import devices, division, experiment, inputs, pipeline, sampling, schedule, state
from dcjax.datasets import ImageSet, Splits
from dcjax.progress import Progress


class Epoch(NamedTuple):
    """The clusters in force, the plan drawn from them, and the plan's batches."""

    clusters: division.Division
    plan: sampling.Plan
    batches: Iterator[pipeline.Batch]


def prepare(
    config: ConfigDict,
    splits: Splits,
    read: inputs.ReadImages,
    embed: experiment.EmbedImages,
    host: Executor,
    progress: Progress,
    clusters: division.Division | None,
    run: state.TrainState,
) -> Future[Epoch]:
    """Divides if it is due, plans the next epoch and begins to read its images.

    What the devices do is done at once: features, and K-means if it is theirs. The rest is the
    host's, and goes on while the devices do something else.

    Args:
      config: the experiment.
      splits: its image sets.
      read: gives the reader of an image set.
      embed: function (images, variables, output) -> features.
      host: runs what is the host's.
      progress: says which epoch is next, and how much of it is done.
      clusters: in force so far; None before the first epoch.
      run: the network as it is.
    """
    images, epoch = splits.train, progress.epoch
    period, num_clusters = schedule.period(config, epoch), schedule.num_clusters(config, epoch)
    current = clusters if clusters is not None and clusters.period == period else None
    features = None
    if current is None and num_clusters > 1 and config.division.grouping == "kmeans":
        features = embed(images, variables=run.variables, output=config.division.features)

    divide = functools.partial(_divide, config, images, features, clusters, period, num_clusters)
    if features is not None and config.division.kmeans == "devices":
        # Not beside other programs on the devices: processes might start them in different orders,
        # and would wait for each other for ever.
        current = divide()

    def prepare() -> Epoch:
        in_force = current or divide()
        plan = sampling.plan_epoch(
            in_force, images.labels, seed=config.seed, epoch=epoch, **config.sampling
        )
        batches = read(images).train_batches(plan, epoch=epoch, first_step=progress.epoch_step)
        return Epoch(in_force, plan, batches)

    return host.submit(prepare)


def _divide(
    config: ConfigDict,
    images: ImageSet,
    features: np.ndarray | None,
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
