"""Runs that train the embedding, or the last blocks too, on a backbone that stays as it is."""

import ast
import re
from pathlib import Path
from typing import Any

import jax
import many_processes
import numpy as np
import pytest
import small_runs
from ml_collections import ConfigDict

import dcjax
from configs import digits
from dcjax.core.errors import DcjaxError
from dcjax.data import feature_cache, readers
from dcjax.data.feature_reader import FeatureReader
from dcjax.distributed import devices
from dcjax.division.division import single_cluster
from dcjax.division.sampling import Block
from dcjax.experiment import build, checks, inputs
from dcjax.modes import embed, evaluate, export, report
from dcjax.modes.train import train
from dcjax.training.state import TrainState

_BLOCK = Block(np.arange(64, dtype=np.int32).reshape(2, 1, 32), np.zeros((2, 1), np.int32))
_OF_DIVISION = {
    "division.every_epochs": 1,
    "division.freeze_backbone_epochs": 1,
    "sampling.batch_size": 32,
    "sampling.images_per_class": 4,
    "eval.every_epochs": 0,
    "checkpoint.every_epochs": 0,
}


def _config(**changes: Any) -> ConfigDict:
    """Digits, whose training crops are the whole image: those of an evaluation."""
    config = digits.get_config()
    frozen = {"model.train": "embedding", "train.num_epochs": 2, "model.dropout": 0.2}
    named = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(small_runs.TINY | _OF_DIVISION | frozen | named)
    return config


def _experiment(config: ConfigDict, num_images: int | None = None) -> build.Experiment:
    splits, _ = inputs.load_splits(config.dataset)
    if num_images is not None:
        splits = type(splits)(*(x.select(np.arange(num_images)) for x in splits.test_sets * 2))
    return build.Experiment(config, devices.create_mesh(jax.devices()[:1]), splits)


def _train(
    experiment: build.Experiment, run: TrainState, reader: readers.Reader
) -> tuple[TrainState, list[float]]:
    """Trains on two batches of one cluster; returns the state and the losses."""
    division = single_cluster(experiment.splits.train.labels, period=0)
    run, losses = experiment.enter_division(run, division), []
    for batch in reader.train_batches([_BLOCK], epoch=0):
        controls = experiment.schedule.controls(1)
        run, metrics = experiment.train_step(run, batch, controls, experiment.training_key)
        losses.append(float(metrics["loss"]))
    return jax.device_get(run), losses


def test_training_on_kept_features_equals_training_through_the_frozen_backbone() -> None:
    changes = {"model__batch_norm": "frozen", "model__masks": "none"}
    experiment = _experiment(_config(division__freeze_backbone_epochs=0, **changes))
    first = jax.device_get(experiment.create_state(None))
    through, losses = _train(experiment, experiment.create_state(None), experiment.readers.train)
    experiment.readers.make_features(first.variables)
    assert isinstance(experiment.readers.train, FeatureReader)
    alone, others = _train(experiment, experiment.create_state(None), experiment.readers.train)
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), through.trainable, alone.trainable
    )
    small_runs.assert_equal(alone.params["backbone"], first.params["backbone"])
    small_runs.assert_equal(through.params["backbone"], first.params["backbone"])
    moved = alone.params["embedding"]["kernel"] - first.params["embedding"]["kernel"]
    assert np.abs(moved).max() > 1e-4
    moments = sum(x.size for x in jax.tree.leaves(alone.opt_state))
    assert moments < 2.1 * sum(x.size for x in jax.tree.leaves(alone.trainable))
    assert alone.trainable["backbone"] == {}


def test_last_blocks_alone_are_trained_and_cost_what_they_cost() -> None:
    config, flops, states = _config(model__train="last_blocks"), {}, {}
    config.model.update(num_stages=2, batch_norm="frozen", convolution="xla")
    config.division.freeze_backbone_epochs = 0
    for number in (1, 2):
        config.model.last_blocks = number
        experiment = _experiment(config, 64)
        first = jax.device_get(experiment.create_state(None))
        (batch, *_) = experiment.readers.train.train_batches([_BLOCK], epoch=0)
        step = experiment.train_step.lower(
            first, batch, experiment.schedule.controls(1), experiment.training_key
        ).compile()
        flops[number] = step.cost_analysis()["flops"]
        states[number], _ = _train(
            experiment, experiment.create_state(None), experiment.readers.train
        )
        for name, module in states[number].params["backbone"].items():
            is_same = jax.tree.map(np.array_equal, module, first.params["backbone"][name])
            is_trained = name in ("layer2_0", "layer1_0")[:number]
            assert set(jax.tree.leaves(is_same)) == {not is_trained}, (number, name)
    assert flops[1] < 0.8 * flops[2]
    moments = [sum(x.size for x in jax.tree.leaves(states[n].opt_state)) for n in (1, 2)]
    assert moments[0] < moments[1]


