"""How processes find each other, or say that they have not; and what they agree on."""

import subprocess
import sys
from pathlib import Path

import many_processes
import pytest

_ROOT = Path(__file__).parents[1]
_LAUNCH = ("launch.py", "--config=configs/digits.py")
_JOINED = """
import jax
from dcjax import processes
processes.join("on")
print(jax.process_index(), jax.process_count(), jax.device_count())
"""
_AGREE = """
import time
import numpy as np
from dcjax import processes
if processes.is_first():
    time.sleep(1)  # as if it clustered: nobody spins, and the others wait
for _ in range(2):  # a name may come again
    processes.wait_for_all("division 1")
mine = np.arange(70_000, dtype=np.int32) * processes.is_first()
labels, big = processes.from_first((mine, np.array([2**30], np.int32)))
print(labels.dtype, labels.sum(dtype=np.int64), big)
processes.check_same("division", 7)
try:
    processes.check_same("division", 8 + jax.process_index())
except ValueError as error:
    print(error)
"""


def launch(*flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**many_processes.environment(1), **variables}
    return subprocess.run(
        [sys.executable, *_LAUNCH, *flags],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("flags", "variables", "reason"),
    [
        (["--distributed=on"], {}, "--distributed=on requires a TPU pod, GKE, SLURM's srun"),
        ([], {"OMPI_COMM_WORLD_SIZE": "4"}, "Found OMPI_COMM_WORLD_SIZE=4, but no cluster that"),
        ([], {"SLURM_NTASKS": "2", "WORLD_SIZE": "2"}, "Found SLURM_NTASKS=2, WORLD_SIZE=2, but"),
        (["--num_processes=2"], {}, "Require --coordinator=HOST:PORT, --num_processes=N and"),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            {},
            "--process_id from 0 to N - 1 together",
        ),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=0", "--distributed=off"],
            {},
            "and not --distributed=off",
        ),
    ],
)
def test_others_that_are_not_found_are_an_error(
    flags: list[str], variables: dict[str, str], reason: str, tmp_path: Path
) -> None:
    done = launch(f"--workdir={tmp_path}", *flags, **variables)
    assert done.returncode == 1
    assert done.stderr.startswith("launch.py: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_one_process_runs_alone_and_devices_can_be_pretended(tmp_path: Path) -> None:
    wrong = ("--config.sampling.batch_size=60", "--distributed=off", f"--workdir={tmp_path}")
    done = launch("--virtual_devices=8", *wrong, OMPI_COMM_WORLD_SIZE="4")
    assert done.stderr == (
        "launch.py: sampling.batch_size must be a multiple of the number of devices of a batch "
        "(8), got 60; 48 or 64 would do.\n"
    )


def test_the_tasks_of_srun_find_each_other() -> None:
    """With the variables that SLURM sets, as far as JAX reads them."""
    job = {
        "SLURM_JOB_ID": str(many_processes.free_port()),  # of which JAX makes a port
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
    }
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _JOINED],
            cwd=_ROOT,
            env={
                **many_processes.environment(2),
                **job,
                "SLURM_PROCID": str(number),
                "SLURM_LOCALID": str(number),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [run.communicate(timeout=120) for run in runs]
    told = [output.splitlines()[-1] for output, _ in outputs]
    assert told == ["0 2 4", "1 2 4"], outputs


def test_processes_take_what_the_first_has_and_say_when_they_differ() -> None:
    for told in many_processes.run(_AGREE, num_devices=1):
        first, second = told.splitlines()
        assert first == "int32 2449965000 [1073741824]"
        assert second.startswith(
            "All processes must have the same division, got checksums 00000008 on process 0, "
            "00000009 on process 1; start all of them with the same code, settings and data"
        )
