"""Ends a run when it is asked to, with nothing lost."""

import itertools
import signal
import sys
import types

# JAX stops all processes at one more than the largest number that any has asked for. It counts from
# 0, and so the numbers of a run that goes on cannot be its steps'.
_ASKED = itertools.count(1)


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a request that the loop sees.

    Schedulers repeat SIGTERM: from the second on it is ignored, so that the run can save. Ctrl-C
    acts at once when there is a request already.

    In a run that `jax.distributed` has joined, one process that gets SIGTERM is enough: JAX, which
    listens to it there, makes all processes stop after the same step. Ctrl-C is left as it is if
    there are several.

    Attributes:
      requested: name of the signal, "" as long as there is no request.
    """

    def __init__(self) -> None:
        """Starts without a request."""
        self.requested = ""

    def __enter__(self) -> "StopRequest":
        """Listens from here on."""
        jax = sys.modules.get("jax")  # a sweep, which computes nothing itself, has not loaded it
        self._joined = jax is not None and jax.distributed.is_initialized()
        numbers = {signal.SIGTERM, signal.SIGINT}
        if jax is not None and self._joined:  # where JAX listens to SIGTERM
            numbers = {signal.SIGINT} if jax.process_count() == 1 else set()
        self._before = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def asks_to_stop(self) -> bool:
        """Returns whether the run has to stop now; every process has to ask after every step."""
        if self._joined:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(next(_ASKED)):
                self.requested = signal.SIGTERM.name
        return bool(self.requested)

    def _request(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self.requested = self.requested or signal.Signals(number).name
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])

    def __exit__(self, *exception: object) -> None:
        """Stops listening."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
