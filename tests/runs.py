"""A small run to save: its state and its division are functions of the step."""

import jax.numpy as jnp
import numpy as np

from dcjax.division import Division
from dcjax.state import TrainState


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
