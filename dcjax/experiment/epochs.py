"""Prepares epochs ahead of training: division, plan and the first batches."""

import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import numpy as np

from dcjax.analysis import effects
from dcjax.data.readers import Batch
from dcjax.distributed import processes
from dcjax.division import division, sampling
from dcjax.experiment.build import Experiment
from dcjax.retrieval import evaluation
from dcjax.runs.progress import Progress
from dcjax.training import state

Figures = Mapping[str, float]  # of `effects`, by name
Features = np.ndarray | jax.Array  # [N, F] on the host; [N', F] on the devices, N' >= N


class Epoch(NamedTuple):
    """The division in force, the plan drawn from it, and the batches of the plan.

    Attributes:
      division: the clusters.
      plan: of the epoch.
      batches: of the plan.
      figures: what the division does to the features and what the masks are like when it is made;
        empty if it was in force before, and maybe on processes but the first.
    """

    division: division.Division
    plan: sampling.Plan
    batches: Iterator[Batch]
    figures: Figures


class Planner:
    """Divides when due, plans epochs, and begins to read their images."""

    def __init__(self, experiment: Experiment) -> None:
        """Starts a thread for computations on the host."""
        self._experiment = experiment
        self._host = ThreadPoolExecutor(1)
        self._division: Future[Any] | None = None
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
        divided: tuple[division.Division, Figures] | None = None
        if current is not None and current.period == period:
            divided = current, {}
        on_devices = dividing.kmeans == "devices"
        features = None if divided is not None else self._features(epoch, run)
        masks = None if divided is not None or current is None else np.asarray(run.masks)
        divide = functools.partial(self._divide, features, masks, current, epoch)

        def plan(division: division.Division, figures: Figures) -> Epoch:
            return self._plan(division, figures, progress)

        if divided is None and features is not None and on_devices:
            # Not in the background: processes might start programs on the devices in different
            # orders, which is a deadlock.
            divided = divide()
        if divided is not None:
            self._division = None
            self._result = self._host.submit(plan, *divided).result
            return
        if jax.process_count() == 1:
            self._division = pending = self._host.submit(divide)
            self._result = self._host.submit(lambda: plan(*pending.result())).result
            return

        def divide_on_first() -> tuple[division.Division, Figures] | None:
            local = divide() if processes.is_first() else None
            processes.wait_for_all(f"division {period}")
            return local

        def receive() -> Epoch:
            local, figures = future.result() or (None, {})
            num_images, num_clusters = len(experiment.splits.train), schedule.num_clusters(epoch)
            return plan(receive_from_first(local, num_images, num_clusters, period), figures)

        self._division = future = self._host.submit(divide_on_first)
        self._result = receive

    def wait_for_division(self) -> None:
        """Waits until the images of the next epoch are divided; what failed, `finish` raises."""
        if self._division is not None:
            wait([self._division])

    def finish(self) -> Epoch:
        """Waits for the epoch that `begin` prepares; all processes call it together."""
        if self._result is None:
            raise RuntimeError("No epoch is being prepared.")
        result, self._result = self._result, None
        return result()

    def _features(self, epoch: int, run: state.TrainState) -> Features | None:
        """Returns the features for K-means [N, F], on the host or the devices; None: no K-means."""
        experiment = self._experiment
        dividing = experiment.config.division
        if dividing.grouping != "kmeans" or experiment.schedule.num_clusters(epoch) == 1:
            return None
        return embed(experiment, run.variables, dividing.features)

    def _divide(
        self,
        features: Features | None,
        masks: np.ndarray | None,
        previous: division.Division | None,
        epoch: int,
    ) -> tuple[division.Division, Figures]:
        """Divides the training set as the config says, and returns the figures of the division."""
        experiment = self._experiment
        divided = divide(
            experiment,
            features,
            previous,
            num_clusters=experiment.schedule.num_clusters(epoch),
            period=experiment.schedule.period(epoch),
        )
        figures: dict[str, float] = {}
        if features is not None:
            figures |= feature_figures(experiment, divided, features)
        if masks is not None and previous is not None and experiment.config.model.masks != "none":
            figures |= effects.mask_figures(masks, previous.num_clusters)
            if features is not None and experiment.config.division.features == "embedding":
                figures |= effects.subspace_figures(
                    features,
                    len(divided.cluster),
                    masks,
                    previous.num_clusters,
                    kind=experiment.config.model.test_masks,
                )
        return divided, figures

    def _plan(self, current: division.Division, figures: Figures, progress: Progress) -> Epoch:
        experiment, epoch = self._experiment, progress.epoch
        plan = sampling.plan_epoch(
            current,
            experiment.splits.train.labels,
            seed=experiment.config.seed,
            epoch=epoch,
            **experiment.config.sampling,
        )
        plan = experiment.schedule.cut(plan, progress)
        blocks = plan.blocks(progress.epoch_step)
        batches = experiment.readers.train.train_batches(blocks, epoch=epoch)
        return Epoch(current, plan, batches, figures)


def embed(experiment: Experiment, variables: dict[str, Any], output: str) -> Features:
    """Returns what K-means clusters: features of the training images, where K-means runs.

    Args:
      experiment: with the images.
      variables: of the model.
      output: "backbone" or "embedding".
    """
    reader = experiment.readers.train_crops
    embedded = experiment.network.embed(reader, variables, output=output)
    if experiment.config.division.kmeans == "devices":
        return embedded
    return evaluation.fetch(embedded, len(reader.images), is_receiver=processes.is_first())


def divide(
    experiment: Experiment,
    features: Features | None,
    previous: division.Division | None,
    *,
    num_clusters: int,
    period: int,
) -> division.Division:
    """Divides the training set as the config says; K = 1 is one cluster of all images."""
    dividing, images = experiment.config.division, experiment.splits.train
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
        start=dividing.start,
        mesh=experiment.mesh if dividing.kmeans == "devices" else None,
    )


def feature_figures(
    experiment: Experiment, divided: division.Division, features: Features
) -> dict[str, float]:
    """Returns `effects.feature_figures` with the batches of an experiment."""
    sampled = experiment.config.sampling
    return effects.feature_figures(
        divided,
        experiment.splits.train.labels,
        features,
        seed=experiment.config.seed,
        sampler=sampled.sampler,
        batch_size=sampled.batch_size,
        images_per_class=sampled.images_per_class,
        small_class=sampled.small_class,
    )


def receive_from_first(
    local: division.Division | None, num_images: int, num_clusters: int, period: int
) -> division.Division:
    """Returns the division of the first process on all processes."""
    empty = np.zeros(num_images, np.int32), np.zeros(num_clusters, np.int32)
    cluster, parents = processes.broadcast((local.cluster, local.parents) if local else empty)
    return division.Division(cluster, parents, period)
