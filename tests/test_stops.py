"""A run that is told to stop, whatever it is doing, saves and goes on as if it had not been."""

from pathlib import Path

import pod
import pytest
import small_runs
from ml_collections import ConfigDict

from configs import digits
from dcjax import division, evaluation
from dcjax.checkpoints import Checkpoints
from dcjax.train import train


def _config() -> ConfigDict:
    config = digits.get_config()
    config.update_from_flattened_dict({**pod.SETTINGS, "eval.every_epochs": 1})
    return config


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
            patch.setattr(owner, name, pod.told_to_stop(getattr(owner, name)))
            done = train(config, str(stopped))
        told = capsys.readouterr().out
        if epoch == config.train.num_epochs:
            assert done == scores
        else:
            assert done is None
            assert f"Stopped by SIGTERM and saved after epoch {epoch} and {steps} steps" in told
    small_runs.assert_equal(small_runs.saved(config, stopped), small_runs.saved(config, whole))

    interrupted = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "evaluate", pod.told_to_stop(evaluation.evaluate))
        assert train(config, str(interrupted)) is None
    assert "Stopped by SIGTERM and saved after epoch 1 and 0 steps" in capsys.readouterr().out
    first = Checkpoints(str(interrupted), read_only=True)
    assert first.meta(first.step("last"))["progress"]["scores"]  # the evaluation was not lost
