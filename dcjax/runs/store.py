"""Checkpoints on disk: Orbax's manager, with checksums and recovery from kills and full disks."""

import contextlib
import functools
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from dcjax.core import checksums
from dcjax.core.errors import InputError
from dcjax.distributed import machine, processes

_UNFINISHED = ocp.path.atomicity.TMP_DIR_SUFFIX
_REPLACED = ".replaced"  # suffix of a checkpoint in whose place an earlier version saved another
_DOOMED = "being-deleted"  # folder of checkpoints that are not kept, until they are deleted
_REMOVALS, _PAUSE = 20, 0.1  # of what a failed save left: how often at most, seconds between
_SECONDS = 600  # until a save has failed: so long processes wait for one that cannot write


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves checks for preemption to the training loop.

    Orbax would check on one process when a save is done, with the step of that save. JAX, which
    synchronises all processes at a later step than any has checked, would wait for a step long
    past.
    """

    def reached_preemption(self, step: int) -> bool:
        """Returns False: the training loop checks."""
        del step
        return False


class Store:
    """Checkpoints by number. What is read is complete and as it was saved, or an error is raised.

    No checkpoint overwrites another: each has a higher number than those before. Checkpoints that
    are no longer kept are first moved, each in one step, to a folder `being-deleted`; only this is
    ever deleted. Damaged checkpoints stay.

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
        """Opens a folder; unless `read_only`, removes what a killed run left in it.

        Args:
          path: of a folder that is there.
          handlers: of the items of a checkpoint.
          read_only: whether the folder stays as it is.
          **options: of `ocp.CheckpointManagerOptions`.

        Raises:
          InputError: if the scores saved with a checkpoint are damaged; or, with `read_only`, if
            the last checkpoint has the name that an earlier version gave it while it was replaced.
        """
        self._path = path
        self._handlers = dict(handlers)
        self._saving: int | None = None
        self._failure = ""
        if read_only:
            _refuse_aside(path)
        else:
            if processes.is_first():
                _put_back(path)
                _delete_doomed(path)
            processes.wait_for_all("leftovers are removed")
        numbers = _numbers(path)
        self._check(numbers, ["metrics"], numbers)  # which the manager reads of all of them
        self.manager = _Manager(
            path,
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=not read_only,
                create=False,
                todelete_subdir=_DOOMED,  # a bucket has no moves: Orbax deletes there at once
                async_options=ocp.options.AsyncOptions(
                    timeout_secs=_SECONDS, post_finalization_callback=self._verify
                ),
                **options,
            ),
            item_handlers=self._handlers,
        )
        if not read_only:
            # Until it is closed: what Orbax's threads log of a save that fails is returned too.
            logging.getLogger("absl").addFilter(self._is_not_of_orbax)
            _ignore_closed_loops()

    def save(self, number: int, items: ocp.args.Composite, scores: dict[str, float] | None) -> str:
        """Starts to write a checkpoint; no other one may be under way.

        Args:
          number: higher than those of all that are there.
          items: what it holds.
          scores: of an evaluation of just that.

        Returns:
          Why it could not be written, "" if it could. Of many processes all return it; those that
          could write do so after waiting for the others for ten minutes.
        """
        self._saving, self._failure = number, ""
        try:
            if error := processes.first_message(self._conflict(number)):
                raise FileExistsError(error)
            # By force, so that Orbax does not skip it.
            self.manager.save(number, args=items, metrics=scores, force=True)
        except Exception as error:  # whatever Orbax has met
            return self._fail(error)
        return ""

    def finish(self) -> str:
        """Waits for the save that is under way; returns why it failed, "" if it did not."""
        try:
            self.manager.wait_until_finished()
        except Exception as error:  # whatever Orbax's threads have met
            return self._fail(error)
        if self._saving is not None and processes.is_first():
            _delete_doomed(self._path)
        self._saving = None
        return ""

    def close(self) -> None:
        """Closes the folder."""
        self.manager.close()
        logging.getLogger("absl").removeFilter(self._is_not_of_orbax)

    def _is_not_of_orbax(self, record: logging.LogRecord) -> bool:
        return machine.is_not_of_orbax(record)  # as a method, a filter of this store alone

    @property
    def failure(self) -> str:
        """Why the newest checkpoint could not be saved, "" if it could as far as is known."""
        return self._failure

    def read(self, number: int, **items: ocp.args.CheckpointArgs) -> Any:
        """Returns some items of a checkpoint.

        Raises:
          InputError: if they are not as they were saved, or cannot be read.
        """
        self._check([number], items, self.manager.all_steps())
        error, items_read, cause = "", None, None
        try:
            items_read = self.manager.restore(number, args=ocp.args.Composite(**items))
        except Exception as raised:  # whatever Orbax says of what it cannot read
            cause = raised
            error = self._read_error(self._path / str(number), " ".join(str(raised).split())[:200])
        if error := processes.first_message(error):
            raise InputError(error) from cause
        return items_read

    def _verify(self) -> None:
        """Reads back the metadata of a checkpoint and writes its checksums, before it is visible.

        Orbax calls it on process 0, in its thread; an error here is one of the save.
        """
        unfinished = self._path / f"{self._saving}{_UNFINISHED}"
        # In a bucket, which cannot rename, a file that is written last makes it visible.
        folder = unfinished if unfinished.exists() else self._path / str(self._saving)
        for name, handler in self._handlers.items():
            if isinstance(handler, ocp.StandardCheckpointHandler):
                handler.metadata(folder / name)
        checksums.write(folder)

    def _conflict(self, number: int) -> str:
        """Returns why a number cannot be saved: Orbax would delete a folder of that name."""
        if (self._path / str(number)).exists():
            return "a folder of that name is there, which is none of this run; move it away"
        return ""

    def _fail(self, error: Exception) -> str:
        """Removes what a failed save left, and returns why it failed."""
        if processes.is_first():
            _remove_unfinished(self._path / f"{self._saving}{_UNFINISHED}")
        self.manager.reload()
        last = self.manager.latest_step()
        kept = "no other is there" if last is None else f"the last complete one is {last}"
        folder = self._path / str(self._saving)
        self._failure = f"Checkpoint {folder} could not be saved: {_reason(error)}; {kept}."
        self._saving = None
        return self._failure

    def _check(self, checked: Iterable[int], items: Iterable[str], numbers: Iterable[int]) -> None:
        """Compares files of checkpoints with their checksums, each process its share of them."""
        error = ""
        for number in checked:
            folder = self._path / str(number)
            damage = self._damage(folder, list(items))
            # A checkpoint that a run has removed in the meantime is not damaged.
            if damage and not error and folder.exists():
                error = f"Checkpoint {folder} is damaged: {damage}; {self._remedy(number, numbers)}"
        if error := processes.first_message(error):
            raise InputError(error)

    def _read_error(self, folder: epath.Path, reason: str) -> str:
        if not folder.exists():
            return f"Checkpoint {folder} has been removed, as by a run under way; start again."
        return (
            f"Cannot read checkpoint {folder}, though its files are as they were saved; keep it, "
            "and look for the cause elsewhere, as in another version of dcjax or orbax-checkpoint. "
            f"Reason: {reason}"
        )

    def _damage(self, folder: epath.Path, items: list[str]) -> str:
        if not (folder / checksums.NAME).exists():  # as in checkpoints of early versions
            missing = [name for name in self._handlers if not (folder / name).is_dir()]
            return f"{missing[0]} is missing" if missing else ""
        part, num_parts = jax.process_index(), jax.process_count()
        return checksums.damage(folder, items, part=part, num_parts=num_parts)

    def _remedy(self, number: int, numbers: Iterable[int]) -> str:
        others = [other for other in numbers if other != number]
        if not others:
            return (
                "put that file back from a copy; no other checkpoint is there, and a run that "
                "starts anew needs another --workdir."
            )
        return (
            f"move that folder out of {self._path}, and the same command goes on from checkpoint "
            f"{max(others)}. Keep the folder: with that file from a copy it is whole again."
        )


