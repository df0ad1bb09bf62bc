"""Three pages over HTTP, to GET and HEAD, whatever else is sent to their port."""

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from daemon.errors import BindError
from daemon.health import MOST_CONNECTIONS, HealthServer
from daemon.telemetry import Telemetry


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(CollectorRegistry())


@pytest.fixture
def health(telemetry: Telemetry) -> Iterator[tuple[HealthServer, dict[str, bool]]]:
    state = {"healthy": True, "ready": False}
    server = HealthServer(
        "127.0.0.1:0",
        telemetry.registry,
        healthy=lambda: (state["healthy"], "stuck"),
        ready=lambda: (state["ready"], "loading"),
    )
    server.start()
    yield server, state
    server.stop()


def fetch(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{server.address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  (our own server)
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_served(health: tuple[HealthServer, dict[str, bool]], telemetry: Telemetry) -> None:
    status, text = fetch(health[0], "/metrics")
    assert status == 200
    assert text == generate_latest(telemetry.registry).decode()


def test_health_and_readiness_are_apart(health: tuple[HealthServer, dict[str, bool]]) -> None:
    server, state = health
    assert fetch(server, "/healthz") == (200, "stuck\n")
    assert fetch(server, "/readyz") == (503, "loading\n")
    state.update(healthy=False, ready=True)
    assert fetch(server, "/healthz")[0] == 503
    assert fetch(server, "/readyz")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND"])
def test_other_methods_are_refused(health: tuple[HealthServer, dict[str, bool]], method: str) -> None:
    assert fetch(health[0], "/metrics", method) == (405, "GET and HEAD only.\n")


def test_head_is_get_without_the_page(health: tuple[HealthServer, dict[str, bool]]) -> None:
    assert fetch(health[0], "/metrics", "HEAD") == (200, "")
    assert fetch(health[0], "/readyz", "HEAD") == (503, "")


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/../metrics", "/./metrics", "/METRICS", "/metrics%00", "/etc/passwd", "*"]
)
def test_other_paths_are_not_found(health: tuple[HealthServer, dict[str, bool]], path: str) -> None:
    assert talk(health[0], f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).startswith(b"HTTP/1.0 404 ")


def talk(server: HealthServer, request: bytes) -> bytes:
    """Send bytes and return all that is answered until the server closes."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        # A server that closes before it has read everything resets the connection.
        with suppress(ConnectionError):
            while more := connection.recv(65536):
                answer += more
        return answer


@pytest.mark.parametrize(
    "request_", [b"\x16\x03\x01\x00\n", b"GET\r\n\r\n", b"GET /metrics FTP/9\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n"]
)
def test_what_is_no_request_is_refused(health: tuple[HealthServer, dict[str, bool]], request_: bytes) -> None:
    answer = talk(health[0], request_)
    assert b"patchline_" not in answer
    assert not answer or b"This is no request." in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000,
        b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /metrics?" + b"y" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_a_huge_request_is_refused(health: tuple[HealthServer, dict[str, bool]], request_: bytes) -> None:
    assert b"patchline_" not in talk(health[0], request_)
    assert fetch(health[0], "/healthz")[0] == 200


def test_a_slow_request_is_cut_off_although_it_never_pauses(
    health: tuple[HealthServer, dict[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.health.REQUEST_S", 0.5)
    host, _, port = health[0].address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=0.1) as slow:
        begin = time.monotonic()
        with suppress(ConnectionError):
            slow.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            while time.monotonic() - begin < 20:
                slow.sendall(b"y")
                with suppress(TimeoutError):
                    if not slow.recv(1):
                        break
        assert time.monotonic() - begin < 20


def test_many_that_say_nothing_keep_nobody_out(health: tuple[HealthServer, dict[str, bool]]) -> None:
    host, _, port = health[0].address.rpartition(":")
    with ExitStack() as mute:
        for _ in range(3 * MOST_CONNECTIONS):
            mute.enter_context(socket.create_connection((host, int(port)), timeout=20))
        assert fetch(health[0], "/healthz")[0] == 200
        handlers = [t for t in threading.enumerate() if "process_request_thread" in t.name]
        assert len(handlers) <= 2 * MOST_CONNECTIONS


def test_an_address_in_use_is_named(health: tuple[HealthServer, dict[str, bool]]) -> None:
    address = health[0].address
    with pytest.raises(BindError, match=f"telemetry.listen = {address} can't be bound: Address already in use"):
        HealthServer(address, CollectorRegistry(), healthy=lambda: (True, ""), ready=lambda: (True, ""))
