"""The log: one JSON object per line for machines, text for a person at a terminal."""

import ast
import json
import os
import pty
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog

import daemon
from daemon.log_limit import LogLimit
from daemon.logs import set_up_logging


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_file_gets_one_json_object_per_line(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as stream:
        set_up_logging("info", stream)
        log = structlog.get_logger()
        log.info("ready", recipes={"caps": "v1"})
        log.debug("not_shown")
        try:
            raise ValueError("of a test")  # noqa: TRY301
        except ValueError as error:
            log.error("engine_failed", exc_info=error)  # noqa: TRY400  (as the pipeline does)
        stream.seek(0)
        first, second = (json.loads(line) for line in stream)
    assert (first["event"], first["level"], first["recipes"]) == ("ready", "info", {"caps": "v1"})
    assert "timestamp" in first
    assert "ValueError: of a test" in second["exception"]


def test_a_terminal_gets_text() -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream, os.fdopen(controller, "rb", buffering=0) as screen:
        set_up_logging("info", stream)
        structlog.get_logger().info("ready", recipes=2)
        stream.flush()
        text = screen.read(4096).decode()
    assert "ready" in text
    assert not text.startswith("{")


@pytest.mark.parametrize("mute", ["a full disk", "a pipe that nobody reads"])
def test_lines_that_cant_be_written_are_counted_and_harm_nobody(mute: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    lost: list[str] = []
    with Path("/dev/full").open("w") as full, os.fdopen(writer, "w") as pipe:
        set_up_logging("info", full if mute == "a full disk" else pipe, on_loss=lambda: lost.append("line"))
        for seq in range(3):
            structlog.get_logger().info("not_inspected", seq=seq)
    assert len(lost) == 3


def test_a_line_that_is_cut_off_spoils_none_that_comes_after_it() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    lost: list[str] = []
    with os.fdopen(reader, "rb", buffering=0) as log, os.fdopen(writer, "w") as pipe:
        set_up_logging("info", pipe, on_loss=lambda: lost.append("line"))
        structlog.get_logger().info("too_long", text="x" * 1_000_000)
        assert len(log.read(1_000_000)) < 1_000_000
        for event in ("ready", "draining"):
            structlog.get_logger().info(event)
        _rest, *lines = log.read(4096).splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["ready", "draining"]
    assert lost == ["line"]


@pytest.mark.timeout(30)
def test_a_reader_that_doesnt_read_holds_nobody_up_and_reads_on_later() -> None:
    reader, writer = os.pipe()
    lost: list[str] = []
    with os.fdopen(reader, "rb") as log, os.fdopen(writer, "w") as pipe:
        set_up_logging("info", pipe, on_loss=lambda: lost.append("line"))
        count = 0
        while not lost:
            structlog.get_logger().info("not_inspected", seq=count, text="x" * 1000)
            count += 1
        for _ in range(10_000):
            structlog.get_logger().info("not_inspected", seq=count)
        assert len(lost) == 10_001
        taken = [json.loads(log.readline()) for _ in range(count - 1)]
        structlog.get_logger().info("ready")
        pipe.close()
        *_cut_off, last = log.read().splitlines()
    assert [line["seq"] for line in taken] == list(range(count - 1))
    assert json.loads(last)["event"] == "ready"


def test_a_line_longer_than_a_pipe_reaches_a_reader_whole() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as log, os.fdopen(writer, "w") as pipe, ThreadPoolExecutor(1) as pool:
        set_up_logging("info", pipe)
        line = pool.submit(log.readline)
        structlog.get_logger().info("engine_failed", text="x" * 1_000_000)
        assert len(json.loads(line.result())["text"]) == 1_000_000


def test_of_lines_that_repeat_the_first_comes_at_once_and_the_next_tells_how_many_were_held_back() -> None:
    limit = LogLimit(0.05)
    assert limit.due() == 0
    held_back = 0
    while (told := limit.due()) is None:
        held_back += 1
    assert told == held_back


def troubles() -> Iterator[tuple[str, ast.Call]]:
    """Every warning and error that the daemon's code logs."""
    for path in Path(daemon.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("log.warning", "log.error", "log.critical"):
                yield f"{path.name}:{node.lineno}", node


def test_every_trouble_in_the_log_says_what_to_do() -> None:
    found = dict(troubles())
    assert len(found) > 15
    for place, call in found.items():
        # An error made on purpose says it itself.
        assert {"advice", "error"} & {keyword.arg for keyword in call.keywords}, place


def test_every_trouble_in_the_log_stands_in_the_table_of_faults(repository: Path) -> None:
    told = (repository / "docs" / "reliability.md").read_text(encoding="utf-8")
    events = {str(ast.literal_eval(call.args[0])) for _place, call in troubles()}
    assert {event for event in events if f"`{event}`" not in told} == set()
