"""The processes of a run: how they join, exchange small arrays and wait for each other."""

import collections
import itertools
import os
import re
import socket
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from dcjax.core.errors import InputError, SettingError

# Variables in which launchers give the number of processes that they start.
_COUNT_VARIABLES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE")
_ADDRESS = re.compile(r"\S+:\d{1,5}")  # host:port
_MESSAGE_BYTES = 1000  # of a text that a process sends to the others
_WAIT_MILLISECONDS = 24 * 60 * 60 * 1000
_WAITS: dict[str, Iterator[int]] = collections.defaultdict(itertools.count)


def join(mode: str, *, coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the other processes of the run, before anything else that JAX does.

    Args:
      mode: "auto" joins where JAX detects a TPU pod, GKE, SLURM's srun or Open MPI; "on" requires
        it; "off" runs alone.
      coordinator: host:port of process 0, where nothing is detected.
      num_processes: of the run, with a coordinator.
      process_id: of this process, from 0 on, with a coordinator.

    Raises:
      InputError: if the other processes are required and cannot be joined.
    """
    by_hand = bool(coordinator), num_processes > 0, process_id >= 0
    if any(by_hand):
        if (
            not all(by_hand)
            or not _ADDRESS.fullmatch(coordinator)
            or mode == "off"
            or process_id >= num_processes
        ):
            raise SettingError(
                "Require --coordinator=HOST:PORT, --num_processes=N and --process_id from 0 to "
                f"N - 1 together, and not --distributed=off; got --coordinator={coordinator}, "
                f"--num_processes={num_processes}, --process_id={process_id}, "
                f"--distributed={mode}."
            )
        sys.stdout.write(
            f"joins     as process {process_id} of {num_processes}, at {coordinator}; "
            "waits for the others up to five minutes\n"
        )
        sys.stdout.flush()
        try:
            host, _, port = coordinator.rpartition(":")
            socket.getaddrinfo(host.strip("[]"), int(port))  # gRPC would try for five minutes
            jax.distributed.initialize(coordinator, num_processes, process_id)
        except (OSError, OverflowError, jax.errors.JaxRuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"Cannot join the other processes at --coordinator={coordinator}: {reason}; give "
                "the address of process 0 and a port that is free there."
            ) from error
    elif mode != "off":
        _detect(mode)


def _detect(mode: str) -> None:
    counts = {
        name: os.environ[name] for name in _COUNT_VARIABLES if os.environ.get(name, "1") != "1"
    }
    try:
        jax.distributed.initialize()
        return
    except ValueError as error:
        if "coordinator_address" not in str(error):
            raise
    if mode == "on":
        raise InputError(
            "--distributed=on requires a TPU pod, GKE, SLURM's srun or Open MPI, got none that "
            "JAX detects; start with one of them, or give --coordinator, --num_processes and "
            "--process_id."
        )
    if counts:
        listed = ", ".join(f"{name}={count}" for name, count in counts.items())
        raise InputError(
            f"Found {listed}, but no cluster that JAX detects: every process would train the same "
            "run by itself. Start with srun, give --coordinator, --num_processes and "
            "--process_id, or for one process --distributed=off."
        )


def is_first() -> bool:
    """Returns whether this is process 0, which clusters and writes all files but arrays."""
    return jax.process_index() == 0


def num_on_this_host() -> int:
    """Returns how many processes of the run are on this machine; all processes call it together."""
    name = np.uint32(zlib.crc32(socket.gethostname().encode()))
    return int(np.sum(all_gather(name) == name))


def wait_for_all(name: str) -> None:
    """Waits until all processes have called this: a barrier.

    It waits on the host, since a device that waits in a collective spins and cannot do anything
    else. Other threads may wait at the same time under other names.
    """
    wait = multihost.get_barrier_sync_fn()
    wait(key=f"{name}, {next(_WAITS[name])}", timeout_ms=_WAIT_MILLISECONDS)


def broadcast(tree: Any) -> Any:
    """Returns the arrays of process 0 on all processes; the others give arrays of these shapes."""
    if jax.process_count() == 1:
        return tree
    received = multihost_utils.broadcast_one_to_all(tree)
    return jax.tree.map(lambda sent, x: np.asarray(x, sent.dtype), tree, received)


def all_gather(value: np.ndarray | np.generic) -> np.ndarray:
    """Returns the arrays of all P processes, each of the same shape [...], on all: [P, ...]."""
    received = multihost_utils.process_allgather(value)
    return np.reshape(received, (jax.process_count(), *np.shape(value)))


def first_message(text: str) -> str:
    """Returns on all processes the first text, by process number, that is not empty.

    Args:
      text: of this process; of a longer one only 1000 bytes are sent.
    """
    if jax.process_count() == 1:
        return text
    encoded = text.encode(errors="backslashreplace")  # names of files may not be UTF-8
    padded = np.frombuffer(encoded[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    wait_for_all("messages")
    messages = [bytes(row).rstrip(b"\0") for row in all_gather(padded)]
    return next((row.decode(errors="replace") for row in messages if row), "")


def check_same(what: str, checksum: int) -> None:
    """Checks that all processes hold the same value, by a checksum of 32 bits.

    Raises:
      InputError: on all processes, if they do not.
    """
    checksums = all_gather(np.uint32(checksum))
    if np.any(checksums != checksums[0]):
        listed = ", ".join(f"{x:08x} on process {i}" for i, x in enumerate(checksums[:8]))
        raise InputError(
            f"All processes must have the same {what}, got checksums {listed}; start all of them "
            "with the same code, settings and data, and they go on from the last checkpoint."
        )
