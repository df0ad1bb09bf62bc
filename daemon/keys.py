"""CURVE keys in files: one secret key with its name, or the public keys of an allow-list, in ZeroMQ's Z85 text.

A secret key's file holds the line `secret KEY NAME`; a list holds lines `KEY NAME`, and lines that begin with `#`, as
no key does, are comments. A `.pub` file is a list of one.
"""

import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import zmq
from zmq.utils import z85

from daemon.errors import KeyFileError

SECRET_SUFFIX: Final = ".key"  # noqa: S105  (a file's suffix)
PUBLIC_SUFFIX: Final = ".pub"
# systemd's LoadCredential= puts a file of this name into the folder that CREDENTIALS_DIRECTORY tells.
CREDENTIAL: Final = "credential:"

_SECRET_WORD: Final = "secret"  # noqa: S105  (the first word of a secret key's line, no password)
_Z85_LENGTH: Final = 40
_LARGEST_FILE_BYTES: Final = 2**20
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A key pair, Z85. The secret half is kept out of logs and messages."""

    name: str
    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a client needs of keys: its own, and the daemon's public one (Z85), by which it knows the daemon."""

    own: SecretKey
    server: bytes
    files: tuple[Path, Path] | None = None

    @classmethod
    def read(cls, own: Path, server: Path) -> Self:
        """Read the client's secret key and the daemon's public key (`.pub`) from files. Raises KeyFileError."""
        return cls(read_secret_key(own), read_public_key(server), (own, server))

    def read_again(self) -> "ClientKeys":
        """Return the keys as their files hold them now; these, where the files can't be read or there are none."""
        if self.files is None:
            return self
        try:
            return ClientKeys.read(*self.files)
        except KeyFileError:
            return self


def new_key(name: str, folder: Path) -> tuple[Path, Path]:
    """Make a key pair; return its files, NAME.key (mode 0600) and NAME.pub. Raises KeyFileError if one is there."""
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"{name!r} is no name for a key: 1 to 64 of A-Z a-z 0-9 _ . -, not beginning with a dot.")
    public, secret = zmq.curve_keypair()
    paths = folder / f"{name}{SECRET_SUFFIX}", folder / f"{name}{PUBLIC_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_new(paths[0], f"{_SECRET_WORD} {secret.decode()} {name}\n", 0o600)
        _write_new(paths[1], f"{public.decode()} {name}\n", 0o644)
    except FileExistsError as error:
        raise KeyFileError(f"{error.filename} is there already: choose another name, or take it away first.") from error
    except OSError as error:
        raise KeyFileError(f"{folder} can't be written: {error.strerror}. Name another folder with --dir.") from error
    return paths


def read_secret_key(source: str | Path) -> SecretKey:
    """Read a secret key from a file, or from a systemd credential, `credential:NAME`.

    Raises KeyFileError, also for a file that others than its owner may read.
    """
    path, words = _only_line(source, private=True)
    if words[0] != _SECRET_WORD or len(words) < 2 or not _is_key(words[1]):
        raise KeyFileError(f"{path} holds no secret key: make one with `patchline keys new NAME`.")
    secret = words[1].encode()
    return SecretKey(" ".join(words[2:]) or path.stem, zmq.curve_public(secret), secret)


def read_public_key(source: str | Path) -> bytes:
    """Read a `.pub` file, Z85. Raises KeyFileError."""
    path, words = _only_line(source, private=False)
    if not _is_key(words[0]):
        raise KeyFileError(f"{path} holds no public key: it's the file NAME.pub of `patchline keys new NAME`.")
    return words[0].encode()


def read_allow_list(source: str | Path) -> Mapping[bytes, str]:
    """Read a list of public keys; return name by key, the keys as ZAP states them: 32 bytes. Raises KeyFileError."""
    path, text = _read(source, private=False)
    allowed: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if _is_key(words[0]):
            allowed[z85.decode(words[0].encode())] = " ".join(words[1:])
        elif words[0] == _SECRET_WORD:
            raise KeyFileError(f"{path}, line {number}, is a secret key: take it out, and put its NAME.pub there.")
        else:
            raise KeyFileError(f"{path}, line {number}, is neither a public key with its name nor a # comment.")
    return allowed


def _only_line(source: str | Path, *, private: bool) -> tuple[Path, list[str]]:
    path, text = _read(source, private=private)
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        raise KeyFileError(f"{path} must hold one line with one key; it holds {len(lines)}.")
    return path, lines[0]


def _read(source: str | Path, *, private: bool) -> tuple[Path, str]:
    path, guarded = _place(source)
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if private and not guarded:
                _check_private(path, facts)
            data = file.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path} can't be read: {error.strerror}.") from error
    if len(data) > _LARGEST_FILE_BYTES:
        raise KeyFileError(f"{path} is larger than any file of keys.")
    try:
        return path, data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise KeyFileError(f"{path} is not UTF-8 text, so it holds no keys.") from error


def _place(source: str | Path) -> tuple[Path, bool]:
    """Return the file, and whether systemd guards it: it shows such a file's access list as its group's mode."""
    if not isinstance(source, str) or not source.startswith(CREDENTIAL):
        return Path(source), False
    name = source.removeprefix(CREDENTIAL)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise KeyFileError(
            f"{source} is no file here: CREDENTIALS_DIRECTORY is not set. Start the daemon by systemd with "
            f"LoadCredential={name}:/path/to/the.key, or name the file itself."
        )
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"{source}: a credential's name is 1 to 64 of A-Z a-z 0-9 _ . -.")
    return Path(folder) / name, True


def _check_private(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise KeyFileError(f"{path} is no file.")
    if facts.st_mode & 0o077:
        raise KeyFileError(
            f"{path} holds a secret key and others may use it (mode {stat.S_IMODE(facts.st_mode):04o}). Do "
            f"`chmod 600 {path}`, and make a new key if somebody may have read it."
        )
    if facts.st_uid not in (0, os.geteuid()):
        raise KeyFileError(f"{path} holds a secret key and belongs to another user: give it to this one by chown.")


def _is_key(word: str) -> bool:
    if len(word) != _Z85_LENGTH or not word.isascii():
        return False
    try:
        z85.decode(word.encode())
    except (KeyError, struct.error):
        return False
    return True


def _write_new(path: Path, text: str, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
