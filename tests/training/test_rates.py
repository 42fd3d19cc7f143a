"""Schedules of the learning rates, against their formulas and those of optax."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcjax.core.errors import InputError
from dcjax.training import rates

_NUM_STEPS = 7  # of an epoch


def _factors(schedule: rates.Schedule | None, num_epochs: int) -> list[float]:
    """Returns the factor of each step of a run, as its steps compute it."""
    factors = []
    for epoch in range(num_epochs):
        progress = (np.float32(epoch), np.int32(100 + epoch * _NUM_STEPS), np.int32(_NUM_STEPS))
        names = ("number", "first_step", "num_steps")
        controls = {
            "learning_rates": {"backbone": jnp.asarray(2.0)},
            "epoch": dict(zip(names, progress, strict=True)),
        }
        for step in range(_NUM_STEPS):
            number = jnp.asarray(100 + epoch * _NUM_STEPS + step)
            factors.append(float(rates.of_step(controls, number, schedule)["backbone"]) / 2)
    return factors


@pytest.mark.parametrize(
    ("chosen", "reference"),
    [
        ({"schedule": "cosine"}, optax.cosine_decay_schedule(1.0, 5 * _NUM_STEPS)),
        (
            {"schedule": "cosine", "warmup_epochs": 2, "final_share": 0.1},
            optax.warmup_cosine_decay_schedule(0, 1, 2 * _NUM_STEPS, 5 * _NUM_STEPS, end_value=0.1),
        ),
        (
            {"schedule": "step", "step_epochs": (1, 3), "step_factor": 0.5},
            optax.piecewise_constant_schedule(1.0, {_NUM_STEPS: 0.5, 3 * _NUM_STEPS: 0.5}),
        ),
        ({"warmup_epochs": 3}, optax.linear_schedule(0, 1, 3 * _NUM_STEPS)),
    ],
)
def test_rates_of_all_steps_equal_those_of_optax(
    chosen: dict[str, Any], reference: Callable[[int], Any]
) -> None:
    actual = _factors(rates.create(num_epochs=5, **chosen), num_epochs=5)
    expected = [float(reference(step)) for step in range(5 * _NUM_STEPS)]
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_warmup_may_take_a_part_of_an_epoch_and_steps_come_after_it() -> None:
    schedule = rates.create(
        num_epochs=4, schedule="step", warmup_epochs=0.5, step_epochs=(2,), step_factor=0.1
    )
    assert schedule is not None
    epochs = [0, 0.125, 0.25, 0.5, 1.875, 2, 3.875]
    actual = [float(schedule(jnp.float32(epoch))) for epoch in epochs]
    np.testing.assert_allclose(actual, [0, 0.25, 0.5, 1, 1, 0.1, 0.1], rtol=1e-6)


def test_cosine_depends_on_the_share_of_an_epoch_and_not_on_its_steps() -> None:
    schedule = rates.create(num_epochs=8, schedule="cosine", warmup_epochs=1, final_share=0.2)
    for num_steps in (4, 40):  # of epoch 2, which begins at step 30
        controls = {
            "learning_rates": {"masks": 5.0},
            "epoch": {"number": 2.0, "first_step": 30, "num_steps": num_steps},
        }
        actual = rates.of_step(controls, jnp.asarray(30 + num_steps // 4), schedule)["masks"]
        cosine = (1 + math.cos(math.pi * (2.25 - 1) / 7)) / 2
        np.testing.assert_allclose(actual, 5 * (0.2 + 0.8 * cosine), rtol=1e-6)


def test_constant_rates_are_those_of_the_epoch() -> None:
    assert rates.create(num_epochs=3) is None
    controls = {"learning_rates": {"masks": jnp.asarray(3.0)}}
    assert rates.of_step(controls, jnp.asarray(9), None) is controls["learning_rates"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"schedule": "linear"}, "optimizer.schedule 'linear'; known are constant, cosine, step"),
        ({"warmup_epochs": 3}, r"optimizer.warmup_epochs < train.num_epochs, got 3 and 3\."),
        ({"schedule": "step"}, r"requires optimizer.step_epochs, .* got \(\)"),
        ({"schedule": "step", "step_epochs": (1, 3)}, r"before train.num_epochs=3, got \(1, 3\)"),
        ({"schedule": "step", "step_epochs": (2, 1)}, r"ascending, .* got \(2, 1\)"),
        (
            {"schedule": "step", "step_epochs": (1,), "warmup_epochs": 1.5},
            r"after the warm-up of 1.5 epochs .* got \(1,\)",
        ),
        ({"schedule": "cosine", "final_share": 2}, "optimizer.final_share of at least 0 and at"),
    ],
)
def test_schedule_that_does_not_fit_the_run_is_an_error(
    chosen: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rates.create(num_epochs=3, **chosen)
