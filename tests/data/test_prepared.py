"""Datasets prepared by tensorflow-datasets are read in any order; unreadable ones are named."""

import json
from pathlib import Path

import benchmark_trees
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tfds_archives

from dcjax.data import datasets
from dcjax.data.datasets import inshop as inshop_set
from dcjax.data.datasets import prepared
from dcjax.data.datasets.files import read_bytes

_PART = {"source": "tfds", "complete": False, "download": False}


@pytest.fixture
def inshop(tmp_path: Path) -> Path:
    """A data folder with In-shop as its manual download."""
    benchmark_trees.write("inshop", "original", tmp_path / "downloads" / "manual")
    return tmp_path


def test_offsets_of_images_point_to_their_bytes(inshop):
    from_records = datasets.load("inshop", root=str(inshop), **_PART)
    folder = datasets.load(
        "inshop", root=f"{inshop}/downloads/manual", **_PART | {"source": "folder"}
    )
    assert from_records.gallery is not None
    assert folder.gallery is not None
    for one, other in (
        (from_records.train, folder.train),
        (from_records.query, folder.query),
        (from_records.gallery, folder.gallery),
    ):
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.class_names == other.class_names
        assert one.super_classes == other.super_classes is not None
        for row in np.random.default_rng(0).permutation(len(one)):
            assert read_bytes(one.images[row]) == read_bytes(other.images[row])
        assert one.name(0).startswith(f"{inshop}/inshop/1.0.0/inshop-")


def test_evaluation_needs_no_training_records(inshop):
    expected = datasets.load("inshop", root=str(inshop), **_PART)
    for path in (inshop / "inshop" / "1.0.0").glob("*-train.tfrecord*"):
        path.unlink()
    actual = datasets.load("inshop", root=str(inshop), with_train=False, **_PART)
    assert (len(actual.train), actual.query.class_names) == (0, expected.query.class_names)
    assert actual.gallery is not None
    assert expected.gallery is not None
    assert actual.gallery.images.tolist() == expected.gallery.images.tolist()


def test_image_is_found_beside_a_feature_with_the_same_first_bytes(tmp_path):
    head = b"\xff\xd8" + bytes(80)
    example = prepared.tf.train.Example()
    example.features.feature["a"].bytes_list.value.append(head + b"not an image")
    example.features.feature["image"].bytes_list.value.append(head + b"the image")
    path = str(tmp_path / "one.tfrecord")
    with prepared.tf.io.TFRecordWriter(path) as writer:
        writer.write(example.SerializeToString())
    ((_, offset, length),) = prepared._rows(path, ())
    assert Path(path).read_bytes()[offset : offset + length] == head + b"the image"


def test_vehicleid_lists_keep_their_order(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    benchmark_trees.write("vid", "original", manual)
    for name in ("small", "medium", "large"):
        splits = datasets.load("vid", root=str(tmp_path), test_list=name, **_PART)
        folder = datasets.load(
            "vid", root=str(manual), test_list=name, **_PART | {"source": "folder"}
        )
        contents = [read_bytes(image) for image in splits.query.images]
        assert contents == [read_bytes(image) for image in folder.query.images]
    _, tested = prepared.read(tmp_path / "vehicle_id" / "1.0.0", ["test"], ["large"])
    assert (tested["large"] >= 0).sum() == len(contents)  # an image of several lists is stored once


def test_records_of_another_format_are_refused(inshop):
    config = tfds.download.DownloadConfig(manual_dir=inshop / "downloads" / "manual")
    builder = inshop_set._create_builder(data_dir=inshop, file_format="array_record")
    builder.download_and_prepare(download_config=config)
    with pytest.raises(ValueError, match=r"tfrecord, .*default, got array_record in .*/1.0.0"):
        datasets.load("inshop", root=str(inshop), **_PART)


def test_dataset_prepared_without_a_feature_must_be_prepared_again(inshop):
    datasets.load("inshop", root=str(inshop), **_PART)
    with pytest.raises(ValueError, match=r"inshop/1.0.0 was prepared without colour and size; rem"):
        prepared.read(inshop / "inshop" / "1.0.0", ["train"], ["colour", "item", "size"])


@pytest.mark.parametrize("layout", ["now", "before"])
def test_modules_named_by_a_prepared_dataset_are_not_imported(inshop, layout, monkeypatch):
    datasets.load("inshop", root=str(inshop), **_PART)
    folder = inshop / "inshop" / "1.0.0"
    (inshop / "hostile_features.py").write_text(f"open({str(inshop / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(inshop)
    name = "hostile_features.Text"
    if layout == "before":
        text = json.dumps({"type": name, "content": {}})
    else:
        ours = "tensorflow_datasets.core.features.text_feature.Text"
        text = (folder / "features.json").read_text().replace(ours, name, 1)
    (folder / "features.json").write_text(text)
    with pytest.raises(ValueError, match=r"features\.json names the class 'hostile_features.Text'"):
        datasets.load("inshop", root=str(inshop), **_PART)
    assert not (inshop / "imported").exists()


def test_damaged_description_of_a_prepared_dataset_is_named(inshop):
    datasets.load("inshop", root=str(inshop), **_PART)
    (inshop / "inshop" / "1.0.0" / "features.json").write_text("{")
    with pytest.raises(ValueError, match=r"Cannot read .*/1.0.0/features.json: "):
        datasets.load("inshop", root=str(inshop), **_PART)


@pytest.mark.parametrize("num_bytes", [0, 5, 12, 3000])
def test_damaged_record_file_is_named(inshop, num_bytes):
    datasets.load("inshop", root=str(inshop), **_PART)
    shard = next((inshop / "inshop" / "1.0.0").glob("*train*tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=r"inshop/1.0.0"):
        datasets.load("inshop", root=str(inshop), **_PART)


def test_archives_that_were_not_published_are_refused(tmp_path):
    tfds_archives.pack("sop", tmp_path / "downloads" / "manual")
    message = r"cannot prepare stanford_online_products from .*/manual: .*wrong checksum"
    with pytest.raises(ValueError, match=message):
        datasets.load("sop", root=str(tmp_path), **_PART)


def test_packages_needed_to_prepare_are_named_before_it_starts(tmp_path, monkeypatch):
    tfds_archives.pack("cub", tmp_path / "downloads" / "manual")
    monkeypatch.setattr("dcjax.data.datasets.sources.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install opencv-python-headless"):
        datasets.load("cub", root=str(tmp_path), **_PART)
