"""Which configuration the commands take when none is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from daemon.config import Settings
from daemon.endpoints import chosen_configuration, chosen_settings
from daemon.errors import ConfigError


def test_the_configuration_of_the_current_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert chosen_settings(None) == Settings()
    (tmp_path / "config.toml").write_text("[queue]\nframes = 7\n")
    assert chosen_settings(None).queue.frames == 7
    other = tmp_path / "other.toml"
    assert chosen_configuration(other) == other
    with pytest.raises(ConfigError, match=r"other\.toml"):
        chosen_settings(other)


def test_in_a_folder_that_may_not_be_entered_the_defaults_are_taken(tmp_path: Path) -> None:
    """As when the daemon's user runs a command in the administrator's home."""
    script = "import os, sys; from daemon.endpoints import chosen_configuration; os.chdir(sys.argv[1]); "
    script += "os.chmod('.', 0); os.geteuid() or os.setuid(65534); print(chosen_configuration(None))"
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    tmp_path.chmod(0o700)
    assert (done.stdout, done.returncode) == ("None\n", 0), done.stderr
