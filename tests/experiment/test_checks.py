"""Invalid settings end before anything compiles, in an error that says what would be valid."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits
from dcjax.core.errors import MissingFileError, SettingError
from dcjax.data.datasets import ImageSet, Splits
from dcjax.experiment import checks, inputs, parts
from dcjax.experiment.schedule import Schedule
from dcjax.modes import check_data
from dcjax.modes.train import train
from dcjax.runs.progress import Progress
from dcjax.training import rates


@pytest.fixture(scope="module")
def splits() -> Splits:
    return inputs.load_splits(digits.get_config().dataset)[0]


def _config(**changes: Any) -> ConfigDict:
    config = digits.get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def _check(config: ConfigDict, splits: Splits) -> None:
    checks.check_training(config)
    checks.check_data(config, splits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"division__max_clusters": 3}, "power of two.*got max_clusters=3"),
        (
            {"division__max_clusters": 4},
            "at least 8 such classes.*got 5; choose division.max_clusters <= 2",
        ),
        (
            {"division__hierarchy": "flat"},
            "division.hierarchy must be one of direct, progressive, ",
        ),
        (
            {"division__max_clusters": 3, "division__hierarchy": "direct"},
            "at least 6 such classes.*got 5; choose division.max_clusters <= 2",
        ),
        (
            {"division__grouping": "gt"},
            "division.grouping must be one of kmeans, random, labels, got 'gt'",
        ),
        ({"division__grouping": "labels"}, "grouping=labels requires super-classes.*kmeans or ran"),
        ({"division__kmeans": "gpu"}, "division.kmeans must be one of host, devices, got 'gpu'"),
        (
            {"division__matching": "dice"},
            "division.matching must be one of iou, overlap, got 'dice'",
        ),
        (
            {"division__features": "logits"},
            "division.features must be one of backbone, embedding, ",
        ),
        ({"division__freeze_backbone_epochs": 2}, "never be trained"),
        ({"sampling__batch_size": 40}, "batch_size to be a multiple of it"),
        ({"sampling__images_per_class": 64}, "at least twice it"),
        ({"sampling__batch_size": 20, "sampling__images_per_class": 2}, "devices .*16 or 24"),
        (
            {"model__chunk_size": 24},
            r"chunk_size must divide the 64 images of a step .* devices \(8\), got 24; 16 or 32 w",
        ),
        ({"model__chunk_size": 128}, "got 128; 32 or 64 would do, or 0"),
        ({"model__chunk_size": 4, "model__batch_norm": "frozen"}, "got 4; 8 or 16 would do"),
        (
            {"model__chunk_size": 32},
            "require model.batch_norm=frozen, .*, or model.chunk_size=0, got .*=train and ",
        ),
        ({"sampling__batch_size": 4096}, "4 <= sampling.batch_size <= 901"),
        ({"sampling__images_per_class": 1}, "images_per_class >= 2 for positive pairs"),
        ({"sampling__sampler": "hard"}, "sampling.sampler must be one of balanced, uniform"),
        ({"eval__batch_size": 100}, "eval.batch_size .*96 or 104 would do"),
        ({"eval__ks": (1, 900)}, "eval.ks must lie in 1 to 895"),
        ({"eval__protocol": "gallery", "eval__ks": (1, 6)}, "eval.ks must lie in 1 to 5, the"),
        (
            {"eval__protocol": "cmc"},
            "eval.protocol must be one of all_vs_all, cross_camera, gallery",
        ),
        ({"eval__gallery_draws": 0}, "eval.gallery_draws must be a whole number from 1 to"),
        ({"eval__best_by": "accuracy"}, "eval.best_by must be one of recall_at_1, .*'accuracy'"),
        ({"eval__best_by": "recall_at_1@4"}, "eval.best_by must be .*'recall_at_1@4'"),
        ({"eval__dims": (4, 600)}, r"eval.dims must be at most model.embedding_dim=\d+, got \(4, "),
        ({"eval__dims": (8, 4)}, "eval.dims must be a sequence .* smaller one first, got"),
        ({"dataset__validation_list": (0, 2)}, r"names, numbers in quotes, as .*, got \[0, 2\]"),
        ({"loss__matryoshka": (4, 600)}, "every number of loss.matryoshka, .* got 600"),
        (
            {"loss__matryoshka": (4,), "model__masks": "fixed"},
            "loss.matryoshka requires model.masks=learned .* got model.masks=fixed and 2 clusters",
        ),
        (
            {
                "loss__arcface__margin": 1.5,
                "loss__arcface__least_margin": 1.5,
                "loss__name": "arcface",
            },
            "margin .* least_margin of at least 0 and at most 1.57",
        ),
        ({"model__masks": "soft"}, "model.masks must be one of learned, fixed, none"),
        ({"model__test_masks": "mean"}, "model.test_masks must be one of sum, sum_l1, none"),
        ({"dataset__cache": "tape"}, "dataset.cache must be one of none, memory, disk, device"),
        (
            {"augment__strategy": "mild"},
            "augment.strategy must be one of standard, geom, geom_color, color_heavy, got 'mild'",
        ),
        (
            {"augment__crop": "five"},
            "augment.crop must be one of random_resized, resize_then_random, ",
        ),
        (
            {"dataset__cache": "device", "augment__crop": "random_resized"},
            "cache=device .* augment.crop=resize_then_random or .* got augment.crop=random_resized",
        ),
        (
            {"dataset__cache": "device", "augment__strategy": "geom"},
            "strategy=standard, or dataset.cache=memory, .* got augment.strategy=geom",
        ),
        ({"dataset__crop": 16}, "dataset.crop <= dataset.resize, got 16 and 8"),
        ({"train__log_every_steps": 0}, "train.log_every_steps must be a whole number from 1 .* 0"),
        ({"model__dropout": 1.5}, "model.dropout must be a number from 0 to 0.99, got 1.5"),
        ({"optimizer__learning_rate": float("nan")}, "optimizer.learning_rate must be"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"eval__ks": ()}, "eval.ks must be a sequence of 1 to 100 values"),
        ({"eval__ks": (1.5,)}, "eval.ks must be a sequence .* each a whole number"),
        (
            {"model__masks": "fixed", "model__embedding_dim": 3, "division__max_clusters": 4},
            "share out the embedding",
        ),
        ({"eval__select": "best_test", "checkpoint__keep_best": 0}, "keep_best >= 1, got 0"),
        ({"loss__name": "arcface", "loss__memory_size": 901}, "set it to 0"),
        ({"mining__cutoff": 1.6}, "mining.cutoff < mining.upper_cutoff .*got cutoff=1.6"),
        ({"model__num_stages": 4}, "model.num_stages must be 1 to 3 for resnet_small, got 4"),
        (
            {"model__backbone": "vit_small", "model__num_stages": 4, "model__width": 64},
            "require dataset.crop to be a multiple of 14, got 8; the nearest: 14",
        ),
        (
            {"model__backbone": "vit_small", "model__num_stages": 4, "model__width": 64}
            | {"model__vit__patch_size": 4, "model__vit__layer_scale": False},
            "vit_small without LayerScale .* give --config.model.pixels=imagenet",
        ),
        ({"model__pooling": "class"}, "needs a class token, but resnet_small has none; give aver"),
        ({"loss__name": "nosuch:loss"}, "can be imported, got 'nosuch:loss'"),
        (
            {"loss__name": "arcface", "loss__arcface__margin": 1.5}
            | {"loss__arcface__least_margin": 0.5},
            r"loss.name=arcface: Require margin \+ least_margin of .* at most 1.57",
        ),
        ({"optimizer__name": "adamw"}, "require optimizer.decay=decoupled, got coupled"),
        ({"optimizer__layer_decay": 0.75}, "require 1 for model.backbone=resnet_small, got 0.75"),
        ({"optimizer__schedule": "step"}, r"requires optimizer.step_epochs, .* got \(\)"),
        (
            {"optimizer__schedule": "step", "optimizer__step_epochs": (2, 99)},
            r"before train.num_epochs=\d+, got \(2, 99\)",
        ),
        ({"optimizer__warmup_epochs": 99.5}, "warmup_epochs < train.num_epochs, got 99.5 and"),
        ({"train__ema_decay": 1.0}, "train.ema_decay must be a number from 0 to 0.9"),
        ({"train__num_epochs": 0}, "train.num_epochs must be a whole number from 1 .* 0"),
        (
            {"train__num_steps": 50, "train__until_epoch": 2},
            "require train.num_steps=0 with them, got 50, train.until_epoch=2 and",
        ),
        (
            {"train__num_steps": 50, "train__refit": True},
            "train.num_steps=0 with them, got 50, train.until_epoch=0 and train.refit=True",
        ),
    ],
)
def test_errors_name_the_value_and_what_is_allowed(
    changes: dict[str, Any], message: str, splits: Splits
) -> None:
    with pytest.raises(ValueError, match=message):
        _check(_config(**changes), splits)


@pytest.mark.parametrize(
    ("changes", "create", "message"),
    [
        ({"model__backbone": "vgg"}, parts.create_model, "resnet101, resnet18"),
        ({"model__num_stages": 4}, parts.create_model, "must be 1 to 3 for resnet_small"),
        (
            {"model__pooling": "sum"},
            parts.create_model,
            "known are average, class, class_and_average, max",
        ),
        ({"model__convolution": "fft"}, parts.create_model, "known are auto, matmul, xla"),
        ({"model__batch_norm": "off"}, parts.create_model, "known are frozen, train"),
        (
            {"optimizer__decay": "l1"},
            lambda c: parts.create_optimizer(c.optimizer, c.model.backbone),
            "known are coupled, decoupled",
        ),
        (
            {"augment__crop": "five"},
            lambda c: parts.create_augmentation(c.augment, c.dataset),
            "random_resized",
        ),
        (
            {"loss__name": "arc"},
            lambda c: parts.create_loss(c, np.ones(5, int)),
            "known losses are arcface",
        ),
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
        {"model__chunk_size": 32, "model__batch_norm": "frozen"},
        {
            "model__chunk_size": 96,
            "sampling__clusters_per_step": 3,
            "model__batch_norm": "frozen",
        },
        {"dataset__cache": "device", "augment__crop": "resize_then_random_resized"},
        {"augment__strategy": "geom", "augment__crop": "random_resized"},
    ],
)
def test_valid_settings_pass(changes: dict[str, Any], splits: Splits) -> None:
    _check(_config(**changes), splits)


def test_missing_data_and_weights_are_named_together(tmp_path: Path) -> None:
    both = _config(dataset__name="cub", dataset__root=str(tmp_path), model__batch_norm="frozen")
    with pytest.raises(MissingFileError) as error:
        checks.check_present(both.model, both.dataset)
    for words in (
        f"images is in {tmp_path}",
        "--config.dataset.download=true",
        "Also: model.batch_norm=frozen",
        "--config.model.pretrained=FILE",
        "timm/resnet50.tv_in1k",
    ):
        assert words in str(error.value)
    weights = _config(model__pretrained=str(tmp_path / "w.safetensors"))
    with pytest.raises(MissingFileError, match=r"^No weights at model.pretrained=.*w.safetensors"):
        checks.check_present(weights.model, weights.dataset)
    checks.check_present(_config().model, _config().dataset)


def test_run_without_its_weights_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"give --config.model.pretrained=FILE"):
        train(_config(model__batch_norm="frozen"), str(tmp_path / "run"))
    for bad in ({"devices__cluster_parallel": 0}, {"augment__scale": (0.9, 0.1)}):
        with pytest.raises(SettingError, match=r"devices.cluster_parallel|augment.scale"):
            train(_config(**bad), str(tmp_path / "run"))
        with pytest.raises(SettingError, match=r"devices.cluster_parallel|augment.scale"):
            check_data.check_data(_config(**bad), str(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_super_classes_must_fill_the_clusters(splits: Splits) -> None:
    config = _config(division__grouping="labels")
    above = dataclasses.replace(splits.train, super_classes=("a", "b", "a", "a", "b"))
    _check(config, dataclasses.replace(splits, train=above))
    alone = dataclasses.replace(splits.train, super_classes=("a", "b", "a", "a", "a"))
    with pytest.raises(
        ValueError, match=r"of division.max_clusters=2 made of 2 super-classes 1 would lack them"
    ):
        _check(config, dataclasses.replace(splits, train=alone))


def test_schedule_freezes_backbone_and_masks_in_the_right_epochs() -> None:
    config = _config(
        division__every_epochs=3,
        division__freeze_backbone_epochs=1,
        train__full_embedding_from_epoch=4,
        optimizer__learning_rate=2.0,
        optimizer__masks_multiplier=5.0,
    )
    controls = [Schedule(config).controls(epoch) for epoch in range(6)]
    of_epochs = [control["learning_rates"] for control in controls]
    np.testing.assert_array_equal([x["backbone"] for x in of_epochs], [0, 2, 2, 0, 2, 2])
    np.testing.assert_array_equal([x["masks"] for x in of_epochs], [10] * 4 + [0] * 2)
    assert [bool(control["full_embedding"]) for control in controls] == [False] * 4 + [True] * 2
    config.division.max_clusters = 1  # the baseline has neither periods nor subspaces
    of_baseline = Schedule(config).controls(0)["learning_rates"]
    assert (of_baseline["backbone"], of_baseline["masks"]) == (2, 0)


def test_division_schedule_is_that_of_p21() -> None:
    """Stanford Online Products: T = 2, K_max = 32."""
    config = _config(division__every_epochs=2, division__max_clusters=32)
    counts = [Schedule(config).num_clusters(epoch) for epoch in range(13)]
    assert counts == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 32]
    assert [Schedule(config).period(epoch) for epoch in (0, 1, 2, 12)] == [0, 0, 1, 6]


def test_evaluation_and_saving_are_due_at_intervals_and_at_the_end() -> None:
    expected = {
        0: [False, False, False, False, True],
        1: [True] * 5,
        2: [False, True, False, True, True],
    }
    for every, due in expected.items():
        schedule = Schedule(_config(train__num_epochs=5, eval__every_epochs=every))
        done = [Progress(epoch=epoch + 1) for epoch in range(5)]
        assert list(map(schedule.evaluates_after, done)) == due
        schedule = Schedule(_config(train__num_epochs=5, checkpoint__every_epochs=every))
        assert list(map(schedule.saves_after, done)) == due


def test_run_of_steps_ends_within_an_epoch_and_is_scored_and_saved_there() -> None:
    schedule = Schedule(
        _config(train__num_steps=50, eval__every_epochs=0, checkpoint__every_epochs=0)
    )
    at_end = Progress(epoch=3, step=50)
    for progress, is_end in (
        (Progress(epoch=2, step=40), False),
        (Progress(epoch=2, step=50, epoch_step=10), False),  # still to be scored
        (at_end, True),
    ):
        assert schedule.is_finished(progress) == is_end
        assert schedule.evaluates_after(progress) == is_end
        assert schedule.saves_after(progress) == is_end


def test_rates_of_a_run_of_steps_depend_on_the_share_of_its_steps() -> None:
    cosine = {"optimizer__schedule": "cosine", "optimizer__warmup_epochs": 2}
    config = _config(train__num_steps=50, train__num_epochs=10, **cosine)
    factor = parts.create_rates(config.optimizer, 10)
    for epoch, step in ((0, 4), (1, 30), (7, 50)):
        controls = Schedule(config).controls(epoch, first_step=4 * epoch, num_steps=4)
        rate = rates.of_step(controls, np.int32(step), factor)["embedding"]
        share = step / 50
        expected = share / 0.2 if share < 0.2 else (1 + np.cos(np.pi * (share - 0.2) / 0.8)) / 2
        base = controls["learning_rates"]["embedding"]
        np.testing.assert_allclose(rate, base * expected, rtol=1e-5, atol=1e-9)


def test_test_images_must_have_positives_and_negatives(splits: Splits) -> None:
    query = splits.query
    _, first_rows = np.unique(query.labels, return_index=True)
    alone, one_class = query.select(first_rows), query.select(query.labels == 0)
    other_class = ImageSet(query.images, query.labels, query.class_names).select(query.labels == 1)
    for bad in (
        Splits(splits.train, alone),
        Splits(splits.train, one_class),
        Splits(splits.train, one_class, other_class),
    ):
        with pytest.raises(ValueError, match="Retrieval is scored on images of two classes"):
            checks.check_query(_config(eval__ks=(1,)), bad)
    checks.check_query(_config(eval__ks=(1,)), Splits(splits.train, alone, query))


def test_rates_that_the_test_images_cannot_show_are_refused_before_training(splits: Splits) -> None:
    checks.check_query(_config(eval__fmr=(0.5, 1e-5)), splits)
    with pytest.raises(ValueError, match=r"FMR of 1e-06 requires 1,000,000 pairs .* eval.fmr"):
        checks.check_query(_config(eval__fmr=(0.5, 1e-6)), splits)


def test_gallery_is_drawn_only_if_the_dataset_has_none(splits: Splits) -> None:
    drawing = _config(eval__protocol="gallery", eval__ks=(1, 5))
    checks.check_query(drawing, splits)
    given = Splits(splits.train, splits.query, splits.query)
    with pytest.raises(ValueError, match=r"'digits' has one of its own, .*=all_vs_all"):
        checks.check_query(drawing, given)
