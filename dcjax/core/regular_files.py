"""Distinguishes regular files from pipes, sockets and devices, which may block or never end."""

import os
import stat

from dcjax.core.errors import FileError

_KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a folder",
}


def other_kind(path: str | os.PathLike[str]) -> str:
    """Returns what kind of thing is at a path, "" for a regular file and for a missing one.

    Symbolic links are followed.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # to open it says why
        return ""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def require(path: str | os.PathLike[str]) -> None:
    """Raises FileError if something other than a regular file is at a path."""
    if kind := other_kind(path):
        raise FileError(f"{os.fspath(path)} is {kind}; give a file.")
