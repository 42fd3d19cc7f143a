"""The curves of a run: scalars by step, in a JSON-lines file and TensorBoard's event files."""

import contextlib
import json
import math
import os
import pathlib
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tensorboardX import summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from dcjax.core.errors import FileError


class Scalars:
    """Curves of a run: `metrics.jsonl`, one object a line, and TensorBoard's event files.

    Both are written by the caller's thread, so that `write` raises its failures. A thread of its
    own, as TensorBoard's writers have, would die of a full disk, and its queue would block the run.

    Attributes:
      failure: why points could not be written, the last time that happened; "" if all were.
      lost: bytes of `metrics.jsonl` that were written before the last checkpoint and are gone, or
        are not lines of it.
    """

    def __init__(
        self, folder: pathlib.Path | None, *, step: int, size: int, lossy: bool = False
    ) -> None:
        """Opens both, and drops what a killed run wrote after its last checkpoint.

        Args:
          folder: where they are; None: nowhere.
          step: of the checkpoint that the run continues from, 0 if it starts.
          size: of `metrics.jsonl` in bytes when that checkpoint was saved.
          lossy: whether points that cannot be written are dropped without an error.

        Raises:
          FileError: if they cannot be written, unless `lossy`.
        """
        self._lossy, self._step, self._size = lossy, step, size
        self.failure = ""
        self.lost = 0
        self._lines: _Records | None = None
        self._events: _Records | None = None
        if folder is None:
            return
        lines = _Records(folder / "metrics.jsonl")
        with self._record_failure(lines):
            self.lost = size - lines.cut(size)
            self._lines = lines
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._events = _Records(folder / "tensorboard" / name)
        self._write_events([])

    @property
    def size(self) -> int:
        """Bytes of `metrics.jsonl`."""
        return self._lines.size if self._lines else self._size

    def write(
        self,
        step: int,
        values: Mapping[str, float],
        *,
        group: str,
        lists: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Writes the values of one step as `group/name`; one that is not finite as null.

        Args:
          step: of the values.
          values: by name.
          group: of the names.
          lists: values that `metrics.jsonl` alone gets, by name.

        Raises:
          FileError: if they cannot be written, unless that may be left out.
        """
        finite = {
            f"{group}/{name}": value if math.isfinite(value) else None
            for name, value in values.items()
        }
        if self._lines:
            listed = {f"{group}/{name}": list(value) for name, value in (lists or {}).items()}
            line = json.dumps({"step": step, **finite, **listed}).encode() + b"\n"
            with self._record_failure(self._lines):
                self._lines.append(line)
        self._write_events(
            [
                event_pb2.Event(step=step, summary=summary.scalar(name, number))
                for name, number in finite.items()
                if number is not None
            ]
        )

    def close(self) -> None:
        """Closes both.

        Raises:
          FileError: if something could not be written, unless that may be left out.
        """
        for records in filter(None, (self._lines, self._events)):
            with self._record_failure(records):
                records.close()
        if self.failure and not self._lossy:
            raise FileError(self._message())

    def _write_events(self, events: list[event_pb2.Event]) -> None:
        if not self._events:
            return
        if not self._events.size:
            # TensorBoard hides the points that a killed run made from the step of a new start on.
            begin = self._step + 1 if self._step else 0
            session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            events = [
                event_pb2.Event(step=begin, file_version="brain.Event:2"),
                event_pb2.Event(step=begin, session_log=session),
                *events,
            ]
        now = time.time()
        for event in events:
            event.wall_time = now
        with self._record_failure(self._events):
            self._events.append(b"".join(map(_tf_record, events)))

    @contextlib.contextmanager
    def _record_failure(self, records: "_Records") -> Iterator[None]:
        """Stores an error of the block as `failure`, and raises it unless the curves are lossy."""
        try:
            yield
        except OSError as error:
            self.failure = f"Cannot write curves to {records.path}: {error.strerror or error}"
            if not self._lossy:
                raise FileError(self._message()) from None

    def _message(self) -> str:
        return (
            f"{self.failure}; mend that, and the same command goes on from the last checkpoint, or "
            "with checkpoint.on_failure=go_on without what cannot be written."
        )


def last_values(points: Iterable[Mapping[str, Any]], group: str) -> dict[str, float]:
    """Returns the last values of a group among points of `metrics.jsonl`, {} if it has none."""
    last: dict[str, float] = {}
    for point in points:
        values = {
            key.removeprefix(f"{group}/"): value
            for key, value in point.items()
            if key.startswith(f"{group}/") and value is not None
        }
        last = values or last
    return last


class _Records:
    """A file that grows by complete records: a record that cannot be written leaves nothing."""

    def __init__(self, path: pathlib.Path) -> None:
        """Takes the path; the file is created by the first record."""
        self.path = path
        self.size = 0
        self._descriptor: int | None = None

    def cut(self, size: int) -> int:
        """Keeps the whole lines of JSON in the first bytes of the file; returns its new size.

        A crash of the machine may have taken the end of a file, or left zeros in its place.
        """
        descriptor = self._open()
        content = os.pread(descriptor, size, 0)
        kept = b"".join(x for x in content.splitlines(keepends=True) if _is_object(x))
        if kept != content:
            os.pwrite(descriptor, kept, 0)
        if os.fstat(descriptor).st_size > len(kept):
            os.truncate(descriptor, len(kept))
        self.size = len(kept)
        return self.size

    def append(self, record: bytes) -> None:
        """Writes a record after the others, over what a failed write may have left there."""
        descriptor, end = self._open(), self.size
        try:
            while record:
                written = os.pwrite(descriptor, record, end)
                record, end = record[written:], end + written
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(descriptor, self.size)
            raise
        self.size = end

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        return self._descriptor


def _is_object(line: bytes) -> bool:
    """Returns whether a line is whole, and a JSON object."""
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _tf_record(event: event_pb2.Event) -> bytes:
    """Returns an event as TensorBoard reads it: length, content, and checksums of both."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(checks) + content + next(checks)
