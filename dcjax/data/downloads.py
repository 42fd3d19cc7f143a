"""Downloads of a data set's archives: resumed where they broke off, and verified."""

import contextlib
import dataclasses
import ftplib
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from dcjax.core.errors import FileError, InputError, MissingFileError
from dcjax.data.archives import require_space

_TIMEOUT = 60.0  # seconds in which a server must answer or send
_PAUSES = (1.0, 5.0, 15.0)  # seconds before each further try, when the last one brought little
_BLOCK = 2**20  # bytes; a try that brings fewer brought little
_TELL_EVERY = 0.1, 30.0  # share of the whole, or seconds, whichever is earlier
_TRY_AGAIN = {408, 429}  # of HTTP's codes for the client's errors

# Reads at most so many bytes, none at the end; and where in the file they begin.
_Stream = tuple[Callable[[int], bytes], int]


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


class _BrokenOffError(Exception):
    """A transfer ended before its time."""

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(" ".join(reason.split()))
        self.for_good = for_good


def fetch(archive: Archive, folder: Path, *, say: Callable[[str], None]) -> Path:
    """Downloads an archive, unless it is there already, and verifies it.

    What has come is kept in NAME.part when the download ends early, and goes on from there.

    Args:
      archive: which one.
      folder: where to; made if missing.
      say: takes lines about the progress.

    Returns:
      The path of the archive.

    Raises:
      MissingFileError: if it is not there and must be got by hand.
      FileError: if the server fails or the disk has no space.
      InputError: if the file is not the one that was published.
    """
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.exists():
        if wrong := _mismatch(archive, path):
            raise InputError(f"{path} {wrong}; move it away and get it again.")
        return path
    if not archive.url:
        raise MissingFileError(f"Get {archive} by hand, and put it into {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    part.touch()
    if _size(part) > archive.size:
        os.truncate(part, 0)
    require_space(folder, archive.size - _size(part))
    say(
        f"Downloads {archive.name}, {_gigabytes(archive.size)}, from {archive.url} to {path}"
        f"{f', of which {_gigabytes(_size(part))} are there' if _size(part) else ''}."
    )
    _complete(archive, part, say)
    if wrong := _mismatch(archive, part):
        part.unlink()
        raise InputError(f"{archive.url} {wrong}; the download is removed.")
    os.replace(part, path)
    return path


def how_to_get(archives: Sequence[Archive], *, home: str, folder: Path, extracted: bool) -> str:
    """Returns how a user gets archives that a data set lacks.

    Args:
      archives: all that it takes; none if they are not known.
      home: page where they can be had or asked for.
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


def _mismatch(archive: Archive, path: Path) -> str:
    """Returns how a file differs from what was published, "" if it does not."""
    if _size(path) != archive.size:
        return f"should have {archive.size:,} bytes, found {_size(path):,}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if found == archive.sha256 else f"should have SHA-256 {archive.sha256}, found {found}"


def _complete(archive: Archive, part: Path, say: Callable[[str], None]) -> None:
    """Downloads what a part lacks, in several tries if it must be."""
    pauses, most = list(_PAUSES), _size(part)
    while _size(part) < archive.size:
        try:
            _receive(archive, part, say)
        except _BrokenOffError as error:
            come = _size(part)
            if come >= most + _BLOCK:
                pauses, most = list(_PAUSES), come
            if error.for_good or not pauses:
                raise FileError(
                    f"Cannot download {archive.url}: {error}. {come:,} of {archive.size:,} bytes "
                    f"are in {part}; the same command goes on from there."
                ) from None
            say(f"{archive.name}: {error}; tries again in {pauses[0]:g} s.")
            time.sleep(pauses.pop(0))


def _receive(archive: Archive, part: Path, say: Callable[[str], None]) -> None:
    """Writes what one connection brings into a part, never more than the archive's size."""
    begun, told, told_at = time.monotonic(), _size(part), time.monotonic()
    share, seconds = _TELL_EVERY
    first = done = told
    with part.open("r+b") as file, contextlib.closing(_blocks(archive, done)) as blocks:
        for position, block in blocks:
            if position < done:  # the server begins anew
                first = told = position
                file.truncate(position)
            file.seek(position)
            file.write(block)
            done, now = position + len(block), time.monotonic()
            if done - told >= share * archive.size or now - told_at >= seconds:
                told, told_at = done, now
                speed = (done - first) / 1e6 / max(now - begun, 1e-3)
                say(f"{archive.name}: {done / archive.size:.0%}, {speed:.1f} MB/s.")
    if done < archive.size:
        raise _BrokenOffError(f"the server closed the connection after {done:,} bytes")


def _blocks(archive: Archive, start: int) -> Generator[tuple[int, bytes], None, None]:
    """Yields positions and blocks of bytes of what one connection brings, up to the size."""
    opened = _open_ftp if archive.url.startswith("ftp://") else _open_http
    try:
        with opened(archive, start) as (read, position):
            while block := read(min(_BLOCK, archive.size - position)):
                yield position, block
                position += len(block)
    except urllib.error.HTTPError as error:
        error.close()
        for_good = error.code < 500 and error.code not in _TRY_AGAIN
        raise _BrokenOffError(f"HTTP {error.code} {error.reason}", for_good=for_good) from None
    except ftplib.error_perm as error:
        raise _BrokenOffError(f"FTP {error}", for_good=True) from None
    except (OSError, EOFError, http.client.HTTPException, ftplib.Error) as error:
        raise _BrokenOffError(f"{type(error).__name__}: {error}") from None


@contextlib.contextmanager
def _open_http(archive: Archive, start: int) -> Iterator[_Stream]:
    headers = {"User-Agent": "dcjax"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(archive.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        error.close()
        with _open_http(archive, 0) as stream:
            yield stream
        return
    with response:
        given = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        begin, total = given.groups() if given else (0, response.headers.get("Content-Length"))
        if total is not None and int(total) != archive.size:
            raise InputError(
                f"{archive.url} should have {archive.size:,} bytes, the server offers "
                f"{int(total):,}: it is not the file that was published."
            )
        if int(begin) > start:
            raise http.client.HTTPException(f"asked for bytes from {start} on, got {begin}")
        yield response.read1, int(begin)


@contextlib.contextmanager
def _open_ftp(archive: Archive, start: int) -> Iterator[_Stream]:
    url = urllib.parse.urlsplit(archive.url)
    command = f"RETR {urllib.parse.unquote(url.path).lstrip('/')}"
    # Closed without a farewell, for which a server would first send the rest of the file.
    with contextlib.closing(ftplib.FTP(timeout=_TIMEOUT)) as server:
        server.connect(str(url.hostname), url.port or ftplib.FTP_PORT)
        server.login()
        server.voidcmd("TYPE I")
        try:
            data = server.transfercmd(command, start or None)
        except ftplib.Error:
            if not start:
                raise
            data, start = server.transfercmd(command), 0
        with data:
            yield data.recv, start


def _size(path: Path) -> int:
    return path.stat().st_size


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
