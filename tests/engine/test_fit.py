import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchcore_engine.bank import MANIFEST, MemoryBank
from patchcore_engine.errors import (
    CalibrationError,
    DataError,
    GeometryError,
    MemoryLimitError,
    UndecodableImageError,
)
from patchcore_engine.fit import FitResult, fit
from patchcore_engine.images import Geometry, decode, read
from patchcore_engine.inspector import Inspector
from patchcore_engine.manifest import Manifest
from patchcore_engine.merged_coreset import CoresetPlan
from tests.engine import parts


def digest(result: FitResult) -> str:
    return Manifest.parse(result.bank.files()[MANIFEST]).content_digest()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return parts.write_good_parts(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def fitted(good: list[Path]) -> FitResult:
    return fit(good, parts.extractor(), parts.settings())


def test_a_fitted_bank_passes_good_parts_and_fails_a_blot(fitted: FitResult) -> None:
    rng = np.random.default_rng(99)
    inspector = Inspector(parts.extractor(), fitted.bank)
    images = [parts.draw_part(rng) for _ in range(20)] + [parts.draw_part(rng, blot=True)]
    results = inspector.inspect(images)
    assert sum(result is not None and result.outcome == "pass" for result in results[:20]) >= 18
    blotted = results[20]
    assert blotted is not None
    assert blotted.outcome == "fail"
    assert blotted.p_value == pytest.approx(1 / 31)
    worst = blotted.regions[0]
    assert worst.x <= 40 <= 60 <= worst.x + worst.width
    assert 40 < worst.centroid[0] < 60
    assert 30 < worst.centroid[1] < 44


def test_the_same_pictures_and_seed_give_the_same_digest(good: list[Path], fitted: FitResult) -> None:
    assert digest(fit(good, parts.extractor(), parts.settings())) == digest(fitted)


@pytest.mark.parametrize("change", [{"seed": 1}, {"coreset_ratio": 0.2}, {"fail_rate": 0.002}, {"reweight": False}])
def test_every_setting_that_decides_a_verdict_changes_the_digest(
    good: list[Path], fitted: FitResult, change: dict[str, object]
) -> None:
    assert digest(fit(good, parts.extractor(), parts.settings(**change))) != digest(fitted)


def test_other_pictures_change_the_data_digest(good: list[Path], fitted: FitResult) -> None:
    other = fit(good[1:], parts.extractor(), parts.settings())
    assert other.bank.manifest.data_digest != fitted.bank.manifest.data_digest


def test_patch_vectors_beyond_the_limit_spill_and_give_the_same_bank(
    good: list[Path], fitted: FitResult, tmp_path: Path
) -> None:
    limit = 30 * 64 * 4 * (8 + 4) + 2 * 4 * 8 * 192 + 1000
    spilled = fit(good, parts.extractor(), parts.settings(memory_limit=limit, spill_folder=tmp_path))
    assert spilled.spilled
    assert not fitted.spilled
    assert digest(spilled) == digest(fitted)
    assert list(tmp_path.iterdir()) == []


# 30 pictures of 64 patches in chunks of 5.
CHUNKS = CoresetPlan(one_pass=1000, chunk=320, multiple=2)


def test_more_patches_than_one_pass_takes_are_merged_and_the_manifest_says_so(
    good: list[Path], fitted: FitResult
) -> None:
    merged = fit(good, parts.extractor(), parts.settings(coreset_plan=CHUNKS)).bank
    assert fitted.bank.manifest.coreset_merge is None
    assert merged.manifest.coreset_merge is not None
    assert merged.manifest.coreset_merge.model_dump() == {"chunk_pictures": 5, "multiple": 2, "candidates": 6 * 64}
    assert len(merged.index) == len(fitted.bank.index)
    assert set(merged.owners) > set(range(10))
    loaded = MemoryBank.from_files(merged.files(), "v")
    assert loaded.manifest.coreset_merge == merged.manifest.coreset_merge


def test_a_merged_bank_judges_nearly_as_one_of_one_pass(good: list[Path], fitted: FitResult) -> None:
    merged = fit(good, parts.extractor(), parts.settings(coreset_plan=CHUNKS)).bank
    images = [parts.draw_part(np.random.default_rng(seed), blot=seed % 2 == 0) for seed in range(100, 120)]
    one_pass_results, results = (Inspector(parts.extractor(), bank).inspect(images) for bank in (fitted.bank, merged))
    for seed, (left, right) in enumerate(zip(one_pass_results, results, strict=True), 100):
        assert left is not None
        assert right is not None
        assert (left.outcome == "fail") == (right.outcome == "fail") == (seed % 2 == 0)
    review, of_merged = (bank.manifest.thresholds.review.value for bank in (fitted.bank, merged))
    assert of_merged == pytest.approx(review, rel=0.25)


def test_owners_of_a_merged_bank_name_the_pictures_its_vectors_came_from(good: list[Path]) -> None:
    bank = fit(good, parts.extractor(), parts.settings(coreset_plan=CHUNKS)).bank
    patches = parts.extractor(batch_sizes=(30,)).embed(
        np.stack([parts.GEOMETRY.prepare(read(path)).pixels for path in good])
    )
    for vector, owner in zip(bank.index.vectors, bank.owners, strict=True):
        assert (patches[owner] == vector).all(axis=1).any()


@pytest.mark.parametrize("batch_sizes", [(1,), (4,), (30,)])
def test_neither_batches_nor_memory_decide_a_merged_bank(
    good: list[Path], tmp_path: Path, batch_sizes: tuple[int, ...]
) -> None:
    plan = {"coreset_plan": CHUNKS, "calibration_pictures": 12}
    usual = fit(good, parts.extractor(), parts.settings(**plan))
    settings = parts.settings(**plan, memory_limit=70_000, spill_folder=tmp_path)
    other = fit(good, parts.extractor(batch_sizes=batch_sizes), settings)
    assert (usual.spilled, other.spilled) == (False, True)
    assert digest(other) == digest(usual)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("plan", [CoresetPlan(), CHUNKS])
def test_beyond_a_number_of_pictures_an_even_share_calibrates(good: list[Path], plan: CoresetPlan) -> None:
    result = fit(good, parts.extractor(), parts.settings(calibration_pictures=12, coreset_plan=plan))
    manifest = result.bank.manifest
    assert (manifest.pictures, manifest.calibrated, manifest.calibration_pictures) == (30, 12, 12)
    assert len(result.picture_scores) == len(result.calibrated) == len(result.bank.calibration_scores) == 12
    assert set(result.calibrated) < set(result.pictures)
    loaded = MemoryBank.from_files(result.bank.files(), "v")
    assert loaded.p_value(1e9) == pytest.approx(1 / 13)


def test_a_share_that_calibrates_has_the_scores_it_has_among_all(good: list[Path], fitted: FitResult) -> None:
    result = fit(good, parts.extractor(), parts.settings(calibration_pictures=12))
    every = dict(zip(fitted.calibrated, fitted.picture_scores, strict=True))
    expected = [every[path] for path in result.calibrated]
    np.testing.assert_allclose(result.picture_scores, expected, rtol=1e-5)


def test_all_pictures_of_a_small_fit_calibrate_and_its_manifest_says_nothing_of_shares(fitted: FitResult) -> None:
    manifest = json.loads(fitted.bank.files()[MANIFEST])
    assert not {"calibrated", "coreset_merge"} & set(manifest)
    assert fitted.bank.manifest.calibration_pictures == 30


def test_unreadable_pictures_are_skipped_by_a_merged_fit(good: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    plan = parts.settings(skip_unreadable=True, coreset_plan=CHUNKS)
    merged = fit(good, parts.extractor(), plan).bank
    with_broken = fit([*good[:7], broken, *good[7:]], parts.extractor(), plan).bank
    assert with_broken.manifest.pictures == 30
    np.testing.assert_array_equal(with_broken.index.vectors, merged.index.vectors)


FIT_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from patchcore_engine.errors import MemoryLimitError
from patchcore_engine.fit import fit
from patchcore_engine.images import list_pictures
from patchcore_engine.merged_coreset import CoresetPlan
from tests.engine import parts

# The disk takes no more than this of one file, as a full one would.
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
plan = CoresetPlan(one_pass=int(sys.argv[3]), chunk=320)
try:
    fit(list_pictures(Path(sys.argv[1])), parts.extractor(),
        parts.settings(memory_limit=110_000, spill_folder=Path(sys.argv[2]), coreset_plan=plan))
except MemoryLimitError as error:
    print(error)
"""


@pytest.mark.parametrize("one_pass", [1000, 10_000])
def test_a_disk_that_fills_up_during_a_fit_is_told_in_a_line(good: list[Path], tmp_path: Path, one_pass: int) -> None:
    command = [sys.executable, "-c", FIT_ON_A_FULL_DISK, str(good[0].parent), str(tmp_path), str(one_pass)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith(f"The patch vectors don't fit into memory, nor can they spill to {tmp_path}: ")
    assert list(tmp_path.iterdir()) == []


def test_a_limit_too_small_for_any_fit_says_what_to_change(good: list[Path]) -> None:
    with pytest.raises(MemoryLimitError, match="--memory-limit"):
        fit(good, parts.extractor(), parts.settings(memory_limit=1000))


def test_a_single_good_picture_says_how_many_are_needed(good: list[Path]) -> None:
    with pytest.raises(CalibrationError, match=r"1 good picture.*at least 10"):
        fit(good[:1], parts.extractor(), parts.settings())


@pytest.mark.parametrize("score_mode", ["paper", "modelzoo"])
def test_a_coreset_of_one_picture_only_says_to_keep_more(score_mode: str, good: list[Path]) -> None:
    with pytest.raises(CalibrationError, match="raise the coreset ratio"):
        fit(good, parts.extractor(), parts.settings(coreset_ratio=1e-6, score_mode=score_mode))


def test_an_unreadable_picture_is_named(good: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(good[0].read_bytes()[:50])
    with pytest.raises(UndecodableImageError, match=r"broken\.png"):
        fit([*good, broken], parts.extractor(), parts.settings())


def test_unreadable_pictures_can_be_skipped_and_are_counted(
    good: list[Path], fitted: FitResult, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    result = fit([broken, *good], parts.extractor(), parts.settings(skip_unreadable=True))
    assert result.skipped == [broken]
    assert result.bank.manifest.skipped == ("broken.png",)
    assert result.bank.manifest.pictures == len(good)
    assert result.bank.manifest.thresholds == fitted.bank.manifest.thresholds


def test_a_picture_too_narrow_is_named_or_skipped_as_an_unreadable_one(
    good: list[Path], fitted: FitResult, tmp_path: Path
) -> None:
    sliver = tmp_path / "sliver.png"
    cv2.imwrite(str(sliver), np.zeros((1, 20_000), np.uint8))
    with pytest.raises(DataError, match=r"sliver\.png: .*20000 x 1 pixels is too narrow"):
        fit([*good, sliver], parts.extractor(), parts.settings())
    result = fit([*good, sliver], parts.extractor(), parts.settings(skip_unreadable=True))
    assert result.skipped == [sliver]
    assert result.bank.manifest.thresholds == fitted.bank.manifest.thresholds


def test_too_few_readable_pictures_are_too_few(good: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(CalibrationError, match="9 good"):
        fit([*good[:9], broken], parts.extractor(), parts.settings(skip_unreadable=True))


def test_a_geometry_the_backbone_is_not_compiled_for_is_refused(good: list[Path]) -> None:
    with pytest.raises(GeometryError, match="64 pixels, not 96"):
        fit(good, parts.extractor(), parts.settings(geometry=Geometry(resize=96, image_size=96)))


@pytest.mark.parametrize(
    "change",
    [
        {"coreset_ratio": 0.0},
        {"coreset_ratio": 1.5},
        {"fail_rate": 0.5},
        {"calibration_pictures": 9},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(GeometryError, match="out of range"):
        parts.settings(**change)


def test_the_largest_seed_serves_a_bank_whose_patches_are_projected(good: list[Path]) -> None:
    seed = 2**32 - 1
    assert fit(good, parts.extractor(dimension=200), parts.settings(seed=seed)).bank.manifest.seed == seed


def test_leave_one_out_ignores_a_pictures_own_patches(good: list[Path]) -> None:
    everything = fit(good, parts.extractor(), parts.settings(coreset_ratio=1.0, reweight=False))
    patches = (
        parts.extractor()
        .embed(np.stack([parts.GEOMETRY.prepare(image).pixels for image in (read(path) for path in good)]))
        .astype(np.float64)
    )
    for picture in (0, 13, 29):
        others = np.delete(patches, picture, axis=0).reshape(-1, patches.shape[2])
        distances = np.sqrt(((patches[picture][:, None] - others[None]) ** 2).sum(axis=2)).min(axis=1)
        assert everything.picture_scores[picture] == pytest.approx(distances.max(), rel=1e-4, abs=1e-3)


def test_modelzoo_mode_scores_by_squared_distances(good: list[Path], fitted: FitResult) -> None:
    modelzoo = fit(good, parts.extractor(), parts.settings(score_mode="modelzoo")).bank
    image = parts.draw_part(np.random.default_rng(99))
    (paper_result,) = Inspector(parts.extractor(), fitted.bank).inspect([image])
    (result,) = Inspector(parts.extractor(), modelzoo).inspect([image])
    assert paper_result is not None
    assert result is not None
    patches = parts.extractor().embed(parts.GEOMETRY.prepare(image).pixels[None])[0].astype(np.float64)
    squared = np.sort(((patches[:, None] - modelzoo.index.vectors[None]) ** 2).sum(axis=2), axis=1)
    worst = squared[np.argmax(squared[:, 0]), :9]
    weight = 1 - np.exp(worst - worst.max()).max() / np.exp(worst - worst.max()).sum()
    assert result.score == pytest.approx(weight * worst[0], rel=1e-3, abs=1e-3)
    assert result.anomaly_map.max() > paper_result.anomaly_map.max() ** 2


def test_a_bank_searched_by_bounds_judges_as_a_flat_one_also_after_a_round_trip(good: list[Path]) -> None:
    wide = parts.extractor(dimension=128)
    images = [parts.draw_part(np.random.default_rng(seed), blot=seed % 2 == 0) for seed in range(6)]
    flat = fit(good, wide, parts.settings(index="flat")).bank
    bounded = MemoryBank.from_files(fit(good, wide, parts.settings(index="pca")).bank.files(), "v")
    assert (flat.manifest.index, bounded.manifest.index) == ("flat", "pca")
    assert bounded.index.projection is not None
    assert bounded.manifest.index_projected == bounded.index.projection.basis.shape[1]
    for left, right in zip(
        Inspector(wide, flat).inspect(images), Inspector(wide, bounded).inspect(images), strict=True
    ):
        assert left is not None
        assert right is not None
        assert left.score == pytest.approx(right.score, rel=1e-6)
        assert left.outcome == right.outcome


def test_the_preview_shows_the_first_part_beside_its_heat_map(fitted: FitResult) -> None:
    assert decode(fitted.bank.preview).shape == (64, 128, 3)


KILLED_FIT = """
import sys
from pathlib import Path
from patchcore_engine.fit import fit
from patchcore_engine.images import list_pictures
from tests.engine import parts

class Loud:
    def stage(self, name, total, unit):
        print(name, flush=True)
        from contextlib import nullcontext
        return nullcontext(lambda count: None)

fit(list_pictures(Path(sys.argv[1])), parts.extractor(seconds_per_batch=0.2),
    parts.settings(memory_limit=200_000, spill_folder=Path(sys.argv[2])), Loud())
"""


def test_a_killed_fit_leaves_nothing_behind(good: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_FIT, str(good[0].parent), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "embedding\n"
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def test_a_loaded_bank_judges_as_the_fitted_one(fitted: FitResult) -> None:
    loaded = MemoryBank.from_files(fitted.bank.files(), "v")
    images = [parts.draw_part(np.random.default_rng(4), blot=True)]
    (before,) = Inspector(parts.extractor(), fitted.bank).inspect(images)
    (after,) = Inspector(parts.extractor(), loaded).inspect(images)
    assert before is not None
    assert after is not None
    assert (before.score, before.regions) == (after.score, after.regions)
