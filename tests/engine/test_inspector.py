import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from patchcore_engine.backbones.sleeping import SleepingExtractor
from patchcore_engine.bank import MemoryBank
from patchcore_engine.errors import BankMismatchError, DataError
from patchcore_engine.fit import fit
from patchcore_engine.images import encode_png
from patchcore_engine.inspect_files import inspect_files
from patchcore_engine.inspector import Inspector, inspect_batch
from tests.engine import parts


class BrokenSensor(SleepingExtractor):
    """Gives NaN for pictures that are all black, as a device with a fault may."""

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        patches = super().embed(images)
        patches[images.max(axis=(1, 2, 3)) == 0, 3] = np.nan
        return patches


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryBank, MemoryBank]:
    first = parts.write_good_parts(tmp_path_factory.mktemp("a"), seed=1)
    second = parts.write_good_parts(tmp_path_factory.mktemp("b"), seed=2)
    return (
        fit(first, parts.extractor(), parts.settings()).bank,
        fit(second, parts.extractor(), parts.settings(reweight=False)).bank,
    )


def images(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(8)
    return [parts.draw_part(rng, blot=number % 3 == 0) for number in range(count)]


def test_a_batch_of_two_banks_equals_each_picture_alone(banks: tuple[MemoryBank, MemoryBank]) -> None:
    extractor = parts.extractor()
    items = [(parts.GEOMETRY.prepare(image), banks[number % 2]) for number, image in enumerate(images(7))]
    together = inspect_batch(extractor, items).inspections
    for item, result in zip(items, together, strict=True):
        (alone,) = inspect_batch(extractor, [item]).inspections
        assert result is not None
        assert alone is not None
        assert result.score == pytest.approx(alone.score, rel=1e-5)
        assert result.outcome == alone.outcome
        np.testing.assert_allclose(result.anomaly_map, alone.anomaly_map, rtol=1e-4, atol=1e-3)


def test_more_pictures_than_a_batch_holds_keep_their_order(banks: tuple[MemoryBank, MemoryBank]) -> None:
    inspector = Inspector(parts.extractor(batch_sizes=(1, 2)), banks[0])
    results = inspector.inspect(images(5))
    assert [result is not None and result.outcome == "fail" for result in results] == [True, False, False, True, False]


def test_a_score_that_is_no_number_is_no_verdict(banks: tuple[MemoryBank, MemoryBank]) -> None:
    black = np.zeros((80, 100, 3), dtype=np.uint8)
    for bank in banks:
        good, broken = Inspector(BrokenSensor(), bank).inspect([images(2)[1], black])
        assert broken is None
        assert good is not None
        assert np.isfinite(good.anomaly_map).all()


def test_an_extractor_and_a_bank_that_do_not_belong_together_are_refused(
    banks: tuple[MemoryBank, MemoryBank],
) -> None:
    with pytest.raises(BankMismatchError):
        Inspector(parts.extractor(image_size=32), banks[0])


def test_a_mono_picture_equals_its_grey_rgb(banks: tuple[MemoryBank, MemoryBank], tmp_path: Path) -> None:
    mono = images(1)[0][:, :, 0].copy()
    inspector = Inspector(parts.extractor(), banks[0])
    first, second = inspector.inspect([mono, np.repeat(mono[:, :, None], 3, axis=2)])
    assert first is not None
    assert second is not None
    assert first.score == second.score
    assert (first.frame_height, first.frame_width) == (80, 100)


def test_heat_levels_reach_the_threshold_level_where_regions_are(banks: tuple[MemoryBank, MemoryBank]) -> None:
    inspector = Inspector(parts.extractor(), banks[0])
    (result,) = inspector.inspect(images(1))
    assert result is not None
    threshold = banks[0].manifest.thresholds.pixel.value
    levels = inspector.heat_levels(result)
    assert (levels >= 128).sum() == pytest.approx((result.anomaly_map >= threshold).sum(), abs=3)


def test_a_sliver_among_picture_files_is_not_inspected_and_stops_no_other(
    banks: tuple[MemoryBank, MemoryBank], tmp_path: Path
) -> None:
    sliver, part = tmp_path / "a.png", tmp_path / "b.png"
    sliver.write_bytes(encode_png(np.zeros((1, 60_000), np.uint8)))
    part.write_bytes(encode_png(images(1)[0]))
    found = list(inspect_files(Inspector(parts.extractor(), banks[0]), [sliver, part]))
    assert "too narrow" in found[0].error
    assert found[0].inspection is None
    assert found[1].inspection is not None


@pytest.mark.parametrize("way", ["folder", "link to the folder", "folder of what links point to", "other spelling"])
def test_heat_maps_are_not_written_into_a_folder_that_holds_the_pictures(
    banks: tuple[MemoryBank, MemoryBank], tmp_path: Path, way: str
) -> None:
    folder, links = tmp_path / "pictures", tmp_path / "links"
    pictures = parts.write_good_parts(folder, 3)
    before = [picture.read_bytes() for picture in pictures]
    links.mkdir()
    for picture in pictures:
        (links / picture.name).symlink_to(picture)
    (tmp_path / "again").symlink_to(folder)
    paths, output = {
        "folder": (pictures, folder),
        "link to the folder": (pictures, tmp_path / "again"),
        "folder of what links point to": ([links / picture.name for picture in pictures], folder),
        "other spelling": (pictures, links / ".." / "pictures"),
    }[way]
    with pytest.raises(DataError, match="holds pictures to inspect: name another folder"):
        list(inspect_files(Inspector(parts.extractor(), banks[0]), paths, output))
    assert [picture.read_bytes() for picture in pictures] == before
    assert sorted(folder.iterdir()) == pictures


def test_a_heat_map_takes_a_links_place_and_leaves_what_it_points_to(
    banks: tuple[MemoryBank, MemoryBank], tmp_path: Path
) -> None:
    pictures, output = parts.write_good_parts(tmp_path / "pictures", 3), tmp_path / "heat"
    before = [picture.read_bytes() for picture in pictures]
    output.mkdir()
    (output / "000.png").symlink_to(pictures[0])
    os.link(pictures[1], output / "001.png")
    (output / "002.png").write_bytes(b"an older heat map")
    found = list(inspect_files(Inspector(parts.extractor(), banks[0]), pictures, output))
    assert [file.overlay for file in found] == sorted(output.iterdir())
    assert all((output / name).read_bytes().startswith(b"\x89PNG") for name in ("000.png", "001.png", "002.png"))
    assert [picture.read_bytes() for picture in pictures] == before


def test_a_heat_map_that_cannot_be_written_is_named_and_nothing_is_left_of_it(
    banks: tuple[MemoryBank, MemoryBank], tmp_path: Path
) -> None:
    pictures, output = parts.write_good_parts(tmp_path / "pictures", 1), tmp_path / "heat"
    (output / "000.png").mkdir(parents=True)
    with pytest.raises(DataError, match=r"heat/000\.png can't be written: Is a directory"):
        list(inspect_files(Inspector(parts.extractor(), banks[0]), pictures, output))
    assert [path.name for path in output.iterdir()] == ["000.png"]
