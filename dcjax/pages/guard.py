"""Protects a server on a person's machine from other web sites, and from clients without measure.

A page of another site can make the browser send requests to this machine, or resolve its own name
to it (DNS rebinding): names of hosts and origins are checked. A client may send too much, too
slowly, or too many requests: each limit has an answer with a reason.
"""

import asyncio
import dataclasses
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Scripts, styles and pictures of this server alone; `blob:` shows a picture that is chosen, `data:`
# the page's empty icon.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes:
      max_bytes: of a body.
      body_seconds: until a body is complete.
      request_seconds: until a request is answered and the answer is read.
      max_requests: that are answered at once.
    """

    max_bytes: int = 20 * 2**20
    body_seconds: float = 20.0
    request_seconds: float = 60.0
    max_requests: int = 64


class Guard:
    """ASGI middleware that checks requests and adds the headers of security to all answers."""

    def __init__(self, app: ASGIApp, *, host: str, limits: Limits) -> None:
        """Wraps an app.

        Args:
          app: which is called with what is allowed.
          host: name or address that the server listens at; "0.0.0.0" and "::" are all of the
            machine, whose names are not known: any address is allowed there, but no name except
            localhost, as an address cannot be that of another site.
          limits: of all requests.
        """
        self._app = app
        self._names: Collection[str] = {*_LOOPBACK, host.lower()}
        self._any_address = host in ("0.0.0.0", "::")
        self._limits = limits
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, with a reason if it is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        is_answered = False

        async def send_secured(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        if refusal := self._refusal(scope):
            await refusal(scope, receive, send_secured)
            return
        self._num_requests += 1
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                limited = _Body(receive, Headers(scope=scope), self._limits)
                await self._app(scope, limited.receive, send_secured)
        except TimeoutError:
            if not is_answered:  # else the server ends the connection
                late = refuse(503, "The answer took too long; try again later.")
                await late(scope, receive, send_secured)
        finally:
            self._num_requests -= 1

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        given = headers.getlist("host")
        host = given[0] if len(given) == 1 else ""
        if not self._is_allowed(host):
            names = ", ".join(sorted(self._names))
            return refuse(
                400, f"Require a request to this server ({names}), got the host {host[:100]!r}."
            )
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        is_visit = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        is_foreign = site not in ("same-origin", "none") and not is_visit
        # Of a page without an origin, as of a file, it is "null".
        if is_foreign or (origin is not None and origin.partition("://")[2] != host):
            return refuse(403, "Require a request from this server's own page, got another site's.")
        if self._num_requests >= self._limits.max_requests:
            return refuse(503, "The server answers as many requests as it can; try again soon.")
        return None

    def _is_allowed(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname, parts.port
        except ValueError:
            return False
        if not name or parts.netloc != host or parts.username is not None or port == 0:
            return False
        if self._any_address and _is_address(name):
            return True
        return name in self._names


class _Body:
    """The body of a request, within limits."""

    def __init__(self, receive: Receive, headers: Headers, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        self._num_bytes = 0
        self._end = asyncio.get_running_loop().time() + limits.body_seconds
        length = headers.get("content-length", "")
        self._length = int(length) if length.isdecimal() and len(length) < 16 else 0
        # Such a client asks before it sends.
        self._waits = headers.get("expect", "").lower() == "100-continue"

    async def receive(self) -> Message:
        """Returns the next part.

        Raises:
          HTTPException: 408 or 413 if it takes too long, or is too large.
        """
        limit = self._limits.max_bytes
        if self._waits and self._length > limit:
            raise _too_large(limit)
        message = await self._next()
        # A client that still sends would not see the answer: what it sends is thrown away.
        while self._num_bytes > limit:
            if not message.get("more_body"):
                raise _too_large(limit)
            message = await self._next()
        return message

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            # The server throws the rest of the body away only if the connection ends.
            raise HTTPException(
                408,
                f"The request was not complete after {self._limits.body_seconds:g} s.",
                {"Connection": "close"},
            ) from None
        self._num_bytes += len(message.get("body", b""))
        return message


def refuse(status: int, reason: str) -> JSONResponse:
    """Returns an answer with a reason; of 503 it says when to try again."""
    headers = {"Connection": "close"} if status != 503 else {"Retry-After": "1"}
    return JSONResponse({"error": reason}, status, headers)


def _is_address(name: str) -> bool:
    """Returns whether a host is given as an IP address, not by a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _too_large(limit: int) -> HTTPException:
    reason = f"The picture is too large; up to {limit / 2**20:g} MiB are read, make it smaller."
    return HTTPException(413, reason, {"Connection": "close"})
