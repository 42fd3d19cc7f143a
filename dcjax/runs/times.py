"""When a run was started, how, and what took how long: `times.jsonl`, one record a line.

They are apart from the curves, which a continued run repeats bit for bit: a run that was stopped
has the records of all its starts, and of epochs that it trained again.
"""

import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

FILE = "times.jsonl"


class Times:
    """The records of one start of a run.

    Attributes:
      failure: why a record could not be written; "" if all were. Nothing ends a run for it.
    """

    def __init__(self, folder: pathlib.Path | None) -> None:
        """Takes the folder, where the first record makes the file; None: nothing is written."""
        self._path = None if folder is None else folder / FILE
        self.failure = ""

    def write(self, kind: str, **values: Any) -> None:
        """Appends a record of a kind, with the time in seconds since 1970."""
        if self._path is None:
            return
        record = {"kind": kind, "time": round(time.time(), 3), **values}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(descriptor, json.dumps(record).encode() + b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            self.failure = f"Cannot write {self._path}: {error.strerror or error}"


def read(path: pathlib.Path) -> list[Mapping[str, Any]]:
    """Returns the records in a file of JSON lines, in order; what is no whole record is left out.

    Args:
      path: of the file, whose last line a run may just be writing; no file has no records.
    """
    records: list[Mapping[str, Any]] = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
