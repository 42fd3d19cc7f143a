"""A run that is told to stop, whatever it is doing, saves and goes on as if it had not been."""

from pathlib import Path

import many_processes
import pod
import pytest
import small_runs
from ml_collections import ConfigDict

from configs import digits
from dcjax import division, evaluation
from dcjax.checkpoints import Checkpoints
from dcjax.train import train

# A run of launch.py whose division takes a day, and whose first evaluation is disturbed.
_BUSY = """
import sys, time
from absl import app
import launch, pod
from dcjax import division, evaluation

def fail(*arguments, **options):
    raise {error}("no such image")

division.divide = lambda *arguments, **options: time.sleep(86_400)
evaluation.evaluate = pod.told_to_stop(evaluation.evaluate) if "{error}" == "None" else fail
settings = pod.SETTINGS | {{"eval.every_epochs": 1}}
flags = [f"--config.{{key}}={{value}}" for key, value in settings.items()]
sys.argv = ["launch.py", "--config=configs/digits.py", "--workdir={workdir}", *flags]
app.run(launch.main, flags_parser=launch._parse)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("error", "ends", "told"),
    [
        ("None", 0, ""),
        ("OSError", 1, "OSError: no such image\n{kept}"),
        ("KeyError", 1, "KeyError: 'no such image'\n{kept}"),
    ],
)
def test_the_end_does_not_wait_for_a_division(
    error: str, ends: int, told: str, tmp_path: Path
) -> None:
    run = many_processes.python("-c", _BUSY.format(error=error, workdir=tmp_path))
    ((code, output, errors),) = many_processes.finish([run], seconds=200)
    assert code == ends
    kept = f"launch.py: The traceback is kept in {tmp_path / 'error.log'}.\n"
    assert errors.endswith(told.format(kept=kept))
    assert ("Stopped by SIGTERM and saved after epoch 1" in output) is (error == "None")


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
