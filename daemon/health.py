"""/metrics, /healthz and /readyz on one small HTTP server. GET only."""

import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from daemon.errors import BindError

log = structlog.get_logger()

# A client that sends nothing is let go after this many seconds.
CLIENT_TIMEOUT_S: Final = 5.0
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
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  (the base class's names)
        """A client that hangs up is no event; anything else is logged, and the next request is served."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            log.error("health_request_failed", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    pages: dict[str, Callable[[], tuple[int, str, bytes]]]
    timeout = CLIENT_TIMEOUT_S
    server_version = "patchline"
    sys_version = ""

    def do_GET(self) -> None:
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            self._answer(404, TEXT, b"Not here: /metrics, /healthz and /readyz are.\n")
        else:
            self._answer(*page())

    def _refuse(self) -> None:
        self._answer(405, TEXT, b"GET only.\n", {"Allow": "GET"})

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse  # noqa: N815  (the base class's names)

    def _answer(self, status: int, content_type: str, body: bytes, headers: dict[str, str] | None = None) -> None:
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
