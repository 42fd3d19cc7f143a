"""A run that is told to stop, whatever it is doing, saves and goes on as if it had not been."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pod
import pytest
from ml_collections import ConfigDict

from configs import digits
from dcjax import division, evaluation, experiment
from dcjax.checkpoints import Checkpoints
from dcjax.train import train


def _config() -> ConfigDict:
    config = digits.get_config()
    config.update_from_flattened_dict({**pod.SETTINGS, "eval.every_epochs": 1})
    return config


def _state(config: ConfigDict, workdir: Path) -> Any:
    model, optimizer = experiment.create_model(config), experiment.create_optimizer(config)
    loss = experiment.create_loss(config, 5)
    like = experiment.create_state(config, model, loss, optimizer, None)
    checkpoints = Checkpoints(str(workdir), read_only=True)
    run, clusters = checkpoints.restore(checkpoints.step("last"), like)
    return jax.device_get(run), (clusters.cluster, clusters.parents)


def _told_to_stop(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, which first tells this process to stop, twice, as schedulers do."""

    def stopped(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        return function(*arguments, **options)

    return stopped


@pytest.mark.long
def test_sigterm_in_a_save_a_division_and_an_evaluation_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, (whole, stopped) = _config(), (tmp_path / "whole", tmp_path / "stopped")
    scores = train(config, str(whole))
    assert scores
    for owner, name, epoch, steps in (
        (division, "divide", 1, 0),  # while the first epoch is evaluated: saved after that
        (Checkpoints, "save", 2, 0),  # of the last epoch: nothing is left to do
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, _told_to_stop(getattr(owner, name)))
            done = train(config, str(stopped))
        told = capsys.readouterr().out
        if epoch == config.train.num_epochs:
            assert done == scores
        else:
            assert done is None
            assert f"Stopped by SIGTERM and saved after epoch {epoch} and {steps} steps" in told
    for a, b in zip(*(jax.tree.leaves(_state(config, x)) for x in (whole, stopped)), strict=True):
        np.testing.assert_array_equal(a, b)

    interrupted = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "evaluate", _told_to_stop(evaluation.evaluate))
        assert train(config, str(interrupted)) is None
    assert "Stopped by SIGTERM and saved after epoch 1 and 0 steps" in capsys.readouterr().out
    first = Checkpoints(str(interrupted), read_only=True)
    assert first.meta(first.step("last"))["progress"]["scores"]  # the evaluation was not lost
