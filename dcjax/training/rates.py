"""How learning rates change over a run: a warm-up, then constant, a cosine, or steps.

A schedule is a function of the epochs that are done, with their fraction. So it does not depend on
the number of steps of an epoch, which changes with the division.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dcjax.core.errors import InputError
from dcjax.core.ranges import require_known, require_range

SCHEDULES = ("constant", "cosine", "step")

Schedule = Callable[[jax.Array], jax.Array]  # from epochs done [] to the factor of all rates []


def create(
    *,
    num_epochs: int,
    schedule: str = "constant",
    warmup_epochs: float = 0.0,
    final_share: float = 0.0,
    step_epochs: Sequence[int] = (),
    step_factor: float = 0.1,
) -> Schedule | None:
    """Creates a schedule of the learning rates; None if they are constant from the start.

    With w epochs of warm-up and E in all, the factor after e epochs is e / w while e < w, then

    * constant: 1;
    * cosine (Loshchilov & Hutter 2017): s + (1 - s) (1 + cos(pi (e - w) / (E - w))) / 2;
    * step: f^n, with n the number of step epochs that are not beyond e.

    Args:
      num_epochs: E, of the run.
      schedule: one of `SCHEDULES`.
      warmup_epochs: w, fractions too; 0: none.
      final_share: s, of the learning rate at the end of a cosine.
      step_epochs: of "step", the epochs after which all rates are multiplied by `step_factor`.
      step_factor: f.

    Raises:
      InputError: if an option is unknown, or warm-up or steps do not fit into the run.
    """
    require_known("optimizer.schedule", schedule, SCHEDULES)
    require_range("optimizer.warmup_epochs", warmup_epochs, 0)
    require_range("optimizer.final_share", final_share, 0, 1)
    require_range("optimizer.step_factor", step_factor, 0)
    if warmup_epochs >= num_epochs:
        raise InputError(
            "A warm-up has to end before the run does: require optimizer.warmup_epochs < "
            f"train.num_epochs, got {warmup_epochs:g} and {num_epochs}."
        )
    if schedule == "step":
        _check_steps(step_epochs, warmup_epochs, num_epochs)
    if schedule == "constant" and not warmup_epochs:
        return None

    def after_warmup(epochs_done: jax.Array) -> jax.Array:
        if schedule == "cosine":
            done = (epochs_done - warmup_epochs) / (num_epochs - warmup_epochs)
            cosine = (1 + jnp.cos(math.pi * jnp.clip(done, 0, 1))) / 2
            return final_share + (1 - final_share) * cosine
        if schedule == "step":
            num_steps = jnp.sum(epochs_done >= jnp.asarray(step_epochs))
            return jnp.asarray(step_factor, epochs_done.dtype) ** num_steps
        return jnp.ones_like(epochs_done)

    def factor(epochs_done: jax.Array) -> jax.Array:
        if not warmup_epochs:
            return after_warmup(epochs_done)
        warming_up = epochs_done < warmup_epochs
        return jnp.where(warming_up, epochs_done / warmup_epochs, after_warmup(epochs_done))

    return factor


def _check_steps(step_epochs: Sequence[int], warmup_epochs: float, num_epochs: int) -> None:
    inside = all(warmup_epochs <= epoch < num_epochs for epoch in step_epochs)
    ascending = sorted(set(step_epochs)) == list(step_epochs)
    if not (step_epochs and inside and ascending):
        raise InputError(
            "optimizer.schedule=step requires optimizer.step_epochs, ascending, after the warm-up "
            f"of {warmup_epochs:g} epochs and before train.num_epochs={num_epochs}, got "
            f"{tuple(step_epochs)}."
        )


def of_step(
    controls: Mapping[str, Any], step: jax.Array, schedule: Schedule | None
) -> Mapping[str, jax.Array]:
    """Returns the learning rates of a step by group.

    Args:
      controls: "learning_rates" of the epoch by group; "epoch": its "number", counted from 0, its
        "first_step", and "num_steps", all traced scalars. Without a schedule the first will do.
      step: int32 [], steps done.
      schedule: of `create`.
    """
    learning_rates: Mapping[str, jax.Array] = controls["learning_rates"]
    if schedule is None:
        return learning_rates
    epoch = controls["epoch"]
    factor = schedule(epoch["number"] + (step - epoch["first_step"]) / epoch["num_steps"])
    return {group: factor * rate for group, rate in learning_rates.items()}
