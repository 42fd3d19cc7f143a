"""A log of the unexpected errors that ended a run, in the run's folder."""

import datetime
import pathlib
import platform
import shlex
import sys
from collections.abc import Sequence

from dcjax.core import regular_files

NAME = "error.log"


def append(
    folder: pathlib.Path, text: str, command: Sequence[str], *, version: str, process: int = 0
) -> str:
    """Adds a traceback to a folder's log, with the date, the versions and the command.

    Never raises, so that the error which ended the run is shown even if the folder is not usable.

    Args:
      folder: of the run; made if it is not there.
      text: the traceback.
      command: that has failed.
      version: of dcjax.
      process: number of the process; each of a run has its own file.

    Returns:
      A line that says where the log is, or why there is none.
    """
    path = folder / (f"error.{process}.log" if process else NAME)
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    versions = f"dcjax {version}, Python {platform.python_version()}"
    if jax := sys.modules.get("jax"):
        versions += f", JAX {jax.__version__}"
    if kind := regular_files.other_kind(path):
        return f"The traceback is not kept: {path} is {kind}."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{now}  {versions}\n{shlex.join(command)}\n{text.rstrip()}\n\n")
    except OSError as error:
        return f"The traceback is not kept: {path} cannot be written ({error.strerror})."
    return f"The traceback is kept in {path}."
