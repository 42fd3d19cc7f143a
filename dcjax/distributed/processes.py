"""The processes of a run: how they find each other, and what they tell each other."""

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

# What launchers tell of the number of processes that they start.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE")
_ADDRESS = re.compile(r"\S+:\d{1,5}")  # host:port
_TOLD = 1000  # bytes of what a process tells the others
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
      InputError: if others are wanted and not found.
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
    told = {name: os.environ[name] for name in _COUNTS if os.environ.get(name, "1") != "1"}
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
    if told:
        found = ", ".join(f"{name}={count}" for name, count in told.items())
        raise InputError(
            f"Found {found}, but no cluster that JAX detects: every process would train the same "
            "run by itself. Start with srun, give --coordinator, --num_processes and "
            "--process_id, or for one process --distributed=off."
        )


def is_first() -> bool:
    """Returns whether this is the process that clusters and writes what is not an array."""
    return jax.process_index() == 0


def on_this_host() -> int:
    """Returns how many processes of the run share this machine; all of them call it together."""
    name = np.uint32(zlib.crc32(socket.gethostname().encode()))
    return int(np.sum(from_all(name) == name))


def wait_for_all(name: str) -> None:
    """Waits until all processes are here.

    On the host: a device that waits in a collective spins, and cannot do anything else. Another
    thread may wait meanwhile under another name.
    """
    wait = multihost.get_barrier_sync_fn()
    wait(key=f"{name}, {next(_WAITS[name])}", timeout_ms=_WAIT_MILLISECONDS)


def from_first(tree: Any) -> Any:
    """Returns the arrays of process 0 on all, where the others give arrays of the same shapes."""
    if jax.process_count() == 1:
        return tree
    received = multihost_utils.broadcast_one_to_all(tree)
    return jax.tree.map(lambda like, x: np.asarray(x, like.dtype), tree, received)


def from_all(value: np.ndarray | np.generic) -> np.ndarray:
    """Returns the arrays of all processes, which have one shape, on all: [P, ...]."""
    received = multihost_utils.process_allgather(value)
    return np.reshape(received, (jax.process_count(), *np.shape(value)))


def first_of_all(text: str) -> str:
    """Returns the first of the texts that processes give, each its own, that is not empty.

    Of long ones only 1000 bytes.
    """
    if jax.process_count() == 1:
        return text
    encoded = text.encode(errors="backslashreplace")  # names of files may not be UTF-8
    padded = np.frombuffer(encoded[:_TOLD].ljust(_TOLD, b"\0"), np.uint8)
    wait_for_all("what each has to tell")
    told = [bytes(row).rstrip(b"\0") for row in from_all(padded)]
    return next((row.decode(errors="replace") for row in told if row), "")


def check_same(what: str, checksum: int) -> None:
    """Checks that all processes hold the same, by a checksum of 32 bits.

    Raises:
      InputError: on all processes, if they do not.
    """
    checksums = from_all(np.uint32(checksum))
    if np.any(checksums != checksums[0]):
        told = ", ".join(f"{x:08x} on process {i}" for i, x in enumerate(checksums[:8]))
        raise InputError(
            f"All processes must have the same {what}, got checksums {told}; start all of them "
            "with the same code, settings and data, and they go on from the last checkpoint."
        )
