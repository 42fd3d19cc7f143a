"""Downloads are verified, complete or absent, and never larger than published; local servers."""

import errno
import hashlib
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import archive_servers
import numpy as np
import pytest

from dcjax.data import downloads
from dcjax.data.downloads import Archive

CONTENT = np.random.default_rng(0).bytes(100_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(downloads, "_BLOCK", 4096)
    monkeypatch.setattr(downloads, "_REPORT_EVERY", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[archive_servers.HttpServer]:
    with archive_servers.running(server := archive_servers.HttpServer(CONTENT)):
        yield server


@pytest.fixture
def ftp() -> Iterator[archive_servers.FtpServer]:
    with archive_servers.running(server := archive_servers.FtpServer(CONTENT)):
        yield server


@pytest.fixture(params=["web", "ftp"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def fetch(url: str, folder: Path, say: Any = lambda line: None, **changes: Any) -> bytes:
    """Downloads CONTENT as folder/a.bin and returns the content of the file."""
    facts = {"name": "a.bin", "url": url, "size": len(CONTENT), "sha256": SHA256} | changes
    path = downloads.fetch(Archive(**facts), folder, say=say)
    assert path == folder / "a.bin"
    assert list(folder.iterdir()) == [path]
    return path.read_bytes()


def test_file_is_downloaded_once_readable_by_all_with_progress_lines(server, tmp_path) -> None:
    folder, lines = tmp_path / "new" / "folder", []
    assert fetch(server.url, folder, lines.append) == CONTENT
    assert lines[0] == f"Downloads a.bin, 0.0001 GB, from {server.url} to {folder}/a.bin."
    shares = [int(line.split()[1].removesuffix("%,")) for line in lines[1:]]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert len(shares) > 9
    (tmp_path / "any file").touch()
    assert (folder / "a.bin").stat().st_mode == (tmp_path / "any file").stat().st_mode
    assert fetch(server.url, folder) == CONTENT
    assert server.num_requests == 1


@pytest.mark.parametrize("faults", [["cut"], ["503", "429"], ["moved"], ["cut", "408", "cut"]])
def test_interrupted_transfer_is_retried(web, tmp_path: Path, faults: list[str]) -> None:
    web.faults = list(faults)
    assert fetch(web.url, tmp_path) == CONTENT
    assert web.num_requests == len(faults) + 1


def test_interrupted_ftp_transfer_is_retried(ftp, tmp_path: Path) -> None:
    ftp.cuts = 2
    assert fetch(ftp.url, tmp_path) == CONTENT
    assert ftp.num_requests == 3


@pytest.mark.parametrize(
    ("fault", "message", "num_requests"),
    [
        ("404", "HTTP Error 404: Not Found", 1),
        ("503", "HTTP Error 503: Service Unavailable", 4),
        ("silent", "timed out", 4),
        ("cut", "50,000 of 100,000 bytes have come", 4),
    ],
)
def test_repeated_faults_end_in_one_clear_line(
    web, tmp_path, monkeypatch, fault, message, num_requests
) -> None:
    monkeypatch.setattr(downloads, "_TIMEOUT", 0.1)
    web.faults, lines = [fault] * 9, []
    with pytest.raises(
        OSError, match=rf"Cannot download {web.url}: .*{message}.*; try again"
    ) as caught:
        fetch(web.url, tmp_path, lines.append)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert web.num_requests == num_requests
    assert sum("tries again" in line for line in lines) == num_requests - 1


def test_refused_connection_is_an_error(tmp_path: Path) -> None:
    with archive_servers.running(server := archive_servers.HttpServer(b"")):
        pass
    with pytest.raises(OSError, match=f"Cannot download {server.url}: .*refused.*; try again"):
        fetch(server.url, tmp_path)
    assert not list(tmp_path.iterdir())


def test_file_missing_on_the_ftp_server_is_an_error(ftp, tmp_path: Path) -> None:
    url = ftp.url.replace("deep", "flat")
    with pytest.raises(OSError, match=f"Cannot download {url}: .*550 No such file.*; try again"):
        fetch(url, tmp_path)
    assert not list(tmp_path.iterdir())
    assert ftp.num_requests == 1


@pytest.mark.parametrize(
    ("content", "fault", "message"),
    [
        (
            bytes(len(CONTENT)),
            "",
            f"require SHA-256 {SHA256}, found {hashlib.sha256(bytes(100_000)).hexdigest()}",
        ),
        (CONTENT * 20, "", "require 100,000 bytes, and the server offers 2,000,000"),
        (b"<html>Please log in.</html>", "", "require 100,000 bytes, and the server offers 27"),
        (CONTENT, "endless", "require 100,000 bytes, and the server sends more"),
    ],
)
def test_content_that_was_not_published_is_refused(web, tmp_path, content, fault, message) -> None:
    web.content, web.faults = content, [fault]
    with pytest.raises(ValueError, match=f"{web.url} is not .*get a.bin by hand.*: .*{message}"):
        fetch(web.url, tmp_path)
    assert not list(tmp_path.iterdir())
    assert web.num_requests == 1


def test_ftp_never_writes_more_than_was_published(ftp, tmp_path: Path) -> None:
    ftp.content = CONTENT * 20
    with pytest.raises(ValueError, match=f"{ftp.url} is not .*, and the server sends more"):
        fetch(ftp.url, tmp_path)
    assert not list(tmp_path.iterdir())
    assert ftp.num_requests == 1


def test_interrupt_stops_the_download_and_leaves_no_file(server, tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if "MB/s" in line:
            raise KeyboardInterrupt

    server.content = CONTENT * 100  # large enough that the server is still sending when interrupted
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, tmp_path, stop, size=len(server.content))
    assert not list(tmp_path.iterdir())


def test_wrong_file_of_the_same_name_is_refused_and_kept(web, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match=f"{path} should have SHA-256 {SHA256}.*move it away"):
        fetch(web.url, tmp_path)
    assert path.read_bytes() == b"short"
    assert not web.num_requests


def test_archive_without_a_url_must_be_put_there_by_hand(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"a.bin .*{SHA256}.* by hand.* {tmp_path}"):
        fetch("", tmp_path)
    (tmp_path / "a.bin").write_bytes(CONTENT)
    assert fetch("", tmp_path) == CONTENT


def test_full_disk_is_reported_before_any_request(web, tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(CONTENT) - 1))
    with pytest.raises(OSError, match=f"Require 100,000 bytes free in {tmp_path}, found 99,999;"):
        fetch(web.url, tmp_path)
    assert not web.num_requests


def test_disk_that_fills_up_is_reported_as_such_without_a_retry(web, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (HALF, hard)
    )  # like a full disk, but for this process only
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            fetch(web.url, tmp_path)
        assert caught.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    assert web.num_requests == 1


ONE = Archive("one.zip", "https://a.org/one.zip", 1_150_000_000, "0123")
TWO = Archive("two.tgz", "", 980_000_000, "4567")
ONE_TOLD = "one.zip (1.15 GB, SHA-256 0123, https://a.org/one.zip)"
TWO_TOLD = "two.tgz (0.98 GB, SHA-256 4567)"
ITSELF = "--config.dataset.download=true"


@pytest.mark.parametrize(
    ("archives", "there", "extracted", "expected"),
    [
        ([], "", True, "See HOME: get it by hand, put it into FOLDER and extract there."),
        ([ONE], "", True, f"Put {ONE_TOLD} into FOLDER and extract there; {ITSELF} does that."),
        ([ONE], "", False, f"Put {ONE_TOLD} into FOLDER; {ITSELF} does that."),
        ([ONE], "one.zip", True, f"Extract one.zip in FOLDER; {ITSELF} does that."),
        (
            [ONE, TWO],
            "one.zip",
            True,
            f"Get {TWO_TOLD} by hand, from HOME or another copy, and put it into FOLDER and "
            f"extract there, which {ITSELF} does.",
        ),
        (
            [ONE, TWO],
            "",
            False,
            f"Get {ONE_TOLD}, {TWO_TOLD} by hand, from HOME or another copy, and put it into "
            "FOLDER.",
        ),
    ],
)
def test_how_to_get_it_describes_the_steps_left(
    tmp_path: Path, archives, there, extracted, expected
) -> None:
    if there:
        (tmp_path / there).touch()
    instructions = downloads.how_to_get(archives, home="HOME", folder=tmp_path, extracted=extracted)
    assert instructions == expected.replace("FOLDER", str(tmp_path))
