"""Trains by progressive division (P21 section 3); reads from top to bottom."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import jax
from ml_collections import ConfigDict

from dcjax.core import streams
from dcjax.core.console import Console
from dcjax.core.errors import DivergedError, InputError
from dcjax.core.streams import DeviceStream
from dcjax.data.datasets import Splits
from dcjax.distributed import devices, processes
from dcjax.division.division import Division
from dcjax.experiment import (
    agreement,
    build,
    checks,
    epochs,
    inputs,
    reporter,
    same_run,
    schedule,
    settings,
    versions,
)
from dcjax.experiment.reporter import Reporter
from dcjax.models.masked_embedder import MaskedEmbedder
from dcjax.runs import shared_workdirs, workdirs
from dcjax.runs.checkpoints import Checkpoints, is_there
from dcjax.runs.preemption import Stopped, StopRequest
from dcjax.runs.profiling import Profile
from dcjax.runs.progress import Progress, Scores, not_finite
from dcjax.training import state, steps


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
    settings.check(config)
    with StopRequest() as stop:
        try:
            stop.allow()
            mesh, splits, num_skipped = _load(config, workdir)
            with shared_workdirs.locked(workdir), contextlib.ExitStack() as opened:
                return _train(
                    config, workdir, mesh, splits, num_skipped, stop, opened, profiled=profiled
                )
        except Stopped:
            stop.defer()
            reporter.show_not_begun(stop.requested)
            return None


def _load(config: ConfigDict, workdir: str) -> tuple[jax.sharding.Mesh, Splits, int]:
    """Checks all that can be checked before anything is written, and loads the image sets.

    Returns:
      The mesh of devices, the image sets, and the number of images left out.
    """
    mesh = devices.create_mesh(cluster_parallel=config.devices.cluster_parallel)
    checks.check_training(config, mesh)
    workdirs.check(workdir, saving=True)
    if not is_there(workdir):
        checks.check_present(config)
    splits, num_skipped = inputs.load_splits(config)
    checks.check_data(config, splits)
    return mesh, splits, num_skipped


def _train(
    config: ConfigDict,
    workdir: str,
    mesh: jax.sharding.Mesh,
    splits: Splits,
    num_skipped: int,
    stop: StopRequest,
    opened: contextlib.ExitStack,
    *,
    profiled: bool,
) -> Scores | None:
    """Trains in a folder that no other run has; raises `Stopped` if there is nothing to save.

    `opened` closes in the end, however it comes, what is opened on the way.
    """
    data = same_run.fingerprints(splits)
    shared_workdirs.check_shared(workdir)
    agreement.check_settings(config)
    agreement.check_images(splits)
    model = build.create_model(config)
    loss = build.create_loss(config, splits.train.num_classes)
    optimizer = build.create_optimizer(config)
    replicated, batch_shardings = devices.replicated(mesh), devices.batch_shardings(mesh)
    like = build.state_shapes(config, model, loss, optimizer, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, like)
    draw = functools.partial(build.create_state, config, model, loss, optimizer)

    checkpoints = Checkpoints(
        workdir,
        keep_latest=config.checkpoint.keep_latest,
        keep_best=config.checkpoint.keep_best,
        best_by=config.eval.best_by,
        on_failure=config.checkpoint.on_failure,
    )
    opened.callback(checkpoints.close)
    run, clusters, progress = _begun(
        config, workdir, checkpoints, data, like, create_state=draw, model=model
    )
    step = int(run.step)

    report = Reporter(config, workdir, step, progress)
    opened.callback(report.close)
    report.start(splits, num_skipped, run, progress)
    if progress.epoch == config.train.num_epochs:
        report.finished(progress)
        return progress.scores

    read = inputs.create_readers(config, splits, mesh)
    embed = build.create_embed(config, model, mesh, read)
    train_step = build.create_train_step(config, model, loss, optimizer, mesh, shardings)
    renew = state.create_renew(
        optimizer,
        shardings,
        max_clusters=config.division.max_clusters,
        kind=config.model.masks,
    )
    draw_key = functools.partial(streams.device_key, config.seed, DeviceStream.TRAINING)
    key = jax.jit(draw_key, out_shardings=replicated)()
    traced = workdirs.on_disk(workdir) / "profile" if profiled and processes.is_first() else None
    profile = Profile(traced)
    opened.callback(profile.close)
    all_finite = jax.jit(steps.is_finite)
    scores: Scores | None = None  # of the network as it is
    saved = progress

    def save(division: Division) -> None:
        nonlocal progress, saved
        if not all_finite(run):
            raise DivergedError(not_finite(f"The network after step {step}"))
        progress = dataclasses.replace(progress, curves_size=report.curves_size)
        meta = {
            "format": versions.current(),
            "progress": dataclasses.asdict(progress),
            "config": config.to_dict(),
            "data": data,
        }
        if failure := checkpoints.save(run, division, meta, scores):
            report.not_saved(failure)
        saved = progress

    host = opened.enter_context(_host_thread())
    prepare = functools.partial(epochs.prepare, config, splits, read, embed, host)
    try:
        with report.spending("division"):
            upcoming = prepare(progress, clusters, run)
        if step == 0 and config.eval.at_start:
            with report.spending("evaluation"):
                untrained = build.score_untrained(config, splits, embed, run.variables)
            report.before_training(untrained)
        for epoch in range(progress.epoch, config.train.num_epochs):
            with report.spending("division"):
                prepared = upcoming()
            stop.defer()  # a step is not interrupted: what is saved comes after a complete one
            previous = clusters
            clusters, plan, batches = prepared
            processes.check_same("division", clusters.checksum)
            if clusters is not previous:
                run = renew(run, clusters)
                report.division(step, clusters, previous, splits.train.labels)

            controls = devices.place(schedule.controls(config, epoch), replicated)
            # No step may wait for an array to go to the devices or to come from them unasked.
            waitless = jax.transfer_guard("disallow")
            with report.epoch(epoch, plan, done=progress.epoch_step) as log, waitless:
                for batch in devices.prefetch(batches, batch_shardings):
                    run, metrics = train_step(run, batch, controls, key)
                    scores = None
                    step += 1
                    log.add(step, metrics)
                    profile.step(metrics)
                    if stop.asks_to_stop():
                        break
            progress = dataclasses.replace(progress, epoch=epoch, epoch_step=log.done)
            if stop.requested:
                raise Stopped

            is_due = schedule.is_due(config, config.checkpoint.every_epochs, epoch)
            if is_due and jax.process_count() > 1:
                save(clusters)  # what follows may take longer than the notice that a job gets
            stop.allow()
            after = dataclasses.replace(progress, epoch=epoch + 1, epoch_step=0)
            if after.epoch < config.train.num_epochs:
                with report.spending("division"):
                    upcoming = prepare(after, clusters, run)
            found = None
            if schedule.is_due(config, config.eval.every_epochs, epoch):
                with report.spending("evaluation"):
                    found = build.score(config, splits, embed, run.variables, epoch)
            stop.defer()
            progress, scores = after, found
            if scores is not None:
                progress = progress.evaluated(scores, config.eval.best_by)
                report.evaluation(step, progress)
            is_best = scores is not None and progress.best_epoch == progress.epoch
            if is_best or is_due:
                save(clusters)
            if progress.epoch < config.train.num_epochs:
                if stop.asks_to_stop():
                    raise Stopped
                stop.allow()
    except Stopped:
        stop.defer()
        if clusters is None:  # of a run without a step
            raise
        if (progress.epoch, progress.epoch_step) != (saved.epoch, saved.epoch_step):
            save(clusters)
        checkpoints.wait()
        report.stopped(stop.requested, progress)
        return None
    checkpoints.wait()
    profile.close()
    report.finished(progress)
    report.profile(profile)
    return progress.scores


@contextlib.contextmanager
def _host_thread() -> Iterator[Executor]:
    """A thread that nobody waits for in the end: its K-means may take hours."""
    host = ThreadPoolExecutor(1)
    try:
        yield host
    finally:
        host.shutdown(wait=False, cancel_futures=True)


def _begun(
    config: ConfigDict,
    workdir: str,
    checkpoints: Checkpoints,
    data: dict[str, dict[str, int]],
    like: state.TrainState,
    *,
    create_state: Callable[[build.Weights | None], state.TrainState],
    model: MaskedEmbedder,
) -> tuple[state.TrainState, Division | None, Progress]:
    """Returns the state, the clusters and the progress of a new run, or of the one in workdir."""
    # Of a shared folder too, what a host sees may be half a minute old.
    processes.check_same("last checkpoint", checkpoints.latest_step or 0)
    if (latest := checkpoints.latest_step) is None:
        reporter.check_new(config, workdir)
        say = Console(quiet=not processes.is_first()).line
        weights = build.load_pretrained(config, model, say)
        agreement.check_arrays("published weights", weights)
        shardings = jax.tree.map(lambda x: x.sharding, like)
        return jax.jit(create_state, out_shardings=shardings)(weights), None, Progress()
    meta = checkpoints.meta(latest)
    same_run.check_same(config, same_run.saved_settings(meta, workdir, config), workdir)
    same_run.check_same_data(data, meta["data"], workdir)
    progress = Progress(**meta["progress"])
    if progress.epoch > config.train.num_epochs:
        raise InputError(
            f"{workdir} holds a run of {progress.epoch} epochs already, got "
            f"train.num_epochs={config.train.num_epochs}; evaluate it, or ask for more."
        )
    return *checkpoints.restore(latest, like), progress