def test_run_on_features_with_average_full_embedding_and_matryoshka_works_in_every_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # so that no name of a row is wrapped
    monkeypatch.chdir(tmp_path)
    workdir, changes = "run", {"eval__at_start": True, "eval__pixels": True}
    changes |= {"train__ema_decay": 0.9, "train__full_embedding_from_epoch": 1}
    scores = train(_config(loss__matryoshka=(2, 4), **changes), workdir)
    assert scores is not None
    output = capsys.readouterr().out
    assert "cache     makes the features of 901 images" in output
    assert "K = 2" in output
    assert "raw pixels" in output
    run = dcjax.load(workdir)
    assert isinstance(run, dcjax.Embedder)
    pixels = run.load_test().query.images[:3]
    vectors = run(pixels)
    export.export(workdir, None)
    loaded = dcjax.load(f"{workdir}/export/embedder.jax")
    np.testing.assert_allclose(loaded(pixels), vectors, atol=1e-5)
    embed.embed(workdir, None)
    embedded = np.load(f"{workdir}/embeddings/test.npy")
    np.testing.assert_allclose(embedded[:3], vectors, atol=1e-5)
    (nearest, *_) = run.search()(pixels[0], 3)
    assert nearest.distance == pytest.approx(0, abs=1e-3)
    report.report([workdir], None)
    assert "last epoch (2)" in Path(f"{workdir}/report/index.html").read_text()
    small_runs.save_within_epoch(workdir, after_steps=3)
    evaluate.compare([workdir], None)
    (row,) = re.findall("run, in epoch 3, after 3 steps (.*)", capsys.readouterr().out)
    # Of the network through the backbone; in training, of features.
    evaluated = [float(x) for x in row.split()]
    assert sorted(evaluated) == pytest.approx(sorted(scores.values()), abs=2e-3)


_TWO_PROCESSES = """
import numpy as np
from configs import digits
from dcjax.distributed import devices
from dcjax.experiment import build, inputs
from dcjax.data import pipeline, readers
config = digits.get_config()
config.update_from_flattened_dict(CHANGES)
splits, _ = inputs.load_splits(config.dataset)
splits = type(splits)(*(x.select(np.arange(50)) for x in splits.test_sets * 2))
experiment = build.Experiment(config, devices.create_mesh(), splits)
read, batches = [], pipeline.Stream.eval_batches
def counted(self, rows):
    read.append(set(rows.ravel().tolist()))
    return batches(self, rows)
pipeline.Stream.eval_batches = counted
experiment.readers.make_features(experiment.create_state(None).variables)
(features,) = experiment.readers.train.eval_batches(readers.rows_to_embed(50, 50))
print([sorted(x) for x in read])
print(features.astype(np.float64).sum(axis=1).round(4).tolist())
"""


def test_each_process_makes_a_share_of_the_features_and_has_all(tmp_path: Path) -> None:
    changes = {"eval.batch_size": 20, "dataset.cache": "disk", "dataset.cache_dir": str(tmp_path)}
    changes |= small_runs.TINY | {"model.train": "embedding"}
    program = _TWO_PROCESSES.replace("CHANGES", repr(changes))
    (first, sums), (second, others) = (
        [ast.literal_eval(line) for line in output.splitlines() if line.startswith("[")]
        for output in many_processes.run(program, num_devices=1)
    )
    assert first == [list(range(30))]
    assert second == [list(range(30, 50))]
    assert sums == others
    experiment = _experiment(_config(), 50)
    experiment.readers.make_features(experiment.create_state(None).variables)
    (alone,) = experiment.readers.train.eval_batches(readers.rows_to_embed(50, 50))
    np.testing.assert_allclose(sums, alone.astype(np.float64).sum(axis=1), atol=1e-3)


