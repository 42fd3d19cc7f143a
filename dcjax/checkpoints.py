"""Saves a run, and restores it to be evaluated or continued."""

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from dcjax.division import Division
from dcjax.state import TrainState, variables

_MODEL = ("params", "masks", "batch_stats")
_TRAIN = ("step", "loss_params", "memory", "opt_state", "num_clusters")


class Checkpoints:
    """The checkpoints of one run, the newest few and the best few.

    A checkpoint is written in the background and becomes visible when it is complete, so a
    run that is killed at any moment leaves the one before. Its items: "model" (all that embedding
    needs), "train", "division" and "meta" (JSON, with the whole config).
    """

    def __init__(
        self,
        workdir: str,
        *,
        keep_latest: int = 1,
        keep_best: int = 0,
        best_by: str = "",
        read_only: bool = False,
    ) -> None:
        """Opens the folder `checkpoints` of a run.

        Args:
          workdir: folder of the run.
          keep_latest: newest checkpoints that are kept.
          keep_best: checkpoints with the highest score that are kept besides.
          best_by: name of that score.
          read_only: whether the folder must be there and stays as it is.

        Raises:
          FileNotFoundError: if `read_only` and there is no checkpoint.
        """
        path = pathlib.Path(workdir).absolute() / "checkpoints"
        if read_only and not path.is_dir():
            raise FileNotFoundError(
                f"No checkpoint in {path}; give the --workdir of a run that has saved one."
            )
        if not read_only:
            _make_folder(path)
        self._best_by = best_by
        kept: list[policies.PreservationPolicy] = [policies.LatestN(keep_latest)]
        if keep_best:
            best = policies.BestN(
                get_metric_fn=self._score, n=keep_best, keep_checkpoints_without_metrics=False
            )
            kept.append(best)
        self._manager = ocp.CheckpointManager(
            path,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if read_only else policies.AnyPreservationPolicy(kept),
                best_fn=self._score,
                cleanup_tmp_directories=not read_only,
                create=False,
            ),
            item_handlers={
                "model": ocp.StandardCheckpointHandler(),
                "train": ocp.StandardCheckpointHandler(),
                "division": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def _score(self, scores: dict[str, float]) -> float:
        return scores.get(self._best_by, -math.inf)

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def step(self, select: str) -> int:
        """Returns the step of the "last" checkpoint, or of the "best_test" by `best_by`.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
        """
        manager = self._manager
        step = manager.best_step() if select == "best_test" else manager.latest_step()
        if step is None:
            raise FileNotFoundError(f"No complete checkpoint in {manager.directory}.")
        if select == "best_test" and self._best_by not in (manager.metrics(step) or {}):
            raise FileNotFoundError(
                f"No checkpoint in {manager.directory} has the score eval.best_by={self._best_by}; "
                "use eval.select=last."
            )
        return step

    def save(
        self,
        state: TrainState,
        division: Division,
        meta: dict[str, Any],
        scores: dict[str, float] | None,
    ) -> None:
        """Starts to write a checkpoint of this step, in place of one that is there.

        Args:
          state: the training state; may be donated as soon as this returns.
          division: the clusters in use.
          meta: JSON-able values.
          scores: of an evaluation of just this state.

        Raises:
          RuntimeError: if Orbax declines to save.
        """
        step = int(state.step)
        if step in self._manager.all_steps():  # stopped before the evaluation of just this step
            self._manager.delete(step)
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave({name: getattr(state, name) for name in _MODEL}),
                train=ocp.args.StandardSave({name: getattr(state, name) for name in _TRAIN}),
                division=ocp.args.StandardSave(_arrays(division)),
                meta=ocp.args.JsonSave(meta),
            ),
            metrics=scores,
        )
        if not saved:
            raise RuntimeError(f"No checkpoint of step {step} was saved: a later one is there.")

    def meta(self, step: int) -> dict[str, Any]:
        """Returns what was saved as `meta`."""
        return self._read(step, meta=ocp.args.JsonRestore()).meta

    def restore(self, step: int, state: TrainState) -> tuple[TrainState, Division]:
        """Returns the state and division of a step.

        Args:
          step: of a complete checkpoint.
          state: gives shapes, types and shardings.
        """
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        num_clusters, num_images = self._division_shape(step)
        empty = Division(np.zeros(num_images, np.int32), np.zeros(num_clusters, np.int32), 0)
        restored = self._read(
            step,
            model=ocp.args.StandardRestore({name: getattr(like, name) for name in _MODEL}),
            train=ocp.args.StandardRestore({name: getattr(like, name) for name in _TRAIN}),
            division=ocp.args.StandardRestore(_arrays(empty)),
        )
        arrays = restored.division
        division = Division(arrays["cluster"], arrays["parents"], int(arrays["period"]))
        return state.replace(**restored.model, **restored.train), division

    def restore_model(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """Returns the model's variables of a step, on the first device.

        Args:
          step: of a complete checkpoint.
          like: the variables' shapes and types, as `jax.eval_shape` of the model's init gives.
        """
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
        )
        target = {
            "params": placed["params"],
            "masks": placed["masks"]["masks"],
            "batch_stats": placed.get("batch_stats", {}),
        }
        return variables(**self._read(step, model=ocp.args.StandardRestore(target)).model)

    def _division_shape(self, step: int) -> tuple[int, int]:
        with self._naming_damage(step):
            saved = self._manager.item_metadata(step)["division"]
            return saved["parents"].shape[0], saved["cluster"].shape[0]

    def _read(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        with self._naming_damage(step):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _naming_damage(self, step: int) -> Iterator[None]:
        """Turns whatever Orbax says of a damaged checkpoint into one line."""
        try:
            yield
        except Exception as error:
            others = [other for other in self._manager.all_steps() if other != step]
            remedy = f"go on from step {max(others)}" if others else "start anew"
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"Cannot read checkpoint {self._manager.directory / str(step)}; delete that "
                f"folder to {remedy}. Reason: {reason}"
            ) from error

    def wait(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is written, and closes the folder."""
        self._manager.close()


def _make_folder(path: pathlib.Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"Cannot write to --workdir: {error}; take another.") from None


def _arrays(division: Division) -> dict[str, np.ndarray]:
    return {
        "cluster": division.cluster,
        "parents": division.parents,
        "period": np.asarray(division.period, np.int32),
    }
