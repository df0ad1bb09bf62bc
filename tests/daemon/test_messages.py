"""The wire schema under rubbish: every input is a valid message or a MessageError, never anything else."""

import contextlib
import math
import re
from collections.abc import Callable

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.errors import MessageError
from daemon.messages import (
    CAMERA_PATTERN,
    MAX_HEADER_BYTES,
    NO_CAMERA,
    FrameHeader,
    HeatmapHeader,
    Region,
    Stages,
    Verdict,
    check_payload,
    pack,
    parse_header,
    read_frame,
    salvage_header,
    unpack_map,
)
from daemon.outcomes import Outcome, Reason
from daemon.protocol import Ack, Hello, Pong, ReplayReply, ReplayRequest, Reset, Welcome, WireMap, parse
from tests.daemon.line import frame_header

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.binary(max_size=4), inner),
    max_leaves=8,
)
# How long an example takes says more about the machine than about the schema.
rubbish = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HEADER_FIELDS = tuple(FrameHeader.model_fields)
VERDICT_FIELDS = tuple(Verdict.__dataclass_fields__)


def is_parsed_or_refused(parse_it: Callable[..., object], *args: object) -> None:
    """Anything but a value or a MessageError escapes, and fails the test."""
    with contextlib.suppress(MessageError):
        parse_it(*args)


@rubbish
@given(st.binary(max_size=200))
def test_random_bytes_are_a_message_or_a_message_error(data: bytes) -> None:
    for parse_it in (parse_header, salvage_header, Verdict.unpack, HeatmapHeader.unpack, unpack_map):
        is_parsed_or_refused(parse_it, data)
    for model in (Hello, Welcome, Ack, Reset, ReplayRequest, ReplayReply):
        is_parsed_or_refused(parse, model, data)


@rubbish
@given(st.dictionaries(st.sampled_from(HEADER_FIELDS), ANYTHING))
def test_headers_with_any_values_are_a_header_or_a_message_error(values: dict[str, object]) -> None:
    is_parsed_or_refused(parse_header, pack(values))
    is_parsed_or_refused(parse_header, frame_header(**values))


@rubbish
@given(st.dictionaries(st.sampled_from(VERDICT_FIELDS), ANYTHING))
def test_verdicts_with_any_values_are_a_verdict_or_a_message_error(values: dict[str, object]) -> None:
    well = Verdict(camera="a", stream=1, seq=2, verdict=Outcome.PASS, captured_ns=0, received_ns=0).to_map()
    is_parsed_or_refused(Verdict.from_map, {**well, **values})


HEATMAP = {"v": 1, "camera": "a", "stream": 1, "seq": 2, "offset": 3, "encoding": "png", "height": 4, "width": 5} | {
    "rect": [0.0, 0.0, 4.0, 5.0],
    "frame_height": 4,
    "frame_width": 5,
}


@rubbish
@given(st.dictionaries(st.sampled_from(list(HEATMAP)), ANYTHING))
def test_heat_map_headers_with_any_values_are_a_header_or_a_message_error(values: dict[str, object]) -> None:
    try:
        header = HeatmapHeader.unpack(pack({**HEATMAP, **values}))
    except MessageError:
        return
    assert re.fullmatch(CAMERA_PATTERN, header.camera) or header.camera == NO_CAMERA
    assert hash((header.camera, header.stream, header.seq))


@pytest.mark.parametrize("name", [name for name in HEATMAP if name != "v"])
def test_a_heat_map_header_that_lacks_a_field_is_refused(name: str) -> None:
    with pytest.raises(MessageError, match=name):
        HeatmapHeader.unpack(pack({key: value for key, value in HEATMAP.items() if key != name}))


@rubbish
@given(st.sampled_from([Hello, Welcome, Ack, Pong, Reset, ReplayRequest, ReplayReply]), st.data())
def test_protocol_maps_with_any_values_are_a_map_or_a_message_error(model: type[WireMap], data: st.DataObject) -> None:
    values = data.draw(st.dictionaries(st.sampled_from(list(model.model_fields)), ANYTHING))
    is_parsed_or_refused(parse, model, pack({"v": 1, **values}))


