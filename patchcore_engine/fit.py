"""Build a memory bank from pictures of good parts, and calibrate it."""

import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from numpy.typing import NDArray

from patchcore_engine import images
from patchcore_engine.backbones.extractor import FeatureExtractor, SubstituteExtractor
from patchcore_engine.bank import MemoryBank
from patchcore_engine.calibration import MINIMUM_PICTURES, Threshold, calibration_sample, threshold_at
from patchcore_engine.errors import CalibrationError, DataError, GeometryError
from patchcore_engine.images import Geometry
from patchcore_engine.index import NearestNeighbours
from patchcore_engine.index_choice import ChosenIndex, IndexChoice, choose_index
from patchcore_engine.leave_one_out import GoodScore, LeaveOneOut, neighbours_left
from patchcore_engine.manifest import FORMAT_VERSION, Manifest, ThresholdEntry, Thresholds
from patchcore_engine.merged_coreset import CoresetPlan
from patchcore_engine.parity import check_parity, with_parity_set
from patchcore_engine.patch_gathering import BankVectors, PatchGathering, Wanted, open_gathering
from patchcore_engine.patch_store import MemoryLimit
from patchcore_engine.path_text import path_text
from patchcore_engine.picture_reader import PictureReader
from patchcore_engine.progress import Advance, NoProgress, Progress
from patchcore_engine.scoring import ScoreMode, anomaly_maps, map_distances, overlay
from patchcore_engine.several_nearest import neighbours_of_each

# The random projection takes no larger one.
_LARGEST_SEED: Final = 2**32 - 1
_LIBRARIES: Final = ("mindspore", "numpy", "faiss-cpu", "opencv-python-headless", "scikit-learn", "scipy")
_SAMPLE_PICTURES: Final = 4
_SCORED_AT_ONCE: Final = 8
# Patches go to disk beyond this, if it has room: a fit is to stay within 3 GB, MindSpore's own included.
_COMFORTABLE_BYTES: Final = 1_500_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """How to make a bank. Rates are shares of good parts.

    `memory_limit`: bytes that patches may take before they are stored in `spill_folder` (None: the system's temporary
    folder). None: 1.5 GB, and up to half of the free memory where neither that nor the disk has room.
    `calibration_pictures`: as many are scored for the thresholds where there are more.
    """

    recipe: str
    geometry: Geometry
    coreset_ratio: float = 0.01
    index: IndexChoice = "auto"
    score_mode: ScoreMode = "paper"
    reweight: bool = True
    n_neighbors: int = 9
    review_rate: float = 0.01
    fail_rate: float = 0.001
    seed: int = 0
    calibration_pictures: int = 1000
    coreset_plan: CoresetPlan = field(default_factory=CoresetPlan)
    memory_limit: int | None = None
    spill_folder: Path | None = None
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.coreset_ratio <= 1:
            raise GeometryError(f"The coreset ratio {self.coreset_ratio} is out of range: above 0, at most 1.")
        if not 0 < self.fail_rate <= self.review_rate < 1:
            raise GeometryError(
                f"Rates out of range: 0 < fail rate ({self.fail_rate}) <= review rate ({self.review_rate}) < 1."
            )
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise GeometryError(f"The seed {self.seed} is out of range: 0 to {_LARGEST_SEED}.")
        if self.n_neighbors < 1:
            raise GeometryError(f"n_neighbors is {self.n_neighbors}: at least 1 is needed.")
        if self.calibration_pictures < MINIMUM_PICTURES:
            raise GeometryError(
                f"{self.calibration_pictures} calibration picture(s) are out of range: at least {MINIMUM_PICTURES}."
            )


@dataclass(frozen=True, slots=True)
class FitResult:
    """A bank, not yet saved. `picture_scores`: leave-one-out, in the order of `calibrated`, which are of `pictures`."""

    bank: MemoryBank
    pictures: list[Path]
    calibrated: list[Path]
    skipped: list[Path]
    picture_scores: NDArray[np.float64]
    spilled: bool


