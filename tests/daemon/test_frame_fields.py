"""The header of a frame, as a camera's program states it: what is packed is what the daemon takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.client import FrameSender, MessageError
from daemon.frame_fields import header_packer
from daemon.messages import MAX_HEADER_BYTES, parse_header
from tests.daemon.line import PNG

names = st.sampled_from(["part", "trigger", "bits", "captured_ns", "shape", "note", "v", "seq", "stream", "camera"])
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
values = plain | st.lists(plain) | st.dictionaries(plain, plain) | st.sets(st.integers()) | st.text(min_size=4000)
seqs = st.integers(0, 2**64 - 1)


@given(fields=st.dictionaries(names | st.text(), values, max_size=4), seq=seqs)
def test_whatever_fields_are_given_a_header_is_refused_at_once_or_taken_by_the_daemon(
    fields: dict[str, object], seq: int
) -> None:
    try:
        pack_header = header_packer("left", 7, PNG, fields)
    except MessageError:
        return
    header = parse_header(pack_header(seq))
    assert (header.camera, header.stream, header.seq, header.part) == ("left", 7, seq, fields.get("part"))


def test_a_header_of_just_the_limit_is_packed_and_one_byte_more_is_refused() -> None:
    shorter = len(header_packer("left", 7, PNG, {"note": "x" * 3000})(0))
    longest = 3000 + MAX_HEADER_BYTES - shorter
    assert len(header_packer("left", 7, PNG, {"note": "x" * longest})(2**64 - 1)) == MAX_HEADER_BYTES
    with pytest.raises(MessageError, match=r"4,097 bytes; 4096 is the limit"):
        header_packer("left", 7, PNG, {"note": "x" * (longest + 1)})


def test_a_header_holds_what_was_checked_although_its_caller_changes_it() -> None:
    notes: list[object] = ["scratch"]
    pack_header = header_packer("left", 7, PNG, {"notes": notes})
    notes.append({"a set"})
    assert parse_header(pack_header(5)).seq == 5


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"camera": "right", "seq": 3}, "Header field camera is the sender's own: leave it out"),
        ({"part": "p", "tags": {1, 2}}, "Header field tags can't be packed: can not serialize 'set' object"),
        ({"trigger": np.int64(5)}, "Header field trigger can't be packed: can not serialize 'numpy.int64' object"),
        ({"bits": 17}, "Header field bits: Input should be less than or equal to 16"),
    ],
)
def test_a_refusal_names_the_field(fields: dict[str, object], told: str) -> None:
    with pytest.raises(MessageError) as refused:
        header_packer("left", 7, PNG, fields)
    assert str(refused.value) == f"{told}."


@pytest.mark.parametrize("first_seq", [-1, 2**64])
def test_a_sender_that_would_begin_at_no_possible_seq_is_refused(first_seq: int) -> None:
    with pytest.raises(MessageError, match="seq"):
        FrameSender("ipc:///tmp/nobody", "left", first_seq=first_seq)