@pytest.mark.parametrize("model", [Hello, Welcome, Pong, Reset, ReplayRequest])
def test_a_short_message_of_the_protocol_is_not_read_when_it_is_long(model: type[WireMap]) -> None:
    # Five thousand empty maps: seventy times their bytes in memory.
    with pytest.raises(MessageError, match="larger than any"):
        parse(model, b"\x81\xa1x\xdc\x13\x88" + b"\x80" * 5000)


WELL = Verdict(camera="a", stream=1, seq=2, verdict=Outcome.PASS, captured_ns=0, received_ns=0).to_map()
REGION = {"x": 1, "y": 2, "width": 3, "height": 4, "area": 5.0, "peak": 6.0, "centroid": [7.0, 8.0]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"camera": "../../etc/cron.d/x"},
        {"camera": "a/b"},
        {"camera": "a\n"},
        {"camera": ["a"]},
        {"stream": "1"},
        {"seq": 1.5},
        {"offset": "7"},
        {"part": 5},
        {"bank": ["b"]},
        {"score": "high"},
        {"score": True},
        {"count": 1.0},
        {"captured_ns": None},
        {"regions": [{**REGION, "x": "1"}]},
        {"regions": [{**REGION, "peak": math.nan}]},
        {"regions": [{**REGION, "centroid": [1.0]}]},
        {"regions": [{**REGION, "more": 1}]},
        {"regions": [5]},
        {"stages": {"wait": "1"}},
        {"stages": [1]},
        {"verdict": "good"},
        {"v": "1" * 10_000},
    ],
)
def test_a_verdict_whose_field_a_reader_could_stumble_over_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(MessageError) as caught:
        Verdict.from_map({**WELL, **wrong})
    assert len(str(caught.value)) < 300


@rubbish
@given(ANYTHING)
def test_any_msgpack_value_is_a_map_or_a_message_error(value: object) -> None:
    is_parsed_or_refused(unpack_map, msgpack.packb(value))


@rubbish
@given(st.lists(st.integers(-(2**40), 2**64 - 1), min_size=2, max_size=3), st.integers(0, 2**40))
def test_any_shape_fits_its_payload_or_is_refused_for_its_geometry(shape: list[int], size: int) -> None:
    header = parse_header(frame_header(encoding="raw", shape=shape, color="mono" if len(shape) == 2 else "rgb"))
    if min(shape) > 0 and shape[2:] in ([], [3]) and math.prod(shape) == size:
        check_payload(header, size, max_frame_bytes=2**41)
    else:
        with pytest.raises(MessageError) as caught:
            check_payload(header, size, max_frame_bytes=2**41)
        assert caught.value.reason is Reason.BAD_GEOMETRY


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"v": 2}, "v"),
        ({"v": True}, "v"),
        ({"v": None}, "v"),
        ({"camera": ""}, "camera"),
        ({"camera": "a b"}, "camera"),
        ({"camera": "a\n"}, "camera"),
        ({"camera": "x" * 65}, "camera"),
        ({"camera": b"left"}, "camera"),
        ({"seq": -1}, "seq"),
        ({"seq": True}, "seq"),
        ({"seq": 1.0}, "seq"),
        ({"seq": "1"}, "seq"),
        ({"captured_ns": 2**63}, "captured_ns"),
        ({"captured_ns": 1.5}, "captured_ns"),
        ({"part": ""}, "part"),
        ({"encoding": "bmp"}, "encoding"),
        ({"encoding": "raw"}, "shape"),
        ({"encoding": "raw", "shape": [4]}, "shape"),
        ({"encoding": "raw", "shape": [4, True]}, "shape"),
        ({"bits": 17}, "bits"),
    ],
)
def test_a_wrong_header_field_is_named(fields: dict[str, object], names: str) -> None:
    with pytest.raises(MessageError, match=names) as caught:
        parse_header(frame_header(**fields))
    assert caught.value.reason is Reason.MALFORMED


