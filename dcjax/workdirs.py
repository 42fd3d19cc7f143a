"""Folders of runs, on a disk or in a bucket, and what all processes see of them."""

import contextlib
import errno
import os
import pathlib
import secrets
import sys
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath

from dcjax import locks, processes
from dcjax.errors import FileError, InputError

# What TensorStore and Orbax, which write checkpoints, read as something else in a path.
_UNREADABLE = ("\\", "gs:/")
_PATTERN = ("*", "?", "[")  # Orbax looks for what it has written by an unescaped pattern
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}
_LONGEST = 400  # bytes of the names that a run adds to its folder, rounded up


def as_path(workdir: str) -> epath.Path:
    """Returns the path of a folder, on a disk or in a bucket."""
    return epath.Path(workdir)


def absolute(workdir: str, *, saving: bool = False) -> epath.Path:
    """Returns the absolute path of a folder; gs://BUCKET/... stays as it is.

    Raises:
      InputError: if checkpoints cannot be read from a folder of that name or, with `saving`, not
        be saved in it.
    """
    path = as_path(workdir)
    path = path if path.is_absolute() else path.absolute()
    if "://" not in workdir:
        _check_name(os.fspath(path), saving=saving)
    return path


def _check_name(path: str, *, saving: bool) -> None:
    link = "take another --workdir, or a symbolic link to that folder from a path without it"
    for text in _UNREADABLE + _PATTERN * saving:
        if text in path:
            raise InputError(f"Checkpoints cannot lie below a path with '{text}': {path}; {link}.")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise InputError(
            f"Checkpoints cannot lie below a path that is not UTF-8: {path!a}; {link}."
        ) from None
    if saving and size > (longest := os.pathconf("/", "PC_PATH_MAX") - _LONGEST):
        raise InputError(
            f"Require a --workdir whose absolute path has at most {longest} bytes, got {size}; "
            "take a shorter one."
        )


def on_disk(workdir: str) -> pathlib.Path:
    """Returns the folder itself; for gs://BUCKET/FOLDER, runs/BUCKET/FOLDER on this machine."""
    _, in_bucket, name = workdir.partition("://")
    return pathlib.Path("runs", name) if in_bucket else pathlib.Path(workdir)


def create(path: epath.Path) -> None:
    """Makes a folder of a run where there is none.

    Raises:
      FileError: naming the flag to change.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Cannot write to --workdir: {error}; take another.") from None


def write(path: epath.Path, text: str) -> None:
    """Writes a file at once: a kill or a full disk leaves what was there before.

    Raises:
      FileError: if it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        raise FileError(f"Cannot write {path}: {error.strerror or error}.") from None


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
    """Keeps other runs out of a folder, which is made if needed, while the block runs.

    All processes of a run have to call this; process 0 holds the lock, and the system releases it
    when that process ends. A bucket has no locks: its folder is locked on this machine alone.

    Raises:
      InputError: if checkpoints cannot be saved in a folder of that name.
      FileError: on all processes, if another run holds the folder, or nothing can be written there.
    """
    absolute(workdir, saving=True)
    lock, error = None, ""
    if processes.is_first():
        try:
            lock = _lock(workdir)
        except FileError as refusal:
            error = str(refusal)
    if error := processes.first_of_all(error):
        raise FileError(error)
    try:
        yield
    finally:
        if lock is not None:
            locks.release(lock)


def _lock(workdir: str) -> int | None:
    """Returns the lock of a folder; None where it can have none, which is said."""
    folder = on_disk(workdir)
    create(epath.Path(folder))
    try:
        lock = locks.hold(folder)
    except locks.HeldError as holder:
        raise FileError(
            f"A run is under way in --workdir={workdir}, held by {holder}; wait until it ends, "
            "stop it, or take another --workdir."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise FileError(f"Cannot write to --workdir: {error}; take another.") from None
        _warn(f"{workdir} cannot be locked ({error.strerror}); start no other run in it")
        return None
    if "://" in workdir:
        _warn(f"{workdir} is locked on this machine alone; start no run in it on another")
    return lock


def _warn(text: str) -> None:
    sys.stdout.write(f"warning   {text}\n")
    sys.stdout.flush()


def check_shared(workdir: str) -> None:
    """Checks that a file which process 0 writes into a folder is seen by all processes.

    All of them have to call it, and all come to the same result.

    Raises:
      InputError: naming the processes that do not see it.
    """
    if jax.process_count() == 1:
        return
    token = processes.from_first(np.int32(secrets.randbits(31)))
    mark = absolute(workdir) / f".seen-by-all-{int(token)}"
    reason = _write(mark) if processes.is_first() else ""
    processes.wait_for_all("the mark is written")
    seen = processes.from_all(np.bool_(not reason and mark.exists()))
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
