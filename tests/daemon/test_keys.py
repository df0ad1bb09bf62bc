"""Files of keys: made, read, and refused with a sentence that says what to do."""

import os
import stat
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from daemon.errors import KeyFileError
from daemon.keys import ClientKeys, new_key, read_allow_list, read_public_key, read_secret_key
from tests.daemon.serving import patchline


def test_a_new_key_is_a_pair_whose_secret_half_is_its_owners_alone(tmp_path: Path) -> None:
    secret, public = new_key("cam0", tmp_path / "keys")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    own = read_secret_key(secret)
    assert own.name == "cam0"
    assert own.public == read_public_key(public) == zmq.curve_public(own.secret)
    assert read_allow_list(public) == {z85.decode(own.public): "cam0"}
    assert own.secret.decode() not in repr(own) + public.read_text()


def test_a_key_is_never_written_over_another(tmp_path: Path) -> None:
    secret, _ = new_key("cam0", tmp_path)
    before = secret.read_text()
    with pytest.raises(KeyFileError, match="is there already"):
        new_key("cam0", tmp_path)
    assert secret.read_text() == before


@pytest.mark.parametrize("name", ["..", "../cam0", "/srv/cam0", "a/b", ".hidden", "", "x" * 65, "cam\n0"])
def test_a_key_s_name_can_t_leave_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "keys"
    with pytest.raises(KeyFileError, match="no name for a key"):
        new_key(name, folder)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o644, 0o666])
def test_a_secret_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    secret, _ = new_key("daemon", tmp_path)
    secret.chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:04o}.*chmod 600 {secret}"):
        read_secret_key(secret)
    secret.chmod(0o400)
    assert read_secret_key(secret).name == "daemon"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_secret_key_of_another_user_is_refused(tmp_path: Path) -> None:
    secret, _ = new_key("daemon", tmp_path)
    os.chown(secret, 12345, -1)
    with pytest.raises(KeyFileError, match="another user"):
        read_secret_key(secret)


def test_systemd_s_credential_is_read_as_systemd_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, _ = new_key("daemon", tmp_path)
    with pytest.raises(KeyFileError, match=r"LoadCredential=daemon\.key:"):
        read_secret_key("credential:daemon.key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    # systemd grants the service's user by an access list, which stat shows as the group's bits.
    secret.chmod(0o440)
    assert read_secret_key("credential:daemon.key").name == "daemon"
    with pytest.raises(KeyFileError, match="credential's name"):
        read_secret_key("credential:../daemon.key")


def test_a_list_holds_keys_names_and_comments(tmp_path: Path) -> None:
    new_key("cam0", tmp_path)
    new_key("cam1", tmp_path)
    zero, one = ((tmp_path / f"cam{n}.pub").read_text() for n in range(2))
    file = tmp_path / "cameras"
    file.write_text(f"# the cameras of line 3\n\n{zero.split()[0]} the left one\n#{one}")
    assert read_allow_list(file) == {z85.decode(zero.split()[0].encode()): "the left one"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("secret {} cam0\n", "line 1, is a secret key"),
        ("cam0 {}\n", "line 1, is neither a public key"),
        ("{}\n{}x\n", "line 2, is neither a public key"),
        ('"' * 40 + "\n", "line 1, is neither a public key"),
        ("$" * 40 + "\n", "line 1, is neither a public key"),
    ],
)
def test_a_list_that_holds_anything_else_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    key = zmq.curve_keypair()[0].decode()
    (tmp_path / "cameras").write_text(text.replace("{}", key))
    with pytest.raises(KeyFileError, match=message):
        read_allow_list(tmp_path / "cameras")


def test_files_that_hold_no_key_are_refused(tmp_path: Path) -> None:
    secret, public = new_key("cam0", tmp_path)
    public.chmod(0o600)
    with pytest.raises(KeyFileError, match="no secret key"):
        read_secret_key(public)
    with pytest.raises(KeyFileError, match="no public key"):
        read_public_key(secret)
    for content in (b"", b"\xff\xfe\x00", b"a\nb\n", bytes(2**20 + 1)):
        secret.write_bytes(content)
        with pytest.raises(KeyFileError):
            read_secret_key(secret)
    with pytest.raises(KeyFileError, match="can't be read"):
        read_secret_key(tmp_path / "absent.key")
    with pytest.raises(KeyFileError, match="can't be read"):
        read_secret_key(tmp_path)


def test_a_client_reads_its_keys_again_and_keeps_them_where_it_can_t(tmp_path: Path) -> None:
    own, _ = new_key("cam0", tmp_path)
    _, server = new_key("daemon", tmp_path)
    keys = ClientKeys.read(own, server)
    assert keys.read_again() == keys
    text = server.read_text()
    server.write_text("half writ")
    assert keys.read_again() == keys
    _, other = new_key("daemon-2", tmp_path)
    server.write_text(other.read_text())
    assert keys.read_again().server == other.read_text().split()[0].encode() != text.split()[0].encode()


def test_the_command_makes_keys_and_shows_their_public_half(tmp_path: Path) -> None:
    made = patchline("keys", "new", "cam0", "--dir", str(tmp_path))
    assert made.returncode == 0, made.stderr
    public = (tmp_path / "cam0.pub").read_text()
    secret = (tmp_path / "cam0.key").read_text().split()[1]
    for file in ("cam0.key", "cam0.pub"):
        shown = patchline("keys", "show", str(tmp_path / file))
        assert shown.stdout == public, shown.stderr
    assert secret not in made.stdout + made.stderr
    again = patchline("keys", "new", "cam0", "--dir", str(tmp_path))
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert len(again.stderr.splitlines()) == 1


def test_the_command_shows_the_keys_of_a_configuration(tmp_path: Path) -> None:
    config = tmp_path / "line.toml"
    config.write_text("")
    assert "ask nobody" in patchline("keys", "show", "--config", str(config)).stdout
    for name in ("daemon", "cam0", "plc"):
        new_key(name, tmp_path)
    config.write_text(
        f'[security]\nserver_key = "{tmp_path}/daemon.key"\ncameras = "{tmp_path}/cam0.pub"\n'
        f'subscribers = "{tmp_path}/plc.pub"\n'
    )
    shown = patchline("keys", "show", "--config", str(config))
    lines = [line for line in shown.stdout.splitlines(keepends=True) if not line.startswith("# ")]
    assert lines == [(tmp_path / f"{name}.pub").read_text() for name in ("daemon", "cam0", "plc")], shown.stderr
