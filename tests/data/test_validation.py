"""Validation classes are held out of training by their names alone, wherever a run takes place."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import many_processes
import numpy as np
import pytest
from test_manifest import HEAD, ROWS, write

from configs import digits
from dcjax.core.errors import InputError, SettingError
from dcjax.data import datasets
from dcjax.data.datasets import HoldOut, ImageSet, Splits, validation
from dcjax.data.datasets.validation import hold_out
from dcjax.experiment import inputs


def _splits(names: tuple[str, ...], super_classes: tuple[str, ...] | None = None) -> Splits:
    """Returns three training images of each class, whose pixels are a number of the name."""
    labels = np.repeat(np.arange(len(names), dtype=np.int32), 3)
    pixels = np.array([sum(map(ord, names[i])) % 256 for i in labels], np.uint8)
    train = ImageSet(pixels.reshape(-1, 1, 1, 1), labels, names, super_classes)
    return Splits(train, ImageSet(train.images[:4], np.arange(4, dtype=np.int32), tuple("abcd")))


def _held_out(splits: Splits, **options: Any) -> list[str]:
    held = hold_out(splits, HoldOut(**options)).validation
    assert held is not None
    return sorted(held.class_names)


def test_held_out_images_are_those_of_the_named_classes_and_none_stays_in_training() -> None:
    splits = datasets.load("digits", root="")
    held = hold_out(splits, HoldOut(names=("1", "3")))
    assert held.validation is not None
    assert held.train.class_names == ("0", "2", "4")
    assert held.validation.class_names == ("1", "3")
    for images in (held.train, held.validation):
        known = {tuple(map(bytes, pixels)): label for pixels, label in _contents(splits.train)}
        for pixels, label in _contents(images):
            assert known[tuple(map(bytes, pixels))] == label
    assert len(held.train) + len(held.validation) == len(splits.train)
    assert held.query is splits.query


def _contents(images: ImageSet) -> list[tuple[np.ndarray, str]]:
    names = (images.class_names[label] for label in images.labels)
    return list(zip(images.images, names, strict=True))


def test_choice_depends_on_the_names_alone() -> None:
    names = tuple(f"class {i}" for i in range(20))
    chosen = _held_out(_splits(names), share=0.25)
    assert len(chosen) == 5
    ordered = sorted(names)
    assert chosen not in (ordered[:5], ordered[-5:])  # neighbours in sorted order may be alike
    assert _held_out(_splits(names[::-1]), share=0.25) == chosen
    # Of the classes that stay, no other ones are chosen when some are removed.
    fewer = tuple(name for name in names if name not in chosen[:1])
    assert set(chosen[1:]) < set(_held_out(_splits(fewer), share=0.25))


def test_seeds_share_their_validation_classes() -> None:
    held = []
    for seed in (0, 1):
        config = digits.get_config()
        config.seed = seed
        config.dataset.validation_classes = 0.4
        splits, _ = inputs.load_splits(config.dataset)
        assert splits.validation is not None
        held.append(splits.validation.class_names)
    assert held[0] == held[1]
    assert len(held[0]) == 2


@pytest.mark.parametrize(("num_folds", "num_classes"), [(2, 5), (3, 10), (4, 7), (7, 100)])
def test_folds_are_disjoint_and_cover_all_classes(num_folds: int, num_classes: int) -> None:
    names = tuple(map(str, range(num_classes)))
    parts = [_held_out(_splits(names), share=1 / num_folds, fold=i) for i in range(num_folds)]
    assert sorted(itertools.chain(*parts)) == sorted(names)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    validation.check_options(HoldOut(share=1 / num_folds, fold=num_folds - 1))
    with pytest.raises(SettingError, match=rf"validation_fold < {num_folds}, .* got {num_folds}"):
        validation.check_options(HoldOut(share=1 / num_folds, fold=num_folds))


def test_super_classes_are_held_out_whole() -> None:
    names = tuple(f"{i}" for i in range(12))
    above = tuple("abcd"[i % 4] for i in range(12))
    for options in ({"share": 0.25}, {"names": ("b",)}):
        held = hold_out(_splits(names, above), HoldOut(unit="super_class", **options))
        assert held.validation is not None
        assert held.validation.num_classes == 3
        assert len(set(held.validation.super_classes or ())) == 1
        assert not set(held.validation.super_classes or ()) & set(held.train.super_classes or ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.1}, "=0.1 of 4 training classes is none: require 0.25 or more, or 0"),
        ({"share": 0.9}, "classes to train on .* got all 4 in dataset.validation_classes; hold"),
        ({"names": tuple("wxyz")}, "got all 4 in dataset.validation_list; hold out fewer"),
        ({"names": ("w", "yy")}, "names of training classes in .*list, got 'yy'; the nearest is y"),
        ({"share": 0.5, "unit": "super_class"}, "the data set has none; take class, or list its"),
    ],
)
def test_impossible_choice_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        hold_out(_splits(tuple("wxyz")), HoldOut(**options))


def test_share_and_names_together_are_refused() -> None:
    with pytest.raises(SettingError, match=r"one of dataset.validation_classes and .*_list, got"):
        validation.check_options(HoldOut(share=0.5, names=("a",)))


def test_table_may_have_validation_classes_of_its_own(tmp_path: Path) -> None:
    rows = [*ROWS, ("c/7.jpg", "11", "validation", "cats"), ("c/8.jpg", "6", "validation", "birds")]
    head = (*HEAD, "camera")
    rows = [(*row, f"camera {i}") for i, row in enumerate(rows)]
    table = write(tmp_path / "table.csv", rows, head)
    splits = datasets.load("manifest", root="", manifest=table)
    assert splits.validation is not None
    assert splits.validation.class_names == ("11", "6")
    assert splits.validation.labels.tolist() == [0, 1]
    assert splits.train.class_names == ("10", "7")
    tested = datasets.load_index("manifest", root="", with_train=False, manifest=table)
    assert tested.validation is None
    with pytest.raises(InputError, match="has 2 validation classes of its own: leave out"):
        datasets.load("manifest", root="", manifest=table, validation=HoldOut(share=0.5))
    joined = datasets.load("manifest", root="", manifest=table, validation=HoldOut(unit="none"))
    in_train = [(*row[:2], "train", *row[3:]) if row[2] == "validation" else row for row in rows]
    expected = datasets.load(
        "manifest", root="", manifest=write(tmp_path / "all.csv", in_train, head)
    )
    assert joined.validation is None
    for field in dataclasses.fields(ImageSet):
        np.testing.assert_array_equal(
            getattr(joined.train, field.name), getattr(expected.train, field.name)
        )
    for label, message in (
        ("7", "validation classes must be unseen, but 1 are in train too, the first is '7'"),
        ("8", "test classes must be unseen, but 1 are in validation too, the first is '8'"),
    ):
        shared = write(
            tmp_path / "shared.csv",
            [*rows, ("c/9.jpg", label, "validation", "birds", "camera 9")],
            head,
        )
        with pytest.raises(InputError, match=message):
            datasets.load("manifest", root="", manifest=shared)


def test_file_in_training_and_validation_is_refused(tmp_path: Path) -> None:
    for row in ROWS:
        (tmp_path / row[0]).parent.mkdir(exist_ok=True)
        (tmp_path / row[0]).write_bytes(row[0].encode())
    rows = [row[:3] for row in ROWS] + [("a/1.jpg", "11", "validation")]
    table = write(tmp_path / "table.csv", rows, HEAD[:3])
    with pytest.raises(
        InputError, match=r"as .*a/1.jpg \(validation, class 11\), which is .*train"
    ):
        datasets.load("manifest", root="", manifest=table)


_PROGRAM = """
from configs import digits
from dcjax.experiment import agreement, inputs
config = digits.get_config()
config.seed = jax.process_index()
config.dataset.validation_classes = 0.4
splits, _ = inputs.load_splits(config.dataset)
print(splits.validation.class_names, agreement.check_images(splits)["validation"]["labels"])
"""


def test_processes_agree_on_the_validation_classes() -> None:
    config = digits.get_config()
    config.dataset.validation_classes = 0.4
    splits, _ = inputs.load_splits(config.dataset)
    assert splits.validation is not None
    first, second = many_processes.run(_PROGRAM)
    assert first == second
    assert first.startswith(str(splits.validation.class_names))
