"""A run of an experiment in its folder: new or continued, trained step by step, and saved."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dcjax.core.console import Console
from dcjax.core.errors import DivergedError, InputError
from dcjax.distributed import processes
from dcjax.division.division import Division
from dcjax.experiment import agreement, reporter, same_run, versions
from dcjax.experiment.build import Experiment
from dcjax.runs import query_scores, shared_workdirs, workdirs
from dcjax.runs.checkpoints import VALIDATION, Checkpoints
from dcjax.runs.progress import Progress, Scores, divergence_message
from dcjax.training import steps
from dcjax.training.state import TrainState


class Run:
    """The current state of a run.

    Attributes:
      state: the training state.
      division: the division in force; None before the first epoch.
      progress: finished epochs and steps, and the scores so far.
      scores: of the network as it is; None if it was trained after the last evaluation.
      validation: its scores of the validation classes, likewise; None also without them.
      step: steps trained, `state.step` on the host.
    """

    def __init__(self, experiment: Experiment, workdir: str) -> None:
        """Starts a run, or continues the one in `workdir`; all processes do it together.

        Raises:
          InputError: if processes differ, or the run in `workdir` is another one.
        """
        self._experiment, config = experiment, experiment.config
        shared_workdirs.check_shared(workdir)
        agreement.check_settings(config.to_dict())
        self._data = agreement.check_images(experiment.splits)
        self._folder = workdirs.on_disk(workdir)  # as of the curves
        self._checkpoints = Checkpoints(
            workdir,
            keep_latest=config.checkpoint.keep_latest,
            keep_best=config.checkpoint.keep_best,
            best_by=config.eval.best_by,
            validates=experiment.splits.validation is not None,
            on_failure=config.checkpoint.on_failure,
        )
        self.state: TrainState
        self.division: Division | None = None
        self.progress = Progress()
        self.scores: Scores | None = None
        self.validation: Scores | None = None
        self._all_finite = jax.jit(steps.is_finite)
        try:
            self._start_or_continue(workdir)
        except BaseException:
            self.close()
            raise
        self.step = int(self.state.step)
        self._saved = self.progress

    def close(self) -> None:
        """Waits until everything is written, and closes the checkpoints.

        Raises:
          FileError: if something could not be written and no error was raised for it yet.
        """
        self._checkpoints.close()

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to train."""
        return self._experiment.schedule.is_finished(self.progress)

    @property
    def is_best(self) -> bool:
        """Whether the current network has the best scores so far, of validation or of test."""
        progress = self.progress
        best = progress.best_epoch, progress.chosen_epoch
        return self.scores is not None and progress.epoch in best

    @property
    def is_saved(self) -> bool:
        """Whether a checkpoint, complete or being written, includes all steps so far."""
        now, saved = self.progress, self._saved
        return (now.epoch, now.epoch_step) == (saved.epoch, saved.epoch_step)

    def enter(self, division: Division) -> bool:
        """Puts a division into force; returns whether it is a new one."""
        processes.check_same("division", division.checksum)
        is_new = division is not self.division
        if is_new:
            self.state = self._experiment.enter_division(self.state, division)
            self.division = division
        return is_new

    def train_step(self, batch: dict[str, jax.Array], controls: dict[str, Any]) -> steps.Metrics:
        """Dispatches a training step; returns its metrics, which may not be computed yet."""
        experiment = self._experiment
        self.state, metrics = experiment.train_step(
            self.state, batch, controls, experiment.training_key
        )
        self.step += 1
        self.scores = self.validation = None
        return metrics

    def validate(self) -> Scores | None:
        """Returns the scores of the validation classes by the current network; None without them.

        They are known before the test classes are scored: whether an epoch is the last one depends
        on them alone.
        """
        reader = self._experiment.readers.validation
        if reader is None:
            return None
        return self._experiment.network.validate(reader, self.state.evaluated_variables)

    def is_last(self, validation: Scores | None) -> bool:
        """Returns whether nothing is left to train after an epoch with these scores."""
        return self._experiment.schedule.is_finished(self._after_epoch(validation))

    def evaluate(self, *, is_last: bool) -> Scores:
        """Returns the scores of the current network, after an epoch."""
        experiment, epoch = self._experiment, self.progress.epoch + 1

        def write(scores: Mapping[str, np.ndarray]) -> None:
            if processes.is_first():
                labels = experiment.splits.query.labels
                query_scores.write(self._folder, epoch, scores, labels)

        variables = self.state.evaluated_variables
        network, readers = experiment.network, experiment.readers.test
        return network.score(readers, variables, is_last=is_last, receive=write)

    def finish_epoch(self, scores: Scores | None, validation: Scores | None) -> None:
        """Ends an epoch, with its scores if it was evaluated."""
        self.progress, self.scores = self._after_epoch(validation), scores
        self.validation = validation
        if scores is not None:
            best_by = self._experiment.config.eval.best_by
            progress = self.progress = self.progress.with_scores(scores, best_by)
            if processes.is_first():
                chosen = progress.epoch, progress.best_epoch, progress.chosen_epoch
                query_scores.keep(self._folder, chosen)

    def _after_epoch(self, validation: Scores | None) -> Progress:
        progress = self.progress.after_epoch()
        if validation is None:
            return progress
        return progress.with_validation(validation, self._experiment.config.eval.best_by)

    def save(self, *, curves_size: int) -> str:
        """Starts to save a checkpoint.

        Args:
          curves_size: bytes of the curves written so far.

        Returns:
          Why a checkpoint could not be saved, if the run goes on without it; "" if it could.

        Raises:
          DivergedError: if the network is not finite.
          FileError: if it could not be saved, and the run has to stop.
        """
        if not self._all_finite(self.state):
            raise DivergedError(divergence_message(f"The network after step {self.step}"))
        if self.division is None:
            raise RuntimeError("A run without a division has nothing to save.")
        self.progress = dataclasses.replace(self.progress, curves_size=curves_size)
        meta = {
            "format": versions.current(),
            "progress": dataclasses.asdict(self.progress),
            "config": self._experiment.config.to_dict(),
            "data": self._data,
        }
        validation = {f"{VALIDATION}{name}": x for name, x in (self.validation or {}).items()}
        scores = None if self.scores is None else self.scores | validation
        failure = self._checkpoints.save(self.state, self.division, meta, scores)
        self._saved = self.progress
        return failure

    def wait(self) -> None:
        """Waits until the last checkpoint is written.

        Raises:
          FileError: if it could not be.
        """
        self._checkpoints.wait()

    def _start_or_continue(self, workdir: str) -> None:
        latest = self._checkpoints.latest
        # A host may see a shared folder as it was half a minute ago.
        processes.check_same("last checkpoint", latest or 0)
        if latest is None:
            self._start(workdir)
        else:
            self._continue(workdir, latest)

    def _start(self, workdir: str) -> None:
        reporter.check_new(self._experiment.config, workdir)
        say = Console(quiet=not processes.is_first()).print_line
        weights = self._experiment.load_pretrained(say)
        agreement.check_arrays("published weights", weights)
        self.state = self._experiment.create_state(weights)

    def _continue(self, workdir: str, number: int) -> None:
        config, meta = self._experiment.config, self._checkpoints.meta(number)
        saved = same_run.saved_settings(meta, workdir, config.to_dict())
        same_run.check_same(config.to_dict(), saved, workdir)
        same_run.check_same_data(self._data, meta["data"], workdir)
        self.progress = Progress(**meta["progress"])
        if 0 < (end := self._experiment.schedule.end) < self.progress.epoch:
            setting = "until_epoch" if config.train.until_epoch else "num_epochs"
            raise InputError(
                f"{workdir} holds a run of {self.progress.epoch} epochs already, got "
                f"train.{setting}={end}; evaluate it, or ask for more."
            )
        self.state, self.division = self._checkpoints.restore(
            number, self._experiment.abstract_state
        )
        self.progress = dataclasses.replace(self.progress, step=int(self.state.step))
