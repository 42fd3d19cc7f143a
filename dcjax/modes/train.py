"""The training loop with progressive division (P21 section 3)."""

import dataclasses
import os
from contextlib import ExitStack, closing

import jax
from ml_collections import ConfigDict

from dcjax.distributed import devices
from dcjax.experiment import checks, inputs, parts, reporter
from dcjax.experiment.build import Experiment
from dcjax.experiment.epochs import Planner
from dcjax.experiment.reporter import Reporter
from dcjax.experiment.run import Run
from dcjax.runs import shared_workdirs, workdirs
from dcjax.runs.checkpoints import is_there
from dcjax.runs.preemption import Stopped, StopRequest
from dcjax.runs.profiling import Profile
from dcjax.runs.progress import Progress, Scores
from dcjax.runs.startup import StartUp
from dcjax.training.steps import Metrics


def train(
    config: ConfigDict, workdir: str, *, profiled: bool = False, start_up: StartUp | None = None
) -> Scores | None:
    """Trains, or continues a run that was stopped, and evaluates.

    With `train.refit`, a second run follows in a folder of its own, `refit_workdir`: the first one
    says how long it is. Each is continued by itself.

    Args:
      config: the experiment, see configs/default.py.
      workdir: folder for checkpoints, curves and scores; a run in it is continued.
      profiled: whether to trace some steps into `workdir`, see `profiling.Profile`, and to detail
        the start-up.
      start_up: of the program; None: it begins now.

    Returns:
      The scores after the last epoch, of the second run if there is one; None if the run was
      stopped before.

    Raises:
      InputError: before anything compiles, if config, data or workdir do not allow the run.
      FileError: if another run is under way in `workdir`, or something cannot be written.
      DivergedError: if the loss is not finite.
    """
    start_up = start_up or StartUp("imports")
    progress = _train_once(config, workdir, start_up, profiled=profiled)
    if progress is not None and config.train.refit:
        again = refit_settings(config, progress.chosen_epoch)
        start_up = StartUp("checks")
        progress = _train_once(again, refit_workdir(workdir), start_up, profiled=False)
    return None if progress is None else progress.scores


def refit_workdir(workdir: str) -> str:
    """Returns the folder of the run on all training classes that follows a run."""
    return os.path.join(workdir, "refit")


def refit_settings(config: ConfigDict, epoch: int) -> ConfigDict:
    """Returns the settings of the run on all training classes, until the chosen epoch."""
    again = config.copy_and_resolve_references()
    again.dataset.validation_unit = "none"
    again.train.until_epoch = epoch
    again.train.stop_after = 0
    again.train.refit = False
    if again.eval.select == "best":
        again.eval.select = "auto"
    return again


def _train_once(
    config: ConfigDict, workdir: str, start_up: StartUp, *, profiled: bool
) -> Progress | None:
    """Trains one run; returns where it ended, None if it was stopped before."""
    with StopRequest() as stop, closing(start_up):
        start_up.listen()
        start_up.enter("checks")
        try:
            stop.allow()
            # All checks that are possible before anything is written.
            mesh = checks.check_training(config)
            workdirs.check(workdir, saving=True)
            if not is_there(workdir):
                checks.check_present(config.model, config.dataset)
            start_up.enter("listing")
            splits, num_skipped = inputs.load_splits(config.dataset)
            checks.check_data(config, splits)
            experiment = Experiment(config, mesh, splits)
            with shared_workdirs.lock(workdir), ExitStack() as stack:
                start_up.enter("weights")
                run = Run(experiment, workdir)
                stack.callback(run.close)
                start_up.enter("reporting")
                report = Reporter(config, workdir, run.step, run.progress)
                stack.callback(report.close)
                report.show_start(splits, num_skipped, run.state, run.progress)
                profile = Profile.of_run(workdir, is_wanted=profiled)
                stack.callback(profile.close)
                return _train(experiment, run, report, profile, start_up, stop)
        except Stopped:
            stop.defer()
            reporter.show_early_stop(stop.requested)
            return None


