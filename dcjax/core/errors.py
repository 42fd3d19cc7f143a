"""Errors that a user or an administrator can correct; each is shown in one line.

Any other exception is a bug of dcjax or of the user's code, and is shown with its traceback.
"""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class DcjaxError(Exception):
    """An error whose message says what is required, what was found and what to do.

    Attributes:
      exit_code: of a command that fails with it: 1 for data, files, runs and machines.
    """

    exit_code = 1


class InputError(DcjaxError, ValueError):
    """A setting, an argument or the content of a file is not as required."""


class SettingError(InputError):
    """A setting or a flag is not as required, independently of the data."""

    exit_code = 2


class FileError(DcjaxError, OSError):
    """A file or folder cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """A file or folder that is needed does not exist."""


class DivergedError(DcjaxError, FloatingPointError):
    """Training has diverged: a value is not finite."""


@contextlib.contextmanager
def file_errors(what: str, *, advice: str = "") -> Iterator[None]:
    """Turns an OSError of the block into a FileError that names what failed.

    For blocks that run no code of the user, whose errors need a traceback.

    Args:
      what: failed, such as "Cannot read the table".
      advice: what to do, such as "make room".

    Raises:
      FileError: with the reason and the path that the system gives.
    """
    try:
        yield
    except DcjaxError:
        raise
    except OSError as error:
        kind = MissingFileError if isinstance(error, FileNotFoundError) else FileError
        raise kind(f"{what}: {reason(error)}{advice and f'; {advice}'}.") from error


def reason(error: OSError) -> str:
    """Returns the system's message of an error, with its paths."""
    paths = [repr(path) for path in (error.filename, error.filename2) if path is not None]
    return ": ".join([error.strerror or str(error) or type(error).__name__, *paths])


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns "; the nearest is X" for a mistyped name, "" if no known name is near."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f"; the nearest is {matches[0]}" if matches else ""
