"""Runs of several processes, stopped, killed or continued on other devices, equal one process."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import many_processes
import numpy as np
import pod
import pytest
import small_runs

from configs import digits
from dcjax.models import masked_embedder
from dcjax.runs.checkpoints import Checkpoints


def start(
    workdir: Path, *changes: str, processes: int = 1, devices: int = 1, heartbeat: int = 100
) -> list[subprocess.Popen[str]]:
    """Starts the processes of a run."""
    arguments = f"{workdir} {devices} localhost:{many_processes.free_port()} {processes}".split()
    return [
        many_processes.python("tests/pod.py", *arguments, str(number), str(heartbeat), *changes)
        for number in range(processes)
    ]


def train(workdir: Path, *changes: str, **options: int) -> list[tuple[int, str, str]]:
    """Returns exit code, stdout and stderr of the processes of a run."""
    return many_processes.finish(start(workdir, *changes, **options))


def wait_for_steps(run: list[subprocess.Popen[str]], workdir: Path, number: int) -> None:
    """Waits until a run has reported so many steps."""
    while num_steps_reported(workdir) < number:
        assert all(process.poll() is None for process in run), many_processes.finish(run, 10)
        time.sleep(0.02)


def num_steps_reported(workdir: Path) -> int:
    """Returns the number of steps that a run has reported."""
    path = workdir / "metrics.jsonl"
    return path.read_text().count('"train/loss"') if path.exists() else 0


def load_state(workdir: Path) -> tuple[Any, Any, Any]:
    """Returns arrays and division of the last checkpoint, and the scores."""
    config = digits.get_config()
    config.update_from_flattened_dict(pod.SETTINGS)
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        create = masked_embedder.create
        patch.setattr(masked_embedder, "create", lambda *a, **k: create(*a, **k, dtype=np.float64))
        run, clusters = small_runs.load_checkpoint(config, workdir)
    checkpoints = Checkpoints(str(workdir), read_only=True)
    return run, clusters, checkpoints.meta(checkpoints.number("last"))["progress"]["scores"]


def assert_same(actual: Path, expected: Path) -> None:
    """Asserts that two runs have equal results up to float64 rounding."""
    (run, clusters, scores), (other, others, expected_scores) = (
        load_state(actual),
        load_state(expected),
    )
    small_runs.assert_equal(clusters, others)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {np.dtype(np.float64)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), run, other)
    assert scores == pytest.approx(expected_scores, abs=1e-6)  # scores of float32 embeddings


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on one process and one device."""
    workdir = tmp_path_factory.mktemp("alone")
    ((code, output, errors),) = train(workdir)
    assert code == 0, errors
    assert "finished True, compilations [1]" in output
    return workdir


@pytest.mark.long
def test_stopped_run_continued_on_other_devices_equals_one_device(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run = start(tmp_path, processes=2, devices=2)
    wait_for_steps(run, tmp_path, 20)  # during the first epoch of 56 steps
    run[1].send_signal(signal.SIGTERM)
    for code, output, errors in many_processes.finish(run):
        assert code == 0, errors
        assert "finished False, compilations [1]" in output
    masks = load_state(tmp_path)[0].masks
    assert masks[0].any()
    assert not masks[1:].any()  # K = 1 of 2
    ((code, output, errors),) = train(tmp_path, devices=8)
    assert code == 0, errors
    assert "continue  in epoch 1, after" in output
    assert "finished True, compilations [1]" in output
    assert_same(tmp_path, uninterrupted)


@pytest.mark.long
@pytest.mark.parametrize("moment", ["division", "evaluation", "save"])
def test_stop_signal_to_one_of_two_processes_stops_both_without_loss(
    moment: str, uninterrupted: Path, tmp_path: Path
) -> None:
    every_epoch = "eval.every_epochs=1"
    for code, output, errors in train(tmp_path, every_epoch, f"stop in {moment}", processes=2):
        assert code == 0, errors
        assert "finished False" in output
    for code, output, errors in train(tmp_path, every_epoch, processes=2):
        assert code == 0, errors
        assert "finished True" in output
    assert_same(tmp_path, uninterrupted)


@pytest.mark.long
def test_other_processes_end_when_one_is_killed_and_a_restart_continues(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run = start(tmp_path, processes=2, devices=1, heartbeat=5)
    wait_for_steps(run, tmp_path, 70)
    run[1].kill()
    (code, _, errors), _ = many_processes.finish(run, 120)
    assert code != 0
    assert "another task died" in errors
    for code, output, errors in train(tmp_path, processes=2):
        assert code == 0, errors
        assert "finished True," in output
    assert_same(tmp_path, uninterrupted)


@pytest.mark.long
def test_parallel_cluster_batches_equal_those_of_one_device(tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "pod"
    settings = ("sampling.clusters_per_step=4",)
    ((code, _, errors),) = train(folders[0], *settings)
    assert code == 0, errors
    side_by_side = (*settings, "devices.cluster_parallel=2")
    for code, _, errors in train(folders[1], *side_by_side, processes=2, devices=2):
        assert code == 0, errors
    assert_same(folders[1], folders[0])


@pytest.mark.long
def test_hosts_with_different_divisions_stop_with_an_error(tmp_path: Path) -> None:
    for code, output, errors in train(tmp_path, "disagree", processes=2):
        assert code != 0
        assert "All processes must have the same division, got checksums" in errors, output
