"""Reports a run: lines, tables and a progress bar on the terminal, curves and scores in files."""

import contextlib
import json
import math
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

import dcjax
from dcjax.analysis import effects
from dcjax.core import plugins, programs
from dcjax.core.console import Console, score_heading
from dcjax.core.errors import InputError
from dcjax.data import datasets
from dcjax.data.datasets import ImageSet, Splits, duplicates
from dcjax.distributed import processes
from dcjax.division import division, host_kmeans, sampling
from dcjax.division.sampling import Plan
from dcjax.experiment import cameras, parts, same_run, sentences, versions
from dcjax.experiment.schedule import Schedule
from dcjax.retrieval.evaluation import RERANKED
from dcjax.runs import curves, startup, times, workdirs
from dcjax.runs.curves import Scalars
from dcjax.runs.profiling import Profile
from dcjax.runs.progress import Progress, Scores, StepLog
from dcjax.runs.startup import StartUp
from dcjax.runs.times import Times
from dcjax.training.state import TrainState

_SHOWN_SIZES = 16  # clusters whose sizes fit into a line
_SHOWN_SHARE = 0.001  # least share of single-class batches that is reported
_SHOWN_CLASSES = 3
_UNTRAINED = "backbone features"  # a row of the table before training
_CONFIG, _SCORES = "config.json", "scores.json"
_CURVES = ("metrics.jsonl", "tensorboard", "profile")


def show_scores(console: Console, title: str, rows: Mapping[str, Scores], best_by: str) -> None:
    """Prints rows of scores: first the one that selects the best epoch, then NMI and the others.

    Those after re-ranking are a row of their own.
    """

    def order(scores: Scores) -> Scores:
        leading = [name for name in (best_by, "nmi") if name in scores]
        return {name: scores[name] for name in dict.fromkeys([*leading, *scores])}

    separate: dict[str, Scores] = {}
    for name, scores in rows.items():
        of_name = {key: x for key, x in scores.items() if not key.startswith(RERANKED)}
        anew = {
            key.removeprefix(RERANKED): x for key, x in scores.items() if key.startswith(RERANKED)
        }
        separate |= {name: of_name} | ({f"{name}, re-ranked": anew} if anew else {})
    console.print_scores(title, {name: order(scores) for name, scores in separate.items()})


def describe_protocol(evaluated: ConfigDict) -> str:
    """Returns the part of a title for a protocol other than all_vs_all."""
    if evaluated.protocol == "all_vs_all":
        return ""
    if evaluated.protocol == "cross_camera":
        return ", found from another camera"
    return f", a gallery of one image each, mean of {evaluated.gallery_draws}"


def check_new(config: ConfigDict, workdir: str) -> None:
    """Checks that a run that starts from the beginning overwrites no file of another one.

    Files of the same run, killed before its first checkpoint, are recognised by its config.json.

    Raises:
      InputError: on all processes, naming the files.
    """
    error = ""
    if processes.is_first():
        folder, curves = workdirs.absolute(workdir), workdirs.on_disk(workdir)
        paths = [folder / _CONFIG, folder / _SCORES, *(curves / name for name in _CURVES)]
        names = [path.name for path in paths if path.exists()]
        settings = config.to_dict()
        if names and (_SCORES in names or not _has_settings(folder / _CONFIG, settings)):
            error = (
                f"{workdir} has no checkpoint, but {', '.join(names)} of another run, or of this "
                "one with other settings, which a new run would overwrite; take another --workdir, "
                "or move them out of there."
            )
    if error := processes.first_message(error):
        raise InputError(error)


def _has_settings(path: epath.Path, settings: dict[str, Any]) -> bool:
    """Returns whether a file holds the settings of this run."""
    try:
        content = json.loads(path.read_text()) if path.is_file() else None
        saved = versions.parse(content, str(path), known=settings)
        same_run.check_same(settings, saved, str(path.parent))
    except (OSError, ValueError, RecursionError):
        return False
    return True


def show_early_stop(reason: str) -> None:
    """Prints that a run was stopped before it trained a step."""
    Console(quiet=not processes.is_first()).print_line(
        f"Stopped by {reason} before it trained a step; the same command starts again."
    )


