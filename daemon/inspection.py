"""From waiting frames to judgements: decode each, inspect all in one batch; one bad frame never fails its batch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeVar

import numpy as np
import structlog

from daemon.engine_health import EngineHealth
from daemon.log_limit import LogLimit
from daemon.messages import FrameHeader, Region, Stages, Verdict
from daemon.outcomes import Reason
from daemon.recipes import Recipe
from daemon.scheduler import Ticket
from patchcore_engine.device_memory import is_out_of_memory
from patchcore_engine.errors import GeometryError, ImageTooLargeError, UndecodableImageError
from patchcore_engine.images import PreparedImage, decode, to_uint8_rgb
from patchcore_engine.inspector import Inspection, inspect_batch
from patchcore_engine.picture_header import JPEG_SIGNATURE
from patchcore_engine.png_file import PNG_SIGNATURE

Result = TypeVar("Result")

log = structlog.get_logger()

_decode_log: Final = LogLimit()

_SIGNATURES: Final = {"jpeg": JPEG_SIGNATURE, "png": PNG_SIGNATURE}
_RAW_DTYPES: Final[dict[str, np.dtype[np.uint8] | np.dtype[np.uint16]]] = {
    "u1": np.dtype(np.uint8),
    "u2": np.dtype(np.uint16).newbyteorder("<"),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a frame can't be judged."""

    reason: Reason
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedFrame:
    """A frame ready for the engine. `recipe` stays with it, whatever a reload does meanwhile."""

    ticket: Ticket
    recipe: Recipe
    image: PreparedImage
    taken_ns: int
    decode_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What the engine found, with what a heat map and the archive need."""

    inspection: Inspection
    recipe: Recipe
    image: PreparedImage

    @property
    def nbytes(self) -> int:
        return self.inspection.anomaly_map.nbytes + self.image.pixels.nbytes


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedFrame:
    """One frame of a batch after the engine, with its stages in nanoseconds."""

    frame: DecodedFrame
    result: Judgement | Refusal
    started_ns: int
    embed_ns: int = 0
    search_ns: int = 0
    score_ns: int = 0


def decode_frame(ticket: Ticket, recipe: Recipe, taken_ns: int) -> DecodedFrame | Refusal:
    """Decode a frame and bring it to its recipe's geometry. `taken_ns`: when it left the queue, monotonic clock."""
    header, payload = ticket.header, ticket.payload
    if header is None or payload is None:
        return Refusal(Reason.MALFORMED, "The frame holds no picture.")
    begin_ns = time.monotonic_ns()
    image = guarded(lambda: _prepare(header, payload, recipe))
    match image:
        case UndecodableImageError():
            return Refusal(Reason.UNDECODABLE, str(image))
        case ImageTooLargeError():
            return Refusal(Reason.TOO_LARGE, str(image))
        case GeometryError():
            return Refusal(Reason.BAD_GEOMETRY, str(image))
        case Exception():
            if (held_back := _decode_log.due()) is not None:
                log.error(
                    "decode_failed",
                    camera=ticket.camera,
                    seq=ticket.seq,
                    held_back=held_back,
                    advice="Look at what the camera sends; report the traceback if it is a picture as it should be.",
                    exc_info=image,
                )
            return Refusal(Reason.ENGINE_ERROR, f"Decoding failed: {type(image).__name__}.")
    decode_ns = time.monotonic_ns() - begin_ns
    return DecodedFrame(ticket=ticket, recipe=recipe, image=image, taken_ns=taken_ns, decode_ns=decode_ns)


def judge(frames: Sequence[DecodedFrame], health: EngineHealth) -> list[JudgedFrame]:
    """Inspect decoded frames, those of one extractor together; `health` bounds the batches and hears of failures."""
    judged = []
    for _extractor, group in groupby(frames, key=lambda frame: id(frame.recipe.inspector.extractor)):
        alike = list(group)
        while alike:
            # Asked anew each time: the batch before may have been too large for the device.
            largest = health.largest_batch(alike[0].recipe.inspector.extractor)
            judged += _judge_alike(alike[:largest], health)
            alike = alike[largest:]
    return judged


