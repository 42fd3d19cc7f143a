"""Serves an app by uvicorn: on one address, with limits on connections, until Ctrl-C."""

import asyncio
import contextlib
import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from dcjax.core.errors import file_errors

# Until the head of a request is complete: uvicorn itself has no such limit.
_HEAD_SECONDS = 10.0
_IDLE_SECONDS = 5
_MAX_CONNECTIONS = 256


def bind(host: str, port: int) -> socket.socket:
    """Reserves an address, of which nothing is answered yet.

    Args:
      host: name or address.
      port: 0: any free one.

    Raises:
      FileError: if it cannot be had, as if another program listens there.
    """
    with file_errors(
        f"Cannot listen on {host}, port {port}", advice="give another --port or --host"
    ):
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    return listener


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answers requests until SIGINT or SIGTERM.

    Raises:
      FileError: if another program listens at the address now.
    """
    with file_errors("Cannot listen", advice="give another --port"):
        listener.listen()
    create(app).run(sockets=[listener])


def create(app: ASGIApp) -> uvicorn.Server:
    """Returns the server of an app; `run` runs it."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=0,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Ends at the first signal, without waiting for requests under way."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del sig, frame  # which uvicorn would raise again after the end
        self.should_exit = self.force_exit = True


class _Protocol(H11Protocol):
    """A connection that ends if the head of a request is not complete in time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    def _watch_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # the head is complete
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._end)

    def _end(self) -> None:
        with contextlib.suppress(Exception):
            self.timeout_keep_alive_handler()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
