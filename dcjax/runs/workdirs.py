"""Folders of runs, on a disk or in a bucket: their names, and files in them."""

import os
import pathlib
import re

from etils import epath

from dcjax.core import naming
from dcjax.core.errors import FileError, SettingError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
# Parts of a path that TensorStore and Orbax, which write checkpoints, misinterpret.
_UNREADABLE = ("\\", "gs:/")
_PATTERN = ("*", "?", "[")  # Orbax uses the path as a pattern, unescaped
_LONGEST = 400  # bytes of the names that a run adds to its folder, rounded up


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
    return epath.Path(naming.expand(workdir))


def is_in_bucket(workdir: str) -> bool:
    """Returns whether a folder is in a bucket, not on a disk."""
    return workdir.startswith("gs://")


def check(workdir: str, *, saving: bool = False) -> None:
    """Checks that a folder exists or can be created; creates nothing.

    Args:
      workdir: the folder.
      saving: whether checkpoints will be saved in it.

    Raises:
      SettingError: for an address that is not a folder's, or as of `absolute`.
      FileError: if a file is in the way, or the place cannot be written to.
    """
    if not workdir:
        raise SettingError("--workdir must be a folder, got ''.")
    path = absolute(workdir, saving=saving)
    if is_in_bucket(workdir):
        return
    place = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not os.path.isdir(place):
        raise FileError(f"--workdir={workdir} must be a folder, but {place} is none; take another.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise FileError(f"--workdir={workdir}: no permission to write in {place}; take another.")


def absolute(workdir: str, *, saving: bool = False) -> epath.Path:
    """Returns the absolute path of a folder; gs://BUCKET/... stays as it is.

    Raises:
      SettingError: if checkpoints cannot be read from a folder of that name or, with `saving`, not
        be saved in it.
    """
    path = as_path(workdir)
    path = path if path.is_absolute() else path.absolute()
    if not is_in_bucket(workdir):
        _check_name(os.fspath(path), saving=saving)
    return path


def locate(path: str) -> tuple[epath.Path, int | None]:
    """Returns the workdir of a run, and the number of a checkpoint if the path is that of one.

    Args:
      path: of a workdir, or workdir/checkpoints/NUMBER.

    Returns:
      The workdir as it is given, relative too, for messages; of a checkpoint that is given from
      inside of the workdir, the absolute one.
    """
    folder = absolute(path)
    is_number = folder.parent.name == "checkpoints" and re.fullmatch("[0-9]+", folder.name)
    if not is_number or (folder / "checkpoints").is_dir():  # a workdir named like a checkpoint
        return as_path(path), None
    given = as_path(path)
    return (given if len(given.parts) > 2 else folder).parent.parent, int(folder.name)


def _check_name(path: str, *, saving: bool) -> None:
    link = "take another --workdir, or a symbolic link to that folder from a path without it"
    for text in _UNREADABLE + _PATTERN * saving:
        if text in path:
            raise SettingError(
                f"Checkpoints cannot lie below a path with '{text}': {path}; {link}."
            )
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise SettingError(
            f"Checkpoints cannot lie below a path that is not UTF-8: {path!a}; {link}."
        ) from None
    if saving and size > (longest := os.pathconf("/", "PC_PATH_MAX") - _LONGEST):
        raise SettingError(
            f"Require a --workdir whose absolute path has at most {longest} bytes, got {size}; "
            "take a shorter one."
        )


def on_disk(workdir: str) -> pathlib.Path:
    """Returns the folder itself; for gs://BUCKET/FOLDER, runs/BUCKET/FOLDER on this machine."""
    if is_in_bucket(workdir):
        return pathlib.Path("runs", workdir.removeprefix("gs://"))
    return pathlib.Path(as_path(workdir))


def create(path: epath.Path) -> None:
    """Makes a folder of a run where there is none.

    Raises:
      FileError: naming the flag to change.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Cannot write to --workdir: {error}; take another.") from None


def write(path: epath.Path, content: str | bytes) -> None:
    """Writes a file atomically: after a kill or on a full disk, the old content is still there.

    Programs that write it at once do not disturb each other; the last one's content stays.

    Raises:
      FileError: if it cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        if isinstance(content, str):
            part.write_text(content)
        else:
            part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise FileError(f"Cannot write {path}: {error.strerror or error}.") from None
