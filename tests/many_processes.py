"""Runs a program on several processes of this machine, joined as the hosts of a pod are."""

import os
import pathlib
import socket
import subprocess
import sys

_ROOT = pathlib.Path(__file__).parent.parent
# Gloo, in C++, greets on the standard output.
_JOIN = """
import os, sys
sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
import jax
jax.distributed.initialize({address!r}, {num_processes}, {process_id}, {more})
"""


def run(
    program: str, *, num_processes: int = 2, num_devices: int = 2, seconds: int = 240
) -> list[str]:
    """Runs Python source on processes that have found each other; returns what each printed.

    Args:
      program: what each process runs; `jax.process_index()` tells them apart.
      num_processes: how many.
      num_devices: virtual CPU devices of each.
      seconds: after which they are killed, and the test fails.

    Raises:
      AssertionError: if one of them fails; tells what it wrote.
    """
    processes = start(program, num_processes=num_processes, num_devices=num_devices)
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise AssertionError(f"A process ended with {process.returncode}:\n{errors[-4000:]}")
    return [output for output, _ in outputs]


def start(
    program: str, *, num_processes: int = 2, num_devices: int = 2, heartbeat_seconds: int = 100
) -> list[subprocess.Popen[str]]:
    """Starts Python source on processes that find each other."""
    address, source = f"localhost:{free_port()}", "import jax\n" + program
    more = f"heartbeat_timeout_seconds={heartbeat_seconds}"
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                _JOIN.format(
                    address=address, num_processes=num_processes, process_id=number, more=more
                )
                + source,
            ],
            cwd=_ROOT,
            env=environment(num_devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(num_processes)
    ]


def environment(num_devices: int) -> dict[str, str]:
    """Returns the environment of a process with so many virtual CPU devices."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests")]),
        "XLA_FLAGS": "",
    }


def free_port() -> int:
    """Returns a port that nothing listened to a moment ago."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])
