"""Trains by progressive division (P21 section 3); reads from top to bottom."""

import contextlib
import dataclasses
import functools

import jax
from ml_collections import ConfigDict

from dcjax import (
    checks,
    devices,
    division,
    experiment,
    pipeline,
    sampling,
    schedule,
    state,
    steps,
)
from dcjax.checkpoints import Checkpoints
from dcjax.datasets import Splits
from dcjax.preemption import StopRequest
from dcjax.progress import Progress, Scores, not_finite
from dcjax.reporting import Reporter


def train(config: ConfigDict, workdir: str) -> Scores | None:
    """Trains, or continues a run that was stopped, and evaluates.

    Args:
      config: the experiment, see configs/default.py.
      workdir: folder for checkpoints, curves and scores; a run in it is continued.

    Returns:
      The scores after the last epoch; None if the run was asked to stop before.

    Raises:
      ValueError: before anything compiles, if config, data or workdir do not allow the run.
      FloatingPointError: if the loss is not finite.
    """
    mesh = devices.create_mesh()
    checks.check_training(config, mesh)
    splits, num_skipped = experiment.load_splits(config)
    checks.check_data(config, splits)
    data = checks.fingerprint(splits.train)
    model = experiment.create_model(config)
    loss = experiment.create_loss(config, splits.train.num_classes)
    optimizer = experiment.create_optimizer(config)
    augment = experiment.create_augment(config)
    replicated, batch_shardings = devices.replicated(mesh), devices.batch_shardings(mesh)

    checkpoints = Checkpoints(
        workdir,
        keep_latest=config.checkpoint.keep_latest,
        keep_best=config.checkpoint.keep_best,
        best_by=config.eval.best_by,
    )
    progress, clusters = Progress(), None
    if (latest := checkpoints.latest_step) is None:
        weights = experiment.load_pretrained(config, model)
        run = experiment.create_state(config, model, loss, optimizer, weights)
        run = jax.device_put(run, replicated)
    else:
        meta = checkpoints.meta(latest)
        checks.check_same(config, meta["config"], workdir)
        checks.check_same_data(data, meta["data"], workdir)
        progress = Progress(**meta["progress"])
        if progress.epoch > config.train.num_epochs:
            raise ValueError(
                f"{workdir} holds a run of {progress.epoch} epochs already, got "
                f"train.num_epochs={config.train.num_epochs}; evaluate it, or ask for more."
            )
        run = experiment.create_state(config, model, loss, optimizer, None)
        run, clusters = checkpoints.restore(latest, jax.device_put(run, replicated))
    step = int(run.step)

    embed = experiment.create_embed(config, model, mesh)
    train_step = jax.jit(
        functools.partial(
            steps.train_step,
            model=model,
            loss=loss,
            optimizer=optimizer,
            orthogonality_weight=experiment.orthogonality_weight(config),
        ),
        in_shardings=(replicated, batch_shardings, replicated, replicated),
        out_shardings=replicated,
        donate_argnums=0,
    )
    key = jax.device_put(jax.random.fold_in(jax.random.key(config.seed), 1), replicated)

    report = Reporter(config, workdir, step, progress)
    report.start(splits, num_skipped, run, progress)
    all_finite = jax.jit(steps.is_finite)
    with StopRequest() as stop, contextlib.closing(checkpoints), contextlib.closing(report):
        if step == 0 and config.eval.at_start:
            untrained = experiment.score_untrained(config, splits, embed, run.variables)
            report.before_training(untrained)
        for epoch in range(progress.epoch, config.train.num_epochs):
            if clusters is None or clusters.period < schedule.period(config, epoch):
                previous = clusters
                clusters = _divide(config, splits, epoch, previous, embed, run)
                if clusters.num_clusters > run.num_clusters:
                    run = state.rebuild_masks(
                        run, optimizer, parents=clusters.parents, kind=config.model.masks
                    )
                    run = jax.device_put(run, replicated)
                report.division(step, clusters, previous)

            plan = sampling.plan_epoch(
                clusters, splits.train.labels, seed=config.seed, epoch=epoch, **config.sampling
            )
            batches = pipeline.train_batches(
                splits.train,
                plan,
                augment=augment,
                seed=config.seed,
                epoch=epoch,
                num_threads=experiment.num_threads(config),
                first_step=progress.epoch_step,
            )
            controls = jax.device_put(schedule.controls(config, epoch), replicated)
            with report.epoch(epoch, plan, done=progress.epoch_step) as log:
                for batch in devices.prefetch(batches, batch_shardings):
                    run, metrics = train_step(run, batch, controls, key)
                    step += 1
                    log.add(step, metrics)
                    if stop.requested:
                        break

            scores = None
            if stop.requested or log.done < len(plan.rows):
                # Also after the last step of an epoch: its evaluation may take longer than the
                # notice that a job gets, and is made when the run goes on.
                progress = dataclasses.replace(progress, epoch=epoch, epoch_step=log.done)
            else:
                progress = dataclasses.replace(progress, epoch=epoch + 1, epoch_step=0)
                if schedule.is_due(config, config.eval.every_epochs, epoch):
                    scores = experiment.score(config, splits, embed, run.variables, epoch)
                    progress = progress.evaluated(scores, config.eval.best_by)
                    report.evaluation(step, progress)
            is_best = scores is not None and progress.best_epoch == progress.epoch
            is_due = schedule.is_due(config, config.checkpoint.every_epochs, epoch)
            if is_best or is_due or stop.requested:
                if not all_finite(run):
                    raise FloatingPointError(not_finite(f"The network after step {step}"))
                progress = dataclasses.replace(progress, curves_size=report.curves_size)
                meta = {
                    "progress": dataclasses.asdict(progress),
                    "config": config.to_dict(),
                    "data": data,
                }
                checkpoints.save(run, clusters, meta, scores)
            if stop.requested and progress.epoch < config.train.num_epochs:
                checkpoints.wait()
                report.stopped(stop.requested, progress)
                return None
        checkpoints.wait()
        report.finished(progress)
    return progress.scores


def _divide(
    config: ConfigDict,
    splits: Splits,
    epoch: int,
    previous: division.Division | None,
    embed: experiment.EmbedImages,
    run: state.TrainState,
) -> division.Division:
    """Divides the training set as the schedule says for this epoch."""
    settings, labels = config.division, splits.train.labels
    period = schedule.period(config, epoch)
    num_clusters = schedule.num_clusters(config, epoch)
    if num_clusters == 1:
        return division.undivided(labels, period=period)
    features = embed(splits.train, variables=run.variables, output=settings.features)
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
    )