def _numbers(path: epath.Path, suffix: str = "") -> list[int]:
    pattern = re.compile(f"(0|[1-9][0-9]*){re.escape(suffix)}")
    names = [each.name for each in path.iterdir() if each.is_dir()]
    return sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))


def _last_aside(path: epath.Path) -> int | None:
    """Returns the last checkpoint's number, if an earlier version was killed after moving it."""
    aside = max(_numbers(path, _REPLACED), default=-1)
    return aside if aside > max(_numbers(path), default=-1) else None


def _put_back(path: epath.Path) -> None:
    if (aside := _last_aside(path)) is not None:
        (path / f"{aside}{_REPLACED}").rename(path / str(aside))


def _refuse_aside(path: epath.Path) -> None:
    if (aside := _last_aside(path)) is not None:
        raise InputError(
            f"The last checkpoint in {path} is {aside}{_REPLACED}, which a killed run has left; "
            f"continue the run, or rename it to {aside}."
        )


def _remove_unfinished(folder: epath.Path) -> None:
    """Removes what a failed save left, in which writes of its other arrays may still end."""
    for _ in range(_REMOVALS):
        with contextlib.suppress(OSError):
            folder.rmtree(missing_ok=True)
        if not folder.exists():
            return
        time.sleep(_PAUSE)


def _delete_doomed(path: epath.Path) -> None:
    with contextlib.suppress(OSError):  # as where files are still open on another host: next time
        (path / _DOOMED).rmtree(missing_ok=True)


def _reason(error: BaseException) -> str:
    """Returns what the system said, where Orbax and TensorStore pass it on."""
    text = " ".join(str(error).split())
    if code := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(code[1]))
    if isinstance(error, TimeoutError):
        return f"it was not written by all processes within {_SECONDS} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # The first error of the chain is the cause; the others are of processes that waited for this.
    return _reason(error.__context__) if error.__context__ else text[:200]


@functools.cache
def _ignore_closed_loops() -> None:
    """Silences TensorStore's threads that report to an event loop which Orbax has closed.

    Orbax closes it and raises an error when the first array of a save has failed; the threads of
    all other arrays would each print a traceback.
    """
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook
