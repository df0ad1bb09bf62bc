import pytest

from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.benchmark import noise_bank, time_inspection
from patchcore_engine.images import Geometry
from patchcore_engine.inspector import Inspector


def test_every_compiled_batch_size_is_timed_step_by_step() -> None:
    extractor = SleepingExtractor(batch_sizes=(1, 4), seconds_per_batch=0.02)
    bank = noise_bank(extractor, Geometry(resize=64, image_size=64), vectors=100, progress=None)
    one, four = time_inspection(Inspector(extractor, bank), repeats=2)
    assert (one.batch, four.batch) == (1, 4)
    assert one.embed >= 20
    assert four.embed >= 5
    for timing in (one, four):
        steps = timing.embed + timing.search + timing.score
        assert timing.total == pytest.approx(timing.prepare + steps)
        assert timing.pictures_per_second == pytest.approx(1e3 / steps)


@pytest.mark.parametrize("vectors", [16, 100, 3000])
def test_the_made_up_bank_has_the_size_that_was_asked_for(vectors: int) -> None:
    bank = noise_bank(SleepingExtractor(), Geometry(resize=64, image_size=64), vectors=vectors, progress=None)
    assert len(bank.index) == vectors
