"""Errors that a user can mend, or the machine's administrator: one line says all about them.

Every other exception is a bug, of dcjax or of a part of the user's own, and shows its traceback.
"""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class DcjaxError(Exception):
    """An error whose message is complete: the requirement, what was found, what to do.

    Attributes:
      exit_code: of a command that ends by it: 1 for data, files, runs and machines.
    """

    exit_code = 1


class InputError(DcjaxError, ValueError):
    """A setting, an argument or the content of a file is not as required."""


class SettingError(InputError):
    """A setting or a flag is not as required, whatever the data are."""

    exit_code = 2


class FileError(DcjaxError, OSError):
    """A file or folder cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """A file or folder that is needed does not exist."""


class DivergedError(DcjaxError, FloatingPointError):
    """Training has diverged: a value is not finite."""


@contextlib.contextmanager
def file_errors(what: str, *, advice: str = "") -> Iterator[None]:
    """Turns what the operating system raises in a block into an error that names what failed.

    For blocks that run no code of a user's own, whose errors are theirs to see with their place.

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
    """Returns what the system says of an error, and of which path."""
    paths = [repr(path) for path in (error.filename, error.filename2) if path is not None]
    return ": ".join([error.strerror or str(error) or type(error).__name__, *paths])


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns "; the nearest is X" for a mistyped name, "" if no known one is near."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; the nearest is {found[0]}" if found else ""
