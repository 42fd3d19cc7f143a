"""Times jobs beside one another: each in its own process, in turn, so that all meet the same noise.

A subject's script describes its contestants and calls `compare`; the first contestant is ours. A
contestant is a function that prepares everything and returns the job: a function of no arguments
that returns when its result is there (for JAX: blocked until ready).
"""

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import records
import tables
from records import Timing

Job = Callable[[], Any]

# On a busy machine PyTorch's threads otherwise wait for each other in vain, a hundred times as long
# as they work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def compare(
    subject: str,
    contestants: Mapping[str, Callable[[], Job]],
    *,
    rounds: int = 5,
    warm_up: bool = True,
    same_job: bool = True,
    repeats: int = 1,
    work: float | None = None,
    unit: str = "",
) -> None:
    """Runs every contestant once per round, in turn; records and prints medians and ratios.

    Args:
      subject: what is done, with its sizes.
      contestants: name: preparation. Must be importable: a function of a module, or a `partial`.
      rounds: runs of each that count.
      warm_up: whether an uncounted run comes first (no: jobs of minutes without compilation).
      same_job: whether all do the same, so that ratios mean something.
      repeats: how often a job does it; shown times are of one.
      work: what one repeat does, in units, for the column of the rate.
      unit: of the work: "images", "GFLOP".
    """
    since = records.now()
    context = multiprocessing.get_context("spawn")
    workers: dict[str, tuple[Any, Connection]] = {}
    prepared: dict[str, tuple[float, str]] = {}
    runs: dict[str, list[tuple[float, float, float, Any]]] = {name: [] for name in contestants}
    try:
        for name, prepare in contestants.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, prepare, warm_up), daemon=True)
            process.start()
            theirs.close()
            workers[name] = process, ours
            prepared[name] = _answer(name, ours)  # one by one: nothing else runs meanwhile
        for _ in range(rounds):
            for name, (_, connection) in workers.items():
                connection.send(True)
                runs[name].append(_answer(name, connection))
    finally:
        for process, connection in workers.values():
            connection.close()
            process.join(timeout=10)
    timings = {}
    for name, rows in runs.items():
        seconds, cpu_seconds, peaks, results = zip(*rows, strict=True)
        base, _ = prepared[name]
        timings[name] = Timing(seconds, cpu_seconds, max(peaks) - base, results[-1])
    record = records.save(
        subject,
        timings,
        since=since,
        same_job=same_job,
        repeats=repeats,
        work=work,
        unit=unit,
        device=next(device for _, device in prepared.values()),
    )
    print(f"\n{tables.details([record])}", flush=True)


def _answer(name: str, connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise RuntimeError(
            f"{name} ended before its answer: out of memory, or see above."
        ) from None


def _work(connection: Connection, prepare: Callable[[], Job], warm_up: bool) -> None:
    """Runs in a process of its own: prepares, and then does the job on each request."""
    job = prepare()
    base = _peak_mib()
    if warm_up:
        job()
    connection.send((base, records.device_kind()))
    try:
        while connection.recv():
            wall, cpu = time.perf_counter(), time.process_time()
            result = job()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            numbers = result if isinstance(result, Mapping) else {}
            connection.send((wall, cpu, _peak_mib(), numbers))
    except EOFError:
        pass


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