def test_stopped_run_on_features_with_schedule_average_and_validation_equals_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    config = _config(
        augment__crop="random_resized",
        dataset__feature_views=2,
        dataset__validation_list=("0", "2"),
        division__max_clusters=1,
        optimizer__clip_norm=0.5,
        optimizer__learning_rate=5e-3,
        optimizer__schedule="cosine",
        optimizer__warmup_epochs=0.5,
        train__ema_decay=0.9,
        train__stop_after=2,
        eval__every_epochs=1,
    )
    scores = train(config, str(tmp_path / "whole"))
    run, division = small_runs.load_checkpoint(config, tmp_path / "whole")
    in_last_epoch = int(run.step) * 3 // 4
    stopped = small_runs.train_with_a_stop(config, tmp_path / "stopped", after_steps=in_last_epoch)
    assert stopped == scores
    small_runs.assert_equal(
        small_runs.load_checkpoint(config, tmp_path / "stopped"), (run, division)
    )
    texts = {(tmp_path / name / "scores.json").read_text() for name in ("whole", "stopped")}
    assert len(texts) == 1


def _kept_features(folder: Path, *, weights: int = 0, **changes: Any) -> list[FeatureReader]:
    config = _config(dataset__cache="disk", dataset__cache_dir=str(folder), **changes)
    experiment = _experiment(config, 48)
    run = experiment.create_state(None)
    moved = jax.tree.map(lambda x: x + weights, run.params["backbone"])
    experiment.readers.make_features(
        run.replace(params={**run.params, "backbone": moved}).variables
    )
    return [experiment.readers.train, *experiment.readers.test]


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_features_on_disk_are_reused_and_renewed_when_weights_or_images_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = readers.rows_to_embed(48, 48)
    first = _kept_features(tmp_path)
    known = _folders(tmp_path)
    assert len(known) == 1  # here, training and test images are the same
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "_make", pytest.fail)
        again = _kept_features(tmp_path, model__embedding_dim=16, model__masks="fixed")
    (kept,), (others,) = (list(x[1].eval_batches(rows)) for x in (first, again))
    np.testing.assert_array_equal(kept, others)
    for changes in (
        {"weights": 1},
        {"model__pooling": "max"},
        {"dataset__feature_views": 2, "augment__crop": "random_resized"},
    ):
        (renewed,) = _kept_features(tmp_path, **changes)[0].eval_batches(rows)
        is_new = "dataset__feature_views" not in changes
        assert np.any(renewed != kept) == is_new
        assert len(_folders(tmp_path) - known) == (1 if is_new else 2), changes
        known = _folders(tmp_path)


def test_views_of_an_image_are_augmented_differently_and_each_is_drawn() -> None:
    config = _config(dataset__feature_views=2, augment__crop="random_resized")
    experiment = _experiment(config, 64)
    experiment.readers.make_features(experiment.create_state(None).variables)
    reader, seen = experiment.readers.train, []
    for epoch in range(4):
        batches = list(reader.train_batches([_BLOCK], epoch=epoch))
        later = list(reader.train_batches([_BLOCK.skip(1)], epoch=epoch))
        np.testing.assert_array_equal(later[0]["image"], batches[1]["image"])
        seen.append(np.concatenate([batch["image"][0] for batch in batches]))
    (centre,) = reader.eval_batches(readers.rows_to_embed(64, 64))
    views = {row: {x[row].tobytes() for x in seen} for row in range(64)}
    assert {len(found) for found in views.values()} == {1, 2}
    same = [row for row, found in views.items() if centre[row].tobytes() in found]
    assert len(same) < 8  # a random crop may be the whole image


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.train": "head"}, "model.train must be one of all, embedding, last_blocks, got"),
        (
            {"model.train": "last_blocks", "model.batch_norm": "frozen", "model.last_blocks": 4},
            "model.last_blocks must be 1 to 1, the blocks of the backbone, got 4.",
        ),
        ({"model.train": "last_blocks"}, "require model.batch_norm=frozen, got train"),
        (
            {"model.train": "all", "dataset.feature_views": 3},
            "require 0, or model.train=embedding with a backbone, got 3, model.train=all and ",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    config = _config()
    config.division.freeze_backbone_epochs = 0
    config.update_from_flattened_dict(changes)
    with pytest.raises(DcjaxError, match=re.escape(message)):
        checks.check_training(config)
