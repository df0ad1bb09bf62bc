"""Camera -> recipe -> bank, with real banks of the sleeping backbone."""

import shutil
from pathlib import Path

import pytest

from daemon.config import Settings, parse_settings
from daemon.errors import ConfigError
from daemon.outcomes import Outcome
from daemon.recipes import load_recipes
from patchcore_engine.errors import BankDamagedError, BankMissingError

TWO_RECIPES = """
[recipes.caps]
bank = "caps"
cameras = ["cam1"]
[recipes.pins]
bank = "pins"
cameras = ["cam2"]
"""


def settings(banks: Path, text: str = TWO_RECIPES) -> Settings:
    return parse_settings(f'[banks]\ndir = "{banks}"\n{text}')


def name_of(recipe: object) -> str | None:
    return getattr(recipe, "name", None)


def test_each_camera_has_its_recipe(sleeping_banks: Path) -> None:
    recipes = load_recipes(settings(sleeping_banks))
    assert name_of(recipes.resolve("cam1", None)) == "caps"
    assert name_of(recipes.resolve("cam2", None)) == "pins"
    assert recipes.resolve("cam3", None) is None


def test_a_frames_recipe_overrides_its_cameras(sleeping_banks: Path) -> None:
    recipes = load_recipes(settings(sleeping_banks))
    assert name_of(recipes.resolve("cam1", "pins")) == "pins"
    assert recipes.resolve("cam1", "unheard_of") is None


def test_a_recipe_may_take_every_other_camera(sleeping_banks: Path) -> None:
    recipes = load_recipes(settings(sleeping_banks, TWO_RECIPES.replace('"cam2"', '"*"')))
    assert name_of(recipes.resolve("cam1", None)) == "caps"
    assert name_of(recipes.resolve("any", None)) == "pins"


def test_recipes_of_one_backbone_share_its_extractor(sleeping_banks: Path) -> None:
    recipes = load_recipes(settings(sleeping_banks))
    caps, pins = recipes.recipes["caps"], recipes.recipes["pins"]
    assert caps.inspector.extractor is pins.inspector.extractor
    assert caps.bank is not pins.bank
    assert len(recipes.extractors()) == 1


def test_a_reload_keeps_the_extractors_that_run(sleeping_banks: Path) -> None:
    running = load_recipes(settings(sleeping_banks))
    reloaded = load_recipes(settings(sleeping_banks), running.extractors())
    assert reloaded.recipes["caps"].inspector.extractor is running.recipes["caps"].inspector.extractor


def test_a_trial_inspection_passes_on_a_sound_bank(sleeping_banks: Path) -> None:
    load_recipes(settings(sleeping_banks)).recipes["caps"].rehearse()


def test_thresholds_of_the_recipe_stand_above_the_banks(sleeping_banks: Path) -> None:
    text = '[recipes.caps]\nbank = "caps"\nreview_threshold = 10.0\nfail_threshold = 20.0\n'
    recipe = load_recipes(settings(sleeping_banks, text)).recipes["caps"]
    assert [recipe.outcome(score) for score in (9.9, 10.0, 20.0)] == [Outcome.PASS, Outcome.REVIEW, Outcome.FAIL]


def test_a_review_threshold_above_the_banks_fail_threshold_is_refused(sleeping_banks: Path) -> None:
    text = '[recipes.caps]\nbank = "caps"\nreview_threshold = 1e9\n'
    with pytest.raises(ConfigError, match=r"recipes\.caps: the review threshold 1e\+09 is above the fail threshold"):
        load_recipes(settings(sleeping_banks, text))


def test_without_recipes_nothing_starts(sleeping_banks: Path) -> None:
    with pytest.raises(ConfigError, match=r"add a \[recipes\.NAME\] section"):
        load_recipes(settings(sleeping_banks, ""))


def test_a_missing_bank_names_its_recipe(sleeping_banks: Path) -> None:
    with pytest.raises(BankMissingError, match=r"^recipes\.caps: .*patchline fit"):
        load_recipes(settings(sleeping_banks, '[recipes.caps]\nbank = "no_such"\n'))


def test_a_damaged_bank_names_its_recipe(sleeping_banks: Path, tmp_path: Path) -> None:
    banks = tmp_path / "banks"
    shutil.copytree(sleeping_banks, banks, symlinks=True)
    index = (banks / "caps" / "active" / "index.faiss").resolve()
    index.write_bytes(index.read_bytes()[:-1] + b"\1")
    with pytest.raises(BankDamagedError, match=r"^recipes\.caps: "):
        load_recipes(settings(banks))


def test_a_bank_may_be_named_by_its_path(sleeping_banks: Path) -> None:
    text = f'[recipes.caps]\nbank = "{sleeping_banks / "pins"}"\n'
    recipe = load_recipes(settings(Path("elsewhere"), text)).recipes["caps"]
    assert recipe.bank.manifest.recipe == "pins"
