"""Weights files that try to run something, to hang or to fill memory: each is an error, or holds no tensor."""

import contextlib
import io
import pickletools

from hypothesis import given
from hypothesis import strategies as st

from patchcore_engine.backbones import torch_pickle
from patchcore_engine.backbones.torch_pickle import read_pickle
from patchcore_engine.errors import WeightsFormatError
from tests.engine.hostile_weights import FILES, ORDERED, PICKLES, STORAGE, TENSOR, measure_in_a_process_of_its_own

GROWTH_LIMIT_MB = 40.0
# They are read, since a state dictionary may have attributes, which are left aside, and many dictionaries in it.
HARMLESS = {"zip: BUILD with attributes", "zip: many empty dictionaries"}

PIECES = st.sampled_from(
    [ORDERED, TENSOR, STORAGE, b"X\x01\x00\x00\x00a", b"K\x00", b"K\x01", b"ctorch\nFloatStorage\n"]
)
OPERATIONS = st.sampled_from([operation.code.encode("latin-1") for operation in pickletools.opcodes])


def test_every_class_of_operations_is_tried() -> None:
    tried = b"".join(PICKLES.values())
    callers = ("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "PERSID")
    codes = {operation.name: operation.code.encode("latin-1") for operation in pickletools.opcodes}
    assert all(codes[name] in tried for name in callers)


def test_no_hostile_file_runs_anything_hangs_or_fills_memory() -> None:
    told = measure_in_a_process_of_its_own().splitlines()
    assert told.pop() == "events seen: none"
    answers = {line[:50].strip(): line[50:].split() for line in told}
    assert set(answers) == set(FILES)
    assert {name for name, (*_, said) in answers.items() if said == "READ"} == HARMLESS
    assert max(float(grown) for _, _, grown, *_ in answers.values()) < GROWTH_LIMIT_MB, "\n".join(told)
    assert max(map(len, told)) < 300


@given(st.lists(PIECES | OPERATIONS | st.binary(max_size=6), max_size=30))
def test_any_sequence_of_operations_is_plain_values_or_refused(pieces: list[bytes]) -> None:
    with contextlib.suppress(WeightsFormatError):
        value = read_pickle(io.BytesIO(b"\x80\x04" + b"".join(pieces) + b"."))
        assert type(value).__module__ in ("builtins", torch_pickle.__name__)


def test_a_dictionary_of_python_2_is_read_in_its_order() -> None:
    pairs = b"]](X\x01\x00\x00\x00aK\x01ea](X\x01\x00\x00\x00bK\x02ea"
    read = read_pickle(io.BytesIO(b"\x80\x02" + ORDERED + pairs + b"\x85R."))
    assert list(read.items()) == [("a", 1), ("b", 2)]
