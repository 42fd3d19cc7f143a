"""The program that runs: `launch.py` of a clone, or the installed command `dcjax`."""

import pathlib
import sys
from collections.abc import Sequence

_COMMAND = "dcjax"
_SCRIPT = "launch.py"


def name() -> str:
    """Returns the name that begins the lines in which this program reports an error."""
    return _COMMAND if _is_command(sys.argv[0]) else _SCRIPT


def command(argv: Sequence[str]) -> list[str]:
    """Returns what a user types to start a program with its arguments.

    Args:
      argv: path of the program, as in `sys.argv`, and its arguments.
    """
    return [_COMMAND, *argv[1:]] if _is_command(argv[0]) else ["python", *argv]


def _is_command(path: str) -> bool:
    return pathlib.PurePath(path).name in (_COMMAND, f"{_COMMAND}.exe")
