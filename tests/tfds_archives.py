"""The archives that builders of tensorflow-datasets need, packed from small trees."""

import hashlib
import tarfile
import tempfile
import zipfile
from pathlib import Path
from unittest import mock

import benchmark_trees
import tensorflow_datasets as tfds
from benchmark_pictures import Picture
from PIL import Image

BUILDERS = {
    "cub": "caltech_birds2011",
    "cars": "cars196",
    "sop": "stanford_online_products",
}


def pack(name: str, folder: Path, **sizes: int) -> list[Picture]:
    """Packs cub, cars or sop as its authors did.

    Args:
      name: of the benchmark.
      folder: where the archives are written.
      **sizes: see `benchmark_pictures.create`.

    Returns:
      The pictures in them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    layout = "devkit" if name == "cars" else "original"
    with tempfile.TemporaryDirectory() as root:
        pictures = benchmark_trees.write(name, layout, root, **sizes)
        tree = Path(root)
        if name == "cub":
            _write_masks(tree)
            _tar(folder / "CUB_200_2011.tgz", tree / "CUB_200_2011")
            _tar(folder / "segmentations.tgz", tree / "segmentations")
        elif name == "cars":
            _tar(folder / "cars_train.tgz", tree / "cars_train")
            _tar(folder / "cars_test.tgz", tree / "cars_test")
            _tar(folder / "car_devkit.tgz", tree / "devkit")
            annotations = "cars_test_annos_withlabels.mat"
            (folder / annotations).write_bytes((tree / annotations).read_bytes())
        else:
            with zipfile.ZipFile(folder / "Stanford_Online_Products.zip", "w") as file:
                for path in sorted(tree.rglob("*")):
                    file.write(path, path.relative_to(tree))
    return pictures


def prepare(name: str, folder: Path, data_dir: Path) -> tfds.core.DatasetBuilder:
    """Prepares the archives in a folder with the real builder, which is returned.

    The builder expects the checksums of these archives instead of the real ones.
    """
    builder_cls = tfds.builder_cls(BUILDERS[name])
    infos = {
        url: _url_info(folder / info.filename)
        for url, info in builder_cls.url_infos.items()
        if (folder / str(info.filename)).exists()
    }
    with mock.patch.object(builder_cls, "url_infos", infos):
        builder = builder_cls(data_dir=data_dir)
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=folder)
        )
    return builder


def _url_info(path: Path) -> tfds.core.download.checksums.UrlInfo:
    content = path.read_bytes()
    return tfds.core.download.checksums.UrlInfo(
        size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=path.name
    )


def _tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)


def _write_masks(tree: Path) -> None:
    """Writes a segmentation mask of each image, as CUB has; here it covers the full image."""
    for path in (tree / "CUB_200_2011" / "images").rglob("*.jpg"):
        folder = tree / "segmentations" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            Image.new("L", image.size, 255).save(folder / f"{path.stem}.png")
