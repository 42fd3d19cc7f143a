"""Runs a sweep: trains its unfinished runs one after the other, each in a process of its own."""

import contextlib
import pathlib
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import filelock

from dcjax.core import programs
from dcjax.core.console import Console
from dcjax.core.errors import file_errors
from dcjax.modes import tables
from dcjax.modes.sweeps import Run, Sweep
from dcjax.runs import locks
from dcjax.runs.preemption import StopRequest

_POLL_SECONDS = 0.5
_SHOWN_LINES = 10  # of the output of a run that failed
_OUTPUT = "output.log"


def run(sweep: Sweep) -> bool:
    """Trains unfinished runs, and writes the table after each.

    A run that another process is training is skipped, and checked again at the end.

    Returns:
      Whether no run failed.

    Raises:
      InputError: before the first run, if the data do not allow one of several folds.
    """
    with file_errors("Cannot write into the folder of a run"):
        return _Runner(sweep).run()


def commands(sweep: Sweep) -> list[str]:
    """Returns the command of each run, those of finished ones as comments."""
    return [
        ("# finished: " if run.result() else "") + shlex.join(programs.command(run.command))
        for run in sweep.runs
    ]


class _Runner:
    """One process's part in a sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._console = Console()
        self._line = self._console.print_line
        self._minutes: list[float] = []
        self._failed: list[pathlib.Path] = []
        self._stopped = ""
        self._is_waiting = False
        self._files: list[pathlib.Path] = []

    def run(self) -> bool:
        sweep, runs = self._sweep, list(self._sweep.runs)
        waiting = [run for run in runs if not run.result()]
        number = len(next(iter(sweep.rows.values())))
        at_most = "up to " if sweep.comparison.margin else ""
        self._line(
            f"sweep     {len(sweep.rows)} rows x {at_most}{number} {sweep.over} are {at_most}"
            f"{len(runs)} runs, of which {len(runs) - len(waiting)} are finished"
        )
        if waiting and "folds" in sweep.over:
            from dcjax.modes import fold_checks  # which imports JAX

            fold_checks.check(run.config for run in runs)
        self._files = sweep.write()
        with StopRequest() as stop:
            for wanted in sweep.rounds():
                self._finish([run for run in wanted if not run.result()], stop)
                if self._stopped or self._failed:
                    break
        rows = sweep.table_rows()
        if any(row.results for row in rows):
            title = f"{sweep.best_by} in percent"
            summary = tables.summarize(rows, sweep.best_by, sweep.comparison, sweep.over)
            self._console.print_table(title, summary)
        if unequal := tables.describe_steps(rows):
            self._line(f"steps     {unequal}")
        if len(rows) > 1 and (chosen := tables.choose(rows, sweep.best_by)):
            self._line(f"chosen    {tables.describe_choice(chosen, sweep.best_by)}")
        for file in self._files:
            self._line(f"wrote     {file}")
        if self._stopped:
            self._line(f"Stopped by {self._stopped}; the same command continues from there.")
        if self._failed:
            self._line(f"failed    {len(self._failed)} runs:")
        for folder in self._failed:
            self._line(f"          {folder / _OUTPUT}")
        return not self._failed

    def _finish(self, waiting: list[Run], stop: StopRequest) -> None:
        """Trains runs, and waits for those that another process trains."""
        while waiting and not self._stopped:
            held = self._take(waiting, stop)
            if held and not self._is_waiting:
                self._line(f"waiting   for {len(held)} runs that another process trains")
                self._is_waiting = True
            if held == waiting:
                time.sleep(_POLL_SECONDS)
            waiting = held

    def _take(self, waiting: list[Run], stop: StopRequest) -> list[Run]:
        """Trains the runs that no other process trains, and returns the others."""
        held: list[Run] = []
        for number, run in enumerate(waiting):
            self._stopped = self._stopped or stop.requested
            if self._stopped:
                break
            with _lock(run.folder) as lock:
                if lock is None or locks.is_held(run.folder):
                    held.append(run)
                    continue
                if not run.result():  # another process may have trained it meanwhile
                    self._train(run, lock, stop, len(waiting) - number + len(held))
                self._files = self._sweep.write()
        return held

    def _train(self, run: Run, lock: int, stop: StopRequest, left: int) -> None:
        names = ", ".join(self._sweep.runs[run])
        minutes = (
            f", about {left * statistics.fmean(self._minutes):.0f} min left"
            if self._minutes
            else ""
        )
        self._line(f"run       {run.folder.name} ({names}), {left} to go{minutes}")
        start_time = time.monotonic()
        log = run.folder / _OUTPUT
        size = log.stat().st_size if log.exists() else 0
        code = _execute(run, log, lock, stop)
        duration = (time.monotonic() - start_time) / 60
        if result := run.result():
            self._minutes.append(duration)
            best_by = run.config.eval.best_by
            text = f"{result['last'][best_by]:.4f}"
            if "best" in result:
                validated, tested = (result[x][best_by] for x in ("best_validation", "best"))
                text = f"{validated:.4f} on validation and {tested:.4f} on test classes"
            self._line(f"          {best_by} {text} in {duration:.1f} min")
        elif code == 0 or stop.requested:
            self._stopped = stop.requested or "a signal to the run"
        else:
            self._failed.append(run.folder)
            self._line(f"failed    with code {code}; the end of {log}:")
            text = log.read_bytes()[size:].decode(errors="replace")
            for line in text.splitlines()[-_SHOWN_LINES:]:
                self._line(f"          {line}")


@contextlib.contextmanager
def _lock(folder: pathlib.Path) -> Iterator[int | None]:
    """Holds the lock of a run while the block runs.

    Yields:
      Its file descriptor; None if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptors: list[int] = []
    lock = filelock.FileLock(folder / "sweep.lock", on_acquired=descriptors.append)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        yield None
        return
    try:
        yield descriptors[0]
    finally:
        lock.release()


def _execute(run: Run, log: pathlib.Path, lock: int, stop: StopRequest) -> int:
    """Trains in a process of its own, and returns its exit code.

    The process has a session of its own, so that Ctrl-C does not reach it in addition to SIGTERM: a
    second signal would stop it without saving. It inherits the lock, and so holds it even if this
    process is killed.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, *run.command, "--distributed=off"],  # where srun starts the sweep, too
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
        )
        is_terminated = False
        try:
            while child.poll() is None:
                if stop.requested and not is_terminated:
                    child.terminate()
                    is_terminated = True
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_POLL_SECONDS)
        finally:
            if child.poll() is None:
                child.terminate()
    return child.returncode
