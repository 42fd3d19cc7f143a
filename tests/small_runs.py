"""Small runs: a state whose arrays are functions of the step, and checkpoints of saved runs."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dcjax.distributed import devices
from dcjax.division.division import Division
from dcjax.experiment import build, inputs
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


def assert_equal(actual: Any, expected: Any) -> None:
    """Asserts that two trees of arrays are equal bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
