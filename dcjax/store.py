"""Orbax's manager of a run's checkpoints, and what disks and kills do to them."""

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from dcjax import checksums, machine, processes
from dcjax.errors import InputError

_UNFINISHED = ocp.path.atomicity.TMP_DIR_SUFFIX
_REPLACED = ".replaced"  # suffix of a checkpoint until the one in its place is complete
_SECONDS = 600  # until a save has failed: so long processes wait for one that cannot write


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves it to the training loop to ask for a preemption notice.

    It would ask when a save is done, with the step of that, on one process: JAX, which makes all
    processes stop after one step more than any has asked for, would wait for a step long past.
    """

    def reached_preemption(self, step: int) -> bool:
        """Returns that it does not know of one."""
        del step
        return False


class Store:
    """Checkpoints by step: each is complete and as it was saved, or not there, or refused.

    Where several processes train, all of them call every method, at the same steps.

    Attributes:
      manager: Orbax's.
    """

    def __init__(
        self,
        path: epath.Path,
        handlers: Mapping[str, ocp.CheckpointHandler],
        *,
        read_only: bool,
        **options: Any,
    ) -> None:
        """Opens a folder; removes what a killed run left in it, unless `read_only`.

        Args:
          path: of a folder that is there.
          handlers: of the items of a checkpoint.
          read_only: whether the folder stays as it is.
          **options: of `ocp.CheckpointManagerOptions`.

        Raises:
          InputError: if the scores saved with a checkpoint are damaged; or, with `read_only`, if a
            kill has left a checkpoint half replaced.
        """
        self._path = path
        self._saving: int | None = None
        self._failure = ""
        if read_only:
            _refuse_half_replaced(path)
            steps = _whole_steps(path)
        else:
            _finish_replacing(path)
            _finish_removing(path)
            processes.wait_for_all("nothing is put aside")
            steps = _steps(path)
        self._check(steps, ["metrics"], steps)  # which the manager reads of all of them
        self.manager = _Manager(
            path,
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=not read_only,
                create=False,
                async_options=ocp.options.AsyncOptions(
                    timeout_secs=_SECONDS, post_finalization_callback=self._write_checksums
                ),
                **options,
            ),
            item_handlers=dict(handlers),
        )
        if not read_only:
            # Until it is closed: what Orbax's threads log of a save that fails is returned too.
            logging.getLogger("absl").addFilter(self._is_not_of_orbax)

    def save(self, step: int, items: ocp.args.Composite, scores: dict[str, float] | None) -> str:
        """Starts to write a checkpoint, in place of one that is there, when nothing is under way.

        Returns:
          Why that was not possible, "" if it was. Of many processes each returns it, those that
          could have written after they have waited for the others for ten minutes.

        Raises:
          RuntimeError: if Orbax declines to save.
        """
        if step in self.manager.all_steps():
            self._put_aside(step)
        self._saving, self._failure = step, ""
        try:
            saved = self.manager.save(step, args=items, metrics=scores)
        except Exception as error:  # whatever Orbax has met
            return self._fail(error)
        if not saved:
            self._tidy_up()
            raise RuntimeError(f"No checkpoint of step {step} was saved: a later one is there.")
        return ""

    def finish(self) -> str:
        """Waits for the save that is under way; returns why it failed, "" if it did not."""
        try:
            self.manager.wait_until_finished()
        except Exception as error:  # whatever Orbax's threads have met
            return self._fail(error)
        if self._saving is not None and processes.is_first():
            (self._path / f"{self._saving}{_REPLACED}").rmtree(missing_ok=True)
        self._saving = None
        return ""

    def close(self) -> None:
        """Closes the folder."""
        self.manager.close()
        logging.getLogger("absl").removeFilter(self._is_not_of_orbax)

    def _is_not_of_orbax(self, record: logging.LogRecord) -> bool:
        return machine.is_not_of_orbax(record)  # a method is this store's alone

    @property
    def failure(self) -> str:
        """Why the newest checkpoint could not be saved, "" if it could as far as is known."""
        return self._failure

    def read(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        """Returns some items of a checkpoint.

        Raises:
          InputError: if they are not as they were saved, or cannot be read.
        """
        self._check([step], items, self.manager.all_steps())
        told, found, cause = "", None, None
        try:
            found = self.manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # whatever Orbax says of a damaged checkpoint
            cause = error
            reason = " ".join(str(error).split())[:200]
            told = (
                f"Cannot read checkpoint {self._path / str(step)}; "
                f"{self._remedy(step, self.manager.all_steps())} Reason: {reason}"
            )
        if told := processes.first_of_all(told):
            raise InputError(told) from cause
        return found

    def _write_checksums(self) -> None:
        """Adds the checksums to a checkpoint just before it becomes visible; on process 0 only."""
        unfinished = self._path / f"{self._saving}{_UNFINISHED}"
        # In a bucket, which cannot rename, a file that is written last makes it visible.
        checksums.write(unfinished if unfinished.exists() else self._path / str(self._saving))

    def _put_aside(self, step: int) -> None:
        if processes.is_first():
            (self._path / str(step)).rename(self._path / f"{step}{_REPLACED}")
        processes.wait_for_all("a checkpoint is put aside")
        self.manager.reload()

    def _fail(self, error: Exception) -> str:
        step = self._saving
        self._tidy_up()
        last = self.manager.latest_step()
        kept = "no other is there" if last is None else f"the last complete one is of step {last}"
        self._failure = (
            f"Checkpoint {self._path / str(step)} could not be saved: {_reason(error)}; {kept}."
        )
        return self._failure

    def _tidy_up(self) -> None:
        """Removes what a failed save left, and looks anew at what is there."""
        if processes.is_first():
            with contextlib.suppress(OSError):
                (self._path / f"{self._saving}{_UNFINISHED}").rmtree(missing_ok=True)
        _finish_replacing(self._path)
        self.manager.reload()
        self._saving = None

    def _check(self, checked: Iterable[int], items: Iterable[str], steps: Iterable[int]) -> None:
        """Compares files of checkpoints with their checksums, each process its share of them."""
        told = ""
        for step in checked:
            damage = checksums.damage(
                self._path / str(step),
                list(items),
                part=jax.process_index(),
                num_parts=jax.process_count(),
            )
            if damage and not told:
                told = (
                    f"Checkpoint {self._path / str(step)} is damaged: {damage}; "
                    f"{self._remedy(step, steps)}"
                )
        if told := processes.first_of_all(told):
            raise InputError(told)

    def _remedy(self, step: int, steps: Iterable[int]) -> str:
        others = [other for other in steps if other != step]
        goes_on = f"goes on from step {max(others)}" if others else "starts anew"
        return f"move that folder out of {self._path}, and the same command {goes_on}."


def _steps(path: epath.Path) -> list[int]:
    return sorted(int(each.name) for each in path.iterdir() if each.name.isdigit())


def _whole_steps(path: epath.Path) -> list[int]:
    """Returns the steps but those that a kill has left half removed; the last never is."""
    steps = _steps(path)
    whole = [step for step in steps[:-1] if not checksums.misses_files(path / str(step))]
    return whole + steps[-1:]


def _finish_replacing(path: epath.Path) -> None:
    """Removes a checkpoint that was replaced, or puts it back if the new one is not complete."""
    if processes.is_first():
        for old in path.glob(f"*{_REPLACED}"):
            if _is_complete(new := old.with_suffix("")):
                old.rmtree()
            else:
                old.rename(new)


def _finish_removing(path: epath.Path) -> None:
    """Removes what a kill has left of checkpoints that were being removed."""
    if processes.is_first():
        for step in set(_steps(path)).difference(_whole_steps(path)):
            (path / str(step)).rmtree()


def _refuse_half_replaced(path: epath.Path) -> None:
    for old in path.glob(f"*{_REPLACED}"):
        if not _is_complete(new := old.with_suffix("")):
            raise InputError(
                f"Checkpoint {new} is being replaced, or a run was killed while it was; wait until "
                f"it is there, or go on with the run, or rename {old.name} to {new.name}."
            )


def _is_complete(path: epath.Path) -> bool:
    return path.exists() and ocp.utils.is_checkpoint_finalized(path)


def _reason(error: BaseException) -> str:
    """Returns what the system said, where Orbax and TensorStore pass it on."""
    text = " ".join(str(error).split())
    if code := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(code[1]))
    if isinstance(error, TimeoutError):
        return f"it was not written by all processes within {_SECONDS} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # The first error counts: that others waited for this process in vain came of it.
    return _reason(error.__context__) if error.__context__ else text[:200]
