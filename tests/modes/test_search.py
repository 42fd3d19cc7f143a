"""A gallery is embedded once, searched exactly, and served until Ctrl-C."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import small_runs
from conftest import png
from forks import launch, start

import dcjax
from dcjax.core.errors import InputError, MissingFileError
from dcjax.data.datasets import embedding_files
from dcjax.division import masks
from dcjax.experiment import search as searching
from dcjax.experiment.embedder import Embedder
from dcjax.modes.embed import embed

_CHANGES = small_runs.TINY | {
    "division.every_epochs": 1,
    "division.max_clusters": 2,
    "train.num_epochs": 2,
    "eval.every_epochs": 0,
    "checkpoint.every_epochs": 1,
    "checkpoint.keep_latest": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run on folders of pictures with queries and a gallery."""
    top, workdir = (tmp_path_factory.mktemp(name) for name in ("images", "run"))
    return small_runs.train_on_folders(top, workdir, _CHANGES)


def _expected(vectors: np.ndarray, query: np.ndarray, rows: np.ndarray, k: int) -> list[int]:
    distances = np.sum((vectors[rows].astype(np.float64) - query) ** 2, axis=1)
    return rows[np.argsort(distances, kind="stable")[:k]].tolist()


def _numbers(neighbors: Any) -> list[int]:
    return [neighbor.number for neighbor in neighbors]


def test_neighbours_are_those_of_a_sort_of_all_distances(run: str) -> None:
    embedder = dcjax.load(run)
    assert isinstance(embedder, Embedder)
    search = embedder.search()
    gallery, query = embedder.load_test().gallery, embedder.load_test().query
    assert gallery is not None
    vectors, one = embedder(gallery.images), embedder(query.images[:1])
    np.testing.assert_allclose(search.images.vectors, vectors, atol=1e-6)
    vectors, rows = search.images.vectors, np.arange(len(gallery))
    found = search(query.images[0], 7)
    assert _numbers(found) == _expected(vectors, one, rows, 7)
    nearest = found[0]
    distance = np.linalg.norm(vectors[nearest.number].astype(np.float64) - one[0])
    assert nearest.distance == pytest.approx(distance, abs=1e-6)
    assert nearest.name == gallery.images[nearest.number]
    assert nearest.class_name == gallery.class_names[gallery.labels[nearest.number]]
    of_class = np.flatnonzero(gallery.labels == gallery.class_names.index("y"))
    assert _numbers(search(query.images[0], 9, class_name="y")) == _expected(
        vectors, one, of_class, 9
    )
    assert _numbers(search.like(3, 5)) == _expected(vectors, vectors[3], np.delete(rows, 3), 5)

    assert search.clusters == (0, 1)
    state, _ = small_runs.load_checkpoint(embedder.config, run)
    for cluster in search.clusters:
        # As if the image had been embedded with the mask of the cluster alone.
        inside = np.asarray(
            masks.to_subspace(vectors, state.masks, cluster, embedder.config.model.test_masks)
        )
        expected = _expected(inside, inside[3], np.delete(rows, 3), 5)
        assert _numbers(search.like(3, 5, cluster=cluster)) == expected
    for arguments in ({"cluster": 2}, {"class_name": "a"}, {"k": 0}):
        with pytest.raises(InputError, match=r"Require|The gallery has no class 'a'"):
            search(query.images[0], **arguments)


