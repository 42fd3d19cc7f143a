"""Runs a program on several local processes that are joined like the hosts of a pod."""

import os
import pathlib
import socket
import subprocess
import sys

import forks

_ROOT = pathlib.Path(__file__).parent.parent
# Gloo, in C++, prints a greeting to the standard output.
_JOIN = """
import os, sys
sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
import jax
jax.distributed.initialize({address!r}, {num}, {number})
"""


def run(
    program: str, *, num_processes: int = 2, num_devices: int = 2, seconds: int = 240
) -> list[str]:
    """Runs Python source on joined processes; returns what each printed.

    Args:
      program: what each process runs; `jax.process_index()` tells them apart.
      num_processes: how many.
      num_devices: virtual CPU devices of each.
      seconds: time after which they are killed and the test fails.

    Raises:
      AssertionError: if one of them fails; shows its output.
    """
    programs = _joining(program, num_processes)
    running = [forks.Fork(_execute, each, num_devices) for each in programs]
    ends = [fork.finish(seconds) for fork in running]
    for code, _, errors in ends:
        assert not code, f"A process ended with {code}:\n{errors[-4000:]}"
    return [output for _, output, _ in ends]


def _execute(program: str, num_devices: int) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", num_devices)
    exec(program, {"__name__": "__main__"})


def start(
    program: str, *, num_processes: int = 2, num_devices: int = 2
) -> list[subprocess.Popen[str]]:
    """Starts Python source on processes that join each other."""
    programs = _joining(program, num_processes)
    return [python("-c", each, num_devices=num_devices) for each in programs]


def _joining(program: str, num_processes: int) -> list[str]:
    address = f"localhost:{free_port()}"
    joins = (
        _JOIN.format(address=address, number=i, num=num_processes) for i in range(num_processes)
    )
    return [join + program for join in joins]


def python(*arguments: str, num_devices: int = 1, **variables: str) -> subprocess.Popen[str]:
    """Starts Python in the project's folder."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=_ROOT,
        env=environment(num_devices) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(
    processes: list[subprocess.Popen[str]], seconds: int = 300
) -> list[tuple[int, str, str]]:
    """Waits for processes, kills them after `seconds`; returns exit code, stdout and stderr."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [
        (process.returncode, *output) for process, output in zip(processes, outputs, strict=True)
    ]


def environment(num_devices: int) -> dict[str, str]:
    """Returns the environment of a process with so many virtual CPU devices."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests")]),
    }


def free_port() -> int:
    """Returns a port that nothing listened to a moment ago."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])
