"""What the section [security] comes to: the keys of the doors, who may use each, and which doors stand open."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from daemon.config import SecuritySettings, Settings
from daemon.door_socket import Access
from daemon.keys import SecretKey, read_allow_list, read_secret_key

CAMERAS: Final = "cameras"
SUBSCRIBERS: Final = "subscribers"
# The key of each door in config.toml, and the list of those who may use it.
DOORS: Final = {
    "intake.push": CAMERAS,
    "intake.acked": CAMERAS,
    "publish.verdicts": SUBSCRIBERS,
    "publish.replay": SUBSCRIBERS,
}
OPEN_DOORS_ADVICE: Final = (
    "Whoever reaches them can send frames or read verdicts: make keys (patchline keys new) and set [security], or bind "
    "them to 127.0.0.1 or ipc://."
)


@dataclass(frozen=True, slots=True)
class DoorKeys:
    """The daemon's key pair, and for each list the names by public key (32 bytes)."""

    own: SecretKey
    lists: Mapping[str, Mapping[bytes, str]]


def read_door_keys(settings: SecuritySettings) -> DoorKeys | None:
    """Read the files that [security] names; None where it asks for no keys. Raises KeyFileError."""
    if not settings.server_key:
        return None
    lists = {CAMERAS: settings.cameras, SUBSCRIBERS: settings.subscribers}
    return DoorKeys(
        read_secret_key(settings.server_key),
        {name: read_allow_list(source) if source else {} for name, source in lists.items()},
    )


def access_for(allow_list: str, settings: SecuritySettings, keys: DoorKeys | None) -> Access:
    """Return who may use the doors of `allow_list`."""
    return Access(
        ipc_mode=settings.ipc_mode,
        ipc_group=settings.ipc_group,
        allow_list=allow_list,
        secret_key=keys.own.secret if keys is not None else None,
    )


def must_reconnect(allow_list: str, before: DoorKeys, now: DoorKeys) -> bool:
    """Whether the peers of a list have to connect anew: the daemon's key changed, or one of theirs was taken away."""
    return before.own.secret != now.own.secret or not set(before.lists[allow_list]) <= set(now.lists[allow_list])


def open_doors(settings: Settings) -> dict[str, str]:
    """Return key and address of each door that other hosts can reach and that asks nobody for a key."""
    if settings.security.server_key:
        return {}
    addresses = {key: address_of(settings, key) for key in DOORS}
    return {key: address for key, address in addresses.items() if is_reachable(address)}


def address_of(settings: Settings, key: str) -> str:
    section, name = key.split(".")
    return str(getattr(getattr(settings, section), name))


def is_reachable(address: str) -> bool:
    """Whether other hosts can reach a bound address: TCP on anything but the loopback interface."""
    if not address.startswith("tcp://"):
        return False
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        # The name of an interface, or * for all.
        return host not in ("lo", "localhost")