@dataclass(slots=True)
class _Clock:
    """Seconds by stage, for the manifest and the report."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)


def fit(
    pictures: Sequence[Path], extractor: FeatureExtractor, settings: FitSettings, progress: Progress | None = None
) -> FitResult:
    """Build and calibrate a bank from `pictures` of good parts; the same inputs and seed give the same bank digest.

    With a `SubstituteExtractor` the bank is held to the reference engine before it is returned.
    Raises DataError (the picture is named), CalibrationError (too few), MemoryLimitError and ParityError.
    """
    progress = progress or NoProgress()
    clock = _Clock()
    if len(pictures) < MINIMUM_PICTURES:
        raise _too_few(len(pictures))
    if settings.geometry.image_size != extractor.identity.image_size:
        raise GeometryError(
            f"The backbone is compiled for pictures of {extractor.identity.image_size} pixels, "
            f"not {settings.geometry.image_size}."
        )
    reader = PictureReader(pictures, settings.geometry, skip_unreadable=settings.skip_unreadable)
    with _open_gathering(len(pictures), extractor, settings) as gathering:
        with clock.stage("embed"), progress.stage("embedding", len(pictures), "pictures") as advance:
            _embed_all(reader, extractor, gathering, advance)
        calibrating = gathering.calibrating
        if len(calibrating) < MINIMUM_PICTURES:
            raise _too_few(len(calibrating))
        with clock.stage("coreset"), progress.stage("coreset", gathering.count, "vectors") as advance:
            kept = gathering.select(advance)
        with clock.stage("index"):
            chosen = _choose_index(gathering, kept, settings.index)
        owners = kept.owners
        del kept
        index = chosen.index
        settings = _weighing_that_serves(owners, calibrating, settings)
        with clock.stage("neighbours"), progress.stage("neighbours", len(index), "vectors") as advance:
            neighbours = neighbours_of_each(index.vectors, settings.n_neighbors)
            advance(len(index))
        with clock.stage("calibrate"), progress.stage("calibration", len(calibrating), "pictures") as advance:
            good = _score_good_pictures(gathering, index, owners, extractor.grid, settings, advance)
        manifest = _manifest(extractor, settings, reader, gathering, chosen, good, clock.seconds)
        scores = np.array([entry.score for entry in good])
        calibrated = [reader.used[number] for number in calibrating]
        bank = MemoryBank(
            manifest,
            index,
            neighbours=neighbours,
            owners=owners,
            calibration_scores=np.sort(scores),
            preview=_preview(calibrated[0], gathering.patches_of(calibrating[0]), index, manifest),
        )
        bank = _with_parity_set(bank, extractor, calibrated, scores)
        return FitResult(bank, reader.used, calibrated, reader.skipped, scores, gathering.spilled)


def _with_parity_set(
    bank: MemoryBank, extractor: FeatureExtractor, calibrated: Sequence[Path], scores: NDArray[np.float64]
) -> MemoryBank:
    """Add the good parts that look most and least usual to the bank, and hold `extractor` to them."""
    chosen = sorted({int(scores.argmin()), int(scores.argmax())})
    good = [bank.manifest.geometry.prepare(images.read(calibrated[number])).pixels for number in chosen]
    reference = extractor.reference() if isinstance(extractor, SubstituteExtractor) else extractor
    bank = with_parity_set(bank, reference, good)
    check_parity(extractor, bank)
    return bank


def _open_gathering(pictures: int, extractor: FeatureExtractor, settings: FitSettings) -> PatchGathering:
    wanted = Wanted(
        pictures=pictures,
        patches=extractor.grid[0] * extractor.grid[1],
        dimension=extractor.dimension,
        ratio=settings.coreset_ratio,
        seed=settings.seed,
        calibrating=calibration_sample(pictures, settings.calibration_pictures, settings.seed).tolist(),
        plan=settings.coreset_plan,
    )
    most = settings.memory_limit or psutil.virtual_memory().available // 2
    limit = MemoryLimit(most=most, comfortable=settings.memory_limit or min(most, _COMFORTABLE_BYTES))
    return open_gathering(wanted, limit, settings.spill_folder or Path(tempfile.gettempdir()))


def _embed_all(reader: PictureReader, extractor: FeatureExtractor, gathering: PatchGathering, advance: Advance) -> None:
    """Let `gathering` take the patches of all pictures, on a thread of its own while the network computes the next."""
    waiting: deque[Future[None]] = deque()
    size = max(extractor.batch_sizes)
    with ThreadPoolExecutor(1, thread_name_prefix="gather") as pool:
        try:
            for batch in reader.batches(size):
                patches = extractor.embed(np.stack([image.pixels for image in batch]))
                _check_numbers(patches, reader.used[-len(batch) :])
                waiting.append(pool.submit(gathering.take, patches))
                while len(waiting) * size > max(gathering.backlog, size):
                    waiting.popleft().result()
                advance(len(batch))
            while waiting:
                waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _check_numbers(patches: NDArray[np.float32], pictures: Sequence[Path]) -> None:
    """Raise DataError that names the first of `pictures` whose patches, [n, patches, d], aren't finite numbers."""
    flat = patches.reshape(len(patches), -1)
    # A sum of squares is finite if all values are, and none is too large for distances.
    for path, squares in zip(pictures, np.einsum("np,np->n", flat, flat), strict=True):
        if not np.isfinite(squares):
            raise DataError(
                f"{path_text(path)} has patches that are no numbers: check the weights and the device; float16 "
                "overflows where float32 doesn't."
            )


def _choose_index(gathering: PatchGathering, kept: BankVectors, choice: IndexChoice) -> ChosenIndex:
    """Choose by the patches of some pictures, evenly taken from those that calibrate."""
    calibrating = np.array(gathering.calibrating)
    sample = calibrating[np.linspace(0, len(calibrating) - 1, _SAMPLE_PICTURES).astype(np.int64)]
    queries = np.concatenate([gathering.patches_of(int(number)) for number in sample])
    return choose_index(kept.vectors, queries, choice, ~np.isin(kept.owners, sample))


