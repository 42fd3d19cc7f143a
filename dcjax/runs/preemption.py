"""Ends a run when it is asked to, with nothing lost.

The training loop says which of two things a notice (SIGTERM, SIGINT or SIGHUP) is. While steps are
trained or a checkpoint is saved it is deferred: a request, which the loop looks for after every
step. Where the run reads, embeds, clusters, divides or evaluates, which may take hours and changes
nothing that a checkpoint holds, it raises `Stopped` in the main thread, wherever that is. The loop
then saves what is there: the finished epoch, whose evaluation and division are made when the run
goes on. Python calls a handler between its own instructions, and so a compilation or a computation
on the devices that the main thread waits for is finished first.
"""

import itertools
import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

# JAX stops all processes at one more than the largest number that any has asked for. It counts from
# 0, and so the numbers of a run that goes on cannot be its steps'.
_ASKED = itertools.count(1)


class Stopped(BaseException):
    """The run is asked to stop; no error, so that nothing on the way takes it for one."""


class StopRequest:
    """Turns SIGTERM, SIGHUP and Ctrl-C into a request that the loop sees, or into `Stopped`.

    Schedulers repeat SIGTERM: from the second on it is ignored, so that the run can save. Ctrl-C
    acts at once when there is a request already. A signal that is ignored when this starts to
    listen, as SIGHUP is under nohup, stays ignored.

    Of several processes that `jax.distributed` has joined, one that gets SIGTERM or SIGHUP is
    enough: JAX, which listens to SIGTERM there, makes all of them stop after the same step. None
    can leave an evaluation or a division alone, so nothing is raised; Ctrl-C is left as it is.

    Attributes:
      requested: name of the signal, "" as long as there is no request.
    """

    def __init__(self) -> None:
        """Starts without a request, and defers one that comes."""
        self.requested = ""
        self._raises = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Listens from here on; in a thread that Python calls no handlers in, to nothing."""
        jax = sys.modules.get("jax")  # a sweep, which computes nothing itself, has not loaded it
        joined = jax is not None and jax.distributed.is_initialized()
        self._several = jax is not None and joined and jax.process_count() > 1
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
        """Lets a notice raise `Stopped` from here on, and one that is there at once."""
        self._raises = not self._several
        if self.requested and self._raises:
            raise Stopped

    def defer(self) -> None:
        """Lets no notice raise anything from here on."""
        self._raises = False

    def asks_to_stop(self) -> bool:
        """Returns whether the run has to stop now; all processes ask at the same places."""
        if self._several:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(next(_ASKED)):
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
        """Stops listening."""
        for number, handler in self._before.items():
            # None stands for one that is not Python's, as JAX's: it cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _pass_on(number: int, frame: types.FrameType | None) -> None:
    """Makes SIGTERM, which JAX listens to, of another signal."""
    del number, frame
    signal.raise_signal(signal.SIGTERM)
