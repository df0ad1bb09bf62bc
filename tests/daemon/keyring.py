"""Keys for tests: a daemon's, a camera's, a subscriber's, and the lists of those who may connect."""

from pathlib import Path

from daemon.keys import ClientKeys, new_key, read_allow_list, read_secret_key
from daemon.security import CAMERAS, SUBSCRIBERS, DoorKeys


class Keyring:
    """Key files below `folder`. The lists begin with the keys `camera` and `subscriber`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("daemon", "camera", "subscriber"):
            new_key(name, folder)
        self.server_key = folder / "daemon.key"
        self.allow(CAMERAS, "camera")
        self.allow(SUBSCRIBERS, "subscriber")

    @property
    def section(self) -> str:
        """The section [security] of a configuration."""
        return (
            f'[security]\nserver_key = "{self.server_key}"\ncameras = "{self.list_file(CAMERAS)}"\n'
            f'subscribers = "{self.list_file(SUBSCRIBERS)}"\n'
        )

    @property
    def door_keys(self) -> DoorKeys:
        lists = {name: read_allow_list(self.list_file(name)) for name in (CAMERAS, SUBSCRIBERS)}
        return DoorKeys(read_secret_key(self.server_key), lists)

    def list_file(self, allow_list: str) -> Path:
        return self.folder / allow_list

    def allow(self, allow_list: str, *names: str) -> None:
        """Let those of these names in, and nobody else."""
        text = "".join((self.folder / f"{name}.pub").read_text() for name in names)
        self.list_file(allow_list).write_text(f"# who may connect\n{text}")

    def new(self, name: str) -> ClientKeys:
        new_key(name, self.folder)
        return self.of(name)

    def of(self, name: str, server: str = "daemon") -> ClientKeys:
        """What the client `name` connects with to the daemon of the key `server`."""
        return ClientKeys.read(self.folder / f"{name}.key", self.folder / f"{server}.pub")
