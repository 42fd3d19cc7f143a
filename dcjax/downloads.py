"""temporary."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive."""

    name: str
    url: str
    size: int
    sha256: str


def fetch(archive: Archive, folder: Path, *, say: Callable[[str], None]) -> Path:
    """Temporary."""
    raise OSError


def extract(path: Path, folder: Path) -> None:
    """Temporary."""
    raise OSError


def how_to_get(archives: Sequence[Archive], *, home: str, folder: Path, extracted: bool) -> str:
    """Temporary."""
    return f"{archives} {home} {folder}"
