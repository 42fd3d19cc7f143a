"""Stopping on request: a signal is received once, repeats are harmless, processes agree."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import many_processes
import pytest

from dcjax.runs.preemption import Stopped, StopRequest

_LOOP = """
import time
from pathlib import Path
from dcjax.runs.preemption import StopRequest
with StopRequest() as stop:
    for step in range(58, 2000):  # as of a run that goes on
        time.sleep(0.01 * (1 + jax.process_index()))
        if step == 63:
            print("runs", flush=True)
        if stop.asks_to_stop():
            break
    time.sleep(1)
print(step, stop.requested)
"""


def test_repeated_sigterm_is_one_stop_request() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.asks_to_stop()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asks_to_stop()
        assert stop.requested == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def _interrupt_enabled() -> Iterator[None]:
    """Enables Ctrl-C as in a terminal, since shells disable it for background processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupt_enabled")
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_after_a_stop_request_acts_at_once(first: signal.Signals) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), first)
        assert stop.requested == first.name
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_stop_signal_interrupts_a_wait_where_allowed(number: signal.Signals) -> None:
    def wait() -> None:
        os.kill(os.getpid(), number)
        threading.Event().wait(60)

    before = signal.signal(number, signal.SIG_DFL)
    try:
        with StopRequest() as stop:
            stop.allow()
            with pytest.raises(Stopped):
                wait()
            stop.defer()
            assert stop.requested == number.name
            with pytest.raises(Stopped):
                stop.allow()
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_signals_ignored_at_the_start_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # like nohup
    try:
        with StopRequest() as stop:
            stop.allow()
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asks_to_stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_outside_the_main_thread_receives_no_signals() -> None:
    def is_stop_requested() -> bool:
        with StopRequest() as stop:
            return stop.asks_to_stop()

    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(is_stop_requested).result()


def test_all_processes_stop_after_the_same_step_when_one_is_signalled_twice() -> None:
    processes = many_processes.start(_LOOP, num_devices=1)
    try:
        for process in processes:
            assert process.stdout is not None
            while "runs" not in process.stdout.readline():
                assert process.poll() is None
        for _ in range(2):
            processes[1].send_signal(signal.SIGTERM)
            time.sleep(0.2)
    finally:
        ends = many_processes.finish(processes, 60)
    assert [code for code, _, _ in ends] == [0, 0], ends
    (step, reason), other = (output.split() for _, output, _ in ends)
    assert other == [step, reason]
    assert reason == "SIGTERM"
    assert 63 < int(step) < 1999


def test_stop_signal_before_the_first_step_is_received() -> None:
    program = """
import os, signal, time
from dcjax.runs.preemption import StopRequest
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2)  # as if it read data and compiled: JAX agrees on a step meanwhile
    print(any(stop.asks_to_stop() for _ in range(100) if not time.sleep(0.01)))
"""
    (output,) = many_processes.run(program, num_processes=1, num_devices=1)
    assert output == "True\n"


def test_stop_signal_is_received_during_a_background_save(tmp_path: Path) -> None:
    program = f"""
import os, signal, time
import small_runs
from dcjax.runs.checkpoints import Checkpoints
from dcjax.runs.preemption import StopRequest
checkpoints = Checkpoints({str(tmp_path)!r})
with StopRequest() as stop:
    for step in range(1, 400):
        if step == 5:  # is done, and tells Orbax so, many steps later
            state = small_runs.state(5, rows=1_000_000)
            checkpoints.save(state, small_runs.division(5), {{}}, None)
        if step == 60:
            checkpoints.wait()
        if step == 70:
            os.kill(os.getpid(), signal.SIGTERM)
        if stop.asks_to_stop():
            break
        time.sleep(0.01)
print(step, stop.requested)
"""
    (output,) = many_processes.run(program, num_processes=1, num_devices=1)
    step, reason = output.split()
    assert 70 <= int(step) < 399
    assert reason == "SIGTERM"
