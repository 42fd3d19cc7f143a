"""A run killed at any moment without warning restores its last checkpoint."""

import itertools
import random
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small_runs
from forks import Fork

from dcjax.runs.checkpoints import Checkpoints

_ROWS = 2_000_000  # 32 MB in total


def _save(workdir: Path) -> None:
    checkpoints = Checkpoints(str(workdir), keep_latest=2)
    first = (checkpoints.latest or 0) + 1
    for number in itertools.count(first):
        # Each step is saved twice, as before its evaluation and after it.
        state = small_runs.state(number // 2, rows=_ROWS)
        scores = {"recall_at_1": 0.5}  # of which a kill in a removal may leave some
        checkpoints.save(state, small_runs.division(number), {"at": number}, scores)
        _print_line(f"begun {number}")
        checkpoints.wait()
        _print_line(f"saved {number}")
        if number == first + 1:
            _print_line("two saves are finished")


def _print_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _saves_until_killed(workdir: Path, seconds: float) -> list[list[str]]:
    """Returns the output of a saving process that is killed `seconds` after its second save."""
    process = Fork(_save, workdir)
    process.wait_for("two saves are finished")
    code, output, errors = process.finish(seconds)
    assert code == -signal.SIGKILL, errors
    return [line.split() for line in output.splitlines()]


def _check_kills(workdir: Path, num_kills: int) -> None:
    rng, saved = random.Random(num_kills), -1
    for _ in range(num_kills):
        lines = _saves_until_killed(workdir, rng.uniform(0, 1))
        saved = max([saved, *(int(words[1]) for words in lines if words[0] == "saved")])
        last_started = max(int(words[1]) for words in lines if words[0] == "begun")
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
