"""Times jobs beside one another: each in its own process, in turn, so that all meet the same noise.

A subject's script describes its contestants and calls `compare`; the first contestant is ours. A
contestant is a function that prepares everything and returns the job: a function of no arguments
that returns when its result is there (for JAX: blocked until ready).
"""

import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

Job = Callable[[], Any]

RESULTS = pathlib.Path(__file__).with_name("results.jsonl")
_PACKAGES = (
    "jax",
    "flax",
    "numpy",
    "scikit-learn",
    "tensorflow-cpu",
    "tensorflow",
    "torch",
    "pytorch-metric-learning",
    "timm",
    "faiss-cpu",
    "pillow",
)


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one contestant took.

    Attributes:
      seconds: of each round, by the clock.
      cpu_seconds: of each round, of all threads of the process.
      prepared: seconds that preparation and the first, uncounted run took (compilation).
      peak_mib: memory that its process held at most, beyond what was there before the first run.
      result: what the job of the last round returned; a mapping of numbers is shown, else None.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    prepared: float
    peak_mib: float
    result: Any


def compare(
    subject: str,
    contestants: Mapping[str, Callable[[], Job]],
    *,
    rounds: int = 5,
    warm_up: bool = True,
    same_job: bool = True,
    work: float | None = None,
    unit: str = "",
) -> dict[str, Timing]:
    """Runs every contestant once per round, in turn, and prints medians and ratios.

    Args:
      subject: what is done, with its sizes; the title of the table.
      contestants: name: preparation. Must be importable: a function of a module, or a `partial`.
      rounds: runs of each that count.
      warm_up: whether an uncounted run comes first (no: jobs of minutes without compilation).
      same_job: whether all do the same, so that ratios mean something.
      work: what one run does, in units, for the column of the rate.
      unit: of the work: "images", "GFLOP".

    Returns:
      The timings by name. A line of JSON with all of it is appended to `RESULTS`.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[str, tuple[Any, Connection]] = {}
    prepared: dict[str, tuple[float, float]] = {}
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
        spent, base = prepared[name]
        timings[name] = Timing(
            list(seconds), list(cpu_seconds), spent, max(peaks) - base, results[-1]
        )
    _show(subject, timings, same_job, work, unit)
    _append(subject, timings)
    return timings


def _answer(name: str, connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise RuntimeError(
            f"{name} ended before its answer: out of memory, or see above."
        ) from None


def _work(connection: Connection, prepare: Callable[[], Job], warm_up: bool) -> None:
    """Runs in a process of its own: prepares, and then does the job on each request."""
    started = time.perf_counter()
    job = prepare()
    base = _peak_mib()
    if warm_up:
        job()
    connection.send((time.perf_counter() - started, base))
    try:
        while connection.recv():
            wall, cpu = time.perf_counter(), time.process_time()
            result = job()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            shown = result if isinstance(result, Mapping) else None
            connection.send((wall, cpu, _peak_mib(), shown))
    except EOFError:
        pass


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _show(
    subject: str, timings: Mapping[str, Timing], same_job: bool, work: float | None, unit: str
) -> None:
    first, *_ = timings.values()
    head = ["", "median s", "spread", "cpu s"] + ([f"{unit}/s"] if work else [])
    head += ["ours is faster by", "spread"] if same_job else []
    head += ["peak MiB", "results"]
    rows = []
    for name, timing in timings.items():
        median = statistics.median(timing.seconds)
        ratios = [b / a for a, b in zip(first.seconds, timing.seconds, strict=True)]
        row = [name, f"{median:.4g}", _spread(timing.seconds)]
        row += [f"{statistics.median(timing.cpu_seconds):.4g}"]
        row += [f"{work / median:.4g}"] if work else []
        row += [f"{statistics.median(ratios):.2f}", _spread(ratios)] if same_job else []
        row += [f"{timing.peak_mib:.0f}"]
        results = timing.result or {}
        row += [", ".join(f"{key} {value:.6g}" for key, value in results.items())]
        rows.append(row)
    print(f"\n### {subject}\n")
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |")
    print(f"\n{_machine()}", flush=True)


def _spread(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


def _machine() -> str:
    versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {python}; {versions}"


def _versions() -> dict[str, str]:
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {name: found[name] for name in _PACKAGES if name in found}


def _append(subject: str, timings: Mapping[str, Timing]) -> None:
    line = {
        "subject": subject,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cores": os.cpu_count(),
        "versions": _versions(),
        "timings": {name: dataclasses.asdict(timing) for name, timing in timings.items()},
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
