"""Another engine may serve a bank only where it judges the bank's parity pictures as the reference did."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from patchcore_engine import bank_store
from patchcore_engine.backbones.extractor import FeatureExtractor, ParityBounds, SubstituteExtractor
from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.bank import MANIFEST, PARITY, MemoryBank
from patchcore_engine.errors import BankDamagedError, ParityError
from patchcore_engine.fit import fit
from patchcore_engine.inspector import Inspector
from patchcore_engine.manifest import Manifest
from patchcore_engine.parity import check_parity, deviation
from patchcore_engine.parity_set import ParitySet
from tests.engine import parts


class OtherEngine(SleepingExtractor):
    """The same network by an engine whose answers come out larger by `gain`."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self._gain = gain

    @property
    def engine(self) -> str:
        return "other 1.0"

    @property
    def parity_bounds(self) -> ParityBounds:
        return ParityBounds(distance=1e-3, score=1e-3)

    @property
    def remedy(self) -> str:
        return "Ask for another."

    def reference(self) -> FeatureExtractor:
        return SleepingExtractor()

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(super().embed(images) * self._gain, dtype=np.float32)


@pytest.fixture(scope="module")
def good_parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return parts.write_good_parts(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def bank(good_parts: list[Path]) -> MemoryBank:
    return fit(good_parts, parts.extractor(), parts.settings()).bank


def test_a_bank_keeps_good_parts_and_the_same_with_a_defect(bank: MemoryBank) -> None:
    assert bank.parity is not None
    good, defective = np.split(bank.parity.pixels, 2)
    assert good.shape == (2, 64, 64, 3)
    differs = (good != defective).any(axis=(0, 3))
    assert differs[24:40, 24:40].mean() > 0.9
    assert not differs[:24].any()


def test_parity_pictures_come_back_from_disk_as_they_were(bank: MemoryBank, tmp_path: Path) -> None:
    loaded = MemoryBank.load(bank_store.save(bank, tmp_path, "part"))
    assert loaded.parity is not None
    assert bank.parity is not None
    np.testing.assert_array_equal(loaded.parity.pixels, bank.parity.pixels)
    np.testing.assert_array_equal(loaded.parity.distances, bank.parity.distances)
    np.testing.assert_array_equal(loaded.parity.scores, bank.parity.scores)


def test_an_engine_that_agrees_may_serve(bank: MemoryBank) -> None:
    engine = OtherEngine()
    assert isinstance(engine, SubstituteExtractor)
    Inspector(engine, bank).check_parity()
    found = deviation(engine, bank)
    assert (found.distance, found.score, found.verdicts) == (0, 0, 0)


@pytest.mark.parametrize("gain", [1.01, 0.5, np.nan, np.inf])
def test_an_engine_that_deviates_is_refused_with_what_to_do(gain: float, bank: MemoryBank) -> None:
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(ParityError, match=r"other 1\.0 deviates .* verdicts\. Ask for another\."),
    ):
        Inspector(OtherEngine(gain), bank).check_parity()


def test_the_reference_engine_is_held_to_nothing(bank: MemoryBank) -> None:
    assert not isinstance(parts.extractor(), SubstituteExtractor)
    assert check_parity(parts.extractor(), bank) is None


def test_fit_refuses_an_engine_that_deviates(good_parts: list[Path]) -> None:
    with pytest.raises(ParityError, match="deviates"):
        fit(good_parts, OtherEngine(1.05), parts.settings())


def test_fit_by_another_engine_keeps_the_references_results_and_says_who_embedded(
    good_parts: list[Path], bank: MemoryBank
) -> None:
    other = fit(good_parts, OtherEngine(), parts.settings()).bank
    assert other.manifest.libraries["engine"] == "other 1.0"
    assert other.parity is not None
    assert bank.parity is not None
    np.testing.assert_array_equal(other.parity.scores, bank.parity.scores)


def test_a_bank_without_parity_pictures_is_served_by_the_reference_only(bank: MemoryBank, tmp_path: Path) -> None:
    plain = MemoryBank(
        bank.manifest,
        bank.index,
        neighbours=bank.neighbours,
        owners=bank.owners,
        calibration_scores=bank.calibration_scores,
        preview=bank.preview,
    )
    loaded = MemoryBank.load(bank_store.save(plain, tmp_path, "part"))
    assert loaded.parity is None
    Inspector(parts.extractor(), loaded).check_parity()
    with pytest.raises(ParityError, match="fit it anew"):
        Inspector(OtherEngine(), loaded).check_parity()


def test_a_changed_or_missing_parity_file_is_refused(bank: MemoryBank, tmp_path: Path) -> None:
    file = bank_store.save(bank, tmp_path, "part") / PARITY
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(BankDamagedError, match="parity"):
        MemoryBank.load(file.parent)
    file.unlink()
    with pytest.raises(BankDamagedError, match=r"parity\.npz is missing"):
        MemoryBank.load(file.parent)


def test_a_parity_file_that_the_manifest_doesnt_name_is_refused(bank: MemoryBank) -> None:
    files = bank.files()
    manifest = Manifest.parse(files[MANIFEST])
    named = {name: digest for name, digest in manifest.files.items() if name != PARITY}
    files[MANIFEST] = manifest.model_copy(update={"files": named}).sealed().to_json()
    with pytest.raises(BankDamagedError, match=r"parity\.npz isn't named in the manifest"):
        MemoryBank.from_files(files, "v")
    del files[PARITY]
    assert MemoryBank.from_files(files, "v").parity is None


@pytest.mark.parametrize(
    "change",
    [
        {"scores": np.zeros(0)},
        {"scores": np.zeros(4, np.float32)},
        {"distances": np.zeros((4, 3), np.float32)},
        {"pixels": np.zeros((4, 32, 32, 3), np.uint8)},
        {"pixels": np.zeros((4, 64, 64), np.uint8)},
        {"pixels": np.zeros((1, 64, 64, 3), np.uint8)},
    ],
)
def test_a_parity_set_of_another_shape_is_refused(change: dict[str, NDArray[np.generic]], bank: MemoryBank) -> None:
    values = {"pixels": bank.parity.pixels, "distances": bank.parity.distances, "scores": bank.parity.scores}  # type: ignore[union-attr]
    data = ParitySet(**(values | change)).to_bytes()
    patches = bank.manifest.grid[0] * bank.manifest.grid[1]
    with pytest.raises(BankDamagedError):
        ParitySet.from_bytes(data, image_size=64, patches=patches)


@pytest.mark.parametrize("data", [b"", b"not a file", b"PK\x03\x04"])
def test_a_parity_file_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(BankDamagedError, match="can't be read"):
        ParitySet.from_bytes(data, image_size=64, patches=64)
