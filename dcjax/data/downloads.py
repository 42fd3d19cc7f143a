"""Downloads a data set's archives, verifies them, and moves complete ones into place."""

import contextlib
import dataclasses
import ftplib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from dcjax.core.errors import FileError, InputError, MissingFileError
from dcjax.data.archives import require_space

_TIMEOUT = 60.0  # seconds in which a server must answer or send
_PAUSES = (1.0, 5.0, 15.0)  # seconds before each further try
_TRY_AGAIN = {408, 429}  # of HTTP's codes for the client's errors
_REPORT_EVERY = 30.0  # seconds
_BLOCK = 2**20  # bytes

_Read = Callable[[int], bytes]  # at most so many bytes, none at the end


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file that a data set is published as.

    Attributes:
      name: of the file.
      url: HTTP, HTTPS or FTP; "": it must be got by hand.
      size: in bytes.
      sha256: in hexadecimal digits.
    """

    name: str
    url: str
    size: int
    sha256: str

    def __str__(self) -> str:
        """Returns the name, and what helps to get it."""
        facts = [_gigabytes(self.size), f"SHA-256 {self.sha256}", *filter(None, [self.url])]
        return f"{self.name} ({', '.join(facts)})"


class _ServerError(Exception):
    """A server does not send what it should; another try may help unless that is final."""

    def __init__(self, reason: object, *, is_final: bool = False) -> None:
        super().__init__(" ".join(str(reason).split()))
        self.is_final = is_final


def fetch(archive: Archive, folder: Path, *, say: Callable[[str], None]) -> Path:
    """Downloads an archive, unless it is there already, and verifies it.

    Args:
      archive: which one.
      folder: where to; made if missing.
      say: called with lines about the progress.

    Returns:
      The path of the archive.

    Raises:
      MissingFileError: if it is not there and must be got by hand.
      FileError: if the server fails or the disk has no space.
      InputError: if the file is not the one that was published.
    """
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.exists():
        if (digest := _sha256(path)) != archive.sha256:
            raise InputError(
                f"{path} should have SHA-256 {archive.sha256}, found {digest}; move it away and "
                "get it again."
            )
        return path
    by_hand = f"get {archive.name} by hand, and put it into {folder}"
    if not archive.url:
        raise MissingFileError(f"Get {archive} by hand, and put it into {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, archive.size)
    say(f"Downloads {archive.name}, {_gigabytes(archive.size)}, from {archive.url} to {path}.")
    pauses = list(_PAUSES)
    try:
        while not path.exists():
            try:
                _receive(archive, part, say)
                if (digest := _sha256(part)) != archive.sha256:
                    raise ValueError(f"require SHA-256 {archive.sha256}, found {digest}.")
                os.replace(part, path)
            except _ServerError as error:
                if error.is_final or not pauses:
                    raise FileError(
                        f"Cannot download {archive.url}: {error}; try again later, or {by_hand}."
                    ) from None
                say(f"{archive.name}: {error}; tries again in {pauses[0]:g} s.")
                time.sleep(pauses.pop(0))
            except ValueError as error:
                raise InputError(
                    f"{archive.url} is not the file that was published; {by_hand}: {error}"
                ) from None
    finally:
        part.unlink(missing_ok=True)
    return path


def how_to_get(archives: Sequence[Archive], *, home: str, folder: Path, extracted: bool) -> str:
    """Returns how a user can get the archives that a data set lacks.

    Args:
      archives: those that it needs; none if they are not known.
      home: page where they can be downloaded or requested.
      folder: where to put them.
      extracted: whether they must be extracted there.
    """
    itself = "--config.dataset.download=true"
    there = f"into {folder}{' and extract there' if extracted else ''}"
    if not archives:
        return f"See {home}: get it by hand, put it {there}."
    missing = [archive for archive in archives if not (folder / archive.name).is_file()]
    if not missing:
        names = ", ".join(archive.name for archive in archives)
        return f"Extract {names} in {folder}; {itself} does that."
    wanted = ", ".join(map(str, missing))
    if all(archive.url for archive in missing):
        return f"Put {wanted} {there}; {itself} does that."
    extracts = f", which {itself} does" if extracted else ""
    return f"Get {wanted} by hand, from {home} or another copy, and put it {there}{extracts}."


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _receive(archive: Archive, path: Path, say: Callable[[str], None]) -> None:
    """Writes what a server sends to a file, never more than the archive's size."""
    done, start_time = 0, time.monotonic()
    last_report_time = start_time
    with path.open("wb") as file, contextlib.closing(_blocks(archive.url, archive.size)) as blocks:
        for block in blocks:
            done += len(block)
            if done > archive.size:
                raise ValueError(f"require {archive.size:,} bytes, and the server sends more.")
            file.write(block)
            now = time.monotonic()
            if now - last_report_time >= _REPORT_EVERY:
                last_report_time, speed = now, done / 1e6 / (now - start_time)
                say(f"{archive.name}: {done / archive.size:.0%}, {speed:.1f} MB/s.")
    if done < archive.size:
        raise _ServerError(f"{done:,} of {archive.size:,} bytes have come")


def _blocks(url: str, num_bytes: int) -> Generator[bytes, None, None]:
    """Yields what a server of HTTP or FTP sends, if it does not offer another number of bytes."""
    try:
        with _open_ftp(url) if url.startswith("ftp://") else _open_http(url, num_bytes) as read:
            yield from iter(lambda: read(_BLOCK), b"")
    except urllib.error.HTTPError as error:
        error.close()
        is_final = error.code < 500 and error.code not in _TRY_AGAIN
        raise _ServerError(error, is_final=is_final) from None
    except (OSError, EOFError, http.client.HTTPException, ftplib.Error) as error:
        raise _ServerError(error, is_final=isinstance(error, ftplib.error_perm)) from None


@contextlib.contextmanager
def _open_http(url: str, num_bytes: int) -> Iterator[_Read]:
    request = urllib.request.Request(url, headers={"User-Agent": "dcjax"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        offered = int(response.headers.get("Content-Length", num_bytes))
        if offered != num_bytes:
            raise ValueError(f"require {num_bytes:,} bytes, and the server offers {offered:,}.")
        yield response.read


@contextlib.contextmanager
def _open_ftp(url: str) -> Iterator[_Read]:
    parts = urllib.parse.urlsplit(url)
    # Closed without QUIT, before which a server would send the rest of the file.
    with contextlib.closing(ftplib.FTP(timeout=_TIMEOUT)) as server:
        server.connect(str(parts.hostname), parts.port or ftplib.FTP_PORT)
        server.login()
        server.voidcmd("TYPE I")
        path = urllib.parse.unquote(parts.path).lstrip("/")
        with server.transfercmd(f"RETR {path}") as data:
            yield data.recv


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
