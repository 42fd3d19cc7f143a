"""A run stopped at any stage saves, and continued it equals an uninterrupted one."""

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import many_processes
import pod
import pytest
import small_runs
from ml_collections import ConfigDict

from configs import digits
from dcjax.division import division
from dcjax.experiment import inputs
from dcjax.modes.train import train
from dcjax.retrieval import evaluation

# A run of launch.py whose division takes a day and whose first evaluation fails or is stopped.
_BUSY = """
import functools, sys, time
from absl import app
import pod
from dcjax.division import division
from dcjax.modes import command_line
from dcjax.retrieval import evaluation

def fail(*arguments, **options):
    raise {error}("no such image")

# With its signature, which has the defaults of its settings.
division.divide = functools.wraps(division.divide)(lambda *_, **__: time.sleep(86_400))
evaluation.evaluate = pod.with_stop_signal(evaluation.evaluate) if "{error}" == "None" else fail
settings = pod.SETTINGS | {{"eval.every_epochs": 1}}
flags = [f"--config.{{key}}={{value}}" for key, value in settings.items()]
sys.argv = ["launch.py", "--config=configs/digits.py", "--workdir={workdir}", *flags]
app.run(command_line.main, flags_parser=command_line._parse)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("error", "ends", "message"),
    [
        ("None", 0, ""),
        ("OSError", 1, "OSError: no such image\n{kept}"),
        ("KeyError", 1, "KeyError: 'no such image'\n{kept}"),
    ],
)
def test_run_ends_without_waiting_for_a_division(
    error: str, ends: int, message: str, tmp_path: Path
) -> None:
    run = many_processes.python("-c", _BUSY.format(error=error, workdir=tmp_path))
    ((code, output, errors),) = many_processes.finish([run], seconds=200)
    assert code == ends
    kept = f"launch.py: The traceback is kept in {tmp_path / 'error.log'}.\n"
    assert errors.endswith(message.format(kept=kept))
    assert ("Stopped by SIGTERM and saved after epoch 1" in output) is (error == "None")


def _config() -> ConfigDict:
    config = digits.get_config()
    config.update_from_flattened_dict({**pod.SETTINGS, "eval.every_epochs": 1})
    return config


@pytest.fixture
def endless_wait() -> Iterator[Callable[..., None]]:
    """A wait that lasts until the test ends, after a stop signal."""
    released = threading.Event()
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def wait(number: signal.Signals, *arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), number)
        released.wait()
        raise RuntimeError("the test is over")

    yield wait
    released.set()
    signal.signal(signal.SIGHUP, before)


@pytest.mark.long
def test_stop_signal_during_start_evaluation_or_division_loses_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    endless_wait: Callable[..., None],
) -> None:
    config, (uninterrupted, stopped) = _config(), (tmp_path / "whole", tmp_path / "stopped")
    scores = train(config, str(uninterrupted))
    assert scores
    for owner, name, number, message in (
        (inputs, "load_splits", signal.SIGTERM, "before it trained a step"),
        (evaluation, "evaluate", signal.SIGHUP, "saved after epoch 1, which is still"),
        (division, "divide", signal.SIGTERM, "saved after epoch 1;"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, functools.partial(endless_wait, number))
            assert train(config, str(stopped)) is None
        assert f"Stopped by {number.name} " in (output := capsys.readouterr().out)
        assert message in output
    assert train(config, str(stopped)) == scores
    small_runs.assert_equal(
        small_runs.load_checkpoint(config, stopped),
        small_runs.load_checkpoint(config, uninterrupted),
    )
