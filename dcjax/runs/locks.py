"""Locks of folders, which the system releases when the process that holds them ends."""

import contextlib
import fcntl
import os
import pathlib
import socket
import time

from dcjax.core import regular_files

_NAME = "run.lock"
_NUM_TRIES = 3  # since `is_held` takes the lock for a moment
_SECONDS_BETWEEN = 0.1

_descriptors: set[int] = set()  # descriptors of the lock files of this process


class HeldError(Exception):
    """Another process holds a lock; the message says which, and on which host."""


def hold(folder: pathlib.Path) -> int:
    """Locks a folder, and writes the holder into its lock file.

    Returns:
      The file descriptor, for `release`.

    Raises:
      FileError: if something else than a file has the name of the lock file.
      HeldError: if another process holds the lock.
      OSError: if the folder cannot be locked: it is not writable, or its file system has no locks.
    """
    path = folder / _NAME
    regular_files.require(path)
    descriptor = _open(path)
    while not _is_at(path, descriptor):  # `remove` took the file away before this had its lock
        os.close(descriptor)
        descriptor = _open(path)
    _descriptors.add(descriptor)
    with contextlib.suppress(OSError):  # on a full disk the holder has no name
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return descriptor


def release(descriptor: int) -> None:
    """Ends a lock of this process."""
    if descriptor in _descriptors:
        _descriptors.remove(descriptor)
        os.close(descriptor)


def remove(folder: pathlib.Path, descriptor: int) -> None:
    """Ends a lock of this process, and removes its file and, if it is empty, the folder."""
    with contextlib.suppress(OSError):
        (folder / _NAME).unlink()
        folder.rmdir()
    release(descriptor)


def is_held(folder: pathlib.Path) -> bool:
    """Returns whether a process holds the lock of a folder."""
    if regular_files.other_kind(folder / _NAME):
        return False
    try:
        with (folder / _NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def _open(path: pathlib.Path) -> int:
    """Opens and locks a file; returns its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(descriptor)
    except BlockingIOError:
        holder = os.read(descriptor, 1000).decode(errors="replace").strip()
        os.close(descriptor)
        raise HeldError(holder or "another process") from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
    """Returns whether a path leads to the file of a descriptor."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _acquire(descriptor: int) -> None:
    for left in reversed(range(_NUM_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not left:
                raise
            time.sleep(_SECONDS_BETWEEN)
        else:
            return


def _forget() -> None:
    """Closes the lock files in a forked child, which would keep the locks after its parent ends."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_forget)