class Reporter:
    """Reports one run to the terminal, `config.json`, `scores.json` and its curves and times.

    Of many processes, only the first one reports.
    """

    def __init__(self, config: ConfigDict, workdir: str, step: int, progress: Progress) -> None:
        """Opens the files of a run that continues from this step and progress."""
        self._config = config
        self._workdir = workdirs.as_path(workdir)
        self._is_first = processes.is_first()
        self._console = Console(quiet=not self._is_first)
        self._start_time = time.monotonic()
        self._seconds: dict[str, float] = {}
        is_finished = Schedule(config).is_finished(progress)
        if self._is_first and not is_finished:
            # Before all other files: it identifies a run that was killed early, see `check_new`.
            workdirs.write(self._workdir / _CONFIG, versions.dump(config.to_dict()))
        self._curves_failed = False
        self._num_steps = -1  # of the last epoch
        # Files that grow line by line cannot lie in a bucket.
        self._curves = workdirs.on_disk(workdir)
        self._scalars = Scalars(
            self._curves if self._is_first else None,
            step=step,
            size=progress.curves_size,
            lossy=config.checkpoint.on_failure == "go_on",
        )
        self._times = Times(self._curves if self._is_first else None)

    @property
    def curves_size(self) -> int:
        """Bytes of the curves written so far."""
        return self._scalars.size

    def close(self) -> None:
        """Closes the files."""
        self._scalars.close()

    def show_start(
        self, splits: Splits, num_skipped: int, run: TrainState, progress: Progress
    ) -> None:
        """Prints the data, model, loss, devices and schedule; records when and how it starts."""
        config, line = self._config, self._console.print_line
        is_finished = Schedule(config).is_finished(progress)
        if not is_finished:
            self._times.write(
                "start",
                step=int(run.step),
                command=programs.command(sys.argv),
                devices=_device_kinds(),
                num_devices=jax.device_count(),
                num_processes=jax.process_count(),
                host=platform.node(),
                versions={
                    "dcjax": dcjax.__version__,
                    "jax": jax.__version__,
                    "Python": platform.python_version(),
                },
            )
        summary = ", ".join(_summarize(*item) for item in splits.sets.items())
        dataset = config.dataset
        is_part = "complete" in datasets.known_options(dataset.name) and not dataset.complete
        part = " (may be a part of it: dataset.complete=False)" if is_part else ""
        line(f"data      {dataset.name}{part}: {summary}")
        if num_skipped:
            total = num_skipped + sum(map(len, splits.sets.values()))
            line(
                f"left out  {num_skipped:,} of {total:,} images that cannot be read; "
                "--mode=check_data names them"
            )
        test = splits.test_sets
        labels, seen = [x.labels for x in test], [x.cameras for x in test]
        for note in cameras.notes(labels, seen, config.eval):
            line(note)
        similar = duplicates.similar_classes(splits)
        for again, first in similar[:_SHOWN_CLASSES]:
            both = duplicates.describe_similar(splits, again, first)
            line(
                f"          classes {both} differ in spaces, letter case or Unicode form only: if "
                "they are one, rename one"
            )
        if len(similar) > _SHOWN_CLASSES:
            more = len(similar) - _SHOWN_CLASSES
            line(f"          ... and {more} more such classes; --mode=check_data lists all")
        size = sum(leaf.size for leaf in jax.tree.leaves(run.params)) / 1e6
        model = config.model
        backbone = model.backbone
        if splits.query.num_features:
            backbone = f"features of {splits.query.num_features} numbers, no backbone"
        line(
            f"model     {backbone}, {size:.2f} M parameters, from "
            f"{model.pretrained or 'random weights'}; embedding {model.embedding_dim}, "
            f"masks {model.masks}{_trained_part(model)}"
        )
        loss = config.loss
        options = loss.custom if plugins.is_custom(loss.name) else loss[loss.name]
        miner = f", miner {options['miner']}" if "miner" in options else ""
        kept = f", memory of {loss.memory_size} images" if loss.memory_size else ""
        line(f"loss      {loss.name}{miner}{kept}")
        kinds = ", ".join(_device_kinds())
        count, parallel = jax.process_count(), config.devices.cluster_parallel
        side_by_side = f"; {parallel} cluster batches side by side" if parallel > 1 else ""
        line(
            f"devices   {jax.device_count()} ({kinds}), {count} process{'es' if count > 1 else ''}"
            f"{side_by_side}"
        )
        sampled = config.sampling
        per_step = sampled.batch_size * sampled.clusters_per_step
        about = "" if sampled.epoch_steps else "about "
        num_steps = sampled.epoch_steps or max(1, len(splits.train) // per_step)
        length = f"{Schedule(config).end} epochs of {about}{num_steps:,} steps"
        if config.train.num_steps:
            length = f"{config.train.num_steps:,} steps, {about}{num_steps:,} an epoch,"
        line(f"schedule  {length} of {per_step} images; {self._division_schedule()}")
        if splits.validation is not None:
            early = config.train.stop_after
            stops = f"; {early} evaluations without a gain end the run" if early else ""
            line(f"choice    by {config.eval.best_by} of the validation classes{stops}")
        line(f"workdir   {self._workdir}")
        if self._scalars.lost:
            line(
                f"curves    metrics.jsonl has lost {self._scalars.lost} bytes that were written "
                "before the last checkpoint; the curves have a gap"
            )
        if is_finished:
            line("finished  already; to score it in another way, use --mode=evaluate")
        elif run.step:
            line(f"continue  {progress.describe()}, at step {int(run.step)}")

    def _division_schedule(self) -> str:
        config = self._config
        schedule, every_epochs = Schedule(config), config.division.every_epochs
        starts: dict[int, int] = {}
        # A run of steps may end before it has all of these clusters.
        end = sys.maxsize if config.train.num_steps else config.train.num_epochs
        for epoch in range(0, end, every_epochs):
            starts.setdefault(schedule.num_clusters(epoch), epoch + 1)
            if config.division.max_clusters in starts:
                break
        if list(starts) == [1]:
            return "no division"
        steps = ", ".join(f"{count} from epoch {start}" for count, start in starts.items())
        grouping = "" if config.division.grouping == "kmeans" else f" by {config.division.grouping}"
        return f"clusters{grouping}: {steps}, divided anew every {every_epochs} epochs"

    def show_untrained(self, rows: Mapping[str, Scores]) -> None:
        """Shows the scores of the untrained network."""
        for name, scores in rows.items():
            self._scalars.write(0, scores, group=_group(name))
        self._show_table("Unseen classes before training", rows)

    def show_division(
        self,
        step: int,
        epoch: int,
        clusters: division.Division,
        previous: division.Division | None,
        labels: np.ndarray,
        figures: Mapping[str, float],
    ) -> None:
        """Prints a division of images with labels [N]: K, sizes, NMI with the previous one.

        Args:
          step: steps trained.
          epoch: epochs trained.
          clusters: the division.
          previous: the one before; None if there is none.
          labels: the classes [N].
          figures: those of `effects` that need more than the labels.
        """
        sizes = clusters.sizes
        left_out = int(np.sum(clusters.cluster < 0))
        values: dict[str, float] = {
            "num_clusters": clusters.num_clusters,
            "smallest": int(sizes.min()),
            "largest": int(sizes.max()),
            "left_out": left_out,
            "epoch": epoch,
            "agreement_with_labels": _agreement_with_labels(clusters, labels),
            **effects.label_figures(clusters, labels),
            **figures,
        }
        listed = " + ".join(f"{size:,}" for size in sizes[:_SHOWN_SIZES].tolist()) + (
            " + ..." if len(sizes) > _SHOWN_SIZES else ""
        )
        text = f"division  K = {clusters.num_clusters}, images {listed}"
        if left_out:
            text += f"; {left_out:,} of {len(labels):,} left out, alone of their class in a cluster"
        if previous is not None and previous.num_clusters > 1:  # with one, NMI is always 0
            values["agreement"] = division.agreement(clusters, previous)
            text += f"; NMI with the previous division {values['agreement']:.3f}"
        self._console.print_line(text)
        if clusters.num_clusters > 1:
            self._console.print_line(f"          {_describe_effects(values)}")
        sampled = self._config.sampling
        shares = sampling.one_class_shares(
            clusters, labels, batch_size=sampled.batch_size, sampler=sampled.sampler
        )
        share, most = float(shares[sizes > 0].mean()), int(shares.argmax())
        if share >= _SHOWN_SHARE:
            values["one_class_batches"] = share
            self._console.print_line(
                f"          {share:.1%} of the batches will hold a single class, and so no "
                f"negatives; of cluster {most} {shares[most]:.1%}"
            )
        self._scalars.write(step, values, group="division", lists={"sizes": sizes.tolist()})

    @contextlib.contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Measures the time that the block takes, for the summary at the end."""
        start_time = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start_time
            self._seconds[activity] = self._seconds.get(activity, 0.0) + seconds
            self._times.write("activity", activity=activity, seconds=round(seconds, 3))

    def show_start_up(self, start_up: StartUp, *, detailed: bool) -> None:
        """Prints and records where the seconds until the first step went.

        Args:
          start_up: which is over.
          detailed: whether to print a line for each stage, and the functions that took longest.
        """
        seconds, line = start_up.seconds(), self._console.print_line
        line(f"start     {startup.describe(seconds)}")
        rounded = {
            stage: {part: round(value, 3) for part, value in parts.items()}
            for stage, parts in seconds.items()
        }
        self._times.write("start_up", seconds=rounded)
        if not detailed:
            return
        for stage, spent in seconds.items():
            listed = ", ".join(f"{part} {value:.2f}" for part, value in spent.items())
            line(f"          {stage} {sum(spent.values()):.2f}: {listed}")
        slowest = start_up.slowest_functions().items()
        listed = ", ".join(f"{function} {value:.2f}" for function, value in slowest)
        line(f"          slowest to trace and compile, with what they call: {listed}")

    @contextlib.contextmanager
    def show_epoch(self, progress: Progress, plan: Plan) -> Iterator[StepLog]:
        """Shows the steps of the next epoch in a progress bar, and their mean loss in a line."""
        epoch, done, schedule = progress.epoch, progress.epoch_step, Schedule(self._config)
        label = f"epoch {epoch + 1}" + (f"/{schedule.end}" if schedule.end else "")
        per_step = math.prod(plan.shape[1:])
        self._num_steps = plan.num_steps
        start_time = time.monotonic()

        def rate() -> float:
            return len(log.losses) * per_step / (time.monotonic() - start_time)

        with (
            self.measure("training steps"),
            self._console.progress(label, total=plan.num_steps, done=done) as move,
        ):
            log = StepLog(
                self._scalars,
                every_steps=self._config.train.log_every_steps,
                done=done,
                advance=lambda loss: move(f"loss {loss:.4f}  {rate():.0f} images/s"),
            )
            yield log
            log.finish()
        self._show_curve_failure()
        if log.losses:
            self._times.write(
                "epoch", epoch=epoch, steps=len(log.losses), images_per_second=round(rate(), 3)
            )
        if log.losses and log.done == plan.num_steps:
            seconds = time.monotonic() - start_time
            left = schedule.epochs_left(plan, progress) * seconds / 60
            self._console.print_line(
                f"{label}  loss {np.mean(log.losses):.4f}  {rate():.0f} images/s  "
                f"{left:.0f} min of training left"
            )

    def show_evaluation(self, step: int, progress: Progress) -> None:
        """Shows the scores after an epoch."""
        epoch = progress.epoch
        rows = {f"epoch {epoch}": progress.scores}
        self._scalars.write(step, {**progress.scores, "epoch": epoch}, group="eval")
        if validation := progress.validation_scores:
            rows[f"epoch {epoch}, validation classes"] = validation
            self._scalars.write(step, {**validation, "epoch": epoch}, group="validation")
        self._show_table("Unseen classes", rows)

    def _show_curve_failure(self) -> None:
        """Prints once why points of the curves are missing."""
        if self._scalars.failure and not self._curves_failed:
            self._console.print_line(
                f"curves    {self._scalars.failure}; the run goes on without them."
            )
        self._curves_failed = bool(self._scalars.failure)

    def show_save_failure(self, failure: str) -> None:
        """Prints that the run goes on without a checkpoint."""
        self._console.print_line(f"not saved {failure} The run goes on.")

    def show_stop(self, reason: str, progress: Progress) -> None:
        """Prints that the run was stopped, and how to continue it."""
        rest = ""
        if progress.epoch_step == self._num_steps:
            progress, rest = progress.after_epoch(), ", which is still to be evaluated"
        place = progress.describe(num_steps=self._num_steps)
        self._console.print_line(
            f"Stopped by {reason} and saved {place}{rest}; the same command continues from there."
        )

    def show_result(self, progress: Progress) -> None:
        """Shows the result, and where its files are; writes `scores.json`."""
        points = times.read(self._curves / _CURVES[0])
        before = curves.last_values(points, _group(_UNTRAINED))
        ended_early = Schedule(self._config).ends_early(progress)
        if ended_early:
            self._console.print_line(
                f"ended     early: {progress.evaluations_without_gain} evaluations without a gain "
                f"in {self._config.eval.best_by} of the validation classes"
            )
        last, is_best = sentences.name_last(progress.epoch), progress.epoch == progress.best_epoch
        rows = {"before training": before} if before else {}
        rows[f"{last}, also the best" if is_best else last] = progress.scores
        if progress.chosen_scores:
            rows[sentences.name_chosen(progress.chosen_epoch)] = progress.chosen_scores
        if not is_best:
            rows[sentences.name_best(progress.best_epoch)] = progress.best_scores
        self._show_table("Result on unseen classes", rows)
        name, text = sentences.describe_recall(progress.chosen_scores or progress.scores, before)
        if name:
            self._console.print_line(f"in words  {text} ({score_heading(name)}).")
        if progress.chosen_scores:
            best = sentences.name_best(progress.chosen_epoch)
            rows = {last: progress.validation_scores, best: progress.chosen_validation_scores}
            self._show_table("Result on validation classes", rows)
        if self._times.failure:
            self._console.print_line(f"times     {self._times.failure}; they are incomplete.")
        self._show_times()
        result: dict[str, Any] = {
            "last": {"epoch": progress.epoch, **progress.scores},
            "best_test": {"epoch": progress.best_epoch, **progress.best_scores},
        }
        if progress.chosen_scores:
            best_epoch = {"epoch": progress.chosen_epoch}
            result["ended_early"] = ended_early
            result["stop_after"] = self._config.train.stop_after  # which may be raised later
            result["best"] = best_epoch | progress.chosen_scores
            result["last_validation"] = {"epoch": progress.epoch, **progress.validation_scores}
            result["best_validation"] = best_epoch | progress.chosen_validation_scores
        if self._is_first:
            workdirs.write(self._workdir / _SCORES, json.dumps(result, indent=1) + "\n")
        for name in ("checkpoints", _SCORES):
            self._console.print_line(f"wrote     {self._workdir / name}")
        for name in ("metrics.jsonl", "tensorboard"):
            self._console.print_line(f"wrote     {self._curves / name}")

    def _show_times(self) -> None:
        total = time.monotonic() - self._start_time
        times = {**self._seconds, "other": total - sum(self._seconds.values())}
        shares = ", ".join(f"{name} {seconds / total:.1%}" for name, seconds in times.items())
        self._console.print_line(f"time      {total:.0f} s: {shares}")

    def show_profile(self, profile: Profile) -> None:
        """Prints the share of time in which the devices idled, if a trace was wanted."""
        if profile.num_steps:
            share = profile.idle_share()
            idle = "(share not found in the trace)" if share is None else f"{share:.1%}"
            self._console.print_line(
                f"profile   devices idle {idle} of {profile.num_steps} steps and of what lay "
                f"between them; trace in {profile.folder}"
            )
        elif profile.folder:
            self._console.print_line("profile   none, the run ended too early")

    def _show_table(self, title: str, rows: Mapping[str, Scores]) -> None:
        show_scores(self._console, title, rows, self._config.eval.best_by)


def _device_kinds() -> list[str]:
    return sorted({device.device_kind for device in jax.devices()})


def _trained_part(model: ConfigDict) -> str:
    if model.train == "last_blocks":
        return f"; trained from block {model.last_blocks} from the end on"
    return "; the backbone is not trained" if parts.keeps_features(model) else ""


def _describe_effects(values: Mapping[str, float]) -> str:
    """Returns what a division does to learning, in words."""
    nearest = values.get("nearest_negative_ratio", math.nan)
    texts = [
        f"{values['separated_pairs']:.1%} of positive pairs are separated",
        f"{values['classes_per_cluster']:.1f} classes a cluster",
    ]
    if math.isfinite(nearest):
        side = "nearer" if nearest <= 1 else "farther"
        texts.append(f"the nearest negatives of a batch are {abs(1 - nearest):.1%} {side}")
    return "; ".join(texts)


def _agreement_with_labels(clusters: division.Division, labels: np.ndarray) -> float:
    """Returns the NMI of clusters and classes, over the images that are in a cluster."""
    is_in = clusters.cluster >= 0
    return host_kmeans.nmi(labels[is_in], clusters.cluster[is_in]) if is_in.any() else 0.0


def _summarize(name: str, images: ImageSet) -> str:
    return f"{name} {len(images):,} images of {len(np.unique(images.labels)):,} classes"


def _group(row: str) -> str:
    """Returns the group of the curves that holds the scores of a row before training."""
    return re.sub("[ ,]+", "_", row)