def _weighing_that_serves(owners: NDArray[np.int32], calibrating: Sequence[int], settings: FitSettings) -> FitSettings:
    """Return `settings` with the neighbours that weigh scores in the calibration as in the service.

    With a single one the weight would be 0 whatever a picture shows, so that scores are not weighed then.
    """
    count = neighbours_left(owners, calibrating, settings.n_neighbors)
    if count > 1:
        return replace(settings, n_neighbors=count)
    if settings.score_mode == "modelzoo":
        raise CalibrationError(
            f"The bank's {len(owners)} vectors leave a picture only one to weigh by, and then ModelZoo's score "
            "is 0 whatever the picture shows: raise the coreset ratio."
        )
    return replace(settings, n_neighbors=1, reweight=False)


def _score_good_pictures(
    gathering: PatchGathering,
    index: NearestNeighbours,
    owners: NDArray[np.int32],
    grid: tuple[int, int],
    settings: FitSettings,
    advance: Advance,
) -> list[GoodScore]:
    scorer = LeaveOneOut(
        index,
        owners,
        n_neighbors=settings.n_neighbors,
        reweight=settings.reweight,
        score_mode=settings.score_mode,
        grid=grid,
        image_size=settings.geometry.image_size,
    )
    numbers = gathering.calibrating
    good = []
    for start in range(0, len(numbers), _SCORED_AT_ONCE):
        batch = numbers[start : start + _SCORED_AT_ONCE]
        good += scorer.score(np.stack([gathering.patches_of(number) for number in batch]), batch)
        advance(len(batch))
    return good


def _manifest(
    extractor: FeatureExtractor,
    settings: FitSettings,
    reader: PictureReader,
    gathering: PatchGathering,
    chosen: ChosenIndex,
    good: Sequence[GoodScore],
    seconds: dict[str, float],
) -> Manifest:
    identity, index = extractor.identity, chosen.index
    return Manifest(
        format=FORMAT_VERSION,
        recipe=settings.recipe,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backbone=identity.backbone,
        weights_digest=identity.weights_digest,
        precision=identity.precision,
        embedding=identity.embedding,
        resize=settings.geometry.resize,
        image_size=settings.geometry.image_size,
        grid=extractor.grid,
        dimension=extractor.dimension,
        coreset_ratio=settings.coreset_ratio,
        coreset_merge=gathering.merge,
        index=index.kind,
        index_projected=index.projection.basis.shape[1] if index.projection is not None else None,
        index_visited=chosen.visited,
        index_compared=chosen.compared,
        vectors=len(index),
        patches=gathering.pictures * extractor.grid[0] * extractor.grid[1],
        score_mode=settings.score_mode,
        reweight=settings.reweight,
        n_neighbors=settings.n_neighbors,
        thresholds=_thresholds(good, settings),
        heat_median=float(np.median([entry.map_median for entry in good])),
        pictures=gathering.pictures,
        calibrated=len(good) if len(good) < gathering.pictures else None,
        skipped=tuple(path_text(path.name) for path in reader.skipped),
        data_digest=reader.digest(),
        seed=settings.seed,
        libraries={name: library_version(name) for name in _LIBRARIES}
        | ({"engine": extractor.engine} if isinstance(extractor, SubstituteExtractor) else {}),
        seconds=seconds,
        files={},
    )


def _too_few(count: int) -> CalibrationError:
    return CalibrationError(
        f"{count} good picture(s) are too few to calibrate: at least {MINIMUM_PICTURES} are needed, "
        "50 or more make the thresholds trustworthy."
    )


def _thresholds(good: Sequence[GoodScore], settings: FitSettings) -> Thresholds:
    scores = np.array([entry.score for entry in good])
    maxima = np.array([entry.map_maximum for entry in good])
    review = threshold_at(scores, settings.review_rate, settings.seed)
    fail = threshold_at(scores, settings.fail_rate, settings.seed)
    if fail.value < review.value:
        # The two rates may be estimated by different methods; failing must not be easier than being reviewed.
        fail = review
    return Thresholds(
        review=_entry(review),
        fail=_entry(fail),
        pixel=_entry(threshold_at(maxima, settings.fail_rate, settings.seed)),
    )


def _entry(threshold: Threshold) -> ThresholdEntry:
    return ThresholdEntry(**asdict(threshold))


def _preview(picture: Path, patches: NDArray[np.float32], index: NearestNeighbours, manifest: Manifest) -> bytes:
    """Return a PNG of a good part beside itself under its heat map: what the bank was taught."""
    distances, _ = index.search(patches, 1)
    shown = map_distances(distances, manifest.score_mode).reshape(1, *manifest.grid)
    levels = manifest.heat_scale.levels(anomaly_maps(shown, manifest.image_size)[0])
    pixels = manifest.geometry.prepare(images.read(picture)).pixels
    return images.encode_png(np.hstack([pixels, overlay(pixels, levels)]))
