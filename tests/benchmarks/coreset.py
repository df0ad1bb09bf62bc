"""Greedy k-centre selection against the plain loop, and how far its centres leave the farthest point.

The points lie in clusters whose spectrum falls off, under noise, as the patches of good parts do: of the variance of
ImageNet features of bottles 79 % lies in 8 dimensions, 93 % in 32, 97 % in 128, and a patch's squared distance to the
nearest of 16,385 others is 5 to 12 % of it. The plain loop's
time grows with points times centres: above PLAIN_WORK it is measured on its first centres and scaled.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from patchcore_engine.coreset import PROJECTED_DIMENSION, RandomProjection, greedy_k_centre, plain_greedy_k_centre
from tests.benchmarks.figures import Options, Row, compared, row
from tests.benchmarks.pictures import BACKBONES, patches_of

SIZES: Final = (20_000, 160_000)
FULL_SIZES: Final = (20_000, 160_000, 600_000)
RATIOS: Final = (0.01, 0.1)
CLUSTERS: Final = 400
LATENT_DIMENSION: Final = 256
DECAY: Final = 0.875
SPREAD: Final = 0.3
NOISE: Final = 0.2
ROUNDS: Final = 2
# Point-centre distances that the plain loop may compute in one run, about 15 s on one core.
PLAIN_WORK: Final = 1.2e9
SEED: Final = 0
_BLOCK: Final = 2048


def run(options: Options, _machine: dict[str, Any]) -> Iterator[Row]:
    for points, kind in _of_pictures(options, options.pictures) if options.pictures is not None else _drawn(options):
        for ratio in RATIOS:
            yield from _compare(points, kind, round(len(points) * ratio), options)


def _drawn(options: Options) -> Iterator[tuple[NDArray[np.float32], str]]:
    for total in FULL_SIZES if options.full else SIZES:
        yield patch_like_points(total, PROJECTED_DIMENSION), "points"


def _of_pictures(options: Options, folder: Path) -> Iterator[tuple[NDArray[np.float32], str]]:
    for backbone in options.backbones or BACKBONES:
        patches = patches_of(folder, backbone)
        dimension = patches.shape[2]
        yield RandomProjection(dimension, SEED)(patches.reshape(-1, dimension)), f"patches of {backbone}"


def _compare(points: NDArray[np.float32], kind: str, count: int, options: Options) -> Iterator[Row]:
    plain_count = min(count, max(int(PLAIN_WORK / len(points)), 50))
    points = np.ascontiguousarray(points)
    what = f"{len(points):,} {kind}, {points.shape[1]} d, {count:,} centres"
    values: dict[str, list[float]] = {"lazy rounds": [], "plain loop": []}
    lazy = plain = np.empty(0, dtype=np.int64)
    for _ in range(options.rounds or ROUNDS):
        begin = time.monotonic()
        lazy = greedy_k_centre(points, count, SEED)
        values["lazy rounds"].append(time.monotonic() - begin)
        begin = time.monotonic()
        plain = plain_greedy_k_centre(points, plain_count, SEED)
        values["plain loop"].append((time.monotonic() - begin) * count / plain_count)
    scaled = "" if plain_count == count else f", plain loop scaled from {plain_count:,}"
    yield from compared(what + scaled, "s", values, "plain loop")
    # Two centres that rounding swaps may shift all later ones by a place.
    common = float(np.mean(np.isin(plain, lazy[:plain_count])))
    yield row(what, "lazy rounds", "share of centres in common", [common])
    yield row(what, "lazy rounds", "covering radius", [covering_radius(points, lazy)])
    if plain_count == count:
        yield row(what, "plain loop", "covering radius", [covering_radius(points, plain)])


def patch_like_points(total: int, dimension: int) -> NDArray[np.float32]:
    """Return float32 [total, dimension]."""
    random = np.random.default_rng(SEED)
    spectrum = (np.arange(1, LATENT_DIMENSION + 1) ** -DECAY).astype(np.float32)
    centres = random.standard_normal((CLUSTERS, LATENT_DIMENSION), dtype=np.float32) * spectrum
    spread = SPREAD * np.exp(0.5 * random.standard_normal((CLUSTERS, 1), dtype=np.float32))
    cluster = random.integers(CLUSTERS, size=total)
    latent = random.standard_normal((total, LATENT_DIMENSION), dtype=np.float32)
    latent *= spectrum
    latent *= spread[cluster]
    latent += centres[cluster]
    mixing = random.standard_normal((LATENT_DIMENSION, dimension), dtype=np.float32)
    noise = random.standard_normal((total, dimension), dtype=np.float32)
    noise *= NOISE
    return np.asarray(latent @ mixing + noise, dtype=np.float32)


def covering_radius(points: NDArray[np.float32], centres: NDArray[np.int64]) -> float:
    """Return the distance of the point that is farthest from its nearest centre."""
    chosen = points[centres]
    norms = np.einsum("nd,nd->n", chosen, chosen)
    largest = 0.0
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        squared = norms - 2 * (block @ chosen.T) + np.einsum("nd,nd->n", block, block)[:, None]
        largest = max(largest, float(squared.min(axis=1).max()))
    return float(np.sqrt(max(largest, 0.0)))
