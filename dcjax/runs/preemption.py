"""Stops a run on SIGTERM, SIGINT or SIGHUP without losing progress.

The training loop chooses how a signal is handled. While it trains steps or saves a checkpoint, the
signal is deferred: it becomes a request that the loop checks after every step. While it reads,
embeds, clusters or evaluates, which may take hours and changes nothing that a checkpoint holds, the
signal raises `Stopped` in the main thread. The loop then saves the finished epoch; its evaluation
and division are repeated when the run continues. Python calls signal handlers between its own
instructions, so a compilation or a computation that the main thread waits for is finished first.
"""

import itertools
import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

# Numbers of the sync points: JAX stops all processes at the largest number that any has reached
# plus one. It counts from 0, so the steps of a continued run cannot be these numbers.
_SYNC_POINTS = itertools.count(1)


class Stopped(BaseException):
    """The run is asked to stop. Not an Exception, so that no handler of errors catches it."""


class StopRequest:
    """Turns SIGTERM, SIGHUP and Ctrl-C into a request that the loop checks, or into `Stopped`.

    Further SIGTERMs, which schedulers send, are ignored, so that the run can save. Ctrl-C after a
    request interrupts at once. A signal that is ignored before, as SIGHUP is under nohup, stays
    ignored.

    In a run of several processes, SIGTERM or SIGHUP to one of them makes JAX stop all after the
    same step. There, nothing is raised, since no process can leave an evaluation or a division
    alone, and Ctrl-C is not handled.

    It handles signals as a context manager alone; one that is not entered is never requested.

    Attributes:
      requested: name of the signal, "" as long as there is no request.
    """

    def __init__(self) -> None:
        """Starts without a request, deferring signals."""
        self.requested = ""
        self._raises = False
        self._several = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Installs the handlers; none outside the main thread, where Python calls no handlers."""
        jax = sys.modules.get("jax")  # a sweep, which computes nothing itself, has not loaded it
        is_distributed = jax is not None and jax.distributed.is_initialized()
        self._several = jax is not None and is_distributed and jax.process_count() > 1
        handlers: dict[signal.Signals, Callable[[int, types.FrameType | None], None]]
        handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), self._request)
        if self._several:
            handlers = {signal.SIGHUP: _pass_on}
        if threading.current_thread() is not threading.main_thread():
            handlers = {}
        for number, handler in handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.getsignal(number)
                signal.signal(number, handler)
        return self

    def allow(self) -> None:
        """Lets signals raise `Stopped` from now on; raises it at once if there is a request."""
        self._raises = not self._several
        if self.requested and self._raises:
            raise Stopped

    def defer(self) -> None:
        """Defers signals from now on."""
        self._raises = False

    def asks_to_stop(self) -> bool:
        """Returns whether the run has to stop now; all processes call this at the same places."""
        if self._several:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(next(_SYNC_POINTS)):
                self.requested = signal.SIGTERM.name
        return bool(self.requested)

    def _request(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self.requested = self.requested or signal.Signals(number).name
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        if self._raises:
            raise Stopped

    def __exit__(self, *exception: object) -> None:
        """Restores the handlers that were there before."""
        for number, handler in self._before.items():
            # None stands for a handler that is not Python's, as JAX's, which cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _pass_on(number: int, frame: types.FrameType | None) -> None:
    """Raises SIGTERM, which JAX handles, in place of another signal."""
    del number, frame
    signal.raise_signal(signal.SIGTERM)
