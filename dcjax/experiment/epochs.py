"""Prepares epochs ahead of training: division, plan and the first batches."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from dcjax.data import pipeline
from dcjax.distributed import processes
from dcjax.division import division, sampling
from dcjax.experiment import build
from dcjax.experiment.build import Experiment
from dcjax.retrieval import evaluation
from dcjax.runs.progress import Progress
from dcjax.training import state


class Epoch(NamedTuple):
    """The division in force, the plan drawn from it, and the batches of the plan."""

    division: division.Division
    plan: sampling.Plan
    batches: Iterator[pipeline.Batch]


class Planner:
    """Divides when due, plans epochs, and begins to read their images."""

    def __init__(self, experiment: Experiment) -> None:
        """Starts a thread for computations on the host."""
        self._experiment = experiment
        self._host = ThreadPoolExecutor(1)
        self._result: Callable[[], Epoch] | None = None

    def close(self) -> None:
        """Abandons pending work: a K-means on the host may take hours."""
        self._host.shutdown(wait=False, cancel_futures=True)

    def begin(
        self, progress: Progress, current: division.Division | None, run: state.TrainState
    ) -> None:
        """Begins to prepare the next epoch.

        Work on the devices is done at once: features, and K-means if it runs there. The rest runs
        on the host, in the background. With many processes the first one divides, and all receive
        its division.

        Args:
          progress: the next epoch, and how many of its steps are done.
          current: the division in force; None before the first epoch.
          run: the current state of the network.
        """
        experiment, epoch = self._experiment, progress.epoch
        dividing, schedule = experiment.config.division, experiment.schedule
        period = schedule.period(epoch)
        in_force = current if current is not None and current.period == period else None
        on_devices = dividing.kmeans == "devices"
        features = None if in_force is not None else self._features(epoch, run)
        divide = functools.partial(self._divide, features, current, epoch)

        def plan(division: division.Division) -> Epoch:
            return self._plan(division, progress)

        if in_force is None and features is not None and on_devices:
            # Not in the background: processes might start programs on the devices in different
            # orders, which is a deadlock.
            in_force = divide()
        if in_force is not None or jax.process_count() == 1:
            self._result = self._host.submit(lambda: plan(in_force or divide())).result
            return

        def divide_on_first() -> division.Division | None:
            local = divide() if processes.is_first() else None
            processes.wait_for_all(f"division {period}")
            return local

        future = self._host.submit(divide_on_first)
        num_clusters = schedule.num_clusters(epoch)
        num_images = len(experiment.splits.train)
        self._result = lambda: plan(
            receive_from_first(future.result(), num_images, num_clusters, period)
        )

    def finish(self) -> Epoch:
        """Waits for the epoch that `begin` prepares; all processes call it together."""
        if self._result is None:
            raise RuntimeError("No epoch is being prepared.")
        result, self._result = self._result, None
        return result()

    def _features(self, epoch: int, run: state.TrainState) -> np.ndarray | jax.Array | None:
        """Returns the features for K-means [N, F], on the host or the devices; None: no K-means."""
        experiment = self._experiment
        dividing = experiment.config.division
        if dividing.grouping != "kmeans" or experiment.schedule.num_clusters(epoch) == 1:
            return None
        reader = experiment.train_reader
        embedded = experiment.embed(reader, run.variables, output=dividing.features)
        if dividing.kmeans == "devices":
            return embedded
        return evaluation.fetch(embedded, len(reader.images), is_receiver=processes.is_first())

    def _divide(
        self,
        features: np.ndarray | jax.Array | None,
        previous: division.Division | None,
        epoch: int,
    ) -> division.Division:
        """Divides the training set as the config says; K = 1 is one cluster of all images."""
        experiment = self._experiment
        dividing, images = experiment.config.division, experiment.splits.train
        num_clusters = experiment.schedule.num_clusters(epoch)
        period = experiment.schedule.period(epoch)
        if num_clusters == 1:
            return division.single_cluster(images.labels, period=period)
        if dividing.grouping == "labels":
            return division.divide_by_super_class(
                images.super_class_labels,
                images.labels,
                previous,
                num_clusters=num_clusters,
                period=period,
            )
        return division.divide(
            features,
            images.labels,
            previous,
            num_clusters=num_clusters,
            period=period,
            seed=experiment.config.seed,
            matching=dividing.matching,
            num_trials=dividing.num_trials,
            num_iterations=dividing.num_iterations,
            mesh=experiment.mesh if dividing.kmeans == "devices" else None,
        )

    def _plan(self, current: division.Division, progress: Progress) -> Epoch:
        experiment, epoch = self._experiment, progress.epoch
        plan = sampling.plan_epoch(
            current,
            experiment.splits.train.labels,
            seed=experiment.config.seed,
            epoch=epoch,
            **build.plan_options(experiment.config.sampling),
        )
        blocks = plan.blocks(progress.epoch_step)
        return Epoch(current, plan, experiment.train_reader.train_batches(blocks, epoch=epoch))


def receive_from_first(
    local: division.Division | None, num_images: int, num_clusters: int, period: int
) -> division.Division:
    """Returns the division of the first process on all processes."""
    empty = np.zeros(num_images, np.int32), np.zeros(num_clusters, np.int32)
    cluster, parents = processes.broadcast((local.cluster, local.parents) if local else empty)
    return division.Division(cluster, parents, period)
