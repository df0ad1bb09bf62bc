"""config.toml: the shipped file is the defaults, and every mistake is named with its path and range."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import RecipeSettings, Section, Settings, load_settings, parse_settings, settings_of
from daemon.errors import ConfigError

RECIPE = '[recipes.caps]\nbank = "caps"\n'


def test_the_shipped_configuration_is_exactly_the_defaults(repository: Path) -> None:
    assert load_settings(repository / "config.toml") == Settings()


def test_the_shipped_configuration_names_and_explains_every_key(repository: Path) -> None:
    lines = (repository / "config.toml").read_text(encoding="utf-8").splitlines()
    sections: dict[str, type[Section]] = {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
    sections["recipes.caps"] = RecipeSettings
    for section, keys in sections.items():
        begin = next(number for number, line in enumerate(lines) if line.removeprefix("# ") == f"[{section}]")
        following = (number for number in range(begin + 1, len(lines)) if re.match(r"(# )?\[", lines[number]))
        end = next(following, len(lines))
        for key in keys.model_fields:
            place = next(
                number for number in range(begin, end) if lines[number].removeprefix("# ").startswith(f"{key} = ")
            )
            assert lines[place - 1].startswith("# "), f"{section}.{key} has no comment"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[queue]\nframes = -1", "config.toml: queue.frames = -1: must be >= 1 (allowed 1 .. 100000)."),
        ("[queue]\nframe = 1", "config.toml: queue.frame: unknown key (did you mean frames?)."),
        ("[banks]\nx = 1", "config.toml: banks.x: unknown key (known keys: dir)."),
        ('[queue]\nframes = "9"', 'config.toml: queue.frames = "9": must be a valid integer (allowed 1 .. 100000).'),
        ("[archive]\nenabled = 1", "config.toml: archive.enabled = 1: must be a valid boolean."),
        ('[engine]\ndevice = "GPU"', "config.toml: engine.device = \"GPU\": must be 'CPU' or 'Ascend'."),
        (
            "[engine]\nbatch_sizes = [4, 2]",
            "config.toml: engine.batch_sizes = [4, 2]: must be ascending, each size once.",
        ),
        ("[engine]\nbatch_sizes = [0]", "config.toml: engine.batch_sizes.0 = 0: must be >= 1."),
        (
            "[service]\ndrain_s = 1e9",
            "config.toml: service.drain_s = 1000000000.0: must be <= 3600 (allowed 0 .. 3600).",
        ),
        (
            "[service]\ndrain_s = nan",
            "config.toml: service.drain_s = nan: must be a finite number (allowed 0 .. 3600).",
        ),
        ("queue = 1", "config.toml: queue = 1: must be a table, [queue]."),
        ("[recipes.caps]\ncameras = []", "config.toml: recipes.caps.bank: this key is needed."),
        (RECIPE + "max_age_ms = 0", "recipes.caps.max_age_ms = 0: must be >= 1 (allowed 1 .. 600000)."),
        (RECIPE + 'cameras = ["a b"]', 'recipes.caps.cameras.0 = "a b": must be 1 to 64 of A-Z a-z 0-9 _ . -.'),
        ("[recipes.'a b']\nbank = \"x\"", "config.toml: recipes.a b: a name holds 1 to 64 of A-Z a-z 0-9 _ . -."),
        ('[intake]\npush = "nowhere"', 'intake.push = "nowhere": must be an address that begins with tcp:// or ipc://'),
        ('[intake]\npush = ""\nacked = ""', "intake.push and intake.acked are both closed: open at least one door."),
        ('[telemetry]\nlisten = "9108"', 'telemetry.listen = "9108": must be HOST:PORT, or "" for none.'),
        ("[queue]\nbytes = 2000", "queue.bytes = 2000 is smaller than intake.max_frame_bytes = 33554432"),
        ("[queue", "config.toml is not valid TOML"),
        ("[queue]\nframes = 0\nbytes = 1", "(1 more fault(s) in the file)"),
    ],
)
def test_a_mistake_is_named_with_its_path_value_and_range(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(text)
    assert message in str(caught.value)


def test_a_camera_belongs_to_one_recipe() -> None:
    text = '[recipes.a]\nbank = "a"\ncameras = ["x"]\n[recipes.b]\nbank = "b"\ncameras = ["x"]\n'
    with pytest.raises(ConfigError, match=r"camera 'x' is listed by recipes\.a and by recipes\.b"):
        parse_settings(text)


def test_review_must_not_lie_above_fail() -> None:
    with pytest.raises(ConfigError, match=r"review_threshold = 2.0 is above fail_threshold = 1.0"):
        parse_settings(RECIPE + "review_threshold = 2.0\nfail_threshold = 1.0\n")


def test_a_missing_file_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be read: No such file or directory\. Give a file with --config"):
        load_settings(tmp_path / "none.toml")


def test_the_journal_lies_in_the_state_folder_unless_said_otherwise() -> None:
    assert parse_settings('[service]\nstate_dir = "/a"').journal_dir == Path("/a")
    assert parse_settings('[service]\nstate_dir = "/a"\n[journal]\ndir = "/b"').journal_dir == Path("/b")


def test_settings_cant_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().queue.frames = 1


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["tcp://", "*", "../..", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
SECTIONS = {
    name: list(field.annotation.model_fields)
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


@given(st.text(max_size=200) | st.text(alphabet="[]{}=\"'.,#\n \\tx019ea-_", max_size=60))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_settings(text)


@given(st.data())
def test_any_value_of_any_key_is_taken_or_named_in_one_short_line(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from([*SECTIONS, "recipes.caps"]))
    keys = SECTIONS.get(section, list(RecipeSettings.model_fields))
    key, value = data.draw(st.sampled_from(keys)), data.draw(VALUES)
    tables = {section: {key: value}} if section in SECTIONS else {"recipes": {"caps": {"bank": "b", key: value}}}
    told = ""
    try:
        settings_of(tables)
    except ConfigError as error:
        told = str(error)
    assert len(told) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000,
        "[queue]\nframes = " + "9" * 5000,
        "[queue]\nframes = 0x" + "f" * 5000,
        "a." * 3000 + "b = 1",
    ],
    ids=["deep", "long", "long hexadecimal", "long key"],
)
def test_a_monstrous_configuration_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(text)
    assert len(str(caught.value)) < 1000
