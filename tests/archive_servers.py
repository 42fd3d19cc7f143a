"""Local HTTP and FTP servers of one file, which can be made to fail as real servers do."""

import contextlib
import http.server
import socket
import socketserver
import threading
from collections.abc import Iterator


class HttpServer(http.server.ThreadingHTTPServer):
    """Serves a file under any path.

    Attributes:
      content: the file.
      faults: the fault of each coming request, "" for none, and none afterwards: cut (after half),
        endless (more bytes, of undeclared number), silent, moved (to another path), or a status
        of HTTP.
      num_requests: number of requests received.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.faults: list[str] = []
        self.num_requests = 0
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), _HttpHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/a.bin"


class _HttpHandler(http.server.BaseHTTPRequestHandler):
    server: HttpServer

    def do_GET(self) -> None:
        self.server.num_requests += 1
        fault = self.server.faults.pop(0) if self.server.faults else ""
        with contextlib.suppress(ConnectionError):  # the client may leave early
            if fault == "silent":
                self.server.over.wait()
            elif fault == "moved":
                self.send_response(302)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
            elif fault.isdigit():
                self.send_error(int(fault))
            else:
                self._send(fault)

    def _send(self, fault: str) -> None:
        content = self.server.content
        self.send_response(200)
        if fault != "endless":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2 if fault == "cut" else None])
        while fault == "endless":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class FtpServer(socketserver.ThreadingTCPServer):
    """Serves a file as "deep/a b.bin", in passive mode.

    Attributes:
      content: the file.
      cuts: how many of the coming transfers end after half of the file.
      num_requests: number of transfers requested.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.cuts = 0
        self.num_requests = 0
        super().__init__(("127.0.0.1", 0), _FtpHandler)
        self.url = f"ftp://127.0.0.1:{self.server_address[1]}/deep/a%20b.bin"


class _FtpHandler(socketserver.StreamRequestHandler):
    server: FtpServer

    def handle(self) -> None:
        self._answer("220 Ready.")
        with contextlib.ExitStack() as self.listening, contextlib.suppress(OSError):
            while line := self.rfile.readline():
                self._obey(*line.decode().strip().partition(" ")[::2])

    def _obey(self, command: str, argument: str) -> None:
        if command == "RETR":
            self.server.num_requests += 1
            self._send(argument)
        elif command == "PASV":  # a port for each transfer
            self.data = self.listening.enter_context(socket.create_server(("127.0.0.1", 0)))
            high, low = divmod(self.data.getsockname()[1], 256)
            self._answer(f"227 Passive (127,0,0,1,{high},{low}).")
        else:
            known = {"USER": "331 Password?", "PASS": "230 Welcome.", "TYPE": "200 Done."}
            self._answer(known.get(command, "502 Not known."))

    def _send(self, path: str) -> None:
        connection = self.data.accept()[0]
        with connection:
            if path != "deep/a b.bin":
                self._answer("550 No such file.")
                return
            self._answer("150 Comes.")
            cut = self.server.cuts > 0
            self.server.cuts -= cut
            end = len(self.server.content) // 2 if cut else None
            try:
                connection.sendall(self.server.content[:end])
            except ConnectionError:  # the client has left
                cut = True
        self._answer("426 Broken off." if cut else "226 Complete.")

    def _answer(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextlib.contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    """Runs a server while the block runs."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    with server:
        thread.start()
        try:
            yield
        finally:
            if isinstance(server, HttpServer):
                server.over.set()
            server.shutdown()
            thread.join()
