"""Archives are extracted completely or not at all, and never outside the folder."""

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from dcjax.core.errors import FileError
from dcjax.data import archives

FILES = {"set/lists/a.txt": b"list", "set/images/b.jpg": bytes(9000), "readme": b"", "set/e/": None}
KINDS = ("a.tgz", "a.zip")


def pack(path: Path, files: Mapping[str, bytes | None]) -> Path:
    """Packs files; None stands for a folder."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content or b"")
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
                member.size = len(content or b"")
                archive.addfile(member, io.BytesIO(content or b""))
    return path


def read_tree(folder: Path) -> dict[str, bytes | None]:
    """Returns all files and folders below a folder, except archives."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name not in KINDS
    }


@pytest.fixture(params=KINDS)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return pack(tmp_path / request.param, FILES)


def test_extracted_files_equal_the_packed_ones(archive: Path, tmp_path: Path) -> None:
    archives.extract(archive, tmp_path)
    folders = dict.fromkeys(["set", "set/e", "set/images", "set/lists"])
    packed = {name: content for name, content in FILES.items() if content is not None}
    assert read_tree(tmp_path) == dict(sorted((packed | folders).items()))


def test_tar_of_the_folder_itself_is_extracted(tmp_path: Path) -> None:
    files = {"./": None, "./set/": None, "./set/a.txt": b"list"}
    archives.extract(pack(tmp_path / "a.tgz", files), tmp_path)
    assert read_tree(tmp_path) == {"set": None, "set/a.txt": b"list"}


def test_file_that_is_no_archive_is_left_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "lists.mat"
    path.write_bytes(b"lists")
    archives.extract(path, tmp_path)
    assert read_tree(tmp_path) == {"lists.mat": b"lists"}


def test_extracting_again_needs_no_free_space(archive: Path, tmp_path: Path, monkeypatch) -> None:
    archives.extract(archive, tmp_path)
    inodes = {path: path.stat().st_ino for path in tmp_path.rglob("*")}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    archives.extract(archive, tmp_path)
    assert inodes == {path: path.stat().st_ino for path in tmp_path.rglob("*")}


def test_kill_leaves_nothing_that_looks_complete(archive, tmp_path: Path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # a killed process cleans nothing up
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(os, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            archives.extract(archive, tmp_path)
    aside = tmp_path / f"{archive.name}.extracting"
    assert set(tmp_path.iterdir()) == {archive, aside}
    (aside / "set" / "leftover").touch()
    archives.extract(archive, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "set", "readme"}
    assert not (tmp_path / "set" / "leftover").exists()


@pytest.mark.parametrize("moved", ["set", "readme"])
def test_kill_between_two_moves_is_repaired(archive: Path, tmp_path: Path, moved: str) -> None:
    archives.extract(archive, tmp_path)
    expected = read_tree(tmp_path)
    if moved == "set":
        (tmp_path / "readme").unlink()
    else:
        shutil.rmtree(tmp_path / "set")
    archives.extract(archive, tmp_path)
    assert read_tree(tmp_path) == expected


def test_files_changed_by_the_user_are_not_overwritten(archive: Path, tmp_path: Path) -> None:
    archives.extract(archive, tmp_path)
    (tmp_path / "set" / "lists" / "a.txt").write_bytes(b"my own list")
    before = read_tree(tmp_path)
    with pytest.raises(FileError, match=f"{tmp_path}/set is there, .*{archive}.* move it"):
        archives.extract(archive, tmp_path)
    assert read_tree(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../out.txt", "set/../../out.txt", "/dcjax_out.txt"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, kind: str, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = pack(folder / kind, {"set/good.txt": b"good", name: b"evil"})
    with pytest.raises(ValueError, match=f"{path} must not be extracted: .*outside"):
        archives.extract(path, folder)
    assert [file.name for file in tmp_path.rglob("*.*")] == [kind]
    assert not Path("/dcjax_out.txt").exists()


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        (tarfile.SYMTYPE, "/etc", "absolute path"),
        (tarfile.SYMTYPE, "../..", "outside the destination"),
        (tarfile.LNKTYPE, "/etc", "absolute path"),
        (tarfile.LNKTYPE, "../..", "outside the destination"),
        (tarfile.CHRTYPE, "", "special file"),
        (tarfile.BLKTYPE, "", "special file"),
        (tarfile.FIFOTYPE, "", "special file"),
    ],
)
def test_links_that_leave_the_folder_and_devices_are_refused(
    tmp_path: Path, kind: bytes, target: str, message: str
) -> None:
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("set")
        link.type, link.linkname = kind, target
        archive.addfile(link)
    with pytest.raises(ValueError, match=f"{path} must not be extracted: .*{message}"):
        archives.extract(path, tmp_path)
    assert read_tree(tmp_path) == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "page"])
def test_damaged_archive_is_named(tmp_path: Path, kind: str, damage: str) -> None:
    noise = np.random.default_rng(0).bytes(20_000)
    path = pack(tmp_path / kind, {"set/a": noise, "set/b": noise[::-1]})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(
        {"cut": content[:-9000], "flipped": content, "empty": b"", "page": b"<html>"}[damage]
    )
    with pytest.raises(ValueError, match=f"{path} is damaged .*get it again"):
        archives.extract(path, tmp_path)
    assert read_tree(tmp_path) == {}


def test_full_disk_is_reported_before_anything_is_written(archive, tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=9003))
    with pytest.raises(OSError, match=f"Require 9,004 bytes free in {tmp_path}, found 9,003;"):
        archives.extract(archive, tmp_path)
    assert read_tree(tmp_path) == {}