def _train(
    experiment: Experiment,
    run: Run,
    report: Reporter,
    profile: Profile,
    start_up: StartUp,
    stop: StopRequest,
) -> Progress | None:
    """Trains in a locked folder; raises `Stopped` if there is nothing to save yet."""
    schedule = experiment.schedule
    with closing(Planner(experiment)) as planner:
        try:
            if not run.is_finished:
                _prepare(experiment, run, report, planner, start_up)
            while not run.is_finished:
                epoch = run.progress.epoch
                start_up.enter("division")
                with report.measure("division"):
                    planner.wait_for_division()
                start_up.enter("planning")
                with report.measure("planning"):
                    division, plan, batches, figures = planner.finish()
                stop.defer()  # from here on a stop waits until a step is complete
                previous = run.division
                if run.enter(division):
                    labels = experiment.splits.train.labels
                    report.show_division(run.step, epoch, division, previous, labels, figures)

                controls = schedule.controls(
                    epoch,
                    first_step=run.progress.first_step,
                    num_steps=plan.num_steps,
                )
                controls = devices.place(controls, experiment.replicated)
                start_up.enter("first batch")
                # Implicit transfers would make a step wait.
                no_transfers = jax.transfer_guard("disallow")
                with (
                    report.show_epoch(run.progress, plan) as log,
                    no_transfers,
                ):
                    for batch in devices.prefetch(batches, experiment.batch_shardings):
                        start_up.enter("first step")
                        metrics = run.train_step(batch, controls)
                        if not start_up.is_over:
                            _end_start_up(start_up, metrics, report, profile)
                        log.add(run.step, metrics)
                        profile.step(metrics)
                        if stop.asks_to_stop():
                            break
                run.progress = dataclasses.replace(run.progress, epoch_step=log.done, step=run.step)
                if stop.requested:
                    raise Stopped

                saves = schedule.saves_after(run.progress.after_epoch())
                if saves and jax.process_count() > 1 and not run.is_saved:
                    _save(run, report)  # evaluation may take longer than a job's grace period
                stop.allow()
                scores = validation = None
                evaluates = schedule.evaluates_after(run.progress.after_epoch())
                if evaluates:
                    with report.measure("evaluation"):
                        validation = run.validate()
                is_last = run.is_last(validation)
                if not is_last:
                    with report.measure("division"):
                        planner.begin(run.progress.after_epoch(), run.division, run.state)
                if evaluates:
                    with report.measure("evaluation"):
                        scores = run.evaluate(is_last=is_last)
                stop.defer()
                run.finish_epoch(scores, validation)
                if scores is not None:
                    report.show_evaluation(run.step, run.progress)
                if saves or is_last or run.is_best:
                    _save(run, report)
                if not run.is_finished:
                    if stop.asks_to_stop():
                        raise Stopped
                    stop.allow()
        except Stopped:
            stop.defer()
            if run.division is None:  # no step was trained
                raise
            if not run.is_saved:
                _save(run, report)
            run.wait()
            report.show_stop(stop.requested, run.progress)
            return None
    run.wait()
    profile.close()
    report.show_result(run.progress)
    report.show_profile(profile)
    return run.progress


def _prepare(
    experiment: Experiment, run: Run, report: Reporter, planner: Planner, start_up: StartUp
) -> None:
    """Begins to prepare the first epoch, and scores the untrained network if that is wanted.

    Features of a backbone that is not trained come first.
    """
    if parts.keeps_features(experiment.config.model):
        start_up.enter("features")
        with report.measure("features"):
            experiment.readers.make_features(run.state.variables)
    start_up.enter("division")
    with report.measure("division"):
        planner.begin(run.progress, run.division, run.state)
    start_up.enter("evaluation")
    if run.step == 0 and experiment.config.eval.at_start:
        with report.measure("evaluation"):
            untrained = experiment.score_untrained(run.state.variables)
        report.show_untrained(untrained)


def _end_start_up(start_up: StartUp, metrics: Metrics, report: Reporter, profile: Profile) -> None:
    """Waits for the first step, and reports where the seconds until then went."""
    jax.block_until_ready(metrics)
    start_up.close()
    report.show_start_up(start_up, detailed=profile.folder is not None)


def _save(run: Run, report: Reporter) -> None:
    if failure := run.save(curves_size=report.curves_size):
        report.show_save_failure(failure)
