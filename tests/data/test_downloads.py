"""Downloads: resumed, verified, never more than they should be; from servers on this machine."""

import hashlib
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
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(downloads, "_BLOCK", 4096)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[archive_servers.HttpServer]:
    with archive_servers.running(server := archive_servers.HttpServer(CONTENT)):
        yield server


@pytest.fixture
def ftp() -> Iterator[archive_servers.FtpServer]:
    with archive_servers.running(server := archive_servers.FtpServer(CONTENT)):
        yield server


def fetch(url: str, folder: Path, say: Any = lambda line: None, **changes: Any) -> bytes:
    """Fetches CONTENT as folder/a.bin, and returns what came."""
    facts = {"name": "a.bin", "url": url, "size": len(CONTENT), "sha256": SHA256} | changes
    path = downloads.fetch(Archive(**facts), folder, say=say)
    assert path == folder / "a.bin"
    assert not (folder / "a.bin.part").exists()
    return path.read_bytes()


def begin(folder: Path, content: bytes) -> Path:
    """Leaves the first bytes of a download that ended early."""
    part = folder / "a.bin.part"
    part.write_bytes(content)
    return part


def test_it_comes_whole_once_and_says_what_it_does(web, tmp_path: Path) -> None:
    folder, lines = tmp_path / "new" / "folder", []
    assert fetch(web.url, folder, lines.append) == CONTENT
    assert lines[0] == f"Downloads a.bin, 0.0001 GB, from {web.url} to {folder}/a.bin."
    shares = [int(line.split()[1].removesuffix("%,")) for line in lines[1:]]
    assert 8 <= len(shares) <= 10
    assert shares == sorted(set(shares))
    assert fetch(web.url, folder) == CONTENT
    assert web.ranges == [None]


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        (["cut"], [None, f"bytes={HALF}-"]),
        (["cut", "whole"], [None, f"bytes={HALF}-"]),
        (["cut", "416"], [None, f"bytes={HALF}-", None]),
        (["cut", "503", "429"], [None, *[f"bytes={HALF}-"] * 3]),
        (["cut", "moved"], [None, *[f"bytes={HALF}-"] * 2]),
        (["cut", "whole", "cut", "503"], [None, f"bytes={HALF}-"]),
        (["endless"], [None]),
    ],
)
def test_a_broken_transfer_goes_on(web, tmp_path: Path, faults, ranges) -> None:
    web.faults = faults
    assert fetch(web.url, tmp_path) == CONTENT
    assert web.ranges == ranges


def test_an_interrupted_one_is_kept_and_goes_on_with_the_next_command(web, tmp_path: Path) -> None:
    def stop_at_a_third(line: str) -> None:
        if "3" in line.split()[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(web.url, tmp_path, stop_at_a_third)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin.part"]
    kept = (tmp_path / "a.bin.part").read_bytes()
    assert 0 < len(kept) < HALF
    assert CONTENT.startswith(kept)
    assert fetch(web.url, tmp_path) == CONTENT
    assert web.ranges == [None, f"bytes={len(kept)}-"]


def test_of_what_begins_anew_nothing_old_is_kept(web, tmp_path: Path) -> None:
    web.faults = ["whole cut"]
    begin(tmp_path, bytes(80_000))
    assert fetch(web.url, tmp_path) == CONTENT
    assert web.ranges == ["bytes=80000-", f"bytes={HALF}-"]


@pytest.mark.parametrize(
    ("begun", "ranges"), [(CONTENT, []), (bytes(len(CONTENT) + 1), [None])], ids=["whole", "long"]
)
def test_a_part_that_lacks_nothing(web, tmp_path: Path, begun: bytes, ranges: list) -> None:
    begin(tmp_path, begun)
    assert fetch(web.url, tmp_path) == CONTENT
    assert web.ranges == ranges


@pytest.mark.parametrize("faults", [[], ["endless"]])
def test_wrong_bytes_are_removed(web, tmp_path: Path, faults: list[str]) -> None:
    web.content, web.faults = bytes(len(CONTENT)), faults
    found = hashlib.sha256(web.content).hexdigest()
    with pytest.raises(ValueError, match=f"{web.url} .* SHA-256 {SHA256}, found {found}; .* remov"):
        fetch(web.url, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("begun", [0, 7])
def test_a_file_of_another_size_is_not_even_begun(web, tmp_path: Path, begun: int) -> None:
    web.content = b"<html>Please log in.</html>"
    part = begin(tmp_path, CONTENT[:begun])
    with pytest.raises(ValueError, match=r"have 100,000 bytes, the server offers 27"):
        fetch(web.url, tmp_path)
    assert part.read_bytes() == CONTENT[:begun]


@pytest.mark.parametrize(
    ("fault", "said", "requests"),
    [
        ("404", "HTTP 404 Not Found", 1),
        ("503", "HTTP 503 Service Unavailable", 4),
        ("silent", "TimeoutError", 4),
    ],
)
def test_it_gives_up_clearly(web, tmp_path: Path, monkeypatch, fault, said, requests) -> None:
    monkeypatch.setattr(downloads, "_TIMEOUT", 0.1)
    web.faults, lines = ["cut", *[fault] * 9], []
    monkeypatch.setattr(downloads, "_BLOCK", 2**20)  # so the first half brings little
    part = tmp_path / "a.bin.part"
    told = rf"download {web.url}: {said}.* 50,000 of 100,000 bytes are in {part}; the same command"
    with pytest.raises(OSError, match=told) as caught:
        fetch(web.url, tmp_path, lines.append)
    assert "\n" not in str(caught.value)
    assert part.read_bytes() == CONTENT[:HALF]
    assert len(web.ranges) == min(requests + 1, 4)
    assert sum("tries again" in line for line in lines) == len(web.ranges) - 1


def test_progress_earns_new_tries(web, tmp_path: Path) -> None:
    web.faults = ["503", "503", "cut", "503", "503"]
    assert fetch(web.url, tmp_path) == CONTENT
    assert len(web.ranges) == 6


def test_nobody_there(tmp_path: Path) -> None:
    with archive_servers.running(server := archive_servers.HttpServer(b"")):
        pass
    with pytest.raises(OSError, match=r"Cannot download .*refused.* 0 of 100,000 bytes"):
        fetch(server.url, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"short", "100,000 bytes, found 5;"), (bytes(len(CONTENT)), f"SHA-256 {SHA256}, found ")],
)
def test_a_wrong_file_under_the_name_is_left_alone(web, tmp_path, content, said) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} should have {said}.*move it away"):
        fetch(web.url, tmp_path)
    assert path.read_bytes() == content
    assert not web.ranges


