"""The schedule of an experiment: clusters (P21 section 3), learning rates, evaluations."""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dcjax.division import division, sampling
from dcjax.runs.progress import Progress


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The schedule of an experiment; epochs are counted from 0.

    Attributes:
      config: the experiment.
    """

    config: ConfigDict

    @property
    def end(self) -> int:
        """Number of epochs after which the run ends, if validation does not stop it before.

        0 if it ends after a number of steps instead.
        """
        train = self.config.train
        return 0 if train.num_steps else train.until_epoch or train.num_epochs

    def cut(self, plan: sampling.Plan, progress: Progress) -> sampling.Plan:
        """Returns the plan of the next epoch with no more steps than the run has left."""
        num_steps = self.config.train.num_steps
        return plan.first(num_steps - progress.first_step) if num_steps else plan

    def epochs_left(self, plan: sampling.Plan, progress: Progress) -> float:
        """Returns how many epochs, or parts of one, as long as the next one will follow it."""
        if num_steps := self.config.train.num_steps:
            return (num_steps - progress.first_step) / plan.num_steps - 1
        return self.end - progress.epoch - 1

    def num_clusters(self, epoch: int) -> int:
        """Returns K of an epoch."""
        dividing = self.config.division
        return division.num_clusters_at(
            epoch,
            divide_every_epochs=dividing.every_epochs,
            max_clusters=dividing.max_clusters,
            hierarchy=dividing.hierarchy,
        )

    def period(self, epoch: int) -> int:
        """Returns the number of the division that holds in an epoch."""
        dividing = self.config.division
        return 0 if dividing.max_clusters == 1 else epoch // dividing.every_epochs

    def controls(self, epoch: int, *, first_step: int = 0, num_steps: int = 1) -> dict[str, Any]:
        """Returns the controls of `steps.train_step` for an epoch.

        The backbone is frozen in the first epochs of each period, as in P21's released recipe. The
        masks are frozen if they are not learned, and once the full embedding is trained. With
        max_clusters 1, the baseline, there are neither periods nor subspaces.

        Args:
          epoch: its number.
          first_step: steps trained before it.
          num_steps: its steps.
        """
        rates, dividing, train = self.config.optimizer, self.config.division, self.config.train
        divides = dividing.max_clusters > 1
        full = 0 <= train.full_embedding_from_epoch <= epoch
        frozen = divides and epoch % dividing.every_epochs < dividing.freeze_backbone_epochs
        learned = divides and self.config.model.masks == "learned" and not full
        base = rates.learning_rate
        learning_rates = {
            "backbone": 0.0 if frozen else base,
            "embedding": base * rates.embedding_multiplier,
            "masks": base * rates.masks_multiplier if learned else 0.0,
            "loss": rates.loss_learning_rate,
        }
        return {
            "learning_rates": {group: np.float32(rate) for group, rate in learning_rates.items()},
            "epoch": self._epoch_of_rates(epoch, first_step, num_steps),
            "full_embedding": np.bool_(full),
            "memory": np.bool_(epoch >= self.config.loss.memory_from_epoch),
        }

    def is_finished(self, progress: Progress) -> bool:
        """Returns whether all is trained, or validation has stopped the run early."""
        return self._is_end(progress) or self.ends_early(progress)

    def ends_early(self, progress: Progress) -> bool:
        """Returns whether validation has stopped the run: too many evaluations without a gain."""
        return 0 < self.config.train.stop_after <= progress.evaluations_without_gain

    def evaluates_after(self, progress: Progress) -> bool:
        """Returns whether the network is scored after an epoch, with the progress then."""
        return self._is_due(self.config.eval.every_epochs, progress)

    def saves_after(self, progress: Progress) -> bool:
        """Returns whether a checkpoint is saved after an epoch, whatever its scores are."""
        return self._is_due(self.config.checkpoint.every_epochs, progress)

    def _is_due(self, every_epochs: int, progress: Progress) -> bool:
        """Returns whether something happens after an epoch; with 0 after the last one only."""
        is_regular = every_epochs > 0 and progress.epoch % every_epochs == 0
        return self._is_end(progress) or is_regular

    def _is_end(self, progress: Progress) -> bool:
        if num_steps := self.config.train.num_steps:
            return progress.step == num_steps and not progress.epoch_step
        return progress.epoch == self.end

    def _epoch_of_rates(self, epoch: int, first_step: int, num_steps: int) -> dict[str, Any]:
        """Returns the "epoch" of `rates.of_step`.

        In a run of a number of steps, the schedule's epochs are equal parts of it, whatever the
        number of steps of an epoch is: the first begins with the run.
        """
        train = self.config.train
        if train.num_steps:
            length: Any = np.float32(train.num_steps / train.num_epochs)
            return {"number": np.float32(0), "first_step": np.int32(0), "num_steps": length}
        return {
            "number": np.float32(epoch),
            "first_step": np.int32(first_step),
            "num_steps": np.int32(num_steps),
        }
