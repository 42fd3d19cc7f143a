"""Traces some training steps, and computes the share of time in which the devices idle."""

import collections
import gzip
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax

from dcjax.distributed import processes
from dcjax.runs import workdirs

_WARM_UP_STEPS = 50  # not traced: compilation, first batches
_NUM_STEPS = 50

# What the executor of XLA on a CPU records for a run of a compiled function.
_CPU_EXECUTION = "ThunkExecutor::Execute"
# Threads of a device whose events are kernels: of a GPU, of a TPU.
_KERNEL_THREADS = ("Stream", "XLA Ops")

Interval = tuple[float, float]


class Profile:
    """Traces steps 51 to 100 of a run, counted from its start or continuation."""

    def __init__(self, folder: pathlib.Path | None) -> None:
        """Sets where the trace goes, which XProf and TensorBoard open; None: no trace."""
        self.folder = folder
        self.num_steps = 0
        self._num_seen = 0
        self._tracing = False

    @classmethod
    def of_run(cls, workdir: str, *, is_wanted: bool) -> Self:
        """Returns the profile of a run; only process 0 makes a trace, and only if it is wanted."""
        traces = is_wanted and processes.is_first()
        return cls(workdirs.on_disk(workdir) / "profile" if traces else None)

    def step(self, output: Any) -> None:
        """Counts a step that has been dispatched, and starts or ends the trace.

        Args:
          output: of the step; waited for at both ends, so that the trace holds whole steps.
        """
        if self.folder is None:
            return
        self._num_seen += 1
        self.num_steps += self._tracing
        if self._num_seen == _WARM_UP_STEPS:
            jax.block_until_ready(output)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # tracing every Python call would slow the host
            jax.profiler.start_trace(str(self.folder), profiler_options=options)
            self._tracing = True
        elif self._tracing and self.num_steps == _NUM_STEPS:
            jax.block_until_ready(output)
            self.close()

    def close(self) -> None:
        """Ends the trace if it runs."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def idle_share(self) -> float | None:
        """Returns the share of the traced time in which a device is idle, averaged over devices.

        None if the trace has no event that is known to be work of a device.
        """
        # The profiler writes each trace twice. jax.profiler.ProfileData, which reads the other
        # form, ends the process with some releases of jaxlib.
        files = (self.folder or pathlib.Path()).rglob("*.trace.json.gz")
        newest = max(files, key=lambda path: path.stat().st_mtime, default=None)
        if newest is None:
            return None
        with gzip.open(newest) as file:
            events = json.load(file)["traceEvents"]
        shares = [idle_share(intervals) for intervals in _executions(events).values()]
        return sum(shares) / len(shares) if shares else None


def idle_share(intervals: Sequence[Interval]) -> float:
    """Returns the share of the time from first start to last end that no interval covers.

    Args:
      intervals: start and end of each, in any order; they may overlap.
    """
    covered, reached = 0.0, min(start for start, _ in intervals)
    first = reached
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return 1 - covered / (reached - first) if reached > first else 0.0


def _executions(events: Sequence[Mapping[str, Any]]) -> dict[Any, list[Interval]]:
    """Returns the intervals in which each device ran something.

    Args:
      events: of a trace in the format of Chrome's trace viewer, where a device is a process whose
        threads are its streams, and the CPU a process that names the device in each event.
    """
    names = {
        (event["name"], event["pid"], event.get("tid")): event["args"]["name"]
        for event in events
        if event.get("ph") == "M" and event["name"] in ("process_name", "thread_name")
    }
    intervals = collections.defaultdict(list)
    for event in events:
        if event.get("ph") != "X":  # it has no duration
            continue
        process = names.get(("process_name", event["pid"], None), "")
        thread = names.get(("thread_name", event["pid"], event["tid"]), "")
        interval = event["ts"], event["ts"] + event.get("dur", 0.0)
        if process.startswith("/device:"):
            if thread.startswith(_KERNEL_THREADS):
                intervals[process].append(interval)
        elif event["name"].startswith(_CPU_EXECUTION):
            intervals[event.get("args", {}).get("device_ordinal", "0")].append(interval)
    return intervals
