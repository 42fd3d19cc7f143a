"""The commands of README.md and docs/: every one is understood, those of the user's way are run."""

import http.client
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forks import launch
from PIL import Image

from configs import folder as folder_config
from configs import vid
from dcjax.experiment import versions

_ROOT = Path(__file__).parents[1]
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.S | re.M)
_LAUNCH = re.compile(r"^(?:python launch\.py|dcjax) (.*)$", re.M)
# Configs that the pages let the reader write, other hosts, and what depends on the reader.
_STAND_INS = ("my_", "HOST:", "--distributed", "$")
# Modes that take no --workdir say so by one of these.
_WITHOUT_WORKDIR = ("--embeddings", "--mode=forecast")


def _commands(page: Path) -> list[list[str]]:
    """Returns the flags of each command of a page."""
    blocks = (block.replace("\\\n", " ") for block in _BLOCK.findall(page.read_text()))
    lines = (line for block in blocks for line in _LAUNCH.findall(block))
    commands = [shlex.split(line, comments=True) for line in lines]
    # In brackets is what may be given, and dots stand for more of the same.
    return [[x for x in words if x != "..." and not x.startswith("[")] for words in commands]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_commands_of_the_page_are_understood(page: Path, tmp_path: Path) -> None:
    # Nothing of what they name is there, which each says in one line; a flag, a setting or a
    # config that does not exist would end with exit code 2.
    for name, config in (("one", folder_config), ("vid", vid)):
        saved = tmp_path / "runs" / name / "config.json"
        saved.parent.mkdir(parents=True)
        saved.write_text(versions.dump(config.get_config().to_dict()))
    wrong = []
    for words in _commands(page):
        if any(name in word for word in words for name in _STAND_INS):
            continue
        flags = [word for word in words if "dataset.download" not in word]
        is_planned = any(word.startswith(("--sweep", "--folds")) for word in words)
        if is_planned:
            flags.append("--dry_run")
        elif not any(word.startswith(("--workdir", *_WITHOUT_WORKDIR)) for word in words):
            flags.append(f"--workdir={tmp_path}/run")
        ended = launch(*flags, folder=tmp_path)
        expected = 0 if is_planned else 1
        if ended.returncode != expected or "Traceback" in ended.stderr:
            wrong.append((" ".join(words), ended.returncode, ended.stderr))
    assert not wrong


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos`, nested and in several formats, and the images of other pages."""
    top = tmp_path_factory.mktemp("commands")
    generator = np.random.default_rng(0)
    for number in range(12):
        base = generator.integers(0, 256, 3)
        for place, suffix in enumerate((".jpg", ".JPG", ".png", ".webp", ".bmp", ".gif")):
            pixels = np.clip(base + generator.normal(scale=60, size=(90, 120, 3)), 0, 255)
            kind = f"kind {number:02d}"
            for path in (
                top / "photos" / f"shelf {number % 3}" / kind / f"IMG_{place}{suffix}",
                top / "images" / kind / f"{place}{suffix}",
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    (top / "photos" / "notes.txt").write_text("not a photograph")
    return top


# Weights cannot be downloaded in tests, and few steps are enough.
_SMALL = [
    "--config.model.batch_norm=train",
    "--config.model.width=8",
    "--config.sampling.batch_size=16",
    "--config.train.num_epochs=2",
    "--config.eval.every_epochs=1",
]


def _flags(words: list[str], folder: Path) -> list[str]:
    """Returns the flags of a command for images and runs that are in the folder."""
    places = {"/path/to/images": "images", "/moved/images": "images", "/data/": "data/"}
    flags = []
    for word in words:
        if "model.pretrained=" in word:
            flags += _SMALL
        elif "dataset.download" not in word:
            for place, local in places.items():
                word = word.replace(place, f"{folder}/{local}")
            flags.append(word)
    return flags


def _run(words: list[str], folder: Path) -> None:
    if "--mode=search" in words:
        _search(words, folder)
        return
    ended = launch(*_flags(words, folder), folder=folder)
    assert ended.returncode == 0, (words, ended.stderr)


def _search(words: list[str], folder: Path) -> None:
    """Runs a search page until it has answered."""
    command = [sys.executable, str(_ROOT / "launch.py"), *words]
    with subprocess.Popen(command, cwd=folder) as server:
        try:
            deadline = time.monotonic() + 120
            status = 0
            while not status and time.monotonic() < deadline and server.poll() is None:
                connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=10)
                try:
                    connection.request("GET", "/")
                    status = connection.getresponse().status
                except OSError:
                    time.sleep(0.2)
                finally:
                    connection.close()
            assert status == 200
        finally:
            server.send_signal(signal.SIGINT)


@pytest.mark.long
def test_tutorial_leads_from_photographs_to_a_search_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = _ROOT / "docs" / "tutorial.md"
    monkeypatch.chdir(folder)
    table, load = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    exec(table, {})
    assert len((folder / "photos.csv").read_text().splitlines()) == 1 + 12 * 6
    check, *others = _commands(page)
    # Without weights, which cannot be downloaded here, checking the data ends with exit code 1.
    ended = launch(*check, *_SMALL, f"--workdir={folder}/check", folder=folder)
    assert "training can begin" in ended.stdout
    for words in others:
        _run(words, folder)
    assert (folder / "runs/photos/report/index.html").is_file()
    for name in ("one", "another"):
        shutil.copy(next(folder.glob("photos/**/*.jpg")), folder / f"photos/{name}.jpg")
    exec(load, names := {})
    assert names["vectors"].shape == (2, 256)


@pytest.mark.long
def test_commands_on_runs_and_images_of_ones_own_succeed(folder: Path) -> None:
    train = ["--config=configs/small/photos.py", "--config.dataset.root=/path/to/images"]
    _run([*train, "--config.model.pretrained=", "--workdir=runs/one"], folder)
    (number,) = sorted(os.listdir(folder / "runs/one/checkpoints"))[-1:]
    for name in ("another", "cub", "folder"):
        shutil.copytree(folder / "runs/one", folder / "runs" / name)
    (folder / "data").mkdir(exist_ok=True)
    shutil.copytree(folder / "images", folder / "gallery", dirs_exist_ok=True)
    modes = ("evaluate", "embed", "score", "export", "report", "search")
    for page in _PAGES:
        if page.stem == "tutorial":
            continue
        for words in _commands(page):
            mode = next((word for word in words if word.startswith("--mode=")), "").partition("=")
            # VehicleID's lists belong to its images alone.
            if mode[2] not in modes or any("test_list" in word for word in words):
                continue
            if "query.npy" in " ".join(words):
                _write_query_and_gallery(folder)
            _run([re.sub("checkpoints/1200", f"checkpoints/{number}", x) for x in words], folder)


def _write_query_and_gallery(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("query", "gallery"):
        np.save(folder / f"{name}.npy", generator.normal(size=(40, 8)).astype(np.float32))
        labels = "\n".join(f"class {i % 5}" for i in range(40))
        (folder / f"{name}.csv").write_text(f"label\n{labels}\n")
