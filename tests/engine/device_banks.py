"""What the tests of the search on the device share."""

import numpy as np
import pytest

from patchcore_engine.backbones.device_search import DeviceSearchExtractor
from patchcore_engine.bank import MemoryBank
from patchcore_engine.images import PreparedImage
from patchcore_engine.index import NearestNeighbours
from tests.engine import parts

PATCHES = 64


def changed(bank: MemoryBank, *, vectors: int | None = None, **manifest: object) -> MemoryBank:
    """The same bank with its first vectors only, or with other settings."""
    count = vectors or len(bank.index)
    return MemoryBank(
        bank.manifest.model_copy(update={"vectors": count, **manifest}),
        NearestNeighbours(bank.index.vectors[:count].copy()),
        neighbours=np.minimum(bank.neighbours[:count, :count], count - 1),
        owners=bank.owners[:count],
        calibration_scores=bank.calibration_scores,
        parity=bank.parity,
    )


def prepared(count: int) -> list[PreparedImage]:
    return [parts.GEOMETRY.prepare(parts.draw_part(np.random.default_rng(n), blot=n % 3 == 0)) for n in range(count)]


def assert_same_findings(device: DeviceSearchExtractor, bank: MemoryBank, pictures: int = 4) -> None:
    """The host's distances, and its positions but where two vectors are as near."""
    pixels = np.stack([image.pixels for image in prepared(pictures)])
    patches = device.embed(pixels)
    host, found = bank.search(patches), device.embed_for_search(pixels).search(bank, range(pictures))
    assert found.distances.shape == found.nearest.shape == (pictures, PATCHES)
    largest = float(host.distances.max())
    np.testing.assert_allclose(found.distances, host.distances, rtol=1e-5, atol=1e-5 * largest)
    named = np.linalg.norm(patches - bank.index.vectors[found.nearest], axis=2)
    np.testing.assert_allclose(named, found.distances, rtol=1e-5, atol=1e-5 * largest)
    for ours, theirs in zip(
        zip(found.distances, found.around, strict=True), zip(host.distances, host.around, strict=True), strict=True
    ):
        # A small bank's neighbours outweigh each other: what is left of the score is small beside the distance.
        expected = bank.image_score(*theirs)
        assert bank.image_score(*ours) == pytest.approx(expected, rel=1e-4, abs=1e-5 * largest)
