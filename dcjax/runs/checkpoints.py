"""Saving and restoring checkpoints."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from dcjax.core.errors import FileError, MissingFileError, file_errors
from dcjax.distributed import devices
from dcjax.division.division import Division
from dcjax.models.masked_embedder import join_variables, split_variables
from dcjax.runs import workdirs
from dcjax.runs.store import Store
from dcjax.training.state import TrainState

_MODEL = ("params", "masks", "batch_stats")
_TRAINED = "trained"  # the network beside its average
# Before the name of a score of the validation classes, beside those of the test classes.
VALIDATION = "validation/"
_TRAIN = ("step", "loss_params", "memory", "opt_state", "num_clusters")


class Checkpoints:
    """The checkpoints of one run, the newest few and the best few, of validation and of test.

    A checkpoint is written in the background and becomes visible when it is complete, with the
    checksums of its files, so a run that is killed at any moment leaves the one before. Its number
    is the training step, or the number of the latest checkpoint plus 1 if that is higher, as when a
    step is saved again with its scores: no number is saved twice.

    Its items: "model" (all that embedding needs; the average of the network, if there is one),
    "train", "division" and "meta" (JSON, with the whole config). Where several processes train, all
    of them call every method, at the same steps.
    """

    def __init__(
        self,
        workdir: str,
        *,
        keep_latest: int = 1,
        keep_best: int = 0,
        best_by: str = "",
        validates: bool = False,
        on_failure: str = "stop",
        read_only: bool = False,
    ) -> None:
        """Opens the folder `checkpoints` of a run.

        Args:
          workdir: folder of the run, gs://BUCKET/FOLDER too.
          keep_latest: newest checkpoints that are kept.
          keep_best: checkpoints with the highest score that are kept besides.
          best_by: name of that score.
          validates: whether as many are kept with its highest values on validation classes.
          on_failure: of a save: "stop" raises an error, "go_on" tries again at the next save.
          read_only: whether the folder must exist and is not changed.

        Raises:
          MissingFileError: if `read_only` and there is no checkpoint.
          InputError: if the scores saved with a checkpoint are damaged, or checkpoints cannot lie
            in a folder of that name.
        """
        path = workdirs.absolute(workdir, saving=not read_only) / "checkpoints"
        if read_only and not path.is_dir():
            raise _missing([str(path)])
        if not read_only:
            workdirs.create(path)
        self._best_by, self._on_failure = best_by, on_failure
        kept: list[policies.PreservationPolicy] = [policies.LatestN(keep_latest)]
        for prefix in ["", VALIDATION] if validates else [""]:
            if keep_best:
                best = policies.BestN(
                    get_metric_fn=functools.partial(_score, name=f"{prefix}{best_by}"),
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
                kept.append(best)
        with file_errors(f"Cannot open the checkpoints in {path}"):
            self._store = Store(
                path,
                {
                    "model": ocp.StandardCheckpointHandler(),
                    "train": ocp.StandardCheckpointHandler(),
                    "division": ocp.StandardCheckpointHandler(),
                    "meta": ocp.JsonCheckpointHandler(),
                },
                read_only=read_only,
                preservation_policy=None if read_only else policies.AnyPreservationPolicy(kept),
                best_fn=functools.partial(_score, name=best_by),
            )

    @property
    def latest(self) -> int | None:
        """Number of the newest complete checkpoint, None if there is none."""
        return self._store.manager.latest_step()

    def number(self, select: str) -> int:
        """Returns the number of a checkpoint.

        Args:
          select: "last"; "best", with the highest score `best_by` on validation classes; or
            "best_test", with the highest one on the test classes. Of equal ones the last.

        Raises:
          MissingFileError: if there is no such checkpoint.
        """
        manager = self._store.manager
        latest = manager.latest_step()
        if latest is None:
            raise MissingFileError(f"No complete checkpoint in {manager.directory}.")
        if select == "last":
            return latest
        name = f"{VALIDATION if select == 'best' else ''}{self._best_by}"
        scores = {number: manager.metrics(number) or {} for number in manager.all_steps()}
        known = [number for number, values in scores.items() if name in values]
        if not known:
            raise MissingFileError(
                f"No checkpoint in {manager.directory} has the score eval.best_by={self._best_by}"
                f"{' of validation classes' if select == 'best' else ''}; use eval.select=last."
            )
        return max(known, key=lambda number: (scores[number][name], number))

    def save(
        self,
        state: TrainState,
        division: Division,
        meta: dict[str, Any],
        scores: dict[str, float] | None,
    ) -> str:
        """Starts to write a checkpoint.

        Args:
          state: the training state; may be donated as soon as this returns.
          division: the clusters in use.
          meta: JSON-able values.
          scores: of an evaluation of just this state; those of validation classes have the prefix
            `VALIDATION`.

        Returns:
          With `on_failure` "go_on": which checkpoint could not be saved, this one or the one
          before, and why; "" if no failure is known.

        Raises:
          FileError: with that text, if a failure is to stop the run. It always stops a run of many
            processes, which could not agree on what is saved.
        """
        before = self._store.finish()
        self._raise_if_fatal(before)
        model, train = _items(state)
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            train=ocp.args.StandardSave(train),
            division=ocp.args.StandardSave(_arrays(division)),
            meta=ocp.args.JsonSave(meta),
        )
        number = max(int(state.step), 1 + (self.latest or 0))
        now = self._store.save(number, items, scores)
        self._raise_if_fatal(now)
        return now or before

    def _raise_if_fatal(self, failure: str) -> None:
        if failure and (self._on_failure == "stop" or jax.process_count() > 1):
            raise FileError(f"{failure} When that is mended, the same command goes on from there.")

    def meta(self, number: int) -> dict[str, Any]:
        """Returns what was saved as `meta`."""
        return self._store.read(number, meta=ocp.args.JsonRestore()).meta

    def restore(self, number: int, state: TrainState) -> tuple[TrainState, Division]:
        """Returns the state and division of a checkpoint.

        Args:
          number: of a complete checkpoint.
          state: gives shapes, types and shardings.
        """
        model, train = _items(jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
        restored = self._store.read(
            number,
            model=ocp.args.StandardRestore(model),
            train=ocp.args.StandardRestore(train),
            division=ocp.args.StandardRestore(),
        )
        return _state(state, restored.model, restored.train), _division(restored.division)

    def restore_division(self, number: int) -> Division:
        """Returns the division of a complete checkpoint."""
        return _division(self._store.read(number, division=ocp.args.StandardRestore()).division)

    def restore_model(self, number: int, abstract_variables: dict[str, Any]) -> dict[str, Any]:
        """Returns the model's variables of a checkpoint, on every device.

        Args:
          number: of a complete checkpoint.
          abstract_variables: shapes and types, as `jax.eval_shape` of the model's init gives.
        """
        sharding = devices.replicated(devices.create_mesh())
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract_variables
        )
        target = dict(zip(_MODEL, split_variables(placed), strict=True))
        model = self._store.read(number, model=ocp.args.StandardRestore(target)).model
        return join_variables(*(model[name] for name in _MODEL))

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          FileError: if the newest checkpoint could not be saved, whatever `on_failure` is.
        """
        self._store.finish()
        if self._store.failure:
            raise FileError(self._store.failure)

    def close(self) -> None:
        """Waits until everything is written, and closes the folder.

        Raises:
          FileError: if something could not be written and no error was raised for it yet.
        """
        failure = self._store.finish()
        self._store.close()
        if failure:
            raise FileError(failure)


