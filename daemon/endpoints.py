"""Where the daemon of a configuration is reached, as its clients on the same host need it."""

import json
import os
from pathlib import Path
from typing import Final, Literal

from daemon.config import Settings, load_settings
from daemon.errors import ConfigError, NotRunningError
from daemon.keys import ClientKeys, read_secret_key

Door = Literal["push", "acked", "verdicts", "replay"]

ADDRESSES_FILE: Final = "addresses.json"
# Among the addresses: the daemon's public key, where it asks its peers for theirs.
SERVER_KEY: Final = "server_key"
DEFAULT_CONFIG: Final = Path("config.toml")
_KEYS: Final[dict[Door, str]] = {
    "push": "intake.push",
    "acked": "intake.acked",
    "verdicts": "publish.verdicts",
    "replay": "publish.replay",
}


def endpoint(door: Door, config: Path | None) -> str:
    """Return the address to connect to for `door`, by the configuration file at `config`.

    None reads config.toml in the current folder where there is one, and the default addresses otherwise. A port that
    the system chose is read from the state folder of the running daemon.
    Raises ConfigError for a closed door and NotRunningError where the running daemon must tell and there is none.
    """
    settings = chosen_settings(config)
    section, key = _KEYS[door].split(".")
    address = str(getattr(getattr(settings, section), key))
    if not address:
        raise ConfigError(f'{_KEYS[door]} is "" in the configuration: that door is closed. Give --address.')
    if address.startswith("tcp://") and address.rpartition(":")[2] in ("*", "0"):
        address = running_addresses(settings.service.state_dir)[door]
    return address.replace("tcp://0.0.0.0:", "tcp://127.0.0.1:").replace("tcp://*:", "tcp://127.0.0.1:")


def client_keys(key: Path | None, server_key: Path | None, config: Path | None) -> ClientKeys | None:
    """Return the keys that a client on this host connects with: its own of the file `key`, and the daemon's.

    The daemon's public key is that of the file `server_key`, else what the running daemon of the configuration tells.
    None where no key is given. Raises KeyFileError, NotRunningError, and ConfigError where the configuration asks for a
    key and none is given.
    """
    if key is None:
        if server_key is not None or (config is not None and chosen_settings(config).security.server_key):
            raise ConfigError(
                "The daemon asks for keys: give this client's with --key FILE (patchline keys new makes one)."
            )
        return None
    if server_key is not None:
        return ClientKeys.read(key, server_key)
    running = running_addresses(chosen_settings(config).service.state_dir)
    if SERVER_KEY not in running:
        raise ConfigError("The running daemon asks for no keys: leave --key out.")
    return ClientKeys(read_secret_key(key), running[SERVER_KEY].encode())


def chosen_configuration(config: Path | None) -> Path | None:
    """Return `config`, or config.toml of the current folder where it is None and there is one."""
    # Path.is_file raises in a folder that this user may not enter, such as another's home.
    return DEFAULT_CONFIG if config is None and os.path.isfile(DEFAULT_CONFIG) else config  # noqa: PTH113


def chosen_settings(config: Path | None) -> Settings:
    """Load the configuration that `chosen_configuration` finds, or the defaults. Raises ConfigError."""
    found = chosen_configuration(config)
    return load_settings(found) if found is not None else Settings()


def running_addresses(state_dir: Path) -> dict[str, str]:
    """Return the real addresses that the daemon with this state folder wrote at its start. Raises NotRunningError."""
    path = state_dir / ADDRESSES_FILE
    try:
        return {str(door): str(address) for door, address in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError) as error:
        raise NotRunningError(f"{path} can't be read: start the daemon first (patchline serve).") from error
