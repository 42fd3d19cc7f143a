"""Runs with a vision transformer: from published weights to an exported file."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import published_vit
import pytest
import small_runs
from ml_collections import ConfigDict
from published_vit import Layout

import dcjax
from configs import digits
from dcjax.core.errors import InputError
from dcjax.distributed import devices
from dcjax.experiment import build, inputs
from dcjax.models import vit
from dcjax.modes import export
from dcjax.modes.train import train

_LAYOUT = Layout(patch_size=4, grid=3, width=16, depth=2, num_heads=2)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes vit_small small, and returns a file of weights in the names of Hugging Face."""
    size = (_LAYOUT.width, _LAYOUT.depth, _LAYOUT.num_heads)
    monkeypatch.setitem(vit.SIZES, "vit_small", size)
    drawn = published_vit.draw(published_vit.shapes(_LAYOUT))
    (tmp_path / "weights").mkdir()
    np.savez(tmp_path / "weights" / "vit.npz", **published_vit.dinov2_model(drawn))
    return tmp_path / "weights" / "vit.npz"


def _config(weights: Path, **changes: Any) -> ConfigDict:
    config = digits.get_config()
    of_vit = {
        "model.backbone": "vit_small",
        "model.num_stages": 4,
        "model.width": 64,
        "model.batch_norm": "frozen",
        "model.pooling": "class",
        "model.pretrained": str(weights),
        "model.vit.patch_size": 4,
        "train.num_epochs": 1,
    }
    config.update_from_flattened_dict(small_runs.TINY | of_vit | changes)
    return config


def _experiment(config: ConfigDict) -> build.Experiment:
    splits, _ = inputs.load_splits(config.dataset)
    return build.Experiment(config, devices.create_mesh(), splits)


def test_run_starts_from_published_weights_and_is_continued_and_exported_without_them(
    weights: Path, tmp_path: Path
) -> None:
    workdir = str(tmp_path / "run")
    train(_config(weights), workdir)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert (saved["pixels"], saved["pooling"], saved["vit"]["patch_size"]) == ("auto", "class", 4)
    weights.unlink()
    more = {"train.num_epochs": 2, "model.rematerialize": True, "model.vit.attention": "xla"}
    more |= {"model.chunk_size": 32}
    train(_config(weights, **more), workdir)
    embedder = dcjax.load(workdir)
    assert isinstance(embedder, dcjax.Embedder)
    assert embedder.epoch == 2
    export.export(workdir, None)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    loaded = dcjax.load(str(tmp_path / "run" / "export" / "embedder.jax"))
    np.testing.assert_allclose(loaded(images), embedder(images), atol=1e-5)


def test_continued_run_in_chunks_equals_an_uninterrupted_one(weights: Path, tmp_path: Path) -> None:
    changes = {"train.num_epochs": 2, "checkpoint.every_epochs": 1, "eval.every_epochs": 0}
    changes |= {"model.chunk_size": 16, "dataset.validation_list": ("0", "2")}
    changes |= {"optimizer.schedule": "cosine", "optimizer.warmup_epochs": 0.5}
    changes |= {"optimizer.clip_norm": 0.5, "optimizer.layer_decay": 0.75}
    changes |= {"train.ema_decay": 0.9, "model.dropout": 0.2, "division.max_clusters": 1}
    config, whole, stopped = _config(weights, **changes), tmp_path / "whole", tmp_path / "stopped"
    train(config, str(whole))
    shutil.copytree(whole, stopped)
    last = small_runs.remove_last_checkpoint(stopped)
    train(config, str(stopped))
    run, division = small_runs.load_checkpoint(config, whole)
    small_runs.assert_equal(small_runs.load_checkpoint(config, stopped), (run, division))
    assert run.step == last


def test_initial_state_has_the_weights_with_positions_of_the_crop(weights: Path) -> None:
    experiment = _experiment(_config(weights))
    state = experiment.create_state(experiment.load_pretrained(pytest.fail))
    backbone = jax.device_get(state.params["backbone"])
    drawn = published_vit.draw(published_vit.shapes(_LAYOUT))
    np.testing.assert_array_equal(
        backbone["blocks_1"]["mlp"]["fc2"]["kernel"], drawn["blocks.1.mlp.fc2.weight"].T
    )
    assert backbone["pos_embed"].shape == (1 + 2 * 2, 16)
    assert state.batch_stats == {}
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (state, experiment.abstract_state))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.vit.patch_size": 2}, "give --config.model.vit.patch_size=4, or other weights."),
        ({"model.vit.registers": 4}, "give --config.model.vit.registers=0, or other weights."),
        (
            {"model.backbone": "resnet_small", "model.num_stages": 3, "model.pooling": "max"},
            "has weights of vit_small, but the backbone is a ResNet",
        ),
    ],
)
def test_weights_of_another_network_end_the_run_in_one_line(
    changes: dict[str, Any], message: str, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        train(_config(weights, **changes), str(tmp_path / "run"))
    assert len(str(error.value).splitlines()) == 1


def test_pixels_that_the_publisher_does_not_name_end_the_run(weights: Path, tmp_path: Path) -> None:
    published = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    weights.with_name("preprocessor_config.json").write_text(json.dumps(published))
    with pytest.raises(InputError, match=r"give --config.model.pixels=half\.$"):
        train(_config(weights), str(tmp_path / "run"))
