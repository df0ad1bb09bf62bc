"""Decoding and judging: what can't be judged says why, and the rest of the batch is judged."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from daemon.config import parse_settings
from daemon.engine_health import EngineHealth
from daemon.inspection import DecodedFrame, Judgement, Refusal, decode_frame, judge, judged_verdict
from daemon.messages import FrameHeader
from daemon.outcomes import Outcome, Reason
from daemon.recipes import Recipe, load_recipes
from daemon.scheduler import Ticket
from daemon.telemetry import Telemetry
from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.images import encode_png
from patchcore_engine.inspector import Inspector
from patchcore_engine.picture_header import JPEG_SIGNATURE
from patchcore_engine.png_file import PNG_SIGNATURE
from tests.daemon.conftest import bad_part, good_part
from tests.engine.picture_bombs import BOMBS


@pytest.fixture(scope="module")
def recipe(sleeping_banks: Path) -> Recipe:
    text = f'[banks]\ndir = "{sleeping_banks}"\n[recipes.caps]\nbank = "caps"\n'
    return load_recipes(parse_settings(text)).recipes["caps"]


def frame(payload: bytes, **fields: object) -> Ticket:
    header = FrameHeader.model_validate(
        {"v": 1, "camera": "cam1", "stream": 1, "seq": 0, "captured_ns": 5, "part": "p7", "trigger": 9, **fields}
    )
    return Ticket(
        camera="cam1",
        stream=1,
        seq=0,
        captured_ns=5,
        received_ns=time.time_ns(),
        received_monotonic_ns=time.monotonic_ns(),
        door="push",
        header=header,
        payload=memoryview(payload),
    )


def raw(image: NDArray[np.generic], **fields: object) -> Ticket:
    dtype = "u2" if image.dtype.itemsize == 2 else "u1"
    return frame(image.tobytes(), encoding="raw", shape=image.shape, dtype=dtype, **fields)


def decoded(recipe: Recipe, one: Ticket) -> DecodedFrame:
    result = decode_frame(one, recipe, time.monotonic_ns())
    assert isinstance(result, DecodedFrame)
    return result


def refused(recipe: Recipe, one: Ticket) -> Reason:
    result = decode_frame(one, recipe, time.monotonic_ns())
    assert isinstance(result, Refusal)
    return result.reason


@pytest.fixture
def health() -> EngineHealth:
    return EngineHealth(Telemetry(CollectorRegistry()), 8)


def count(health: EngineHealth, name: str) -> float | None:
    return health.telemetry.registry.get_sample_value(f"patchline_{name}")


def test_every_encoding_gives_the_same_picture(recipe: Recipe) -> None:
    part = good_part(1)
    expected = decoded(recipe, raw(part)).image.pixels
    rgb = np.repeat(part[:, :, None], 3, axis=2)
    for other in (
        frame(encode_png(part), encoding="png"),
        raw(rgb, color="rgb"),
        raw(rgb, color="bgr"),
        raw(part.astype(np.uint16) * 16 + 8, bits=12),
    ):
        assert np.abs(decoded(recipe, other).image.pixels.astype(int) - expected).max() <= 1


def test_colours_are_brought_to_rgb(recipe: Recipe) -> None:
    red = np.zeros((64, 64, 3), dtype=np.uint8)
    red[:, :, 2] = 200
    assert decoded(recipe, raw(red, color="bgr")).image.pixels[0, 0].tolist() == [200, 0, 0]


def test_sixteen_bits_above_the_stated_depth_saturate(recipe: Recipe) -> None:
    bright = np.full((64, 64), 5000, dtype=np.uint16)
    assert decoded(recipe, raw(bright, bits=12)).image.pixels.min() == 255


def test_damaged_pictures_are_undecodable(recipe: Recipe) -> None:
    picture = encode_png(good_part(1))
    assert refused(recipe, frame(b"", encoding="png")) is Reason.UNDECODABLE
    assert refused(recipe, frame(picture[:40], encoding="png")) is Reason.UNDECODABLE
    assert refused(recipe, frame(b"\xff\xd8\xff" + bytes(50), encoding="jpeg")) is Reason.UNDECODABLE


def test_a_picture_of_another_encoding_than_stated_is_undecodable(recipe: Recipe) -> None:
    picture = encode_png(good_part(1))
    assert refused(recipe, frame(picture, encoding="jpeg")) is Reason.UNDECODABLE
    assert refused(recipe, frame(cv2.imencode(".bmp", good_part(1))[1].tobytes(), encoding="png")) is Reason.UNDECODABLE


def test_a_sliver_of_a_picture_is_refused_before_it_fills_the_memory(recipe: Recipe) -> None:
    assert refused(recipe, raw(np.zeros((1, 100_000), dtype=np.uint8))) is Reason.BAD_GEOMETRY


@pytest.mark.parametrize("name", [name for name in BOMBS if name.startswith(("PNG", "JPEG"))])
def test_a_picture_bomb_gets_its_reason(name: str, recipe: Recipe) -> None:
    reason = refused(recipe, frame(BOMBS[name](), encoding="png" if name.startswith("PNG") else "jpeg"))
    assert reason in (Reason.UNDECODABLE, Reason.TOO_LARGE)


@given(st.sampled_from(["png", "jpeg"]), st.binary(max_size=60))
def test_any_payload_is_a_picture_or_refused_with_a_reason_that_is_no_engine_error(
    recipe: Recipe, encoding: str, rest: bytes
) -> None:
    signature = {"png": PNG_SIGNATURE, "jpeg": JPEG_SIGNATURE}[encoding]
    assert refused(recipe, frame(signature + rest, encoding=encoding)) in (Reason.UNDECODABLE, Reason.TOO_LARGE)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["mono", "rgb", "bgr"]), st.integers(1, 16))
def test_raw_pixels_of_any_shape_and_depth_are_decoded_or_of_bad_geometry(
    recipe: Recipe, height: int, width: int, color: str, bits: int
) -> None:
    shape = (height, width) if color == "mono" else (height, width, 3)
    result = decode_frame(raw(np.full(shape, 7, np.uint16), color=color, bits=bits), recipe, time.monotonic_ns())
    assert isinstance(result, DecodedFrame) or result.reason is Reason.BAD_GEOMETRY


def test_a_part_is_judged_with_all_that_a_verdict_holds(recipe: Recipe, health: EngineHealth) -> None:
    one = decoded(recipe, raw(bad_part(3)))
    (judged,) = judge([one], health)
    assert isinstance(judged.result, Judgement)
    verdict = judged_verdict(judged, judged.result)
    assert verdict.verdict is Outcome.FAIL
    assert (verdict.part, verdict.trigger, verdict.recipe) == ("p7", 9, "caps")
    assert verdict.bank == recipe.bank.version
    assert (verdict.review_threshold, verdict.fail_threshold) == (recipe.review, recipe.fail)
    assert verdict.score is not None
    assert verdict.score > recipe.fail
    assert verdict.p_value == pytest.approx(1 / 25)
    (region,) = verdict.regions
    assert region.x < 24 < region.x + region.width
    assert min(verdict.stages.wait, verdict.stages.decode, verdict.stages.embed) >= 0


class FailingExtractor(SleepingExtractor):
    """Raises on batches that hold a white picture, or gives no number for a black one."""

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if any(image.min() == 255 for image in images):
            raise RuntimeError("device lost")
        patches = super().embed(images)
        for vectors, image in zip(patches, images, strict=True):
            if image.max() == 0:
                vectors[:] = np.nan
        return patches


@pytest.fixture(scope="module")
def failing(recipe: Recipe) -> Recipe:
    return replace(recipe, inspector=Inspector(FailingExtractor(), recipe.bank))


def results(frames: Sequence[DecodedFrame], health: EngineHealth) -> list[Outcome | Reason]:
    return [
        one.result.recipe.outcome(one.result.inspection.score)
        if isinstance(one.result, Judgement)
        else one.result.reason
        for one in judge(frames, health)
    ]


def test_one_frame_that_breaks_the_engine_never_fails_its_batch(failing: Recipe, health: EngineHealth) -> None:
    white = np.full((64, 64), 255, dtype=np.uint8)
    frames = [decoded(failing, raw(part)) for part in (good_part(1), white, bad_part(2))]
    assert results(frames, health) == [Outcome.PASS, Reason.ENGINE_ERROR, Outcome.FAIL]
    assert count(health, "engine_errors_total") == 2


def test_a_score_that_is_no_number_is_an_engine_error(failing: Recipe, health: EngineHealth) -> None:
    black = np.zeros((64, 64), dtype=np.uint8)
    frames = [decoded(failing, raw(part)) for part in (black, good_part(1))]
    assert results(frames, health) == [Reason.ENGINE_ERROR, Outcome.PASS]
    assert count(health, "engine_not_finite_total") == 1


def test_more_frames_than_the_largest_batch_are_judged_in_turns(recipe: Recipe, health: EngineHealth) -> None:
    frames = [decoded(recipe, raw(good_part(seed))) for seed in range(19)]
    judged = judge(frames, health)
    assert [one.frame for one in judged] == frames
