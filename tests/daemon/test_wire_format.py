"""docs/wire-format.md says what the code does: its byte examples are read, its tables name every field."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from daemon.messages import FrameHeader, HeatmapHeader, Verdict, parse_header
from daemon.outcomes import Outcome, Reason
from daemon.protocol import Ack, Hello, Pong, ReplayReply, ReplayRequest, Reset, Welcome, WireMap, parse

MODELS: tuple[type[WireMap], ...] = (Hello, Welcome, Ack, Pong, Reset, ReplayRequest, ReplayReply)


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / "docs" / "wire-format.md").read_text(encoding="utf-8")


def example(text: str, name: str) -> bytes:
    found = re.search(rf"^```hex {name}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, name
    return bytes.fromhex(found[1])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_byte_examples_are_what_the_code_sends(text: str, model: type[WireMap]) -> None:
    data = example(text, model.__name__)
    assert parse(model, data).pack() == data


def test_the_byte_example_of_a_frame_header_is_read_as_stated(text: str) -> None:
    header = parse_header(example(text, "FrameHeader"))
    assert (header.camera, header.stream, header.seq, header.encoding) == ("cam0", 48879, 7, "jpeg")
    assert header.captured_ns == 1_700_000_000_000_000_000


def test_every_field_of_every_message_is_in_a_table(text: str) -> None:
    cells = set(re.findall(r"`([a-z_]+)`", "\n".join(re.findall(r"^\|.*\|$", text, re.MULTILINE))))
    models: tuple[type[BaseModel], ...] = (FrameHeader, *MODELS)
    fields = {name for model in models for name in model.model_fields}
    fields |= set(Verdict.__dataclass_fields__) | set(HeatmapHeader.__dataclass_fields__)
    assert fields - cells == set()


def test_every_verdict_and_reason_is_named(text: str) -> None:
    for word in (*Outcome, *Reason):
        assert f"`{word.value}`" in text
