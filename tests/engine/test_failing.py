"""The extractor that plays faults, and how a device that ran out of memory is told from one that broke."""

import numpy as np
import pytest
from pydantic import ValidationError

from patchcore_engine.backbones.failing import FailingExtractor
from patchcore_engine.backbones.faults import Fault
from patchcore_engine.device_memory import is_out_of_memory

PICTURES = np.zeros((4, 64, 64, 3), np.uint8)


def test_a_fault_strikes_so_many_batches_after_the_first_few() -> None:
    fault = Fault(kind="nan", after=1, batches=2)
    extractor = FailingExtractor(faults=[fault])
    assert [bool(np.isnan(extractor.embed(PICTURES)).all()) for _ in range(4)] == [False, True, True, False]


def test_a_fault_without_an_end_strikes_for_good() -> None:
    assert [Fault(kind="raise", after=2).strikes(batch) for batch in (0, 1, 2, 10**9)] == [False, False, True, True]


def test_memory_is_short_for_large_batches_only() -> None:
    extractor = FailingExtractor(faults=[Fault(kind="out_of_memory", fits=2)])
    with pytest.raises(RuntimeError) as raised:
        extractor.embed(PICTURES)
    assert is_out_of_memory(raised.value)
    assert extractor.embed(PICTURES[:2]).shape == (2, 64, 8)


def test_without_faults_it_is_the_sleeping_extractor() -> None:
    assert np.isfinite(FailingExtractor(faults=[]).embed(PICTURES)).all()


@pytest.mark.parametrize("values", [{"kind": "melt"}, {"kind": "raise", "after": -1}, {"kind": "slow", "factor": 0.5}])
def test_a_plan_that_makes_no_sense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate(values)


@pytest.mark.parametrize(
    "message",
    [
        "#umsg#Memory not enough:#umsg#Device(id:0) memory isn't enough and alloc failed, kernel name: Conv2D-op12, "
        "alloc size: 411041792B.",
        "Framework Error Message: Out of Memory!!! Request memory size: 2147483648B",
        "Allocate device memory failed, alloc size: 12",
        "EL0004: Failed to allocate memory. Possible Cause: Available memory is insufficient.",
    ],
)
def test_the_words_of_mindspore_and_cann_for_a_full_device_are_known(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def test_other_errors_are_not_taken_for_a_full_device() -> None:
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("Call runtime rtStreamSynchronize failed: the device was reset."))
    assert not is_out_of_memory(ValueError("out of memory"))
