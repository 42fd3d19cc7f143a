"""What a run has saved and recorded, with or without its images."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dcjax.division.division import Division
from dcjax.experiment import same_run
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.schedule import Schedule
from dcjax.runs import locks, times, workdirs
from dcjax.runs.checkpoints import Checkpoints
from dcjax.runs.progress import Progress

Point = Mapping[str, Any]

# Settings by which scores of one network differ.
_SCORED_BY = (
    *("dataset.test_list", "model.test_masks", "eval.protocol", "eval.gallery_draws"),
    *("eval.nmi_runs", "eval.kmeans"),
    *("eval.reranking.k1", "eval.reranking.k2", "eval.reranking.original_weight"),
)


@dataclasses.dataclass(frozen=True)
class Saved:
    """What the files of a run hold.

    Attributes:
      title: the run's folder, as it was given.
      config: as it was saved.
      progress: of the checkpoint that is reported.
      last: progress of the last checkpoint.
      number: of the checkpoint that is reported.
      is_last: whether it is the last one.
      is_under_way: whether the run goes on at this moment, as far as can be seen.
      division: in force at the checkpoint.
      curves: the points of `metrics.jsonl`.
      times: the records of `times.jsonl`.
    """

    title: str
    config: ConfigDict
    progress: Progress
    last: Progress
    number: int
    is_last: bool
    is_under_way: bool
    division: Division
    curves: Sequence[Point]
    times: Sequence[Point]

    @property
    def state(self) -> str:
        """Says whether the run is finished, or how far it is."""
        end = Schedule(self.config).end
        if not self.is_last and not self.is_choice:
            return f"this is a checkpoint {self.progress.describe(num_epochs=end)}"
        if Schedule(self.config).is_finished(self.last):
            return "finished"
        place = self.last.describe(num_epochs=end)
        newest = "this" if self.is_last else "it"
        state = f"it goes on; {newest} is {place}" if self.is_under_way else f"stopped {place}"
        if self.is_last:
            return state
        return f"{state}; this is its best epoch, {self.progress.epoch}"

    @property
    def is_choice(self) -> bool:
        """Whether the reported checkpoint is the best one by validation classes."""
        progress = self.progress
        return 0 < progress.epoch == self.last.chosen_epoch and not progress.epoch_step

    def is_scored_as(self, config: ConfigDict) -> bool:
        """Returns whether scores by a config compare with those that the run recorded."""
        saved, now = (same_run.flatten(x.to_dict()) for x in (self.config, config))
        return all(saved[name] == now[name] for name in _SCORED_BY)

    def points(self, group: str) -> list[Point]:
        """Returns the points of the curves that have values of a group, in order."""
        return [x for x in self.curves if any(key.startswith(f"{group}/") for key in x)]

    def epochs(self, points: Sequence[Point]) -> np.ndarray:
        """Returns the epochs trained at points of the curves [P], fractions between evaluations."""
        steps = np.array([point["step"] for point in points], float)
        known_steps, known_epochs = self._known_epochs
        if len(known_steps) > 1 and len(steps):  # goes on beyond the last at the same rate
            rate = (known_epochs[-1] - known_epochs[-2]) / (known_steps[-1] - known_steps[-2])
            end = max(steps.max(), known_steps[-1]) + 1
            known_epochs = np.append(
                known_epochs, known_epochs[-1] + rate * (end - known_steps[-1])
            )
            known_steps = np.append(known_steps, end)
        return np.interp(steps, known_steps, known_epochs)

    @functools.cached_property
    def _known_epochs(self) -> tuple[np.ndarray, np.ndarray]:
        """The steps at which the epoch is known, ascending, and these epochs."""
        known = {0: 0.0}
        for group, assumed in (
            ("division", self._division_epochs),
            ("eval", self._evaluated_epochs),
        ):
            points = self.points(group)
            # Runs of older versions did not record the epoch; it follows from their schedule.
            for point, epoch in zip(points, assumed[: len(points)], strict=False):
                known[point["step"]] = point.get(f"{group}/epoch", epoch)
        if not self.progress.epoch_step:
            known.setdefault(self.number, self.progress.epoch)
        steps = sorted(known)
        epochs = np.maximum.accumulate([float(known[step]) for step in steps])
        return np.array(steps, float), epochs

    @property
    def _division_epochs(self) -> list[int]:
        schedule = Schedule(self.config)
        epochs = range(self.config.train.num_epochs)
        return [e for e in epochs if e == 0 or schedule.period(e) != schedule.period(e - 1)]

    @property
    def _evaluated_epochs(self) -> list[int]:
        schedule = Schedule(self.config)
        epochs = range(1, self.config.train.num_epochs + 1)
        return [epoch for epoch in epochs if schedule.evaluates_after(Progress(epoch=epoch))]


def read(workdir: str, run: Embedder) -> Saved:
    """Reads what was saved with the checkpoint of an embedder; locks nothing.

    Args:
      workdir: of the run, or one of its checkpoints.
      run: restored from there.
    """
    folder, _ = workdirs.locate(workdir)
    on_disk = workdirs.on_disk(str(folder))
    checkpoints = Checkpoints(str(folder), read_only=True)
    last, meta = checkpoints.number("last"), checkpoints.meta(run.checkpoint)
    settings = same_run.saved_settings(meta, str(folder), run.config.to_dict())
    return Saved(
        title=workdir,
        config=ConfigDict(settings),
        progress=Progress(**meta["progress"]),
        last=Progress(**checkpoints.meta(last)["progress"]),
        number=run.checkpoint,
        is_last=run.checkpoint == last,
        is_under_way=locks.is_held(on_disk),
        division=checkpoints.restore_division(run.checkpoint),
        curves=[x for x in times.read(on_disk / "metrics.jsonl") if type(x.get("step")) is int],
        times=[x for x in times.read(on_disk / times.FILE) if {"kind", "time"} <= x.keys()],
    )
