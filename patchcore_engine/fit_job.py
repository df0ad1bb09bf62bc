"""The whole job of `fit`: build a bank, write it, make it the active one, and leave a report beside it."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchcore_engine.backbones.extractor import FeatureExtractor
from patchcore_engine.backbones.registry import BACKBONES, backbone_spec
from patchcore_engine.bank import REPORT
from patchcore_engine.bank_store import activate, check_recipe, discard, save
from patchcore_engine.errors import BankWriteError
from patchcore_engine.fit import FitResult, FitSettings, fit
from patchcore_engine.fit_report import fit_report
from patchcore_engine.images import Geometry
from patchcore_engine.progress import Progress

_DEFAULT_GEOMETRY = Geometry(resize=256, image_size=224)


@dataclass(frozen=True, slots=True)
class FittedBank:
    """A bank that was made and activated: its folder, its report, and what the fit found."""

    path: Path
    report: Path
    result: FitResult

    def as_json(self) -> dict[str, Any]:
        """Return what a program may want to know of it, as values that JSON can hold."""
        manifest = self.result.bank.manifest
        return {
            "recipe": manifest.recipe,
            "bank": str(self.path),
            "version": self.path.name,
            "report": str(self.report),
            **manifest.model_dump(
                mode="json",
                include={"backbone", "pictures", "skipped", "patches", "vectors", "thresholds", "seed", "seconds"},
            ),
        }


def fit_and_activate(
    pictures: Sequence[Path],
    extractor: FeatureExtractor,
    settings: FitSettings,
    banks: Path,
    progress: Progress | None = None,
) -> FittedBank:
    """Fit a bank from `pictures`, write it below `banks` with its report.html, and activate it.

    Nothing is left behind by a fit that fails. Raises PatchcoreError.
    """
    check_recipe(settings.recipe)
    with _folder(banks):
        result = fit(pictures, extractor, settings, progress)
        path = save(result.bank, banks, settings.recipe, lambda version: fit_report(result, version))
        try:
            activate(banks, settings.recipe, path.name)
        except BaseException:
            discard(banks, settings.recipe, path.name)
            raise
    return FittedBank(path, path / REPORT, result)


@contextlib.contextmanager
def _folder(banks: Path) -> Iterator[None]:
    """Make the folder `banks`; what was made of it and of those above is taken away if the block fails."""
    made: list[Path] = []
    try:
        try:
            made += [folder for folder in (banks, *banks.parents) if not folder.exists()]
            banks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BankWriteError(f"The folder {banks} can't be made: {error.strerror}.") from error
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def geometry_for(backbone: str, *, resize: int | None = None, image_size: int | None = None) -> Geometry:
    """Return the backbone's geometry with what is given in its place; the other side keeps its proportion to it.

    Raises GeometryError.
    """
    usual = backbone_spec(backbone).geometry if backbone in BACKBONES else _DEFAULT_GEOMETRY
    if image_size is None:
        image_size = usual.image_size if resize is None else round(resize * usual.image_size / usual.resize)
    if resize is None:
        resize = round(image_size * usual.resize / usual.image_size)
    return Geometry(resize=resize, image_size=image_size)
