"""A run killed at any moment without warning restores its last checkpoint."""

import random
import time
from pathlib import Path

import jax
import many_processes
import numpy as np
import pytest
import small_runs

from dcjax.runs.checkpoints import Checkpoints

_ROWS = 2_000_000  # 32 MB in total
_SAVE = f"""
import sys
import small_runs
from dcjax.runs.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep_latest=2)
number = checkpoints.latest or 0
while True:
    number += 1
    # Each step is saved twice, as before its evaluation and after it.
    state = small_runs.state(number // 2, rows={_ROWS})
    scores = {{"recall_at_1": 0.5}}  # of which a kill in a removal may leave some
    checkpoints.save(state, small_runs.division(number), {{"at": number}}, scores)
    print("begun", number, flush=True)
    checkpoints.wait()
    print("saved", number, flush=True)
"""


def _saves_until_killed(workdir: Path, seconds: float) -> list[list[str]]:
    """Returns the output of a saving process that is killed `seconds` after its second save."""
    process = many_processes.python("-c", _SAVE, str(workdir))
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]  # two saves are started and finished
    time.sleep(seconds)
    assert process.poll() is None
    process.kill()
    return [line.split() for line in [*lines, *process.communicate()[0].splitlines()]]


def _check_kills(workdir: Path, num_kills: int) -> None:
    rng, saved = random.Random(num_kills), -1
    for _ in range(num_kills):
        lines = _saves_until_killed(workdir, rng.uniform(0, 1))
        saved = max([saved, *(int(number) for word, number in lines if word == "saved")])
        last_started = max(int(number) for word, number in lines if word == "begun")
        checkpoints = Checkpoints(str(workdir), keep_latest=2)  # repairs what the kill left
        latest = checkpoints.latest
        assert latest is not None
        assert saved <= latest <= last_started
        state, division = checkpoints.restore(latest, small_runs.state(0, rows=_ROWS))
        expected = small_runs.state(latest // 2, rows=_ROWS)
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        np.testing.assert_array_equal(division.cluster, small_runs.division(latest).cluster)
        assert checkpoints.meta(latest) == {"at": latest}
        checkpoints.close()
    assert saved > 0


def test_two_kills_lose_nothing(tmp_path: Path) -> None:
    _check_kills(tmp_path, 2)


@pytest.mark.long
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    _check_kills(tmp_path, 20)
