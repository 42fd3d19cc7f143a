"""Output to stdout and stderr that survives a closed pipe, a full disk and unencodable text."""

import io
import os
import sys

_OUTPUT, _ERRORS = 1, 2  # file descriptors


class _Stream(io.FileIO):
    """An output that drops data instead of failing once it cannot be written."""

    def __init__(self, descriptor: int, notice: str) -> None:
        """Takes a file descriptor, and what to say on stderr when it begins to drop."""
        super().__init__(descriptor, "w", closefd=False)
        self._notice = notice

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        """Writes bytes, and returns how many."""
        try:
            return super().write(data)
        except OSError as error:
            _discard(self.fileno())
            if self._notice and sys.stderr is not None:
                sys.stderr.write(f"{self._notice.format(reason=error.strerror)}\n")
                sys.stderr.flush()
        return len(data)


def protect(notice: str = "") -> None:
    r"""Makes stdout and stderr drop what they cannot write, and escape characters they cannot show.

    So neither a reader that has ended, as `head` does, nor a full disk ends a run. Characters that
    the encoding of a terminal lacks are shown as \xNN or \uNNNN.

    Args:
      notice: line on stderr when stdout begins to drop, with "{reason}" in it; "": none.
    """
    for name, descriptor, line in (("stdout", _OUTPUT, notice), ("stderr", _ERRORS, "")):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: its descriptor must not become another file's
            _discard(descriptor)
        elif stream.fileno() != descriptor:  # not the terminal's: captured by a test, say
            continue
        else:
            stream.flush()
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(_Stream(descriptor, line)),
                encoding=getattr(stream, "encoding", "utf-8"),
                errors="backslashreplace",
                line_buffering=True,
            ),
        )


def _discard(descriptor: int) -> None:
    """Redirects a file descriptor to the null device."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
