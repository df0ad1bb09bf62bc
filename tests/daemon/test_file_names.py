"""Names that come over the wire can't leave a folder, and give a terminal no orders."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from daemon.config import parse_settings
from daemon.errors import ConfigError
from daemon.file_names import printable, safe_name
from daemon.heatmap_files import HeatmapFiles
from daemon.messages import HeatmapHeader, Verdict
from daemon.outcomes import Outcome
from daemon.publisher import Publisher
from daemon.verdict_details import verdict_details, verdicts_table
from daemon.verdict_table import VerdictTable
from tests.daemon.heatmap_header import heatmap_header
from tests.daemon.line import PATIENCE_S, Line

HOSTILE = "\x1b]0;owned\x07\x1b[2J[/red][bold]\r\n\x9b31m‮"


@given(st.text())
def test_a_safe_name_is_one_visible_component(name: str) -> None:
    safe = safe_name(name)
    assert Path("/folder", safe).parent == Path("/folder")
    assert safe not in ("", ".", "..")
    assert not safe.startswith(".")
    assert len(safe.encode()) <= 64


@pytest.mark.parametrize("name", ["..", ".", "/etc", "a/../..", "", ".hidden", "../x"])
def test_the_bank_of_a_recipe_is_a_name_or_openly_a_path(name: str) -> None:
    text = f'[recipes.caps]\nbank = "{name}"\n'
    if "/" in name:
        assert parse_settings(text).recipes["caps"].bank == name
        return
    with pytest.raises(ConfigError, match=r"recipes\.caps\.bank = .*a recipe's folder"):
        parse_settings(text)


@pytest.mark.parametrize("camera", ["../../escaped", "..", "/etc/escaped", "a\0b", "x" * 300])
def test_a_daemon_can_t_make_watch_write_outside_its_folder(tmp_path: Path, camera: str) -> None:
    folder = tmp_path / "below" / "maps"
    with Line(tmp_path) as line:
        files = HeatmapFiles(line.verdicts, folder)
        sent = [judged(camera), judged("cam0")]
        for verdict, _header in sent:
            files.expect(verdict)
        wait_for_subscription(line.publisher)
        for verdict, header in sent:
            line.publisher.publish(verdict, (header, verdict.camera.encode()))
        # A name that no camera can have is refused where the message is read; the next map is written all the same.
        expected = {b"cam0", camera.encode()} if camera == ".." else {b"cam0"}
        assert files.wait_for(len(expected), PATIENCE_S)
        files.close()
    maps = list(tmp_path.rglob("*.png"))
    assert {path.parent for path in maps} == {folder}
    assert {path.read_bytes() for path in maps} == expected


def judged(camera: str) -> tuple[Verdict, HeatmapHeader]:
    verdict = Verdict(camera=camera, stream=1, seq=0, offset=0, verdict=Outcome.FAIL, captured_ns=0, received_ns=0)
    return verdict, heatmap_header(verdict, 1, 1)


def wait_for_subscription(publisher: Publisher) -> None:
    assert publisher.door.socket.poll(int(PATIENCE_S * 1000))
    assert publisher.heatmaps_wanted


def test_a_part_s_name_gives_the_terminal_no_orders() -> None:
    verdict = Verdict(
        camera="left", stream=1, seq=0, offset=0, part=HOSTILE, verdict=Outcome.FAIL, captured_ns=0, received_ns=0
    )
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=300)
        with VerdictTable(console) as table:
            table.add(verdict)
        if not terminal:
            console.print(verdicts_table([verdict]))
            console.print(verdict_details(verdict, []))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "owned" in shown
        assert "[/red][bold]" in shown
        assert not [order for order in ("\x1b]0", "\x1b[2J", "\x07", "\x9b", "\r\n", "‮") if order in shown]


def test_what_can_be_printed_stays_as_it_is() -> None:
    assert printable("Gehäuse 4711/ä-7 ✓") == "Gehäuse 4711/ä-7 ✓"
