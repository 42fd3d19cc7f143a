"""Runs with embeddings of several sizes, and with margins by class size."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
from ml_collections import ConfigDict

import dcjax
from configs import digits
from dcjax import losses
from dcjax.core.console import Console
from dcjax.distributed import devices
from dcjax.experiment import build, inputs, parts
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.report import retrieval, saved, summary
from dcjax.modes.train import train
from dcjax.retrieval import score

_CHANGES = small_runs.TINY | {
    "loss.name": "sub_center_arcface",
    "loss.sub_center_arcface.size_exponent": 0.25,
    "loss.matryoshka": (2, 5, 8),
    "division.max_clusters": 1,
    "train.num_epochs": 1,
    "train.log_every_steps": 1,
    "eval.ks": (2,),
    "eval.best_by": "recall_at_1@2",
    "checkpoint.every_epochs": 1,
}


def _config(**changes: Any) -> ConfigDict:
    config = digits.get_config()
    config.update_from_flattened_dict(
        _CHANGES | {k.replace("__", "."): v for k, v in changes.items()}
    )
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run."""
    workdir = str(tmp_path_factory.mktemp("run"))
    train(_config(), workdir)
    return workdir


def test_each_size_is_scored_as_its_embeddings_alone_are(run: str) -> None:
    written = json.loads(Path(run, "scores.json").read_text())
    last = written["last"]
    assert [name for name in last if "@" in name] == ["recall_at_1@2", "recall_at_1@5"]
    lines = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    curves = {name for line in lines for name in line}
    assert {"train/loss@2", "train/loss@8", "eval/recall_at_1@5"} <= curves
    assert {"epoch": 1, **last} == written["best_test"]
    embedder = dcjax.load(run)
    query = embedder.load_test().query
    embeddings = embedder(query.images)
    for dim in (2, 5):
        short = dcjax.masks.l2_normalize(embeddings[:, :dim])
        expected = score(np.asarray(short), query.labels, ks=[1])["recall_at_1"]
        assert last[f"recall_at_1@{dim}"] == pytest.approx(expected, abs=2e-3)  # near ties
    assert last["recall_at_1@2"] < last["recall_at_1@5"]


def test_evaluation_and_report_score_the_sizes_that_are_asked_for(run: str) -> None:
    config = _config(eval__dims=(3, 5), eval__best_by="recall_at_2")
    embedder = dcjax.load(run, config)
    assert isinstance(embedder, Embedder)
    found = retrieval.retrieve(embedder, embedder.load_test(), Console(quiet=True))
    assert [name for name in found.scores if "@" in name] == ["recall_at_1@3", "recall_at_1@5"]
    assert found.scores == embedder.evaluate()
    collected = summary.collect(embedder, saved.read(run, embedder), found.scores)
    assert "among the first 2" in collected.sentences[0]


def test_margins_follow_the_sizes_of_the_training_classes() -> None:
    config = _config(loss__matryoshka=())
    splits, _ = inputs.load_splits(config.dataset)
    train_set = splits.train
    experiment = build.Experiment(config, devices.create_mesh(), splits)
    sizes = np.bincount(train_set.labels)
    assert len(set(sizes)) > 1
    expected = losses.create(
        "sub_center_arcface",
        num_classes=len(sizes),
        embedding_dim=8,
        class_sizes=sizes,
        size_exponent=0.25,
    )
    x = np.eye(8, dtype=np.float32)[:5]
    params, labels = expected.init(experiment.training_key), np.arange(5)
    actual, _ = experiment.loss.apply(params, x, labels, None)
    assert actual == expected.apply(params, x, labels, None)[0]
    config.loss.sub_center_arcface.size_exponent = 0.0
    constant = parts.create_loss(config, sizes)
    assert actual != constant.apply(params, x, labels, None)[0]
