"""Records of what benchmarks measured: `results.jsonl`, one line for each command and subject.

A record says by which command, when, on which machine and with which versions it was measured, and
replaces the one before of the same command, subject and device. `tables.py` makes tables of them.
Records of figures that are older than this file have what was written down of them, so values may
be missing.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

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
    "transformers",
    "faiss-cpu",
    "pillow",
)


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one contestant took.

    Attributes:
      seconds: of each round, by the clock.
      cpu_seconds: of each round, of all threads of the process; (): not measured.
      peak_mib: memory that its process held at most, beyond what was there before the first run.
      results: numbers that the job of the last round returned.
    """

    seconds: Sequence[float]
    cpu_seconds: Sequence[float] = ()
    peak_mib: float | None = None
    results: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Contestant:
    """What is recorded of a contestant: medians over rounds, with least and most; None: not known.

    Attributes:
      name: the first contestant of a record is ours.
      seconds: of one repeat, by the clock.
      spread: least and most of the seconds.
      cpu_seconds: of one repeat, of all threads.
      ratio: seconds of this contestant / ours in the same round; above 1 ours is faster.
      ratio_spread: least and most of the ratios.
      cpu_ratio: the same of CPU seconds.
      peak_mib: see `Timing`.
      results: see `Timing`.
    """

    name: str
    seconds: float | None = None
    spread: Sequence[float] | None = None
    cpu_seconds: float | None = None
    ratio: float | None = None
    ratio_spread: Sequence[float] | None = None
    cpu_ratio: float | None = None
    peak_mib: float | None = None
    results: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Record:
    """What was measured of one subject, and how.

    Attributes:
      command: that repeats the measurement.
      subject: what was done, with its sizes.
      device: what JAX computed on: "CPU", or the kind of accelerator.
      date: of the measurement, ISO 8601.
      machine: its cores, in words.
      other_work: cores that other processes had meanwhile, on average; None: not known.
      versions: of Python and of packages, by name.
      rounds: runs of each contestant that count.
      work: what one repeat does, in units, for the column of the rate; None: no such column.
      unit: of the work: "images", "GFLOP".
      contestants: ours first.
    """

    command: str
    subject: str
    device: str
    date: str
    machine: str
    other_work: float | None
    versions: Mapping[str, str]
    rounds: int
    work: float | None
    unit: str
    contestants: Sequence[Contestant]


@dataclasses.dataclass(frozen=True)
class Moment:
    """The time, and the CPU seconds of other processes until then; None: not known."""

    seconds: float
    others: float | None


def now() -> Moment:
    """Returns the present moment. Child processes count as other ones until they have ended."""
    file = pathlib.Path("/proc/stat")
    others = None
    if file.exists():
        ticks = map(int, file.read_text().split()[1:4])  # user, nice, system; of all cores
        own = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        usage = [resource.getrusage(who) for who in own]
        others = sum(ticks) / os.sysconf("SC_CLK_TCK") - sum(x.ru_utime + x.ru_stime for x in usage)
    return Moment(time.monotonic(), others)


def device_kind() -> str:
    """Returns the kind of device that JAX computes on in this process."""
    if "jax" not in sys.modules:
        return "CPU"
    import jax

    device = jax.devices()[0]
    return "CPU" if device.platform == "cpu" else device.device_kind


def save(
    subject: str,
    timings: Mapping[str, Timing],
    *,
    since: Moment,
    same_job: bool = True,
    repeats: int = 1,
    work: float | None = None,
    unit: str = "",
    device: str = "",
) -> Record:
    """Records what was measured since a moment, and returns the record.

    Args:
      subject: what was done, with its sizes.
      timings: by contestant, ours first.
      since: before anything was measured.
      same_job: whether all do the same, so that ratios mean something.
      repeats: how often each round does it; recorded seconds are of one.
      work: what one repeat does, in units.
      unit: of the work.
      device: what JAX computed on; "": as in this process.
    """
    ours, *_ = timings.values()
    until, other_work = now(), None
    if since.others is not None and until.others is not None:
        other_work = _rounded((until.others - since.others) / (until.seconds - since.seconds))
    record = Record(
        command=shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        subject=subject,
        device=device or device_kind(),
        date=datetime.date.today().isoformat(),
        machine=f"{os.cpu_count()} cores of {_processor()}",
        other_work=other_work,
        versions=_versions(),
        rounds=len(ours.seconds),
        work=work,
        unit=unit,
        contestants=[
            _contestant(name, timing, ours if same_job else timing, repeats)
            for name, timing in timings.items()
        ],
    )
    found = {_key(old): old for old in load()} | {_key(record): record}
    lines = [json.dumps(dataclasses.asdict(one)) for one in found.values()]
    RESULTS.write_text("\n".join(lines) + "\n")
    return record


def load() -> list[Record]:
    """Returns all records, in the order in which their subjects were first measured."""
    if not RESULTS.exists():
        return []
    found = map(json.loads, RESULTS.read_text().splitlines())
    return [
        Record(**fields | {"contestants": [Contestant(**x) for x in fields["contestants"]]})
        for fields in found
    ]


def _key(record: Record) -> tuple[str, str, str]:
    return record.command, record.subject, record.device


def _contestant(name: str, timing: Timing, ours: Timing, repeats: int) -> Contestant:
    """Returns medians and spreads; ratios are left out where `ours` is this timing itself."""
    seconds = [x / repeats for x in timing.seconds]
    compared: dict[str, Any] = {}
    if timing is not ours:
        ratios = [b / a for a, b in zip(ours.seconds, timing.seconds, strict=True)]
        cpu = [b / a for a, b in zip(ours.cpu_seconds, timing.cpu_seconds, strict=True)]
        compared = {
            "ratio": _rounded(statistics.median(ratios)),
            "ratio_spread": [_rounded(min(ratios)), _rounded(max(ratios))],
            "cpu_ratio": _rounded(statistics.median(cpu)) if cpu else None,
        }
    cpu_seconds = [x / repeats for x in timing.cpu_seconds]
    return Contestant(
        name=name,
        seconds=_rounded(statistics.median(seconds)),
        spread=[_rounded(min(seconds)), _rounded(max(seconds))],
        cpu_seconds=_rounded(statistics.median(cpu_seconds)) if cpu_seconds else None,
        peak_mib=None if timing.peak_mib is None else _rounded(timing.peak_mib),
        results={name: float(f"{value:.6g}") for name, value in timing.results.items()},
        **compared,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _processor() -> str:
    file = pathlib.Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    found = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    versions = {name: found[name] for name in _PACKAGES if name in found}
    return {"Python": platform.python_version()} | versions
