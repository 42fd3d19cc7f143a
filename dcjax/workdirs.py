"""Folders of runs, on a disk or in a bucket, and what all processes see of them."""

import os
import pathlib
import re
import secrets

import numpy as np
from etils import epath

from dcjax.errors import FileError, InputError, SettingError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def as_path(workdir: str) -> epath.Path:
    """Returns the path of a folder, on a disk or in a bucket, ~ expanded.

    Raises:
      SettingError: for an address of another kind than gs://BUCKET/FOLDER.
    """
    if _SCHEME.match(workdir) and not re.match("gs://[^/]", workdir):
        raise SettingError(
            f"--workdir must be a folder, or gs://BUCKET/FOLDER, got {workdir!r}; write ./ before "
            "the name of a local folder."
        )
    return epath.Path(os.path.expanduser(workdir))


def check(workdir: str) -> None:
    """Checks that a folder is there or can be made, before a run takes time; makes nothing.

    Raises:
      SettingError: for an address that is not a folder's.
      FileError: if a file is in the way, or the place cannot be written to.
    """
    if not workdir:
        raise SettingError("--workdir must be a folder, got ''.")
    path = absolute(workdir)
    if "://" in workdir:
        return
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise SettingError(
            f"--workdir must be a name in UTF-8, in which checkpoints are written, got {path}."
        ) from error
    place = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not os.path.isdir(place):
        raise FileError(f"--workdir={workdir} must be a folder, but {place} is none; take another.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise FileError(f"--workdir={workdir}: no permission to write in {place}; take another.")


def absolute(workdir: str) -> epath.Path:
    """Returns the absolute path of a folder; gs://BUCKET/... stays as it is."""
    path = as_path(workdir)
    return path if path.is_absolute() else path.absolute()


def on_disk(workdir: str) -> pathlib.Path:
    """Returns the folder itself; for one in a bucket, runs/ and its name on this machine's disk."""
    path = as_path(workdir)
    in_bucket = "://" in workdir
    return pathlib.Path("runs") / path.name if in_bucket else pathlib.Path(path)


def create(path: epath.Path) -> None:
    """Makes a folder of a run where there is none.

    Raises:
      FileError: naming the flag to change.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Cannot write to --workdir: {error}; take another.") from None


def check_shared(workdir: str) -> None:
    """Checks that a file which process 0 writes into a folder is seen by all processes.

    All of them have to call it, and all come to the same result.

    Raises:
      InputError: naming the processes that do not see it.
    """
    import jax  # a sweep, which computes nothing itself, does not load it

    from dcjax import processes

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
