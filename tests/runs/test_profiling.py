"""Idle time: of intervals, and of a real trace."""

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
        ([(0, 10), (2, 3), (4, 12)], 0.0),  # nested and overlapping ones count once
        ([(100, 101), (100, 101), (109, 110)], 0.8),
        ([(5, 5)], 0.0),  # of no length
    ],
)
def test_idle_share_is_what_no_interval_covers(intervals, share):
    assert profiling.idle_share(intervals) == pytest.approx(share)


def test_a_trace_holds_the_steps_after_the_warm_up(tmp_path):
    step = jax.jit(lambda x: jnp.sin(x @ x))
    output = jnp.eye(300)
    profile = profiling.Profile(tmp_path)
    for _ in range(120):
        output = step(output)
        profile.step(output)
    assert profile.num_steps == 50
    assert 0 <= profile.idle_share() < 1
    trace = jax.profiler.ProfileData.from_file(str(next(tmp_path.rglob("*.xplane.pb"))))
    events = [event for plane in trace.planes for line in plane.lines for event in line.events]
    runs = [dict(event.stats).get("run_id") for event in events]
    assert len({run for run in runs if run is not None}) == 50


def test_only_the_ends_of_the_trace_wait_for_a_step(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(jax, "block_until_ready", waits.append)
    profile = profiling.Profile(tmp_path)
    for step in range(1, 301):
        profile.step(step)
    assert waits == [50, 100]


def test_a_trace_without_known_names_has_no_share(tmp_path):
    with jax.profiler.trace(str(tmp_path)):
        pass
    assert profiling.Profile(tmp_path).idle_share() is None


def test_a_run_that_ends_early_is_traced_as_far_as_it_went(tmp_path):
    output = jnp.eye(3)
    profile = profiling.Profile(tmp_path)
    for _ in range(60):
        output = output + 1
        profile.step(output)
    profile.close()
    profile.close()  # nothing to stop any more
    assert profile.num_steps == 10


def test_a_run_without_a_full_warm_up_has_no_trace(tmp_path):
    profile = profiling.Profile(tmp_path)
    profile.step(jnp.eye(3))
    profile.close()
    assert profile.num_steps == 0
    assert not list(tmp_path.rglob("*"))
