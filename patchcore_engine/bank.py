"""The memory bank: patch vectors of good parts, how to score against them, and where to draw the line."""

import copy
import hashlib
import io
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.backbones.extractor import ExtractorIdentity
from patchcore_engine.calibration import p_value
from patchcore_engine.errors import BankDamagedError, BankMismatchError, BankMissingError
from patchcore_engine.index import NearestNeighbours
from patchcore_engine.manifest import Manifest
from patchcore_engine.npz import read_npz
from patchcore_engine.parity_set import ParitySet
from patchcore_engine.patch_distances import PatchDistances
from patchcore_engine.projection import Projection
from patchcore_engine.scoring import modelzoo_score, reweighted_score

MANIFEST: Final = "manifest.json"
INDEX: Final = "index.faiss"
CALIBRATION: Final = "calibration.npz"
PREVIEW: Final = "preview.png"
PARITY: Final = "parity.npz"

_NEEDED: Final = frozenset({INDEX, CALIBRATION, PREVIEW})
_OPTIONAL: Final = frozenset({PARITY})
# For people: the report of a fit, and what may lie there of one that couldn't be written.
REPORT: Final = "report.html"
_BESIDE: Final = frozenset({REPORT, f".{REPORT}.partial"})

OutcomeName = Literal["pass", "review", "fail"]