def _score(scores: dict[str, float], *, name: str) -> float:
    return scores.get(name, -math.inf)


def is_there(path: str) -> bool:
    """Returns whether there is a checkpoint, complete or damaged.

    Args:
      path: of a run, or of the checkpoint, see `workdirs.locate`.
    """
    workdir, number = workdirs.locate(path)
    folder = workdir / "checkpoints" / ("" if number is None else str(number))
    with file_errors(f"Cannot look into {folder}"):
        return folder.is_dir() and any(folder.iterdir())


def require(paths: Sequence[str]) -> None:
    """Checks that there are checkpoints, complete or damaged.

    Args:
      paths: of runs, or of checkpoints, see `workdirs.locate`.

    Raises:
      MissingFileError: naming all paths without one.
    """
    if empty := [path for path in paths if not is_there(path)]:
        raise _missing(empty)


def _missing(paths: Sequence[str]) -> MissingFileError:
    those = "runs that have" if paths[1:] else "a run that has"
    return MissingFileError(
        f"No checkpoint in {', '.join(paths)}; give the --workdir of {those} saved one."
    )


def _items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the items "model" and "train" of a state."""
    train = {name: getattr(state, name) for name in _TRAIN}
    if not state.average:
        return state.network, train
    return state.average, train | {_TRAINED: state.network}


def _state(state: TrainState, model: dict[str, Any], train: dict[str, Any]) -> TrainState:
    """Returns a state with the arrays of the items, the inverse of `_items`."""
    rest = {name: train[name] for name in _TRAIN}
    if not state.average:
        return state.replace(**model, **rest)
    return state.replace(**train[_TRAINED], **rest, average=model)


def _division(arrays: dict[str, np.ndarray]) -> Division:
    return Division(arrays["cluster"], arrays["parents"], int(arrays["period"]))


def _arrays(division: Division) -> dict[str, np.ndarray]:
    return {
        "cluster": division.cluster,
        "parents": division.parents,
        "period": np.asarray(division.period, np.int32),
    }
