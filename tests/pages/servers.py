"""Serves an app in a thread of the test."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

from starlette.types import ASGIApp

from dcjax.pages import serving


@contextlib.contextmanager
def serve(app: ASGIApp) -> Iterator[str]:
    """Serves an app at a free port, and yields its address."""
    server = serving.create(app)
    with serving.bind("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.handle_exit(signal.SIGINT, None)
            thread.join(10)
    assert not thread.is_alive()
