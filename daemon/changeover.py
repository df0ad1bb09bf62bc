"""From the recipes that serve to the next: rehearsed beside them and swapped in; then the old ones' networks released.

All of it that touches the engine is done on its thread, between two batches.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daemon.errors import DaemonError
from daemon.pipeline import Pipeline
from daemon.recipes import RecipeSet
from patchcore_engine.errors import DeviceError, PatchcoreError

if TYPE_CHECKING:
    from patchcore_engine.backbones.extractor import FeatureExtractor


def change_over(pipeline: Pipeline, recipes: RecipeSet) -> None:
    """Let `recipes` serve after each has judged one picture; return when what they replace was released.

    Raises PatchcoreError and DaemonError where one can't serve; then the old ones serve on.
    """
    serving = pipeline.recipes
    failure = _rehearse(pipeline, recipes, known=serving)
    if failure is not None:
        _release(pipeline, _used_by_first_alone(recipes, serving))
    if isinstance(failure, PatchcoreError | DaemonError):
        raise failure
    if failure is not None:
        raise DeviceError(
            f"The engine failed its trial inspection: {type(failure).__name__}: {failure} Run `patchline doctor`: "
            "it checks device, weights and banks."
        ) from failure
    pipeline.serve(recipes)
    _release(pipeline, _used_by_first_alone(serving, recipes))


def _rehearse(pipeline: Pipeline, recipes: RecipeSet, *, known: RecipeSet) -> Exception | None:
    """Compile what isn't known yet, and judge one picture per recipe; return what that raised."""
    health = pipeline.engine_health
    new = _used_by_first_alone(recipes, known)

    def rehearse() -> None:
        health.forget_limits()
        for extractor in new:
            health.warm_up(extractor)
        for recipe in recipes.recipes.values():
            recipe.rehearse()

    return pipeline.run_on_engine(rehearse).result()


def _release(pipeline: Pipeline, extractors: "Sequence[FeatureExtractor]") -> None:
    """Give back what `extractors` compiled, once the last part that was decoded for them is judged.

    Left to the garbage collector they would be dropped in any thread, perhaps while the engine runs, and MindSpore
    would compile again for the networks that serve: see `patchcore_engine.backbones.compiled`.
    """
    if not extractors:
        return

    def release() -> None:
        for extractor in extractors:
            extractor.release()

    failure = pipeline.run_after_batch(release).result()
    if failure is not None:
        pipeline.engine_health.failed(failure)


def _used_by_first_alone(first: RecipeSet, second: RecipeSet) -> "list[FeatureExtractor]":
    others = second.extractors()
    return [one for identity, one in first.extractors().items() if others.get(identity) is not one]