def test_few_subspaces_are_kept(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search = dcjax.load(run).search()
    monkeypatch.setattr(searching, "_MAX_KEPT", 1)
    first = search.like(0, cluster=0)
    search.like(0, cluster=1)
    assert list(search._subspaces) == [1]
    assert search.like(0, cluster=0) == first


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images have been embedded for galleries, each time."""
    original, sizes = Embedder.embed, []

    def count(self: Embedder, images: Any, *arguments: Any) -> np.ndarray:
        sizes.append(len(images))
        return original(self, images, *arguments)

    monkeypatch.setattr(Embedder, "embed", count)
    return sizes


def test_a_gallery_is_embedded_once_until_images_or_checkpoint_change(
    run: str, tmp_path: Path, write_tree: Callable[..., str], embedded: list[int]
) -> None:
    workdir = str(shutil.copytree(run, tmp_path / "copy"))
    top = Path(write_tree({"in/a/1.png": None, "in/a/2.png": None, "in/b/3.png": None})) / "in"
    search = dcjax.load(workdir).search(str(top))
    assert (search.images.classes, list(search.images.labels)) == (("a", "b"), [0, 0, 1])
    dcjax.load(workdir).search(f"{top}/")
    assert embedded == [3]
    changed = top / "b" / "3.png"
    before = changed.stat()
    changed.write_bytes(changed.read_bytes()[::-1][: before.st_size])
    changed.write_bytes(png(np.full((12, 16, 3), 7, np.uint8)).ljust(before.st_size, b"\0"))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert changed.stat().st_size == before.st_size
    search = dcjax.load(workdir).search(str(top))
    assert embedded == [3, 3]
    assert search(changed, 1)[0].distance < 1e-6
    numbers = sorted(int(path.name) for path in Path(workdir, "checkpoints").iterdir())
    earlier = dcjax.load(f"{workdir}/checkpoints/{numbers[0]}")
    assert earlier.search(str(top))(changed, 1)[0].distance < 1e-6
    assert embedded == [3, 3, 3]
    kept = Path(workdir, "embeddings").glob("in-*")
    assert sorted(path.suffix for path in kept) == [".npy", ".parquet"]


def test_images_that_are_left_out_leave_no_gap(run: str, write_tree: Callable[..., str]) -> None:
    top = write_tree({"in/a/1.png": None, "in/a/2.png": "no image", "in/b/3.png": None}) + "/in"
    config = dcjax.load(run).config
    config.dataset.skip_unreadable = True
    images = dcjax.load(run, config).search(top).images
    assert images.names == [f"{top}/a/1.png", f"{top}/b/3.png"]
    assert images.pictures is not None
    assert images.pictures.images.tolist() == images.names


def test_files_of_embeddings_are_galleries(run: str, tmp_path: Path) -> None:
    embedder = dcjax.load(run)
    top = embedder.config.dataset.root
    embed(run, None, images=f"{top}/query", output=f"{tmp_path}/x")
    expected = embedder.search(f"{top}/query").like(2, 4)
    assert embedder.search(f"{tmp_path}/x.parquet").like(2, 4) == expected
    found = embedder.search(f"{tmp_path}/x.npy").like(2, 4)
    assert found == [(n.number, n.distance, "", f"row {n.number}") for n in expected]
    # Vectors of another length are scaled, as those of the network are of length 1.
    np.save(tmp_path / "y.npy", 3 * np.load(tmp_path / "x.npy"))
    assert _numbers(embedder.search(f"{tmp_path}/y.npy").like(2, 4)) == _numbers(expected)

    np.save(tmp_path / "z.npy", np.eye(3, dtype=np.float32))
    with pytest.raises(InputError, match=r"require vectors of 8 numbers, .* got 3"):
        embedder.search(f"{tmp_path}/z.npy")
    embedder.identity = lambda: {"weights": "others"}
    with pytest.raises(InputError, match="has the embeddings of another network, after epoch 2"):
        embedder.search(f"{tmp_path}/x.parquet")
    with pytest.raises(MissingFileError, match=r"nothing; correct --gallery"):
        embedder.search(f"{tmp_path}/nothing")
    assert not embedding_files.holds_vectors(Path(run, "config.json"))


def test_the_page_is_served_until_ctrl_c(run: str) -> None:
    server = start("--mode=search", f"--workdir={run}", "--port=0")
    output = server.wait_for("until Ctrl-C")
    address = output.partition("search    ")[2].split()[0]
    assert address.startswith("http://127.0.0.1:")
    expected = dcjax.load(run).search().like(1, 5, cluster=1)
    answer = httpx2.get(f"{address}search?image=1&k=5&space=1").json()["neighbors"]
    assert [(x["image"], x["distance"], x["class"], x["name"]) for x in answer] == [
        (n.number, n.distance, n.class_name, n.name) for n in expected
    ]
    picture = Path(expected[0].name).read_bytes()
    answer = httpx2.post(f"{address}search?k=1", content=picture).json()["neighbors"]
    assert answer[0]["image"] == expected[0].number
    image = httpx2.get(f"{address}images/1")
    assert image.headers["content-type"] == "image/webp"
    assert "gallery images" in httpx2.get(address).text

    port = address.rstrip("/").rpartition(":")[2]
    ended = launch("--mode=search", f"--workdir={run}", f"--port={port}")
    assert ended.returncode == 1
    assert ended.stderr.endswith("; give another --port or --host.\n")
    assert ended.stderr.count("\n") == 1
    start_time = time.monotonic()
    server.interrupt()
    assert server.finish()[::2] == (0, "")
    assert time.monotonic() - start_time < 5


def test_what_is_missing_or_wrong_is_one_line(run: str, tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('none')")
    ended = launch("--mode=search", f"--workdir={run}", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2
    assert "--mode=search needs the package uvicorn" in ended.stderr
    assert "pip install '.[search]'" in ended.stderr
    assert ended.stderr.count("\n") == 1
    for flag in ("--port=0", "--host=::1", "--gallery=x"):
        ended = launch("--mode=evaluate", f"--workdir={run}", flag)
        assert (ended.returncode, "is for --mode=search" in ended.stderr) == (2, True)
