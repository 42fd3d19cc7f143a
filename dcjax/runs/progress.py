"""Training progress: epoch, step, best score, and the log of recent steps."""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from dcjax.core.errors import DivergedError
from dcjax.runs.curves import Scalars

Scores = dict[str, float]


def divergence_message(what: str) -> str:
    """Returns the message of a run that has diverged."""
    return (
        f"{what} is not finite; the run stops, and its last checkpoint is kept. Lower "
        "optimizer.learning_rate, or look at the images and the loss."
    )


@dataclasses.dataclass(frozen=True)
class Progress:
    """Training progress: epoch, step and best scores.

    Attributes:
      epoch: number of finished epochs, and so of the next one, counted from 0.
      epoch_step: steps of that next epoch that are done.
      scores: of the last evaluation.
      best_epoch: finished epochs when the score `eval.best_by` was highest on the test classes.
      best_scores: the scores then.
      curves_size: bytes of the curves written.
      validation_scores: of the last evaluation, on the validation classes; {} without them.
      chosen_epoch: finished epochs when the score `eval.best_by` was highest on these; 0 without.
      chosen_scores: the scores then, on the test classes.
      chosen_validation_scores: and on the validation classes.
      evaluations_without_gain: since that score was higher than ever before.
      step: steps trained in all; 0 in checkpoints of older versions.
    """

    epoch: int = 0
    epoch_step: int = 0
    scores: Scores = dataclasses.field(default_factory=dict)
    best_epoch: int = 0
    best_scores: Scores = dataclasses.field(default_factory=dict)
    curves_size: int = 0
    validation_scores: Scores = dataclasses.field(default_factory=dict)
    chosen_epoch: int = 0
    chosen_scores: Scores = dataclasses.field(default_factory=dict)
    chosen_validation_scores: Scores = dataclasses.field(default_factory=dict)
    evaluations_without_gain: int = 0
    step: int = 0

    def describe(self, *, num_steps: int = 0, num_epochs: int = 0) -> str:
        """Says how far the run is: "after epoch 2", "in epoch 3, after 23 of 46 steps".

        Args:
          num_steps: of the epoch under way; 0: not known.
          num_epochs: of the run, "after epoch 2 of 8"; 0: not said.
        """
        of_epochs = f" of {num_epochs}" if num_epochs else ""
        if not self.epoch_step:
            return f"after epoch {self.epoch}{of_epochs}"
        of_steps = f" of {num_steps}" if num_steps else ""
        return f"in epoch {self.epoch + 1}{of_epochs}, after {self.epoch_step}{of_steps} steps"

    @property
    def first_step(self) -> int:
        """Steps trained before the next epoch."""
        return self.step - self.epoch_step

    def after_epoch(self) -> "Progress":
        """Returns the progress when all steps of the next epoch are done."""
        return dataclasses.replace(self, epoch=self.epoch + 1, epoch_step=0)

    def with_validation(self, scores: Scores, best_by: str) -> "Progress":
        """Returns the progress after a validation at the end of an epoch, before `with_scores`."""
        before = self.chosen_validation_scores.get(best_by, -math.inf)
        gains = scores[best_by] > before
        new = dataclasses.replace(
            self,
            validation_scores=scores,
            evaluations_without_gain=0 if gains else self.evaluations_without_gain + 1,
        )
        if gains or scores[best_by] == before:  # of equal scores the later one, as below
            new = dataclasses.replace(new, chosen_epoch=self.epoch, chosen_validation_scores=scores)
        return new

    def with_scores(self, scores: Scores, best_by: str) -> "Progress":
        """Returns the progress after an evaluation of the test classes at the end of an epoch."""
        new = dataclasses.replace(self, scores=scores)
        if self.chosen_epoch == self.epoch:
            new = dataclasses.replace(new, chosen_scores=scores)
        # Of equal scores the later one, as the checkpoints keep it.
        if scores[best_by] >= self.best_scores.get(best_by, -math.inf):
            new = dataclasses.replace(new, best_epoch=self.epoch, best_scores=scores)
        return new


class StepLog:
    """Metrics of the steps of an epoch, each read after the next step has been dispatched."""

    def __init__(
        self, scalars: Scalars, *, every_steps: int, done: int, advance: Callable[[float], None]
    ) -> None:
        """Starts a log.

        Args:
          scalars: the curves, which get means over `every_steps` steps.
          every_steps: steps of a point.
          done: steps of the epoch that were trained before the run was continued.
          advance: called with the loss of each step.
        """
        self._scalars = scalars
        self._every_steps = every_steps
        self._advance = advance
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._rows: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.done = done

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step that may still run, and reads those of the step before."""
        self.read()
        self._pending = (step, metrics)
        self.done += 1

    def read(self) -> None:
        """Reads the pending metrics.

        Raises:
          DivergedError: if its loss is not finite.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        row = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(row["loss"]):
            raise DivergedError(divergence_message(f"The loss of step {step}, {row['loss']},"))
        self.losses.append(row["loss"])
        self._advance(row["loss"])
        self._rows.append(row)
        if step % self._every_steps == 0:
            self._write(step)

    def finish(self) -> None:
        """Reads the last metrics, and writes the mean of the steps since the last point."""
        step = self._pending[0] if self._pending else 0
        self.read()
        if self._rows:
            self._write(step)

    def _write(self, step: int) -> None:
        names = self._rows[0]
        means = {name: float(np.mean([row[name] for row in self._rows])) for name in names}
        self._scalars.write(step, means, group="train")
        self._rows = []
