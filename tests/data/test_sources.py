"""Sources of a published dataset: which is preferred, what is missing, what is incomplete."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import archive_servers
import benchmark_pictures
import pytest
import tfds_archives

from dcjax.data import datasets, downloads
from dcjax.data.datasets import cars, cub, prepared, sources
from dcjax.data.datasets.request import Request

CUB = {
    "CUB_200_2011/images.txt": "1 007.Auk/b.jpg\n2 007.Auk/a.jpg\n3 101.Pelican/c.jpg\n",
    "CUB_200_2011/image_class_labels.txt": "1 7\n2 7\n3 101\n",
    "CUB_200_2011/images/007.Auk/a.jpg": None,
    "CUB_200_2011/images/007.Auk/b.jpg": None,
    "CUB_200_2011/images/101.Pelican/c.jpg": None,
}


def load(root: str, **changes: object) -> datasets.Splits:
    options = {"source": "auto", "complete": False, "download": False}
    return datasets.load("cub", root=root, **options | changes)


def test_lists_and_class_folders_give_the_same_images(write_tree, tmp_path):
    listed = load(write_tree(CUB))
    for path in (tmp_path / "CUB_200_2011").glob("*.txt"):
        path.unlink()
    packed_anew = load(f"{tmp_path}/CUB_200_2011")
    for split in ("train", "query"):
        one, other = getattr(listed, split), getattr(packed_anew, split)
        assert one.images.tolist() == other.images.tolist() == sorted(one.images)
        assert one.labels.tolist() == other.labels.tolist()
        assert one.class_names == other.class_names
        assert one.super_classes == other.super_classes is not None


def test_too_few_images_name_the_list_and_both_counts(write_tree):
    message = (
        r"images.txt: cub has 5,864 images of 100 classes in its split 'train', found 2 of 1; "
    )
    with pytest.raises(ValueError, match=rf"{message}.*dataset.complete=False"):
        load(write_tree(CUB), complete=True)


def test_evaluation_does_not_count_training_images(write_tree, monkeypatch):
    counts = {"train": (5864, 100), "query": (1, 1)}
    monkeypatch.setattr(cub, "CUB", dataclasses.replace(cub.CUB, counts=counts))
    root = write_tree(CUB)
    assert len(load(root, complete=True, with_train=False).query) == 1
    with pytest.raises(ValueError, match="found 2 of 1"):
        load(root, complete=True)


def test_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"'web'; known are auto, folder, tfds"):
        load("", source="web")


@pytest.mark.parametrize(
    ("source", "looked"),
    [
        ("folder", ["none of images.txt, CUB_200_2011/images.txt, images is in {root}"]),
        ("tfds", ["tensorflow-datasets has prepared no caltech_birds2011 in {root}"]),
        ("auto", ["none of images.txt", "prepared no caltech_birds2011 in {root}"]),
    ],
)
def test_missing_dataset_error_names_places_archives_and_flags(
    tmp_path: Path, source: str, looked: list[str]
) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load(str(tmp_path), source=source)
    place = tmp_path / "downloads" / "manual" if source == "tfds" else tmp_path
    archives = ["CUB_200_2011.tgz", "segmentations.tgz"][: 2 if source == "tfds" else 1]
    facts = [
        *(text.format(root=tmp_path) for text in looked),
        "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
        "https://data.caltech.edu/",
        str(place),
        "--config.dataset.download=true",
        *archives,
    ]
    assert all(fact in str(caught.value) for fact in facts)


@pytest.mark.parametrize("name", ["inshop", "vid"])
def test_dataset_on_request_names_its_web_page(tmp_path: Path, name: str) -> None:
    options = {"source": "auto", "complete": False, "download": True}
    options |= {"test_list": "small"} if name == "vid" else {}
    with pytest.raises(FileNotFoundError, match=r"https?://.*by hand"):
        datasets.load(name, root=str(tmp_path), **options)


def test_newest_prepared_version_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.0.0", "10.0.0", "9.1.0", "incomplete.AB_11.0.0", "12.0.0 (copy)"):
        folder = tmp_path / "birds" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
    read: list[Path] = []

    def refuse(folder: Path) -> sources.Index:
        read.append(folder)
        raise ValueError("read")

    layouts: dict[str, Callable[[Path], sources.Index]] = {"never": refuse}
    birds = sources.PublishedDataset("birds", "", {}, (), layouts, "birds", refuse)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for root in (str(tmp_path), ""):
        with pytest.raises(ValueError, match="read"):
            sources.load(birds, Request(root), source="auto", complete=False, download=False)
    assert read == [tmp_path / "birds" / "10.0.0"] * 2


def published(archive: Path, url: str) -> downloads.Archive:
    """Returns an archive that is published at a URL."""
    content = archive.read_bytes()
    return downloads.Archive(archive.name, url, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[archive_servers.HttpServer]:
    """Serves the archive of a small CUB, and registers it with the dataset."""
    packed = tmp_path / "packed"
    tfds_archives.pack("cub", packed)
    archive = packed / "CUB_200_2011.tgz"
    with archive_servers.running(server := archive_servers.HttpServer(archive.read_bytes())):
        archives = (published(archive, server.url),)
        monkeypatch.setattr(cub, "CUB", dataclasses.replace(cub.CUB, archives=archives))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def test_missing_archive_is_downloaded_once_and_only_if_allowed(web, tmp_path: Path) -> None:
    root = tmp_path / "new"
    with pytest.raises(FileNotFoundError, match=f"{web.url}.*dataset.download=true does that"):
        load(str(root))
    assert not web.num_requests
    assert not root.exists()
    splits = load(str(root), download=True)
    pictures = benchmark_pictures.create("cub")
    for split in ("train", "query"):
        expected = [picture.jpeg for picture in pictures if picture.part == split]
        contents = [Path(image).read_bytes() for image in getattr(splits, split).images]
        assert sorted(contents) == sorted(expected)
    for download in (True, False):
        again = load(str(root), download=download)
        assert again.train.images.tolist() == splits.train.images.tolist()
    assert web.num_requests == 1


@pytest.mark.parametrize("source", ["auto", "folder"])
def test_archive_is_not_extracted_without_permission(web, tmp_path, source) -> None:
    (tmp_path / "CUB_200_2011.tgz").write_bytes(web.content)
    with pytest.raises(FileNotFoundError, match=r"dataset.download=true does that"):
        load(str(tmp_path), source=source)
    assert {path.name for path in tmp_path.iterdir()} == {"packed", "CUB_200_2011.tgz"}
    assert len(load(str(tmp_path), source=source, download=True).train)
    assert not web.num_requests


def test_concurrent_runs_download_once(web, tmp_path: Path) -> None:
    roots = [str(tmp_path / "new")] * 3
    with ThreadPoolExecutor(len(roots)) as runs:
        loaded = list(runs.map(lambda root: load(root, download=True), roots))
    assert len({tuple(splits.train.images) for splits in loaded}) == 1
    assert web.num_requests == 1


def test_archives_to_prepare_are_downloaded_if_packages_are_installed(
    web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[str, Path, list[str]]] = []

    def note(builder: str, data_dir: Path, manual: Path, create_builder: None) -> None:
        held.append((builder, data_dir, [path.name for path in manual.iterdir()]))

    monkeypatch.setattr(prepared, "prepare", note)
    for packages in ({"no_such_module": "no-such-package"}, {}):
        birds = dataclasses.replace(cub.CUB, prepare_from=cub.CUB.archives, prepare_with=packages)
        assert not web.num_requests
        message = "has prepared no" if not packages else "pip install no-such-package"
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            sources.load(
                birds, Request(str(tmp_path)), source="tfds", complete=False, download=True
            )
    assert held == [("caltech_birds2011", tmp_path, ["CUB_200_2011.tgz"])]


def test_preparing_inshop_requires_the_extracted_dataset(tmp_path) -> None:
    message = (
        f"InShopRetrieval.html: get it by hand, put it into {tmp_path}/downloads/manual and extr"
    )
    with pytest.raises(FileNotFoundError, match=message):
        datasets.load("inshop", root=str(tmp_path), source="tfds", complete=True, download=True)


def test_manually_downloaded_archives_are_extracted(tmp_path: Path, monkeypatch) -> None:
    tfds_archives.pack("cars", tmp_path)
    archives = tuple(published(tmp_path / a.name, "") for a in cars.CARS.archives)
    monkeypatch.setattr(cars, "CARS", dataclasses.replace(cars.CARS, archives=archives))
    options = {"source": "auto", "complete": False, "download": True}
    last = tmp_path / archives[-1].name
    last.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"Get {last.name} .* by hand"):
        datasets.load("cars", root=str(tmp_path), **options)
    assert not (tmp_path / "devkit").exists()
    (tmp_path / "elsewhere").rename(last)
    assert len(datasets.load("cars", root=str(tmp_path), **options).query)


def test_missing_root_folder_is_requested() -> None:
    with pytest.raises(FileNotFoundError, match=r"Then set --config.dataset.root=FOLDER"):
        load("", source="folder")
    with pytest.raises(FileNotFoundError, match=r"root to the folder that it is to be downloaded"):
        load("", source="folder", download=True)
