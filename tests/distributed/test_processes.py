"""How processes connect or report that they cannot, and what they agree on."""

from pathlib import Path

import many_processes
import pytest
from forks import launch

_JOINED = """
import jax
from dcjax.distributed import processes
processes.join("on")
print(jax.process_index(), jax.process_count(), jax.device_count())
"""
_AGREE = """
import time
import numpy as np
from dcjax.distributed import processes
if processes.is_first():
    time.sleep(1)  # as if it clustered: nobody spins, and the others wait
for _ in range(2):  # a name may come again
    processes.wait_for_all("division 1")
mine = np.arange(70_000, dtype=np.int32) * processes.is_first()
assert processes.num_on_this_host() == 2
labels, big = processes.broadcast((mine, np.array([2**30], np.int32)))
print(labels.dtype, labels.sum(dtype=np.int64), big)
processes.check_same("division", 7)
try:
    processes.check_same("division", 8 + jax.process_index())
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("flags", "variables", "code", "reason"),
    [
        (["--distributed=on"], {}, 1, "--distributed=on requires a TPU pod, GKE, SLURM's srun"),
        ([], {"OMPI_COMM_WORLD_SIZE": "4"}, 1, "Found OMPI_COMM_WORLD_SIZE=4, but no cluster that"),
        ([], {"SLURM_NTASKS": "2", "WORLD_SIZE": "2"}, 1, "Found SLURM_NTASKS=2, WORLD_SIZE=2"),
        (["--num_processes=2"], {}, 2, "Require --coordinator=HOST:PORT, --num_processes=N and"),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            {},
            2,
            "--process_id from 0 to N - 1 together",
        ),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=0", "--distributed=off"],
            {},
            2,
            "and not --distributed=off",
        ),
    ],
)
def test_processes_that_cannot_connect_are_an_error(
    flags: list[str], variables: dict[str, str], code: int, reason: str, tmp_path: Path
) -> None:
    completed = launch("--config=configs/digits.py", f"--workdir={tmp_path}", *flags, **variables)
    assert completed.returncode == code
    assert completed.stderr.startswith("launch.py: ")
    assert reason in completed.stderr
    assert completed.stderr.count("\n") == 1


def test_one_process_runs_alone_on_virtual_devices(tmp_path: Path) -> None:
    flags = ["--config=configs/digits.py", "--config.sampling.batch_size=60", "--distributed=off"]
    flags += ["--virtual_devices=8", f"--workdir={tmp_path}"]
    run = many_processes.python("launch.py", *flags, OMPI_COMM_WORLD_SIZE="4")
    ((_, _, errors),) = many_processes.finish([run])
    assert errors == (
        "launch.py: sampling.batch_size must be a multiple of the number of devices of a batch "
        "(8), got 60; 48 or 64 would do.\n"
    )


def test_srun_tasks_find_each_other() -> None:
    """Uses the variables set by SLURM that JAX reads."""
    job = {
        "SLURM_JOB_ID": str(many_processes.free_port()),  # from which JAX derives a port
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
    }
    tasks = ({**job, "SLURM_PROCID": task, "SLURM_LOCALID": task} for task in "01")
    ends = many_processes.finish(
        [many_processes.python("-c", _JOINED, num_devices=2, **task) for task in tasks]
    )
    assert [output.splitlines()[-1:] for _, output, _ in ends] == [["0 2 4"], ["1 2 4"]], ends


_BROKEN = """
from dcjax.modes import command_line
error = jax.errors.JaxRuntimeError("UNKNOWN: all-reduce failed:\\nConnection reset by peer")
print(command_line._error_line(error))
"""


def test_broken_connection_is_reported_in_one_line() -> None:
    (message,) = many_processes.run(_BROKEN, num_processes=1, num_devices=1)
    assert message == (
        "launch.py: UNKNOWN: all-reduce failed: Connection reset by peer; if another process has "
        "ended, start all of them again: they go on from the last checkpoint.\n"
    )


_DIFFER = """
from configs import digits
from dcjax.experiment import agreement
config = digits.get_config()
agreement.check_settings(config.to_dict())
config.optimizer.learning_rate = 1e-3 * (1 + jax.process_index())
try:
    agreement.check_settings(config.to_dict())
except ValueError as error:
    print(error)
"""


def test_setting_that_differs_between_processes_is_named() -> None:
    for message in many_processes.run(_DIFFER, num_devices=1):
        assert message == (
            "All processes must have the same settings, got different ones of "
            "optimizer.learning_rate; start all of them with the same command.\n"
        )


def test_processes_receive_values_of_the_first_and_report_differences() -> None:
    for output in many_processes.run(_AGREE, num_devices=1):
        first, second = output.splitlines()
        assert first == "int32 2449965000 [1073741824]"
        assert second.startswith(
            "All processes must have the same division, got checksums 00000008 on process 0, "
            "00000009 on process 1; start all of them with the same code, settings and data"
        )
