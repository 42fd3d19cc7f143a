"""Trains by progressive division (P21 section 3); reads from top to bottom."""

import dataclasses
from contextlib import ExitStack, closing

import jax
from ml_collections import ConfigDict

from dcjax.distributed import devices
from dcjax.experiment import checks, inputs, reporter
from dcjax.experiment.build import Experiment
from dcjax.experiment.epochs import Planner
from dcjax.experiment.reporter import Reporter
from dcjax.experiment.run import Run
from dcjax.runs import shared_workdirs, workdirs
from dcjax.runs.checkpoints import is_there
from dcjax.runs.preemption import Stopped, StopRequest
from dcjax.runs.profiling import Profile
from dcjax.runs.progress import Scores


def train(config: ConfigDict, workdir: str, *, profiled: bool = False) -> Scores | None:
    """Trains, or continues a run that was stopped, and evaluates.

    Args:
      config: the experiment, see configs/default.py.
      workdir: folder for checkpoints, curves and scores; a run in it is continued.
      profiled: whether to trace some steps into `workdir`, see `profiling.Profile`.

    Returns:
      The scores after the last epoch; None if the run was asked to stop before.

    Raises:
      InputError: before anything compiles, if config, data or workdir do not allow the run.
      FileError: if another run is under way in `workdir`, or something cannot be written.
      DivergedError: if the loss is not finite.
    """
    with StopRequest() as stop:
        try:
            stop.allow()
            # All that can be checked before anything is written.
            mesh = checks.check_training(config)
            workdirs.check(workdir, saving=True)
            if not is_there(workdir):
                checks.check_present(config.model, config.dataset)
            splits, num_skipped = inputs.load_splits(config.dataset)
            checks.check_data(config, splits)
            experiment = Experiment(config, mesh, splits)
            with shared_workdirs.locked(workdir), ExitStack() as stack:
                run = Run(experiment, workdir)
                stack.callback(run.close)
                report = Reporter(config, workdir, run.step, run.progress)
                stack.callback(report.close)
                report.start(splits, num_skipped, run.state, run.progress)
                profile = Profile.of_run(workdir, is_wanted=profiled)
                stack.callback(profile.close)
                return _train(experiment, run, report, profile, stop)
        except Stopped:
            stop.defer()
            reporter.show_not_begun(stop.requested)
            return None


def _train(
    experiment: Experiment, run: Run, report: Reporter, profile: Profile, stop: StopRequest
) -> Scores | None:
    """Trains in a folder that no other run has; raises `Stopped` if there is nothing to save."""
    config, schedule = experiment.config, experiment.schedule
    with closing(Planner(experiment)) as planner:
        try:
            if not run.is_finished:
                _prepare(experiment, run, report, planner)
            for epoch in range(run.progress.epoch, config.train.num_epochs):
                with report.spending("division"):
                    division, plan, batches = planner.finish()
                stop.defer()  # a step is not interrupted: what is saved comes after a complete one
                previous = run.division
                if run.enter(division):
                    report.division(run.step, division, previous, experiment.splits.train.labels)

                controls = devices.place(schedule.controls(epoch), experiment.replicated)
                # No step may wait for an array to go to the devices or to come from them unasked.
                waitless = jax.transfer_guard("disallow")
                with report.epoch(epoch, plan, done=run.progress.epoch_step) as log, waitless:
                    for batch in devices.prefetch(batches, experiment.batch_shardings):
                        metrics = run.train_step(batch, controls)
                        log.add(run.step, metrics)
                        profile.step(metrics)
                        if stop.asks_to_stop():
                            break
                run.progress = dataclasses.replace(run.progress, epoch_step=log.done)
                if stop.requested:
                    raise Stopped

                saves = schedule.saves_after(epoch)
                if saves and jax.process_count() > 1 and not run.is_saved:
                    _save(run, report)  # what follows may take longer than a job's notice to stop
                stop.allow()
                if epoch + 1 < config.train.num_epochs:
                    with report.spending("division"):
                        planner.begin(run.progress.after_epoch(), run.division, run.state)
                scores = None
                if schedule.evaluates_after(epoch):
                    with report.spending("evaluation"):
                        scores = run.evaluate(epoch)
                stop.defer()
                run.finish_epoch(scores)
                if scores is not None:
                    report.evaluation(run.step, run.progress)
                if saves or run.is_best:
                    _save(run, report)
                if not run.is_finished:
                    if stop.asks_to_stop():
                        raise Stopped
                    stop.allow()
        except Stopped:
            stop.defer()
            if run.division is None:  # no step is trained
                raise
            if not run.is_saved:
                _save(run, report)
            run.wait()
            report.stopped(stop.requested, run.progress)
            return None
    run.wait()
    profile.close()
    report.finished(run.progress)
    report.profile(profile)
    return run.progress.scores


def _prepare(experiment: Experiment, run: Run, report: Reporter, planner: Planner) -> None:
    """Begins to prepare the first epoch, and scores the untrained network if that is wanted."""
    with report.spending("division"):
        planner.begin(run.progress, run.division, run.state)
    if run.step == 0 and experiment.config.eval.at_start:
        with report.spending("evaluation"):
            untrained = experiment.score_untrained(experiment.test_readers, run.state.variables)
        report.before_training(untrained)


def _save(run: Run, report: Reporter) -> None:
    if failure := run.save(curves_size=report.curves_size):
        report.not_saved(failure)
