"""The seconds of a start-up belong to one stage each, and add up to the time that has passed."""

import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dcjax.runs import startup
from dcjax.runs.startup import StartUp

_ROOT = Path(__file__).parents[2]


def test_seconds_of_all_stages_add_up_to_the_time_that_has_passed() -> None:
    begun = time.time()
    start_up = StartUp("first", start_time=begun - 5)
    start_up.listen()
    start_up.enter("second")
    # A function within another one is traced and lowered within it, and counted once.
    inner = jax.jit(lambda x: jnp.sort(x) @ x.T)
    jax.jit(lambda x: inner(x) + inner(x + 1))(jnp.ones((3, 3)))
    start_up.enter("first")
    time.sleep(0.02)
    start_up.close()
    passed = time.time() - begun + 5
    start_up.enter("third")  # the first step is done
    seconds = start_up.seconds()
    assert list(seconds) == ["first", "second"]
    assert sum(sum(parts.values()) for parts in seconds.values()) == pytest.approx(passed, abs=0.1)
    assert seconds["first"]["other"] >= 5.02
    assert seconds["first"]["tracing"] == seconds["first"]["compiling"] == 0
    assert seconds["second"]["tracing"] > 0
    assert seconds["second"]["compiling"] > 0
    assert min(min(parts.values()) for parts in seconds.values()) >= 0
    assert start_up.slowest_functions()


def test_line_lists_each_stage_and_adds_up() -> None:
    seconds = {
        "imports": {"tracing": 0.0, "compiling": 0.0, "other": 2.5},
        "evaluation": {"tracing": 1.0, "compiling": 0.25, "other": 0.5},
        "first step": {"tracing": 0.5, "compiling": 0.25, "other": 0.125},
    }
    line = startup.describe(seconds)
    assert line == (
        "5.12 s to the first step: imports 2.50, evaluation 0.50, first step 0.12, tracing 1.50, "
        "compiling 0.50"
    )
    total, *parts = map(float, re.findall(r"\d+\.\d+", line))
    assert sum(parts) == pytest.approx(total, abs=0.005 * len(parts))


def test_time_of_a_process_begins_with_its_start() -> None:
    code = "import time; time.sleep(0.3); from dcjax.runs import startup as s;"
    code += "print(sum(s.StartUp.of_process('settings').seconds()['settings'].values()))"
    begun = time.monotonic()
    seconds = float(subprocess.check_output([sys.executable, "-c", code], cwd=_ROOT, text=True))
    assert 0.3 <= seconds <= time.monotonic() - begun + 0.02  # the kernel counts hundredths
