"""The real builders of tensorflow-datasets accept the archives and keep every picture unchanged."""

from collections import Counter

import pytest
import tensorflow_datasets as tfds
import tfds_archives


@pytest.mark.parametrize("name", tfds_archives.BUILDERS)
def test_tfds_builders_prepare_the_archives(name, tmp_path):
    pictures = tfds_archives.pack(name, tmp_path / "archives")
    builder = tfds_archives.prepare(name, tmp_path / "archives", tmp_path / "data")
    label = "class_id" if name == "sop" else "label"
    counts = {}
    for split in ("train", "test"):
        examples = builder.as_dataset(split, decoders={"image": tfds.decode.SkipDecoding()})
        counts[split] = Counter(
            (bytes(example["image"]), int(example[label]) + 1)
            for example in examples.as_numpy_iterator()
        )
    if name == "sop":
        trains = [picture.part == "train" for picture in pictures]
    else:  # the classification split, which divides every class
        trains = [picture.number % 2 == 0 for picture in pictures]
    for split in ("train", "test"):
        assert counts[split] == Counter(
            (picture.jpeg, picture.class_id)
            for picture, train in zip(pictures, trains, strict=True)
            if train == (split == "train")
        )
