"""Epochs of images that are grouped at random or by super-class."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_runs
from ml_collections import ConfigDict

from configs import digits
from dcjax.data.datasets import Splits
from dcjax.data.datasets.image_set import from_classes
from dcjax.data.readers import KeptCrops
from dcjax.distributed import devices
from dcjax.division.division import Division
from dcjax.experiment import build, checks, epochs, readers
from dcjax.runs.progress import Progress

Prepare = Callable[[ConfigDict, int, Division | None], epochs.Epoch]


@pytest.fixture(scope="module")
def splits() -> Splits:
    """Twelve classes of six images each, in four super-classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (72, 8, 8, 1), np.uint8)
    above = {label: "abcd"[label % 4] for label in range(12)}
    images = from_classes(pixels, rng.permutation(np.arange(72) % 12), super_classes=above)
    return Splits(images, images)


@pytest.fixture
def prepare(splits: Splits) -> Prepare:
    """Returns the function that prepares an epoch; its state has masks, but no network."""

    def prepare(config: ConfigDict, epoch: int, current: Division | None) -> epochs.Epoch:
        experiment = build.Experiment(config, devices.create_mesh(), splits)
        with contextlib.closing(epochs.Planner(experiment)) as planner:
            planner.begin(Progress(epoch=epoch), current, small_runs.state(epoch))
            return planner.finish()

    return prepare


@pytest.mark.parametrize("grouping", ["random", "labels"])
@pytest.mark.parametrize(
    ("hierarchy", "num_clusters"), [("progressive", [1, 2, 4, 4]), ("direct", [3, 3, 3, 3])]
)
def test_grouping_without_kmeans_needs_no_features_and_is_repeatable(
    grouping: str, hierarchy: str, num_clusters: list[int], splits: Splits, prepare: Prepare
) -> None:
    config = digits.get_config()
    config.division.update(grouping=grouping, hierarchy=hierarchy, every_epochs=1)
    config.division.max_clusters = num_clusters[-1]
    config.sampling.update(batch_size=8, images_per_class=2)
    config.eval.ks = (1,)
    checks.check_data(config, splits)
    clusters, divisions = None, []
    for epoch in range(4):
        clusters, plan, batches, _ = prepare(config, epoch, clusters)
        np.testing.assert_array_equal(next(batches)["label"], splits.train.labels[plan.rows[0]])
        divisions.append(clusters)
    assert [division.num_clusters for division in divisions] == num_clusters
    again = prepare(config, 2, divisions[1]).division
    np.testing.assert_array_equal(again.cluster, divisions[2].cluster)
    if grouping == "labels":
        for above in range(4):
            assert len(set(divisions[3].cluster[splits.train.super_class_labels == above])) == 1
        np.testing.assert_array_equal(divisions[3].cluster, divisions[2].cluster)
    else:
        kept = (divisions[3].cluster >= 0) & (divisions[2].cluster >= 0)
        assert np.mean(divisions[3].cluster[kept] == divisions[2].cluster[kept]) < 0.6


def test_stopped_epoch_continues_from_its_next_step(splits: Splits) -> None:
    config = digits.get_config()
    config.division.max_clusters = 1
    config.sampling.update(batch_size=8, images_per_class=2)
    experiment = build.Experiment(config, devices.create_mesh(), splits)
    batches = []
    for step in (0, 3):
        with contextlib.closing(epochs.Planner(experiment)) as planner:
            planner.begin(Progress(epoch=1, epoch_step=step), None, None)
            batches.append(list(planner.finish().batches))
    complete, rest = batches
    assert len(rest) == len(complete) - 3 > 0
    for actual, expected in zip(rest, complete[3:], strict=True):
        for name in ("image", "label", "cluster"):
            np.testing.assert_array_equal(actual[name], expected[name])


def test_last_epoch_of_a_run_of_steps_is_cut(splits: Splits) -> None:
    config = digits.get_config()
    config.division.update(max_clusters=3, hierarchy="direct", grouping="labels")
    config.sampling.update(batch_size=8, images_per_class=2)
    found = {}
    for num_steps in (0, 100):
        config.train.num_steps = num_steps
        experiment = build.Experiment(config, devices.create_mesh(), splits)
        with contextlib.closing(epochs.Planner(experiment)) as planner:
            # Two steps of the epoch are done, after 95 before it.
            planner.begin(Progress(epoch=4, epoch_step=2, step=97), None, None)
            epoch = planner.finish()
        found[num_steps] = epoch.plan.rows, list(epoch.batches)
    (complete, batches), (cut, rest) = found[0], found[100]
    assert len(cut) == 5 < len(complete)
    np.testing.assert_array_equal(cut, complete[:5])
    assert len(rest) == 3
    for actual, expected in zip(rest, batches, strict=False):
        np.testing.assert_array_equal(actual["label"], expected["label"])


def test_a_new_division_has_figures_of_the_masks_before_it(prepare: Prepare) -> None:
    config = digits.get_config()
    config.division.update(grouping="random", every_epochs=1, max_clusters=4)
    config.sampling.update(batch_size=8, images_per_class=2)
    first = prepare(config, 0, None)
    second = prepare(config, 1, first.division)
    third = prepare(config, 2, second.division)
    assert not first.figures
    assert not second.figures  # the mask before it has no other
    assert third.figures == {"mask_cosine": pytest.approx(1)}  # the state has equal masks
    assert not prepare(config, 2, third.division).figures  # it is in force already
    config.model.masks = "none"
    assert not prepare(config, 2, second.division).figures


def test_division_is_over_when_it_was_waited_for(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    divide, divided = epochs.divide, []

    def divide_slowly(*arguments: Any, **options: Any) -> Division:
        time.sleep(0.3)
        divided.append(divide(*arguments, **options))
        return divided[0]

    monkeypatch.setattr(epochs, "divide", divide_slowly)
    config = digits.get_config()
    config.division.update(grouping="random", hierarchy="direct", max_clusters=3)
    config.sampling.update(batch_size=8, images_per_class=2)
    experiment = build.Experiment(config, devices.create_mesh(), splits)
    with contextlib.closing(epochs.Planner(experiment)) as planner:
        planner.wait_for_division()  # of none
        planner.begin(Progress(epoch=0), None, small_runs.state(0))
        planner.wait_for_division()
        assert len(divided) == 1
        assert planner.finish().division is divided[0]


def test_crops_for_divisions_stay_in_memory_if_they_are_small_and_not_cached(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(**changes: str) -> readers.Readers:
        config = digits.get_config()
        config.update_from_flattened_dict(changes)
        return build.Experiment(config, devices.create_mesh(), splits).readers

    assert isinstance(create().train_crops, KeptCrops)
    cached = create(**{"dataset.cache": "memory"})
    assert cached.train_crops is cached.train
    monkeypatch.setattr(readers, "_MOST_KEPT", 72 * 3 * 8 * 8 - 1)
    too_large = create(**{"dataset.crop": 8})
    assert too_large.train_crops is too_large.train
