"""Camera -> recipe -> memory bank, and loading them beside the ones that serve."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from daemon.config import ANY_CAMERA, RecipeSettings, Settings
from daemon.errors import ConfigError
from daemon.outcomes import Outcome
from patchcore_engine.backbones.extractor import DeviceSearcher, SubstituteExtractor
from patchcore_engine.bank import MemoryBank
from patchcore_engine.bank_store import resolve
from patchcore_engine.errors import DeviceError, ParityError, PatchcoreError
from patchcore_engine.inspector import Inspector

if TYPE_CHECKING:
    from patchcore_engine.backbones.extractor import ExtractorIdentity, FeatureExtractor

SLEEPING: Final = "sleeping"

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One recipe with its bank, ready to inspect; `review` and `fail` are the score thresholds in force."""

    name: str
    inspector: Inspector
    review: float
    fail: float
    max_age_ms: int | None

    @property
    def bank(self) -> MemoryBank:
        return self.inspector.bank

    def outcome(self, score: float) -> Outcome:
        if score >= self.fail:
            return Outcome.FAIL
        return Outcome.REVIEW if score >= self.review else Outcome.PASS

    def rehearse(self) -> None:
        """Inspect one picture for real, and hold an engine that isn't the reference to it; compile the bank's search.

        Raises DeviceError when the score is no finite number, and ParityError.
        """
        extractor = self.inspector.extractor
        if isinstance(extractor, DeviceSearcher):
            extractor.admit(self.bank)
        size = self.bank.manifest.image_size
        result = self.inspector.inspect([np.full((size, size, 3), 128, dtype=np.uint8)])[0]
        if result is None:
            raise DeviceError(f"Recipe {self.name}: the trial inspection gave no finite score. Run `patchline doctor`.")
        try:
            deviation = self.inspector.check_parity()
        except ParityError as error:
            raise ParityError(f"recipes.{self.name}: {error}") from error
        if deviation is not None and isinstance(extractor, SubstituteExtractor):
            log.info(
                "parity",
                recipe=self.name,
                engine=extractor.engine,
                distance=float(f"{deviation.distance:.2g}"),
                score=float(f"{deviation.score:.2g}"),
            )


@dataclass(frozen=True)
class RecipeSet:
    """The recipes that serve together; replaced as a whole, never changed."""

    recipes: Mapping[str, Recipe]
    settings: Mapping[str, RecipeSettings]

    def resolve(self, camera: str, requested: str | None) -> Recipe | None:
        """Return the recipe that a frame asks for, else its camera's, else the one for any camera."""
        if requested is not None:
            return self.recipes.get(requested)
        name = self._by_camera.get(camera) or self._by_camera.get(ANY_CAMERA)
        return self.recipes[name] if name is not None else None

    def lists(self, camera: str) -> bool:
        """Whether a recipe names this camera."""
        return camera in self._by_camera

    def extractors(self) -> "dict[ExtractorIdentity, FeatureExtractor]":
        """Return the extractors in use, one for each identity."""
        return {recipe.inspector.extractor.identity: recipe.inspector.extractor for recipe in self.recipes.values()}

    @cached_property
    def _by_camera(self) -> dict[str, str]:
        return {camera: name for name, recipe in self.settings.items() for camera in recipe.cameras}


def load_recipes(settings: Settings, reuse: "Mapping[ExtractorIdentity, FeatureExtractor] | None" = None) -> RecipeSet:
    """Load every recipe's active bank; recipes of one extractor identity share one extractor, new or of `reuse`.

    Raises ConfigError when there is no recipe or one can't be used, and PatchcoreError as the engine does.
    """
    if not settings.recipes:
        raise ConfigError("No recipe is configured: add a [recipes.NAME] section with its bank and cameras.")
    extractors = dict(reuse or {})
    loaded: dict[str, Recipe] = {}
    for name, recipe in settings.recipes.items():
        try:
            loaded[name] = _load(name, recipe, settings, extractors)
        except PatchcoreError as error:
            raise type(error)(f"recipes.{name}: {error}") from error
    return RecipeSet(loaded, settings.recipes)


def bank_folder(settings: Settings, recipe: RecipeSettings) -> Path:
    """Return the folder that a recipe's `bank` names: one under banks.dir, or any path that holds a separator."""
    return Path(recipe.bank) if "/" in recipe.bank else settings.banks.dir / recipe.bank


def _load(
    name: str, recipe: RecipeSettings, settings: Settings, extractors: "dict[ExtractorIdentity, FeatureExtractor]"
) -> Recipe:
    bank = MemoryBank.load(resolve(bank_folder(settings, recipe)))
    identity = bank.manifest.extractor_identity
    if identity not in extractors:
        extractors[identity] = _open_extractor(bank, settings, recipe)
    return _with_thresholds(name, recipe, Inspector(extractors[identity], bank))


def _with_thresholds(name: str, recipe: RecipeSettings, inspector: Inspector) -> Recipe:
    thresholds = inspector.bank.manifest.thresholds
    review = recipe.review_threshold if recipe.review_threshold is not None else thresholds.review.value
    fail = recipe.fail_threshold if recipe.fail_threshold is not None else thresholds.fail.value
    if review > fail:
        raise ConfigError(
            f"recipes.{name}: the review threshold {review:.4g} is above the fail threshold {fail:.4g} of bank "
            f"{inspector.bank.version}: set both."
        )
    return Recipe(name=name, inspector=inspector, review=review, fail=fail, max_age_ms=recipe.max_age_ms)


def _open_extractor(bank: MemoryBank, settings: Settings, recipe: RecipeSettings) -> "FeatureExtractor":
    manifest, engine = bank.manifest, settings.engine
    if manifest.backbone == SLEEPING:
        from patchcore_engine.backbones.failing import FailingExtractor

        return FailingExtractor(
            faults=engine.faults,
            image_size=manifest.image_size,
            grid=manifest.grid[0],
            dimension=manifest.dimension,
            batch_sizes=engine.batch_sizes,
            seconds_per_batch=engine.sleep_ms / 1e3,
        )
    from patchcore_engine.backbones.factory import open_extractor

    weights = recipe.weights if recipe.weights is not None else engine.weights
    return open_extractor(
        backbone=manifest.backbone,
        weights=weights or None,
        geometry=manifest.geometry,
        embedding=manifest.embedding,
        device=engine.device,
        device_id=engine.device_id,
        precision=engine.precision,
        batch_sizes=engine.batch_sizes,
        weights_dir=engine.weights_dir,
        backbone_file=engine.backbone_file,
        engine=engine.engine,
        precision_hint=engine.precision_hint,
        cache_dir=settings.cache_dir,
        search=engine.search,
    )