def judged_verdict(frame: JudgedFrame, judgement: Judgement) -> Verdict:
    """Return the verdict that a judgement amounts to; its `publish` stage is still open."""
    ticket, recipe, found = frame.frame.ticket, judgement.recipe, judgement.inspection
    header = ticket.header
    decoded_ns = frame.frame.taken_ns + frame.frame.decode_ns
    wait_ns = frame.frame.taken_ns - ticket.received_monotonic_ns + max(frame.started_ns - decoded_ns, 0)
    return Verdict(
        camera=ticket.camera,
        stream=ticket.stream,
        seq=ticket.seq,
        verdict=recipe.outcome(found.score),
        captured_ns=ticket.captured_ns,
        received_ns=ticket.received_ns,
        trigger=header.trigger if header is not None else None,
        part=header.part if header is not None else None,
        recipe=recipe.name,
        bank=recipe.bank.version,
        score=found.score,
        p_value=found.p_value,
        review_threshold=recipe.review,
        fail_threshold=recipe.fail,
        regions=tuple(
            Region(
                x=region.x,
                y=region.y,
                width=region.width,
                height=region.height,
                area=region.area,
                peak=region.peak,
                centroid=region.centroid,
            )
            for region in found.regions
        ),
        stages=Stages(
            wait=wait_ns // 1000,
            decode=frame.frame.decode_ns // 1000,
            embed=frame.embed_ns // 1000,
            search=frame.search_ns // 1000,
            score=frame.score_ns // 1000,
        ),
    )


def run_guarded(job: Callable[[], None]) -> Exception | None:
    """Run a job, such as a load, a trial inspection or a reload; return what it raised."""
    result = guarded(job)
    return result if isinstance(result, Exception) else None


def _judge_alike(frames: Sequence[DecodedFrame], health: EngineHealth) -> list[JudgedFrame]:
    extractor = frames[0].recipe.inspector.extractor
    items = [(frame.image, frame.recipe.bank) for frame in frames]
    started_ns = time.monotonic_ns()
    batch = guarded(lambda: inspect_batch(extractor, items))
    if isinstance(batch, Exception):
        if is_out_of_memory(batch) and health.ran_out_of_memory(extractor, len(frames), batch):
            return judge(frames, health)
        health.failed(batch)
        if len(frames) > 1:
            return [judged for frame in frames for judged in _judge_alike([frame], health)]
        refusal = Refusal(Reason.ENGINE_ERROR, f"The engine failed: {type(batch).__name__}: {batch}"[:500])
        return [JudgedFrame(frame=frames[0], result=refusal, started_ns=started_ns)]
    without_number = batch.inspections.count(None)
    if without_number:
        health.gave_no_number(without_number)
    return [
        JudgedFrame(
            frame=frame,
            result=Judgement(inspection=inspection, recipe=frame.recipe, image=frame.image)
            if inspection is not None
            else Refusal(Reason.ENGINE_ERROR, "The score is no finite number."),
            started_ns=started_ns,
            embed_ns=batch.embed_ns,
            search_ns=batch.search_ns,
            score_ns=batch.score_ns,
        )
        for frame, inspection in zip(frames, batch.inspections, strict=True)
    ]


def _prepare(header: FrameHeader, payload: memoryview, recipe: Recipe) -> PreparedImage:
    if header.encoding == "raw":
        if header.shape is None:
            raise GeometryError("A raw frame needs its shape.")
        pixels = np.frombuffer(payload, dtype=_RAW_DTYPES[header.dtype]).reshape(header.shape)
        image = to_uint8_rgb(pixels, color=header.color, bits=header.significant_bits)
    else:
        if bytes(payload[:8]).startswith(_SIGNATURES[header.encoding]):
            image = decode(payload)
        else:
            raise UndecodableImageError(f"The payload is no {header.encoding.upper()} picture.")
    return recipe.inspector.prepare(image)


def guarded(call: Callable[[], Result]) -> Result | Exception:
    """The edge of the pipeline: whatever the engine raises becomes a value, and the thread lives on."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001  (the one place where it is meant)
        return error
