"""install.sh, staged into a folder of the test's: nothing of this host is touched."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from daemon.config import load_settings
from tests.deploy.files import DEPLOY, UNITS

PROJECT = DEPLOY.parent
STAGED_UNITS = Path("etc/systemd/system")


def run(root: Path, *options: str, script: Path = DEPLOY / "install.sh", **environment: str) -> str:
    """Run install.sh with no standard input; return what it said."""
    result = subprocess.run(
        [script, "--destdir", str(root), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def refused(*options: str) -> str:
    result = subprocess.run(
        [DEPLOY / "install.sh", *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stdout == ""
    return result.stderr


def tree(root: Path) -> dict[str, tuple[int, object]]:
    """Return every path below `root` with its mode and content."""
    found: dict[str, tuple[int, object]] = {}
    for path in sorted(root.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (mode, content)
    return found


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A stand-in for an environment that holds patchline: install.sh links it instead of loading 1 GB."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/patchline").write_text("#!/bin/sh\necho patchline\n")
    (folder / "bin/patchline").chmod(0o755)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what install.sh reads, whose version a test may change."""
    folder = tmp_path / "source"
    for name in ("deploy", "requirements", "daemon", "patchcore_engine"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "config.toml"):
        shutil.copy(PROJECT / name, folder / name)
    return folder


def test_installing_twice_gives_the_same_tree(tmp_path: Path, environment: Path) -> None:
    root = tmp_path / "root"
    run(root, "--use-venv", str(environment), "--line", "left", "--line", "right")
    first = tree(root)
    run(root, "--use-venv", str(environment), "--line", "left", "--line", "right")
    assert tree(root) == first
    for path in (
        *(str(STAGED_UNITS / unit) for unit in UNITS),
        "etc/sysusers.d/patchline.conf",
        "etc/tmpfiles.d/patchline.conf",
        "etc/patchline/config.toml",
        "etc/patchline/left.toml",
        "etc/patchline/right.toml",
        "opt/patchline/share/prometheus/patchline-alerts.yml",
        "opt/patchline/share/grafana/dashboards/patchline.json",
        "opt/patchline/share/README.md",
    ):
        assert path in first


def test_what_is_installed_is_what_is_started(tmp_path: Path, environment: Path) -> None:
    root = tmp_path / "root"
    run(root, "--use-venv", str(environment))
    assert (root / "opt/patchline/current/bin/patchline").resolve() == environment / "bin/patchline"
    assert (root / "usr/local/bin/patchline").readlink() == Path("/opt/patchline/current/bin/patchline")
    unit = (root / STAGED_UNITS / "patchline.service").read_text()
    assert "ExecStart=/opt/patchline/current/bin/patchline serve --config /etc/patchline/config.toml" in unit


def test_a_prefix_reaches_every_file_that_names_it(tmp_path: Path, environment: Path) -> None:
    root = tmp_path / "root"
    run(root, "--use-venv", str(environment), "--prefix", "/srv/inspection")
    assert not (root / "opt").exists()
    named = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert all(b"/opt/patchline" not in path.read_bytes() for path in named)
    assert "ExecStart=/srv/inspection/current/bin" in (root / STAGED_UNITS / "patchline@.service").read_text()


def test_the_users_configuration_is_never_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "root"
    config = root / "etc/patchline/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("# mine\n")
    assert "kept" in run(root, "--no-venv")
    assert config.read_text() == "# mine\n"


