"""Synthetic benchmark trees: every layout has the same pictures and classes."""

import re
from collections import Counter
from pathlib import Path

import benchmark_pictures
import benchmark_trees
import pytest
from scipy.io import loadmat

from dcjax.data import datasets
from dcjax.data.datasets import ImageSet
from dcjax.data.datasets.files import read_bytes

_LAYOUTS = [
    (name, layout)
    for name in ("cub", "cars", "sop", "inshop", "vid")
    for layout in benchmark_trees.layouts(name)
]
_PART = {"source": "folder", "complete": False, "download": False}


def _labelled(images: ImageSet, ids: list[int]) -> Counter[tuple[bytes, int]]:
    return Counter(
        (Path(path).read_bytes(), ids[label])
        for path, label in zip(images.images, images.labels, strict=True)
    )


@pytest.mark.parametrize(("name", "layout"), _LAYOUTS)
def test_every_layout_loads_the_same_pictures_of_each_part(name, layout, tmp_path):
    pictures = benchmark_trees.write(name, layout, tmp_path)
    options = _PART | ({"test_list": "large"} if name == "vid" else {})
    splits = datasets.load(name, root=str(tmp_path), **options)
    for part in {picture.part for picture in pictures}:
        wanted = Counter((p.jpeg, p.class_id) for p in pictures if p.part == part)
        trains = part == "train"
        ids = sorted({p.class_id for p in pictures if (p.part == "train") == trains})
        assert _labelled(getattr(splits, part), ids) == wanted
    assert (splits.gallery is None) == (name != "inshop")


@pytest.mark.parametrize(("name", "layout"), _LAYOUTS)
def test_evaluation_needs_neither_training_images_nor_their_lists(name, layout, tmp_path):
    pictures = benchmark_trees.write(name, layout, tmp_path)
    options = _PART | ({"test_list": "large"} if name == "vid" else {})
    expected = datasets.load(name, root=str(tmp_path), **options)
    trained = {picture.jpeg for picture in pictures if picture.part == "train"}
    for path in sorted(tmp_path.rglob("*")):
        if path.name in ("Ebay_train.txt", "train_list.txt") or (
            path.suffix in (".jpg", ".JPG") and path.read_bytes() in trained
        ):
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    actual = datasets.load(name, root=str(tmp_path), with_train=False, **options)
    assert len(actual.train) == 0
    for one, other in ((actual.query, expected.query), (actual.gallery, expected.gallery)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.images.tolist() == other.images.tolist()
            assert one.labels.tolist() == other.labels.tolist()
            assert one.class_names == other.class_names
            assert one.super_classes == other.super_classes


@pytest.mark.parametrize("name", ["cub", "cars", "sop", "inshop"])
def test_image_order_does_not_depend_on_the_layout(name, tmp_path):
    loaded = []
    for layout in benchmark_trees.layouts(name):
        benchmark_trees.write(name, layout, tmp_path / layout)
        splits = datasets.load(name, root=str(tmp_path / layout), **_PART)
        loaded.append(
            [
                ([read_bytes(x) for x in one.images], one.labels.tolist(), one.class_names)
                for one in (splits.train, splits.query, splits.gallery)
                if one is not None
            ]
        )
    assert loaded[0] == loaded[1]


@pytest.mark.parametrize("name", benchmark_pictures.TEST_LISTS)
def test_vehicleid_test_lists_are_nested(name, tmp_path):
    pictures = benchmark_trees.write("vid", "original", tmp_path)
    listed = [p for p in pictures if name in p.test_lists]
    assert len({p.class_id for p in listed}) == {"small": 3, "medium": 6, "large": 8}[name]
    splits = datasets.load("vid", root=str(tmp_path), test_list=name, **_PART)
    ids = sorted({p.class_id for p in listed})
    assert _labelled(splits.query, ids) == Counter((p.jpeg, p.class_id) for p in listed)


_TEXTS = {
    "cub/CUB_200_2011/images.txt": "cub200/images.txt",
    "cub/CUB_200_2011/image_class_labels.txt": "cub200/image_class_labels.txt",
    "cub/CUB_200_2011/classes.txt": "cub200/classes.txt",
    "cub/CUB_200_2011/train_test_split.txt": "cub200/train_test_split.txt",
    "cub/CUB_200_2011/bounding_boxes.txt": "cub200/bounding_boxes.txt",
    "sop/Stanford_Online_Products/Ebay_train.txt": "sop_like/Ebay_train.txt",
    "vid/VehicleID_V1.0/train_test_split/test_list_800.txt": "vehicleid/test_list_800.txt",
}
_MATS = {
    "cars/cars_annos.mat": "cars_annos.mat",
    "devkit/devkit/cars_meta.mat": "cars_meta.mat",
    "devkit/devkit/cars_train_annos.mat": "cars_train_annos.mat",
    "devkit/devkit/cars_test_annos.mat": "cars_test_annos.mat",
    "devkit/cars_test_annos_withlabels.mat": "cars_test_annos_withlabels.mat",
}


def _forms(path: Path) -> list[str]:
    """Returns the first three lines, with every number replaced by 0 and every word by a."""
    lines = path.read_text().splitlines(keepends=True)[:3]
    return [re.sub(r"\d+", "0", re.sub(r"[A-Za-z][\w-]*", "a", line)) for line in lines]


def test_lists_have_the_format_of_the_real_ones(real_lists, tmp_path):
    for name in ("cub", "cars", "sop", "vid"):
        benchmark_trees.write(name, "original", tmp_path / name)
    benchmark_trees.write("cars", "devkit", tmp_path / "devkit")
    for ours, theirs in _TEXTS.items():
        assert _forms(tmp_path / ours) == _forms(real_lists / theirs)
    for ours, theirs in _MATS.items():
        mine, real = loadmat(str(tmp_path / ours)), loadmat(str(real_lists / "cars196" / theirs))
        assert mine.keys() == real.keys()
        if "class_names" in real:
            assert [x.item() for x in mine["class_names"][0]] == [
                x.item() for x in real["class_names"][0]
            ]
        if "annotations" in real:
            assert mine["annotations"].dtype == real["annotations"].dtype
            assert mine["annotations"].shape[0] == real["annotations"].shape[0] == 1