class MemoryBank:
    """A bank in memory. It is never changed once made; several threads may search it.

    `neighbours`: int32 [n, k], the k bank vectors nearest to each bank vector, itself the first.
    `owners`: int32 [n], the training picture each vector came from.
    `calibration_scores`: float64 [n], ascending leave-one-out scores of the good parts that calibrate.
    `parity`: what another engine is held to before it may serve the bank; None: no other may.
    """

    def __init__(
        self,
        manifest: Manifest,
        index: NearestNeighbours,
        *,
        neighbours: NDArray[np.int32],
        owners: NDArray[np.int32],
        calibration_scores: NDArray[np.float64],
        preview: bytes = b"",
        parity: ParitySet | None = None,
        version: str = "unsaved",
    ) -> None:
        self.manifest = manifest
        self.index = index
        self.neighbours = neighbours
        self.owners = owners
        self.calibration_scores = calibration_scores
        self.preview = preview
        self.parity = parity
        self.version = version

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load one version's folder, each file's SHA-256 checked before it is read.

        The folder must bear the name that its content was saved by, since verdicts state it as the bank they were made
        with. Raises BankMissingError and BankDamagedError.
        """
        bank = cls.from_files(read_files(folder), folder.resolve().name)
        if not bank.version.endswith(f"-{bank.manifest.version_suffix}"):
            raise BankDamagedError(
                f"{folder} isn't named after its content: a version's name ends in -{bank.manifest.version_suffix} "
                "here. It was renamed, or its manifest is another's: restore it or fit anew."
            )
        return bank

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], version: str) -> Self:
        """Make a bank of its files' contents. Raises BankDamagedError."""
        manifest = Manifest.parse(files[MANIFEST])
        if not _NEEDED <= set(manifest.files) <= _NEEDED | _OPTIONAL:
            raise BankDamagedError("The manifest doesn't name the files of a bank.")
        for name in set(files) - set(manifest.files) - {MANIFEST}:
            raise BankDamagedError(f"{name} isn't named in the manifest: restore the bank or fit anew.")
        for name, digest in manifest.files.items():
            if name not in files:
                raise BankDamagedError(f"{name} is missing: restore it or fit anew.")
            if hashlib.sha256(files[name]).hexdigest() != digest:
                raise BankDamagedError(f"{name} doesn't match the digest in the manifest: restore it or fit anew.")
        arrays, projection = _read_calibration(files[CALIBRATION], manifest)
        index = NearestNeighbours.deserialize(np.frombuffer(files[INDEX], dtype=np.uint8))
        if (len(index), index.dimension) != (manifest.vectors, manifest.dimension):
            raise BankDamagedError("The index doesn't hold the vectors that the manifest states.")
        if projection is not None:
            index.prove_with(projection)
        parity = None
        if PARITY in manifest.files:
            patches = manifest.grid[0] * manifest.grid[1]
            parity = ParitySet.from_bytes(files[PARITY], image_size=manifest.image_size, patches=patches)
        return cls(manifest, index, preview=files[PREVIEW], parity=parity, version=version, **arrays)  # type: ignore[arg-type]

    def with_parity(self, parity: ParitySet) -> Self:
        """Return the same bank with another parity set."""
        changed = copy.copy(self)
        changed.parity = parity
        return changed

    def files(self) -> dict[str, bytes]:
        """Return the contents of the bank's files, the manifest completed by their digests and its own."""
        calibration = io.BytesIO()
        arrays = {"scores": self.calibration_scores, "neighbours": self.neighbours, "owners": self.owners}
        if self.index.projection is not None:
            arrays |= {"projection_mean": self.index.projection.mean, "projection_basis": self.index.projection.basis}
        np.savez(calibration, **arrays)  # type: ignore[arg-type]
        contents = {
            INDEX: self.index.serialize().tobytes(),
            CALIBRATION: calibration.getvalue(),
            PREVIEW: self.preview,
        }
        if self.parity is not None:
            contents[PARITY] = self.parity.to_bytes()
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        manifest = self.manifest.model_copy(update={"files": digests}).sealed()
        return {**contents, MANIFEST: manifest.to_json()}

    def require(self, identity: ExtractorIdentity) -> None:
        """Raise BankMismatchError unless the bank was made by an extractor of this identity."""
        mine = self.manifest.extractor_identity
        for field, meaning in _IDENTITY_WORDS.items():
            expected, offered = getattr(mine, field), getattr(identity, field)
            if expected != offered:
                raise BankMismatchError(
                    f"Bank {self.manifest.recipe}/{self.version} was made with {meaning} {_short(expected)}, "
                    f"not {_short(offered)}: use these, or fit the bank anew."
                )

    def search(self, patches: NDArray[np.float32]) -> PatchDistances:
        """Find each patch's nearest bank vector. `patches`: float32 [n, patches, d]."""
        count, per_picture, dimension = patches.shape
        found, positions = self.index.search(patches.reshape(-1, dimension), 1)
        distances, nearest = found.reshape(count, per_picture), positions.reshape(count, per_picture)
        around = [self._around(*picture) for picture in zip(patches, distances, nearest, strict=True)]
        return PatchDistances(distances, nearest, np.stack(around))

    def image_score(self, distances: NDArray[np.float32], around: NDArray[np.float32]) -> float:
        """Score one picture by its rows of a search's `PatchDistances`; NaN where a distance is."""
        largest = float(distances.max())
        if np.isnan(largest):
            return largest
        if self.manifest.score_mode == "modelzoo":
            return modelzoo_score(around**2)
        return reweighted_score(largest, around) if self.manifest.reweight else largest

    def _around(
        self, patches: NDArray[np.float32], distances: NDArray[np.float32], nearest: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        worst = int(np.argmax(distances))
        if self.manifest.score_mode == "modelzoo":
            found, _ = self.index.search(patches[worst : worst + 1], self.neighbours.shape[1])
            return np.asarray(found[0])
        if not self.manifest.reweight:
            return np.empty(0, dtype=np.float32)
        vectors = self.index.vectors[self.neighbours[nearest[worst]]]
        return np.asarray(np.linalg.norm(vectors - patches[worst], axis=1), dtype=np.float32)

    def outcome(self, score: float) -> OutcomeName:
        thresholds = self.manifest.thresholds
        if score >= thresholds.fail.value:
            return "fail"
        return "review" if score >= thresholds.review.value else "pass"

    def p_value(self, score: float) -> float:
        return p_value(self.calibration_scores, score)


_IDENTITY_WORDS: Final = {
    "backbone": "backbone",
    "weights_digest": "weights of digest",
    "embedding": "embedding",
    "image_size": "image size",
    "precision": "precision",
}


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


def read_files(folder: Path) -> dict[str, bytes]:
    """Read the files of one bank: all that it holds, and nothing but plain files. Raises BankMissingError and
    BankDamagedError.
    """
    if not (folder / MANIFEST).is_file():
        raise BankMissingError(f"{folder} holds no memory bank (no {MANIFEST}): make one with `patchline fit`.")
    try:
        found = {path.name for path in folder.iterdir()} - _BESIDE
        for name in sorted(found - _NEEDED - _OPTIONAL - {MANIFEST}):
            raise BankDamagedError(f"{folder} holds {name!r}, which is no file of a bank: take it away.")
        return {name: _read_plain(folder / name) for name in sorted(found | _NEEDED)}
    except OSError as error:
        raise BankDamagedError(f"{folder}: {error.filename} can't be read: {error.strerror}.") from error


def _read_plain(path: Path) -> bytes:
    """Read a file and no link, device or pipe, which may never end. Raises BankDamagedError and OSError."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise BankDamagedError(f"{path} is no plain file: put the file itself there, or fit anew.")
    return path.read_bytes()


def _read_calibration(data: bytes, manifest: Manifest) -> tuple[dict[str, NDArray[np.generic]], Projection | None]:
    try:
        arrays = read_npz(data)
        scores, neighbours, owners = arrays["scores"], arrays["neighbours"], arrays["owners"]
        projection = None
        if manifest.index == "pca":
            projection = Projection(arrays["projection_mean"], arrays["projection_basis"])
    except (ValueError, KeyError) as error:
        raise BankDamagedError("The calibration file can't be read.") from error
    fits = (
        scores.dtype == np.float64
        and scores.shape == (manifest.calibration_pictures,)
        and bool(np.isfinite(scores).all() and (np.diff(scores) >= 0).all())
        and neighbours.dtype == owners.dtype == np.int32
        and owners.shape == (manifest.vectors,)
        and _within(owners, manifest.pictures)
        and neighbours.ndim == 2
        and len(neighbours) == manifest.vectors
        and _within(neighbours, manifest.vectors)
        and (projection is None or _fits(projection, manifest))
    )
    if not fits:
        raise BankDamagedError("The calibration file doesn't fit the manifest.")
    return {"calibration_scores": scores, "neighbours": neighbours, "owners": owners}, projection


def _within(positions: NDArray[np.generic], count: int) -> bool:
    return positions.size > 0 and 0 <= int(positions.min()) <= int(positions.max()) < count


def _fits(projection: Projection, manifest: Manifest) -> bool:
    return (
        projection.mean.dtype == projection.basis.dtype == np.float32
        and projection.mean.shape == (manifest.dimension,)
        and projection.basis.shape == (manifest.dimension, manifest.index_projected)
        and bool(np.isfinite(projection.mean).all() and np.isfinite(projection.basis).all())
    )
