"""Errors that a user can mend, or the machine's administrator: one line says all about them.

Every other exception is a bug, of dcjax or of a part of the user's own, and shows its traceback.
"""


class DcjaxError(Exception):
    """An error whose message is complete: the requirement, what was found, what to do."""


class InputError(DcjaxError, ValueError):
    """A setting, an argument or the content of a file is not as required."""


class FileError(DcjaxError, OSError):
    """A file or folder cannot be read or written."""


class MissingFileError(FileError, FileNotFoundError):
    """A file or folder that is needed does not exist."""


class DivergedError(DcjaxError, FloatingPointError):
    """Training has diverged: a value is not finite."""
