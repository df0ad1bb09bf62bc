"""The README says what is there: commands and their options, fields, reasons, metrics, settings and files."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import zmq
from prometheus_client import CollectorRegistry

from daemon import cli
from daemon.config import Settings, parse_settings
from daemon.messages import FrameHeader, HeatmapHeader, Verdict, parse_header
from daemon.outcomes import Outcome, Reason
from daemon.telemetry import Telemetry

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fences(language: str) -> list[str]:
    blocks = re.findall(rf"^ *```{language}\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)
    return [re.sub(r" \\\n +", " ", block) for block in blocks]


def command_lines() -> list[list[str]]:
    """Every `patchline ...` of the README, as its words after `patchline`."""
    shell = [line.strip() for block in fences("sh") for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    lines = [shlex.split(text, comments=True) for text in shell + spans if re.search(r"(^|-H )patchline\b", text)]
    return [line[len(line) - line[::-1].index("patchline") :] for line in lines if line and "patchline" in line]


def walk(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part, child in command.commands.items():
        yield from walk(child, f"{name} {part}".strip())


cli.register(cli.COMMANDS)
COMMANDS = dict(walk(typer.main.get_command(cli.app)))


def section(heading: str) -> str:
    level, _, _ = heading.partition(" ")
    match = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", README, re.MULTILINE | re.DOTALL)
    assert match, heading
    return match[1]


def first_column(text: str) -> set[str]:
    cells = re.findall(r"^\| *(`[^|]+?) *\|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_command_stands_in_the_readme() -> None:
    assert first_column(section("## Commands")) == set(COMMANDS)


def test_every_command_line_of_the_readme_is_one_that_the_program_knows() -> None:
    lines = command_lines()
    assert len(lines) > len(COMMANDS)
    for words in lines:
        if words[0] == "--debug" or words[0].isupper():
            continue
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        assert name in COMMANDS or any(known.startswith(f"{name} ") for known in COMMANDS), words
        if name in COMMANDS:
            known = {flag for option in COMMANDS[name].params for flag in (*option.opts, *option.secondary_opts)}
            unknown = [word for word in words if word.startswith("--") and word not in known | {"--help"}]
            assert not unknown, words


def test_the_tables_of_the_wire_format_name_every_field() -> None:
    assert first_column(section("### A frame: `[header][payload]`")) == set(FrameHeader.model_fields)
    verdict = section("### A verdict: topic `verdict/CAMERA`, `[topic][verdict]`")
    assert first_column(verdict) == set(Verdict.__dataclass_fields__)
    assert all(f"`{name}`" in verdict for name in HeatmapHeader.__dataclass_fields__)
    assert all(f"`{outcome}`" in verdict for outcome in Outcome)


def test_the_camera_in_the_readme_sends_frames_that_the_daemon_takes(tmp_path: Path) -> None:
    (program,) = fences("python")
    for number in range(2):
        (tmp_path / f"part-{number}.jpg").write_bytes(b"picture %d" % number)
    with zmq.Context() as context, context.socket(zmq.PULL) as door:
        door.setsockopt(zmq.RCVTIMEO, 20_000)
        port = door.bind_to_random_port("tcp://127.0.0.1")
        assert "tcp://127.0.0.1:5555" in program
        words = [sys.executable, "-c", program.replace(":5555", f":{port}")]
        subprocess.run(words, cwd=tmp_path, check=True, timeout=60)
        for number in range(2):
            header, payload = door.recv_multipart()
            assert parse_header(header).seq == number
            assert payload == b"picture %d" % number


def test_every_reason_has_its_advice() -> None:
    assert first_column(section("### Reasons of `not_inspected`, and what to do")) == {str(reason) for reason in Reason}


def test_the_metrics_and_addresses_in_the_readme_exist() -> None:
    metrics = {
        sample
        for family in Telemetry(CollectorRegistry()).registry.collect()
        for sample in (family.name, f"{family.name}_total")
    }
    named = set(re.findall(r"\bpatchline_[a-z0-9_]+", README))
    assert named <= metrics
    settings = Settings()
    for key, address in re.findall(r"^\| `([a-z]+\.[a-z]+)` \| `([^`]+)`", section("## Wire format"), re.MULTILINE):
        part, name = key.split(".")
        assert getattr(getattr(settings, part), name) == address, key


@pytest.mark.parametrize("text", fences("toml"))
def test_the_configurations_in_the_readme_are_valid(text: str) -> None:
    indent = re.match(r" *", text)
    settings = parse_settings(re.sub(rf"^{indent[0] if indent else ''}", "", text, flags=re.MULTILINE))
    assert "housing" in settings.recipes


def test_the_settings_named_in_the_readme_exist() -> None:
    for section_name, key in re.findall(r"`([a-z]+)\.([a-z_]+)(?: = [^`]+)?`", README):
        if section_name in Settings.model_fields:
            assert key in type(getattr(Settings(), section_name)).model_fields, f"{section_name}.{key}"


def test_the_files_that_the_readme_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", README)) | {"demo", "test"} <= targets


def test_the_version_is_the_packages_own() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    limits = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"])
    assert limits is not None
    versions = " or ".join(f"3.{minor}" for minor in range(int(limits[1]), int(limits[2])))
    assert f"Python {versions}" in README