def test_what_has_no_address_is_taken_if_it_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"a.bin .*{SHA256}.* by hand.* {tmp_path}"):
        fetch("", tmp_path)
    (tmp_path / "a.bin").write_bytes(CONTENT)
    assert fetch("", tmp_path) == CONTENT


def test_a_full_disk_is_found_before_anything_is_asked_for(web, tmp_path, monkeypatch) -> None:
    begin(tmp_path, CONTENT[:HALF])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=HALF - 1))
    with pytest.raises(OSError, match=f"Require 50,000 bytes free in {tmp_path}, found 49,999;"):
        fetch(web.url, tmp_path)
    assert not web.ranges
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=HALF))
    assert fetch(web.url, tmp_path) == CONTENT


def test_ftp_goes_on_where_it_broke_off(ftp, tmp_path: Path) -> None:
    ftp.cuts = 1
    assert fetch(ftp.url, tmp_path) == CONTENT
    assert ftp.commands == ["RETR deep/a b.bin", f"REST {HALF}", "RETR deep/a b.bin"]


def test_ftp_without_rest_begins_anew(ftp, tmp_path: Path) -> None:
    ftp.resumes = False
    begin(tmp_path, CONTENT[:HALF])
    assert fetch(ftp.url, tmp_path) == CONTENT
    assert ftp.commands == [f"REST {HALF}", "RETR deep/a b.bin"]


def test_ftp_never_writes_more_than_it_should(ftp, tmp_path: Path) -> None:
    ftp.content = CONTENT * 20
    assert fetch(ftp.url, tmp_path) == CONTENT


def test_ftp_without_the_file(ftp, tmp_path: Path) -> None:
    url = ftp.url.replace("deep", "flat")
    with pytest.raises(OSError, match=f"Cannot download {url}: FTP 550 No such file"):
        fetch(url, tmp_path)
    assert len(ftp.commands) == 1


ONE = Archive("one.zip", "https://a.org/one.zip", 1_150_000_000, "0123")
TWO = Archive("two.tgz", "", 980_000_000, "4567")
ONE_TOLD = "one.zip (1.15 GB, SHA-256 0123, https://a.org/one.zip)"
TWO_TOLD = "two.tgz (0.98 GB, SHA-256 4567)"
ITSELF = "--config.dataset.download=true"


@pytest.mark.parametrize(
    ("archives", "there", "extracted", "told"),
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
def test_how_to_get_it(tmp_path: Path, archives, there, extracted, told) -> None:
    if there:
        (tmp_path / there).touch()
    found = downloads.how_to_get(archives, home="HOME", folder=tmp_path, extracted=extracted)
    assert found == told.replace("FOLDER", str(tmp_path))
