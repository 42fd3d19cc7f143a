"""Checks that a folder has one run at a time, and that all processes of a run see its files."""

import contextlib
import errno
import secrets
import sys
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from dcjax.core.errors import FileError, InputError
from dcjax.distributed import processes
from dcjax.runs import locks, workdirs

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}


@contextlib.contextmanager
def lock(workdir: str) -> Iterator[None]:
    """Locks a folder, which is made if needed, against other runs while the block runs.

    All processes of a run have to call this; process 0 holds the lock, and the system releases it
    when that process ends. A bucket has no locks: its folder is locked on this machine alone.

    Raises:
      SettingError: if checkpoints cannot be saved in a folder of that name.
      FileError: on all processes, if another run holds the folder, or nothing can be written there.
    """
    workdirs.absolute(workdir, saving=True)
    descriptor, error = None, ""
    if processes.is_first():
        try:
            descriptor = _lock(workdir)
        except FileError as refusal:
            error = str(refusal)
    if error := processes.first_message(error):
        raise FileError(error)
    try:
        yield
    finally:
        if descriptor is not None:
            locks.release(descriptor)


def _lock(workdir: str) -> int | None:
    """Returns the lock of a folder; None, with a warning, if it cannot be locked."""
    folder = workdirs.on_disk(workdir)
    workdirs.create(epath.Path(folder))
    try:
        descriptor = locks.hold(folder)
    except locks.HeldError as holder:
        raise FileError(
            f"A run is under way in --workdir={workdir}, held by {holder}; wait until it ends, "
            "stop it, or take another --workdir."
        ) from None
    except FileError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise FileError(f"Cannot write to --workdir: {error}; take another.") from None
        _warn(f"{workdir} cannot be locked ({error.strerror}); start no other run in it")
        return None
    if workdirs.is_in_bucket(workdir):
        _warn(f"{workdir} is locked on this machine alone; start no run in it on another")
    return descriptor


def _warn(text: str) -> None:
    sys.stdout.write(f"warning   {text}\n")
    sys.stdout.flush()


def check_shared(workdir: str) -> None:
    """Checks that all processes see a file that process 0 writes into a folder.

    All of them have to call it, and all get the same result.

    Raises:
      InputError: naming the processes that do not see it.
    """
    if jax.process_count() == 1:
        return
    token = processes.broadcast(np.int32(secrets.randbits(31)))
    mark = workdirs.absolute(workdir) / f".seen-by-all-{int(token)}"
    reason = _write(mark) if processes.is_first() else ""
    processes.wait_for_all("the mark is written")
    seen = processes.all_gather(np.bool_(not reason and mark.exists()))
    if processes.is_first() and not reason:
        mark.unlink(missing_ok=True)
    if not seen[0]:
        raise InputError(f"Process 0 cannot write to --workdir={workdir}{reason}; take another.")
    if blind := np.flatnonzero(~seen).tolist():
        raise InputError(
            f"All {len(seen)} processes save into --workdir={workdir} together, but what process "
            f"0 writes there is not seen by process {', '.join(map(str, blind))}; give a folder on "
            "a file system that all of them share, or gs://BUCKET/FOLDER."
        )


def _write(mark: epath.Path) -> str:
    """Writes a file, and returns why it could not."""
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        return f" ({error})"
    return ""
