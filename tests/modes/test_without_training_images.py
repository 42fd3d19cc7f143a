"""A finished run is evaluated, reported and embeds when its training images are gone."""

import json
import os
import re
from pathlib import Path
from typing import Any

import benchmark_trees
import numpy as np
import pytest
import small_runs
from conftest import png
from ml_collections import ConfigDict

import dcjax
from configs import cub, folder, manifest, sop
from dcjax.core.console import Console
from dcjax.experiment import inputs
from dcjax.experiment.embedder import Embedder
from dcjax.experiment.report import collection
from dcjax.modes.embed import embed
from dcjax.modes.evaluate import compare
from dcjax.modes.train import train

_SETTINGS = small_runs.TINY | {
    "dataset.validation_classes": 0.25,
    "dataset.resize": 16,
    "dataset.crop": 16,
    "model.backbone": "resnet_small",
    "model.batch_norm": "train",
    "division.max_clusters": 1,
    "division.freeze_backbone_epochs": 0,
    "sampling.batch_size": 8,
    "sampling.images_per_class": 2,
    "optimizer.learning_rate": 1e-3,
    "train.num_epochs": 1,
    "train.full_embedding_from_epoch": -1,
    "eval.batch_size": 8,
    "eval.ks": (1, 2),
}


def _write_folders(root: Path) -> ConfigDict:
    generator = np.random.default_rng(0)
    for number in range(12):
        for i in range(4):
            path = root / f"class {number:02}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(generator.integers(0, 256, (16, 16, 3), np.uint8)))
    return folder.get_config()


def _write_table(root: Path) -> ConfigDict:
    """Writes a table with validation classes of its own."""
    _write_folders(root)
    split = ["train"] * 6 + ["validation"] * 2 + ["test"] * 4
    names = [f"class {number:02}" for number in range(12)]
    rows = [
        f"{name}/{i}.png,{name},{part}"
        for name, part in zip(names, split, strict=True)
        for i in range(4)
    ]
    (root / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    config = manifest.get_config()
    config.dataset.manifest = str(root / "table.csv")
    return config


def _write_cub(root: Path) -> ConfigDict:
    benchmark_trees.write("cub", "original", root)
    return cub.get_config()


def _write_sop(root: Path) -> ConfigDict:
    benchmark_trees.write("sop", "original", root)
    return sop.get_config()


@pytest.mark.parametrize(
    "write",
    [
        *(_write_folders, _write_sop),
        pytest.param(_write_table, marks=pytest.mark.long),
        pytest.param(_write_cub, marks=pytest.mark.long),
    ],
)
def test_finished_run_needs_no_training_images(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, workdir = write(tmp_path / "images"), str(tmp_path / "run")
    own = {"dataset.validation_classes": 0.0} if write is _write_table else {}
    config.update_from_flattened_dict(_SETTINGS | own | {"dataset.root": str(tmp_path / "images")})
    config.dataset.complete = False
    train(config, workdir)
    splits, _ = inputs.load_splits(config.dataset)
    assert splits.validation is not None
    for path in [*splits.train.images.tolist(), *splits.validation.images.tolist()]:
        os.unlink(path)
        if not os.listdir(os.path.dirname(path)):
            os.rmdir(os.path.dirname(path))

    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    expected = scores["best"]
    embedder = dcjax.load(workdir)
    assert isinstance(embedder, Embedder)
    assert embedder.epoch == expected.pop("epoch")
    assert embedder.evaluate() == expected
    capsys.readouterr()
    compare([workdir], None)
    output = capsys.readouterr().out
    assert "not as in training" not in output
    rows = [found for x in output.splitlines() if (found := re.findall(r"\d\.\d{4}", x))]
    validated = dict(scores["best_validation"])
    del validated["epoch"]
    recalls = [f"{x['recall_at_1']:.4f}" for x in (expected, validated)]
    assert [row[0] for row in rows] == recalls
    assert embed(workdir, None)
    assert (tmp_path / "run" / "embeddings" / "test.npy").is_file()

    summary = collection.collect(workdir, embedder, Console(quiet=True)).summary
    choice = f"best epoch ({embedder.epoch}), chosen on validation classes"
    assert summary.scores[choice] == expected
    assert summary.scores[f"{choice}, on validation classes"] == validated
    assert dict(summary.facts)["checkpoint"].endswith(
        f"the best by {config.eval.best_by} of the validation classes"
    )
