"""Ends a run when it is asked to, with nothing lost."""

import signal
import types


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a request that the loop sees; a second one acts at once."""

    def __init__(self) -> None:
        """Starts without a request."""
        self.requested = ""

    def __enter__(self) -> "StopRequest":
        """Listens from here on."""
        self._before = {
            number: signal.signal(number, self._request)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def _request(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self.requested = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *exception: object) -> None:
        """Stops listening."""
        self._restore()
