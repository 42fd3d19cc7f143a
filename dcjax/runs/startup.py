"""Where the seconds between a command and its first training step go."""

import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Self

_STAT = pathlib.Path("/proc/self/stat")
_START_FIELD = 19  # of _STAT, counted behind the name: when the process was started, in clock ticks
_TRACING = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration")  # what Python does
_COMPILING = ("backend_compile_duration",)  # by XLA, or reading from the cache of compilations
_SHOWN_FUNCTIONS = 5

Interval = tuple[float, float]


class StartUp:
    """Divides the time until the first step into stages, each of which ends where the next begins.

    Within a stage, the time in which JAX traces functions and compiles them, in any thread, is
    counted apart. Nothing is counted twice, so that all figures add up to the whole.
    """

    def __init__(self, stage: str, *, start_time: float | None = None) -> None:
        """Begins with a stage, now or at a time of `time.time`, the clock that JAX measures by."""
        self._entered = [(stage, time.time() if start_time is None else start_time)]
        self._events: list[tuple[str, str, Interval]] = []
        self._end_time: float | None = None

    @classmethod
    def of_process(cls, stage: str) -> Self:
        """Begins when the process was started."""
        return cls(stage, start_time=time.time() - _process_age())

    @property
    def is_over(self) -> bool:
        """Whether the first step is done."""
        return self._end_time is not None

    def enter(self, stage: str) -> None:
        """Ends a stage and begins the next one; after the first step, it does nothing."""
        if not self.is_over:
            self._entered.append((stage, time.time()))

    def listen(self) -> None:
        """Begins to record what JAX traces and compiles."""
        import jax  # only now: a start-up begins before it is imported

        jax.monitoring.register_event_duration_secs_listener(self._record)

    def close(self) -> None:
        """Ends the last stage, and the recording."""
        import jax

        if not self.is_over:
            self._end_time = time.time()
            jax.monitoring.unregister_event_duration_listener(self._record)

    def seconds(self) -> dict[str, dict[str, float]]:
        """Returns the seconds of each stage, in order: tracing, compiling, and what is left."""
        ends = [start for _, start in self._entered[1:]] + [self._end_time or time.time()]
        stages: dict[str, dict[str, float]] = {}
        for (stage, start), end in zip(self._entered, ends, strict=True):
            compiling = _covered(self._intervals(_COMPILING), start, end)
            in_jax = _covered(self._intervals(_TRACING + _COMPILING), start, end)
            parts = {
                "tracing": in_jax - compiling,
                "compiling": compiling,
                "other": end - start - in_jax,
            }
            before = stages.setdefault(stage, dict.fromkeys(parts, 0.0))
            stages[stage] = {name: before[name] + part for name, part in parts.items()}
        return stages

    def slowest_functions(self) -> Mapping[str, float]:
        """Returns the functions whose tracing and compilation took longest, in seconds."""
        seconds: dict[str, float] = {}
        for _, function, (start, end) in self._events:
            seconds[function] = seconds.get(function, 0.0) + end - start
        ordered = sorted(seconds, key=seconds.__getitem__, reverse=True)
        return {function: seconds[function] for function in ordered[:_SHOWN_FUNCTIONS]}

    def _record(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        kind = event.rpartition("/")[2]
        if kind in _TRACING + _COMPILING:
            now = time.time()
            self._events.append((kind, str(kwargs.get("fun_name", "")), (now - duration_secs, now)))

    def _intervals(self, kinds: Iterable[str]) -> list[Interval]:
        return [interval for kind, _, interval in self._events if kind in kinds]


def describe(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the seconds of all stages in one line, those of JAX summed up at the end."""
    total = sum(sum(parts.values()) for parts in seconds.values())
    shown = {name: parts["other"] for name, parts in seconds.items()}
    for part in ("tracing", "compiling"):
        shown[part] = sum(parts[part] for parts in seconds.values())
    listed = ", ".join(f"{name} {value:.2f}" for name, value in shown.items())
    return f"{total:.2f} s to the first step: {listed}"


def _covered(intervals: Iterable[Interval], start: float, end: float) -> float:
    """Returns the seconds from start to end that lie in one or more of the intervals."""
    covered, reached = 0.0, start
    for begin, until in sorted(intervals):
        until = min(until, end)
        covered += max(0.0, until - max(begin, reached))
        reached = max(reached, until)
    return covered


def _process_age() -> float:
    """Returns the seconds since the process was started; without /proc, its CPU seconds so far."""
    try:
        fields = _STAT.read_text().rpartition(")")[2].split()
        ticks = int(fields[_START_FIELD])
    except OSError:
        return time.process_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