def test_nan_infinity_and_extension_types_are_refused() -> None:
    for value in (math.nan, math.inf, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2)):
        with pytest.raises(MessageError):
            unpack_map(msgpack.packb({"v": 1, "captured_ns": value}))


def test_deep_nesting_and_false_lengths_are_refused() -> None:
    for data in (b"\x91" * 4000, b"\x81\xa1v" * 1000, b"\xdf\xff\xff\xff\xff", b"\x81\xa1v\xdd\xff\xff\xff\xff"):
        with pytest.raises(MessageError):
            unpack_map(data)


def test_a_header_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(MessageError, match="limit"):
        parse_header(b"\x80" + bytes(MAX_HEADER_BYTES))


def test_unknown_fields_are_left_for_later_versions() -> None:
    assert parse_header(frame_header(lens="50mm")).camera == "left"


def test_the_identity_of_a_frame_is_salvaged_from_a_header_that_is_wrong_elsewhere() -> None:
    header, error = read_frame(
        [memoryview(frame_header(seq=7, stream=3, encoding="bmp")), memoryview(b"")], 2, max_frame_bytes=10
    )
    assert header is not None
    assert (header.camera, header.stream, header.seq) == ("left", 3, 7)
    assert error is not None
    assert error.reason is Reason.MALFORMED


@pytest.mark.parametrize("captured_ns", [1.5, True, "now", None, 2**63])
def test_a_time_of_capture_that_is_none_costs_no_frame_its_identity(captured_ns: object) -> None:
    header = salvage_header(frame_header(seq=7, stream=3, captured_ns=captured_ns))
    assert header is not None
    assert (header.camera, header.stream, header.seq, header.captured_ns) == ("left", 3, 7, 0)


def test_nil_is_the_same_as_absent() -> None:
    optional = {name: None for name, field in FrameHeader.model_fields.items() if not field.is_required()}
    needed = {"v": 1, "camera": "left", "seq": 7, "captured_ns": 1, "encoding": "png"}
    assert parse_header(pack({**needed, **optional})) == parse_header(pack(needed))


def test_nothing_is_salvaged_from_a_header_of_another_version() -> None:
    assert salvage_header(frame_header(v=2)) is None


@pytest.mark.parametrize(
    ("fields", "size", "reason"),
    [
        ({}, 101, Reason.TOO_LARGE),
        ({"encoding": "raw", "shape": [4, -4]}, 16, Reason.BAD_GEOMETRY),
        ({"encoding": "raw", "shape": [4, 4]}, 15, Reason.BAD_GEOMETRY),
        ({"encoding": "raw", "shape": [4, 4, 3]}, 48, Reason.BAD_GEOMETRY),
        ({"encoding": "raw", "shape": [4, 4], "color": "rgb"}, 16, Reason.BAD_GEOMETRY),
        ({"encoding": "raw", "shape": [4, 4], "bits": 12}, 16, Reason.BAD_GEOMETRY),
    ],
)
def test_a_payload_that_cannot_be_its_frame_is_refused(fields: dict[str, object], size: int, reason: Reason) -> None:
    with pytest.raises(MessageError) as caught:
        check_payload(parse_header(frame_header(**fields)), size, max_frame_bytes=100)
    assert caught.value.reason is reason


def test_a_verdict_comes_back_from_the_wire_as_it_was() -> None:
    verdict = Verdict(
        camera="left",
        stream=2**64 - 1,
        seq=2**64 - 1,
        offset=0,
        verdict=Outcome.NOT_INSPECTED,
        reason=Reason.MISSING,
        count=2**60,
        captured_ns=-1,
        received_ns=5,
        score=1.5,
        regions=(Region(x=1, y=2, width=3, height=4, area=5.0, peak=6.0, centroid=(7.0, 8.0)),),
        stages=Stages(wait=1, embed=2),
    )
    assert Verdict.unpack(verdict.pack()) == verdict


def test_fields_of_a_later_revision_of_the_verdict_are_ignored() -> None:
    verdict = Verdict(camera="a", stream=1, seq=2, verdict=Outcome.PASS, captured_ns=0, received_ns=0)
    assert Verdict.from_map({**verdict.to_map(), "operator": "x"}) == verdict
