import threading
from concurrent.futures import Future

import numpy as np

from daemon.inspection import DecodedFrame
from daemon.prefetch import Job, Prefetch
from daemon.recipes import Recipe
from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.benchmark import noise_bank
from patchcore_engine.images import Geometry
from patchcore_engine.inspector import Inspector
from tests.daemon.tickets import ticket


def decoded(count: int) -> list[DecodedFrame]:
    geometry, extractor = Geometry(resize=64, image_size=64), SleepingExtractor()
    inspector = Inspector(extractor, noise_bank(extractor, geometry, vectors=16, progress=None))
    recipe = Recipe(name="caps", inspector=inspector, review=1.0, fail=2.0, max_age_ms=None)
    image = geometry.prepare(np.zeros((64, 64), np.uint8))
    return [
        DecodedFrame(ticket=ticket(seq), recipe=recipe, image=image, taken_ns=0, decode_ns=0) for seq in range(count)
    ]


def test_frames_decoded_while_the_engine_works_join_one_batch() -> None:
    prefetch, frames = Prefetch(4), decoded(4)
    prefetch.add(frames[:1])
    assert prefetch.wait_for_room() == 3
    prefetch.add(frames[1:])
    assert prefetch.take() == frames
    assert prefetch.wait_for_room() == 4


def test_a_full_batch_takes_no_more_until_the_engine_has_taken_it() -> None:
    prefetch, frames = Prefetch(2), decoded(2)
    prefetch.add(frames)
    room: Future[int] = Future()
    threading.Thread(target=lambda: room.set_result(prefetch.wait_for_room()), daemon=True).start()
    assert not room.done()
    assert prefetch.take() == frames
    assert room.result(10) == 2


def test_a_job_goes_before_the_batch_that_waits_and_the_end_comes_last() -> None:
    prefetch, frames = Prefetch(2), decoded(1)
    job = Job(lambda: None, Future())
    prefetch.add(frames)
    prefetch.add_job(job)
    prefetch.close()
    assert [prefetch.take(), prefetch.take(), prefetch.take()] == [job, frames, None]


def test_a_job_after_the_batch_comes_right_after_it_however_many_frames_follow() -> None:
    prefetch, frames = Prefetch(4), decoded(3)
    job = Job(lambda: None, Future())
    prefetch.add(frames[:1])
    prefetch.add_job(job, after_batch=True)
    prefetch.add(frames[1:2])
    assert prefetch.take() == frames[:2]
    prefetch.add(frames[2:])
    assert [prefetch.take(), prefetch.take()] == [job, frames[2:]]


def test_a_job_after_the_batch_needs_no_batch() -> None:
    prefetch = Prefetch(4)
    job = Job(lambda: None, Future())
    prefetch.add_job(job, after_batch=True)
    assert prefetch.take() == job
