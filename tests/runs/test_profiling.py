"""Idle time, of intervals and of a real trace."""

import gzip
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from dcjax.runs import profiling


@pytest.mark.parametrize(
    ("intervals", "share"),
    [
        ([(0, 10)], 0.0),
        ([(0, 4), (6, 10)], 0.2),
        ([(6, 10), (0, 4)], 0.2),  # in any order
        ([(0, 10), (2, 3), (4, 12)], 0.0),  # nested and overlapping intervals count once
        ([(100, 101), (100, 101), (109, 110)], 0.8),
        ([(5, 5)], 0.0),  # of length zero
    ],
)
def test_idle_share_is_the_time_covered_by_no_interval(intervals, share):
    assert profiling.idle_share(intervals) == pytest.approx(share)


def test_trace_holds_the_steps_after_the_warm_up(tmp_path):
    step = jax.jit(lambda x: jnp.sin(x @ x))
    output = jnp.eye(300)
    profile = profiling.Profile(tmp_path)
    for _ in range(120):
        output = step(output)
        profile.step(output)
    assert profile.num_steps == 50
    assert 0 <= profile.idle_share() < 1
    with gzip.open(next(tmp_path.rglob("*.trace.json.gz"))) as file:
        events = json.load(file)["traceEvents"]
    runs = {event.get("args", {}).get("run_id") for event in events}
    assert len(runs - {None}) == 50


def test_only_the_ends_of_the_trace_wait_for_a_step(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(jax, "block_until_ready", waits.append)
    profile = profiling.Profile(tmp_path)
    for step in range(1, 301):
        profile.step(step)
    assert waits == [50, 100]


def _write_trace(folder: Path, events: list[dict[str, Any]]) -> None:
    with gzip.open(folder / "host.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events}, file)


def _name(kind: str, name: str, **ids: int) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "args": {"name": name}, **ids}


@pytest.mark.parametrize(
    ("device", "kernels", "others"),
    [
        ("/device:GPU:0", ["Stream #13(Compute)", "Stream #20(MemcpyD2D)"], "XLA Modules"),
        ("/device:TPU:0", ["XLA Ops", "XLA Ops"], "Steps"),
    ],
)
def test_busy_time_of_accelerators_is_that_of_their_kernels(
    device: str, kernels: list[str], others: str, tmp_path: Path
) -> None:
    names = [_name("process_name", device, pid=1), _name("process_name", "/host:CPU", pid=701)]
    for tid, name in enumerate([*kernels, others]):
        names.append(_name("thread_name", name, pid=1, tid=tid))
    events = [
        {"ph": "X", "pid": 1, "tid": 0, "ts": 100.0, "dur": 4.0, "name": "fusion"},
        {"ph": "X", "pid": 1, "tid": 1, "ts": 103.0, "dur": 2.0, "name": "copy"},
        {"ph": "X", "pid": 1, "tid": 0, "ts": 109.0, "dur": 1.0, "name": "fusion"},
        {"ph": "X", "pid": 1, "tid": 2, "ts": 100.0, "dur": 99.0, "name": "step"},
        {"ph": "X", "pid": 701, "tid": 0, "ts": 0.0, "dur": 500.0, "name": "train"},
        {},  # the profiler ends its list with this
    ]
    _write_trace(tmp_path, names + events)
    assert profiling.Profile(tmp_path).idle_share() == pytest.approx(0.4)


def test_idle_share_is_averaged_over_virtual_devices(tmp_path: Path) -> None:
    events = [_name("process_name", "/host:CPU", pid=701)]
    for device, starts in (("0", (0.0, 9.0)), ("1", (0.0, 1.0))):  # idle shares of 0.8 and 0.0
        for ts in starts:
            event = {"ph": "X", "pid": 701, "tid": 3, "ts": ts, "dur": 1.0}
            event |= {"name": "ThunkExecutor::Execute", "args": {"device_ordinal": device}}
            events.append(event)
    _write_trace(tmp_path, events)
    assert profiling.Profile(tmp_path).idle_share() == pytest.approx(0.4)


def test_folder_without_a_trace_has_no_idle_share(tmp_path: Path) -> None:
    assert profiling.Profile(tmp_path).idle_share() is None


def test_trace_without_known_names_has_no_idle_share(tmp_path):
    with jax.profiler.trace(str(tmp_path)):
        pass
    assert profiling.Profile(tmp_path).idle_share() is None


def test_run_that_ends_early_is_traced_up_to_its_end(tmp_path):
    output = jnp.eye(3)
    profile = profiling.Profile(tmp_path)
    for _ in range(60):
        output = output + 1
        profile.step(output)
    profile.close()
    profile.close()  # nothing left to stop
    assert profile.num_steps == 10


def test_run_without_a_full_warm_up_has_no_trace(tmp_path):
    profile = profiling.Profile(tmp_path)
    profile.step(jnp.eye(3))
    profile.close()
    assert profile.num_steps == 0
    assert not list(tmp_path.rglob("*"))