def test_a_new_configuration_is_valid_and_keeps_its_state_below_var_lib(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run(root, "--no-venv", "--line", "left")
    plain, left = (load_settings(root / "etc/patchline" / name) for name in ("config.toml", "left.toml"))
    assert plain.service.state_dir == Path("/var/lib/patchline")
    assert left.service.state_dir == Path("/var/lib/patchline/left")
    assert (plain.archive.dir, left.archive.dir) == (
        Path("/var/lib/patchline/archive"),
        Path("/var/lib/patchline/left/archive"),
    )
    assert plain.banks.dir == left.banks.dir == Path("/var/lib/patchline/banks")


def test_uninstalling_leaves_configuration_and_state_and_says_so(tmp_path: Path, environment: Path) -> None:
    root = tmp_path / "root"
    run(root, "--use-venv", str(environment))
    state = root / "var/lib/patchline/journal.sqlite"
    own = root / STAGED_UNITS / "patchline.service.d/50-site.conf"
    for path in (state, own):
        path.parent.mkdir(parents=True)
        path.write_text("kept\n")
    said = run(root, "--uninstall")
    left = {path for path, (_, content) in tree(root).items() if content is not None}
    assert left == {
        "etc/patchline/config.toml",
        "var/lib/patchline/journal.sqlite",
        str(STAGED_UNITS / "patchline.service.d/50-site.conf"),
    }
    assert (environment / "bin/patchline").exists()
    assert "Kept: /etc/patchline" in said
    assert "/var/lib/patchline" in said


def test_uninstalling_twice_is_no_fault(tmp_path: Path, environment: Path) -> None:
    root = tmp_path / "root"
    run(root, "--use-venv", str(environment))
    run(root, "--uninstall")
    run(root, "--uninstall")


def test_an_upgrade_keeps_the_release_before_and_rollback_goes_back_to_it(
    tmp_path: Path, environment: Path, source: Path
) -> None:
    root, script = tmp_path / "root", source / "deploy/install.sh"
    current = root / "opt/patchline/current"

    def release(version: str) -> Path:
        project = source / "pyproject.toml"
        lines = project.read_text().splitlines()
        project.write_text(
            "\n".join(f'version = "{version}"' if line.startswith("version = ") else line for line in lines)
        )
        run(root, "--use-venv", str(environment), script=script)
        return current.readlink()

    first, second, third = release("1.0.0"), release("1.1.0"), release("1.2.0")
    assert len({first, second, third}) == 3
    assert first.name.startswith("1.0.0-")
    assert {path.name for path in (root / "opt/patchline/releases").iterdir()} == {second.name, third.name}
    run(root, "--rollback", script=script)
    assert current.readlink() == second
    run(root, "--rollback", script=script)
    assert current.readlink() == third


def test_a_change_of_the_code_is_another_release(tmp_path: Path, environment: Path, source: Path) -> None:
    root, script = tmp_path / "root", source / "deploy/install.sh"
    run(root, "--use-venv", str(environment), script=script)
    before = (root / "opt/patchline/current").readlink()
    with (source / "daemon/outcomes.py").open("a") as file:
        file.write("\n")
    run(root, "--use-venv", str(environment), script=script)
    assert (root / "opt/patchline/current").readlink() != before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--destdir", "relative"], "absolute path"),
        (["--prefix", "/opt/with space"], "absolute path"),
        (["--destdir"], "needs a value"),
        (["--what"], "no option --what"),
        (["--destdir", "/nonexistent", "--line", "../x"], "a line's name"),
        (["--destdir", "/nonexistent", "--line", "config"], "not 'config'"),
        (["--destdir", "/nonexistent", "--rollback"], "no earlier release"),
        (["--destdir", "/nonexistent", "--use-venv", "/nonexistent"], "bin/patchline is missing"),
    ],
)
def test_a_wrong_option_is_one_plain_sentence(options: list[str], words: str) -> None:
    said = refused(*options)
    assert said.startswith("error: ")
    assert words in said
    assert said.count("\n") == 1
    assert not Path("/nonexistent").exists()


def test_help_names_every_option() -> None:
    shown = subprocess.run([DEPLOY / "install.sh", "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("--uninstall", "--rollback", "--prefix", "--destdir", "--line", "--wheelhouse", "--no-venv"):
        assert option in shown


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_no_fault() -> None:
    result = subprocess.run(["shellcheck", DEPLOY / "install.sh"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
