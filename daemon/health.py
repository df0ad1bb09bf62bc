"""/metrics, /healthz and /readyz on one small HTTP server. GET and HEAD of these, and nothing else."""

import io
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from daemon.errors import BindError

log = structlog.get_logger()

# What a client has to send its whole request, and to take the answer, in seconds.
REQUEST_S: Final = 5.0
ANSWER_S: Final = 5.0
# A scrape's request holds a few hundred.
REQUEST_BYTES: Final = 8192
MOST_CONNECTIONS: Final = 32
# How soon `stop` is noticed.
STOP_S: Final = 0.05
TEXT: Final = "text/plain; charset=utf-8"

# Returns whether all is well, and a sentence for a person.
Probe = Callable[[], tuple[bool, str]]


class HealthServer:
    """Serves at `listen`, HOST:PORT; port 0 is chosen by the system, `address` tells it. Raises BindError."""

    def __init__(self, listen: str, registry: CollectorRegistry, *, healthy: Probe, ready: Probe) -> None:
        host, _, port = listen.rpartition(":")

        class Handler(_Handler):
            pages = {  # noqa: RUF012  (set once, here)
                "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
                "/healthz": lambda: _probe_page(healthy),
                "/readyz": lambda: _probe_page(ready),
            }

        try:
            self._server = _Server((host.strip("[]"), int(port)), Handler)
        except OSError as error:
            raise BindError(
                f"telemetry.listen = {listen} can't be bound: {error.strerror}. Choose another, or stop what uses it."
            ) from error
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(STOP_S,), name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


def _probe_page(probe: Probe) -> tuple[int, str, bytes]:
    good, text = probe()
    return (200 if good else 503), TEXT, text.encode() + b"\n"


class _Server(ThreadingHTTPServer):
    """A thread for each connection, and at most MOST_CONNECTIONS of them: one more cuts the oldest off."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: dict[socket.socket, None] = {}
        self._open_lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open[request] = None
            surplus = list(self._open)[:-MOST_CONNECTIONS]
        for oldest in surplus:
            # Its thread sees the end and closes it, unless a page hangs.
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        if len(surplus) > MOST_CONNECTIONS:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  (the base class's names)
        """A client that hangs up is no event; anything else is logged, and the next request is served."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            log.error("health_request_failed", advice="Report this; the next request is served.", exc_info=error)


class _Request(io.RawIOBase):
    """What a client sends: REQUEST_BYTES of it, within REQUEST_S in all. Then it ends, or raises TimeoutError."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + REQUEST_S
        self.left = REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._connection.settimeout(seconds)
        count = self._connection.recv_into(memoryview(buffer)[: self.left])
        self.left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    pages: dict[str, Callable[[], tuple[int, str, bytes]]]
    server_version = "patchline"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self._request = _Request(self.connection)
        self.rfile = io.BufferedReader(self._request)

    def do_GET(self) -> None:
        page = self.pages.get(self.path.partition("?")[0])
        if not self._request.left:
            self._answer(431, TEXT, b"No request for these pages is so long.\n")
        elif page is None:
            self._answer(404, TEXT, b"Not here: /metrics, /healthz and /readyz are.\n")
        else:
            self._answer(*page())

    do_HEAD = do_GET  # noqa: N815  (the base class's names)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer what the base class refuses: methods of no name here, and what is no request."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._answer(405, TEXT, b"GET and HEAD only.\n", {"Allow": "GET, HEAD"})
        else:
            self._answer(code, TEXT, b"This is no request.\n")

    def _answer(self, status: int, content_type: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.connection.settimeout(ANSWER_S)
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        """Scrapes are not logged."""
