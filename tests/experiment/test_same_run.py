"""A saved run is continued and evaluated only with the settings and data that it was saved with."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits
from dcjax.data import datasets
from dcjax.data.datasets import ImageSet
from dcjax.experiment import same_run


def _config(**changes: Any) -> ConfigDict:
    config = digits.get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def _settings(**changes: Any) -> dict[str, Any]:
    return _config(**changes).to_dict()


def test_run_may_differ_only_in_settings_that_do_not_change_training() -> None:
    saved = digits.get_config().to_dict()
    free = _settings(
        train__num_epochs=99,
        eval__nmi="never",
        dataset__root="elsewhere",
        dataset__download=True,
        model__pretrained="elsewhere/weights",
        paper={"nmi": 70.0},
        train__report=False,
    )
    for settings, others in ((free, saved), (saved, free)):
        same_run.check_same(settings, others, "runs/a")
    for key, value in {"seed": 7, "model.dropout": 0.5}.items():
        with pytest.raises(ValueError, match=rf"runs/a holds .*: {key}={value} \(saved: "):
            same_run.check_same(_settings(**{key.replace(".", "__"): value}), saved, "runs/a")
    scored_otherwise = _settings(
        dataset__test_list="small",
        model__test_masks="none",
        eval__protocol="gallery",
        eval__gallery_draws=3,
        eval__best_by="recall_at_1",
    )
    same_run.check_same(scored_otherwise, saved, "runs/a", evaluating=True)
    with pytest.raises(
        ValueError, match=r"evaluate may change .*list='small'.*best_by=.*protocol=.*masks="
    ):
        same_run.check_same(scored_otherwise, saved, "runs/a")


def test_number_of_epochs_is_fixed_where_the_learning_rates_depend_on_it() -> None:
    def settings(schedule: str, num_epochs: int) -> dict[str, Any]:
        return _settings(optimizer__schedule=schedule, train__num_epochs=num_epochs)

    same_run.check_same(settings("step", 9), settings("step", 8), "runs/a")
    cosine, longer = settings("cosine", 8), settings("cosine", 9)
    with pytest.raises(ValueError, match=r"Different: train.num_epochs=9 \(saved: 8\)\."):
        same_run.check_same(longer, cosine, "runs/a")
    same_run.check_same(longer, cosine, "runs/a", evaluating=True)
    same_run.check_same(longer, cosine, "runs/a", scored=True)


def test_number_of_steps_is_fixed_and_with_it_that_of_epochs() -> None:
    saved = _settings(train__num_steps=50, train__num_epochs=8)
    for changes, different in (
        ({"train__num_steps": 60, "train__num_epochs": 8}, r"train.num_steps=60 \(saved: 50\)\."),
        ({"train__num_steps": 50, "train__num_epochs": 9}, r"train.num_epochs=9 \(saved: 8\)\."),
    ):
        for scored in (False, True):
            with pytest.raises(ValueError, match=f"Different: {different}"):
                same_run.check_same(_settings(**changes), saved, "runs/a", scored=scored)


def test_settings_unknown_to_a_saved_run_are_named() -> None:
    saved = digits.get_config().to_dict()
    del saved["dataset"]["cache"]
    with pytest.raises(ValueError, match=r"none for dataset.cache; .* another version"):
        same_run.check_same(_settings(), saved, "runs/a")


def test_data_may_be_moved_but_not_changed() -> None:
    train = datasets.load("digits", root="").train
    saved = same_run.fingerprint(train)
    same_run.check_same_data(
        same_run.fingerprint(train.select(np.arange(len(train)))), saved, "runs/a"
    )
    for other in (
        train.select(np.arange(len(train) - 1)),
        train.select(np.arange(len(train))[::-1]),
        dataclasses.replace(train, super_classes=("round", "straight", *3 * ["round"])),
    ):
        with pytest.raises(ValueError, match="runs/a holds a run on other training images"):
            same_run.check_same_data(same_run.fingerprint(other), saved, "runs/a")


def test_only_fingerprints_known_to_both_runs_are_compared() -> None:
    splits = datasets.load("digits", root="")
    query, half = splits.query, splits.query.select(np.arange(100))
    now = same_run.fingerprints(splits)
    assert list(now) == ["train", "query"]
    same_run.check_same_data(now, now, "runs/a")
    same_run.check_same_data(now, now["train"], "runs/a")  # the form saved by older versions
    for others, kind in (
        (datasets.Splits(splits.train, half), "test images: now 100 images of 5 classes, then 896"),
        (datasets.Splits(splits.train, query, half), "gallery images: now 100 .*, then 0 of 0"),
        (datasets.Splits(half, query), "training images: now 100"),
    ):
        with pytest.raises(ValueError, match=f"runs/a holds a run on other {kind}"):
            same_run.check_same_data(same_run.fingerprints(others), now, "runs/a")
    validated = same_run.fingerprints(datasets.Splits(splits.train, query, validation=half))
    for new, old in ((validated, now), (now, validated)):
        with pytest.raises(ValueError, match="runs/a holds a run on other validation images"):
            same_run.check_same_data(new, old, "runs/a")
    assert not list(same_run.differences(same_run.fingerprints(splits.without_train()), validated))
    fewer = {"query": {key: now["query"][key] for key in ("images", "content")}}
    assert not list(same_run.differences(now, fewer))
    test_only = same_run.fingerprints(splits.without_train())
    assert list(test_only) == ["query"]
    assert not list(same_run.differences(test_only, now))
    with_gallery = same_run.fingerprints(datasets.Splits(splits.train, query, half))
    (message,) = same_run.differences(test_only, with_gallery)
    assert message.startswith("gallery images: now 0 images of 0 classes, then 100 of 5")


def test_fingerprint_does_not_depend_on_folder_and_file_names(tmp_path: Path) -> None:
    def fingerprint(folder: str, contents: dict[str, bytes], name: str = "x") -> dict[str, int]:
        (tmp_path / folder).mkdir()
        for file, content in contents.items():
            (tmp_path / folder / file).write_bytes(content)
        paths = np.array([str(tmp_path / folder / file) for file in contents])
        return same_run.fingerprint(ImageSet(paths, np.zeros(2, np.int32), (name,)))

    saved = fingerprint("here", {"a.jpg": b"1", "b.jpg": b"22"})
    assert fingerprint("there", {"1.jpg": b"1", "2.jpg": b"22"}) == saved
    assert fingerprint("other", {"a.jpg": b"1", "b.jpg": b"333"}) != saved
    assert fingerprint("renamed", {"a.jpg": b"1", "b.jpg": b"22"}, name="y") != saved
