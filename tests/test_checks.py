"""Bad settings end before anything compiles, in an error that says what would do."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits
from dcjax import checks, devices, experiment, inputs, schedule
from dcjax.datasets import ImageSet, Splits


@pytest.fixture(scope="module")
def splits() -> Splits:
    return inputs.load_splits(digits.get_config())[0]


def _config(**changes: Any) -> ConfigDict:
    config = digits.get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def _check(config: ConfigDict, splits: Splits) -> None:
    checks.check_training(config, devices.create_mesh())
    checks.check_data(config, splits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"division__max_clusters": 3}, "power of two.*got max_clusters=3"),
        ({"division__max_clusters": 4}, "at least 8 such classes.*got 5; choose max_clusters <= 2"),
        (
            {"division__hierarchy": "flat"},
            "'flat'; known are direct, progressive",
        ),
        (
            {"division__max_clusters": 3, "division__hierarchy": "direct"},
            "at least 6 such classes.*got 5; choose max_clusters <= 2",
        ),
        ({"division__grouping": "gt"}, "division.grouping 'gt'; known are kmeans, random, labels"),
        ({"division__grouping": "labels"}, "grouping=labels requires super-classes.*kmeans or ran"),
        ({"division__kmeans": "gpu"}, "division.kmeans 'gpu'; known are host, devices"),
        ({"division__matching": "dice"}, "division.matching 'dice'; known are iou, overlap"),
        ({"division__features": "logits"}, "'logits'; known are backbone, embedding"),
        ({"division__freeze_backbone_epochs": 2}, "never be trained"),
        ({"sampling__batch_size": 40}, "batch_size to be a multiple of it"),
        ({"sampling__images_per_class": 64}, "at least twice it"),
        ({"sampling__batch_size": 20, "sampling__images_per_class": 2}, "devices .*16 or 24"),
        ({"sampling__batch_size": 4096}, "4 <= batch_size <= 901"),
        ({"sampling__images_per_class": 1}, "images_per_class >= 2 for positive pairs"),
        ({"sampling__sampler": "hard"}, "'hard'; known.* balanced, uniform"),
        ({"eval__batch_size": 100}, "eval.batch_size .*96 or 104 would do"),
        ({"eval__ks": (1, 900)}, "eval.ks must lie in 1 to 895"),
        ({"eval__protocol": "gallery", "eval__ks": (1, 6)}, "eval.ks must lie in 1 to 5, the"),
        ({"eval__protocol": "cmc"}, "eval.protocol 'cmc'; known are all_vs_all, gallery"),
        ({"eval__gallery_draws": 0}, "eval.gallery_draws must be at least 1, got 0"),
        ({"eval__best_by": "accuracy"}, "'accuracy'; known are recall_at_1"),
        ({"model__masks": "soft"}, "'soft'; known are learned, fixed, none"),
        ({"model__test_masks": "mean"}, "'mean'; known are sum, sum_l1, none"),
        (
            {"model__batch_norm": "frozen"},
            "give a file or a name on the hub as timm/.*, or model.batch_norm=train",
        ),
        ({"dataset__cache": "tape"}, "dataset.cache 'tape'; known are none, memory, disk, device"),
        (
            {"augment__strategy": "mild"},
            "'mild'; known are standard, geom, geom_color, color_heavy",
        ),
        ({"augment__crop": "five"}, "'five'; known are random_resized, resize_then_random, "),
        (
            {"dataset__cache": "device", "augment__crop": "random_resized"},
            "cache=device .* augment.crop=resize_then_random or .* got augment.crop=random_resized",
        ),
        (
            {"dataset__cache": "device", "augment__strategy": "geom"},
            "strategy=standard, or dataset.cache=memory, .* got augment.strategy=geom",
        ),
        ({"dataset__crop": 16}, "dataset.crop <= dataset.resize, got 16 and 8"),
        ({"train__log_every_steps": 0}, "train.log_every_steps must be at least 1, got 0"),
        ({"model__dropout": 1.5}, "model.dropout must be at least 0 and at most 0.99, got 1.5"),
        ({"optimizer__learning_rate": float("nan")}, "optimizer.learning_rate must be"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"eval__ks": ()}, "eval.ks must hold whole numbers from 1 on"),
        ({"eval__ks": (1.5,)}, "eval.ks must hold whole numbers from 1 on"),
        (
            {"model__masks": "fixed", "model__embedding_dim": 3, "division__max_clusters": 4},
            "share out the embedding",
        ),
        ({"eval__select": "best_test", "checkpoint__keep_best": 0}, "keep_best >= 1, got 0"),
        ({"train__num_epochs": 0}, "train.num_epochs must be at least 1, got 0"),
    ],
)
def test_names_the_value_and_what_is_allowed(
    changes: dict[str, Any], message: str, splits: Splits
) -> None:
    with pytest.raises(ValueError, match=message):
        _check(_config(**changes), splits)


@pytest.mark.parametrize(
    ("changes", "create", "message"),
    [
        ({"model__backbone": "vgg"}, experiment.create_model, "resnet101, resnet18"),
        ({"model__num_stages": 4}, experiment.create_model, "must be 1 to 3 for resnet_small"),
        ({"model__pooling": "sum"}, experiment.create_model, "known are average, max"),
        ({"model__convolution": "fft"}, experiment.create_model, "known are auto, matmul, xla"),
        ({"model__batch_norm": "off"}, experiment.create_model, "known are frozen, train"),
        ({"optimizer__decay": "l1"}, experiment.create_optimizer, "known are coupled, decoupled"),
        ({"augment__crop": "five"}, inputs.create_augment, "random_resized"),
        ({"loss__name": "arc"}, lambda c: experiment.create_loss(c, 5), "known losses are arcface"),
    ],
)
def test_unknown_names_list_the_known_ones(
    changes: dict[str, Any], create: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        create(_config(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"division__grouping": "random", "division__hierarchy": "direct"},
        {"dataset__cache": "device"},
        {"dataset__cache": "device", "augment__crop": "resize_then_random_resized"},
        {"augment__strategy": "geom", "augment__crop": "random_resized"},
    ],
)
def test_good_settings_pass(changes: dict[str, Any], splits: Splits) -> None:
    _check(_config(**changes), splits)


def test_super_classes_must_fill_the_clusters(splits: Splits) -> None:
    config = _config(division__grouping="labels")
    above = dataclasses.replace(splits.train, super_classes=("a", "b", "a", "a", "b"))
    _check(config, dataclasses.replace(splits, train=above))
    alone = dataclasses.replace(splits.train, super_classes=("a", "b", "a", "a", "a"))
    with pytest.raises(
        ValueError, match="max_clusters=2 made of 2 super-classes 1 would lack them"
    ):
        _check(config, dataclasses.replace(splits, train=alone))


def test_the_schedule_freezes_backbone_and_masks_when_it_should() -> None:
    config = _config(
        division__every_epochs=3,
        division__freeze_backbone_epochs=1,
        train__full_embedding_from_epoch=4,
        optimizer__learning_rate=2.0,
        optimizer__masks_multiplier=5.0,
    )
    controls = [schedule.controls(config, epoch) for epoch in range(6)]
    rates = [control["learning_rates"] for control in controls]
    np.testing.assert_array_equal([rate["backbone"] for rate in rates], [0, 2, 2, 0, 2, 2])
    np.testing.assert_array_equal([rate["masks"] for rate in rates], [10] * 4 + [0] * 2)
    assert [bool(control["full_embedding"]) for control in controls] == [False] * 4 + [True] * 2
    config.division.max_clusters = 1  # the baseline has no periods and no subspaces
    rates = schedule.controls(config, 0)["learning_rates"]
    assert (rates["backbone"], rates["masks"]) == (2, 0)


def test_the_schedule_of_division_is_that_of_p21() -> None:
    """Stanford Online Products: T = 2, K_max = 32."""
    config = _config(division__every_epochs=2, division__max_clusters=32)
    counts = [schedule.num_clusters(config, epoch) for epoch in range(13)]
    assert counts == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 32]
    assert [schedule.period(config, epoch) for epoch in (0, 1, 2, 12)] == [0, 0, 1, 6]


def test_due_every_so_many_epochs_and_after_the_last() -> None:
    config = _config(train__num_epochs=5)
    due = {n: [schedule.is_due(config, n, epoch) for epoch in range(5)] for n in (0, 1, 2)}
    assert due == {
        0: [False, False, False, False, True],
        1: [True] * 5,
        2: [False, True, False, True, True],
    }


def test_test_images_must_have_something_to_find(splits: Splits) -> None:
    query = splits.query
    _, firsts = np.unique(query.labels, return_index=True)
    alone, one_class = query.select(firsts), query.select(query.labels == 0)
    strangers = ImageSet(query.images, query.labels, query.class_names).select(query.labels == 1)
    for bad in (
        Splits(splits.train, alone),
        Splits(splits.train, one_class),
        Splits(splits.train, one_class, strangers),
    ):
        with pytest.raises(ValueError, match="Retrieval is scored on images of two classes"):
            checks.check_query(_config(eval__ks=(1,)), bad)
    checks.check_query(_config(eval__ks=(1,)), Splits(splits.train, alone, query))


def test_a_gallery_is_drawn_where_there_is_none(splits: Splits) -> None:
    drawing = _config(eval__protocol="gallery", eval__ks=(1, 5))
    checks.check_query(drawing, splits)
    given = Splits(splits.train, splits.query, splits.query)
    with pytest.raises(ValueError, match=r"'digits' has one of its own, .*=all_vs_all"):
        checks.check_query(drawing, given)
