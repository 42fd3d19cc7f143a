"""Small runs: a state whose arrays are functions of the step, and checkpoints of saved runs."""

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import png
from ml_collections import ConfigDict

from configs import folder
from dcjax.distributed import devices
from dcjax.division.division import Division
from dcjax.experiment import build, inputs
from dcjax.experiment.run import Run
from dcjax.modes.train import train
from dcjax.runs.checkpoints import Checkpoints
from dcjax.training.state import TrainState

# Settings of runs on digits that take seconds.
TINY = {
    "model.width": 4,
    "model.num_stages": 1,
    "model.embedding_dim": 8,
    "eval.at_start": False,
    "eval.nmi": "never",
    "eval.pixels": False,
    "train.report": False,
}


def train_on_folders(top: Path, workdir: Path, changes: Mapping[str, Any]) -> str:
    """Trains on folders of pictures with queries and a gallery; returns the workdir."""
    generator = np.random.default_rng(0)
    for split, names in (("train", "abcd"), ("query", "xyz"), ("gallery", "wxyz")):
        for name in names:
            (top / split / name).mkdir(parents=True)
            for i in range(8 if split == "train" else 5):
                image = png(generator.integers(0, 256, (12, 10, 3), np.uint8))
                (top / split / name / f"{i}.png").write_bytes(image)
    config = folder.get_config()
    sizes = {"dataset.resize": 8, "dataset.crop": 8, "model.backbone": "resnet_small"}
    batch = {"sampling.batch_size": 8, "sampling.images_per_class": 2, "model.batch_norm": "train"}
    weights = {"model.pretrained": "", "dataset.root": str(top)}
    config.update_from_flattened_dict({**changes, **sizes, **batch, **weights})
    config.division.freeze_backbone_epochs = 0
    train(config, str(workdir))
    return str(workdir)


def state(step: int, *, rows: int = 3) -> TrainState:
    kernel = np.random.default_rng(step).random((rows, 2), np.float32)
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params={"embedding": {"kernel": jnp.asarray(kernel)}},
        masks=jnp.full((4, 2), step / 7),
        loss_params={},
        memory={},
        batch_stats={},
        opt_state={"count": jnp.asarray(step, jnp.int32), "mu": jnp.asarray(-kernel)},
        num_clusters=jnp.asarray(2, jnp.int32),
    )


def division(step: int) -> Division:
    cluster = np.array([step, -1, 0, 1], np.int32)
    return Division(cluster, np.arange(2, dtype=np.int32), period=step // 100)


def load_checkpoint(config: ConfigDict, workdir: str | Path) -> tuple[TrainState, dict[str, Any]]:
    """Returns state and division of the last checkpoint of a run on digits."""
    splits, _ = inputs.load_splits(config.dataset)
    experiment = build.Experiment(config, devices.create_mesh(), splits)
    checkpoints = Checkpoints(str(workdir), read_only=True)
    run, clusters = checkpoints.restore(checkpoints.number("last"), experiment.abstract_state)
    return jax.device_get(run), vars(clusters)


def remove_last_checkpoint(workdir: str | Path) -> int:
    """Makes a finished run one that was killed during its last epoch; returns its last step."""
    last = Checkpoints(str(workdir), read_only=True).number("last")
    shutil.rmtree(Path(workdir) / "checkpoints" / str(last))
    return last


def save_within_epoch(workdir: str | Path, *, after_steps: int) -> None:
    """Saves what a run on digits saves that is stopped within its next epoch, as it is now."""
    checkpoints = Checkpoints(str(workdir))
    meta = checkpoints.meta(checkpoints.number("last"))
    meta["progress"]["epoch_step"] = after_steps  # beside the scores of the epoch before
    run, clusters = load_checkpoint(ConfigDict(meta["config"]), workdir)
    checkpoints.save(run, Division(**clusters), meta, None)
    checkpoints.close()


def train_with_a_stop(config: ConfigDict, workdir: str | Path, *, after_steps: int) -> Any:
    """Trains until SIGTERM stops the run after some steps, then continues; returns the scores."""
    step = Run.train_step

    def stop_in_an_epoch(self: Run, *arguments: Any) -> Any:
        if self.step == after_steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train_step", stop_in_an_epoch)
        assert train(config, str(workdir)) is None
    return train(config, str(workdir))


def assert_equal(actual: Any, expected: Any) -> None:
    """Asserts that two trees of arrays are equal bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
