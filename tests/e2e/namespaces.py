"""Two hosts and a switch between them, of Linux network namespaces: a real network that can be cut.

    line  10.77.0.1 -- veth -- switch (a bridge) -- veth -- 10.77.0.2  field

Needs root and iproute2. Each host knows the other's address for good, so that a cut is as silent as a pulled cable: no
packet comes back that says so.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import pytest

Host = Literal["line", "field"]
ADDRESSES: Final[dict[Host, str]] = {"line": "10.77.0.1", "field": "10.77.0.2"}
MACS: Final[dict[Host, str]] = {"line": "02:00:00:00:77:01", "field": "02:00:00:00:77:02"}


class Network:
    """Made on entry and taken away on exit; skips the test where the host can't have one."""

    def __init__(self) -> None:
        self._prefix = f"patchline-{os.getpid()}"
        self._made: list[str] = []

    def host(self, name: Host) -> list[str]:
        """What goes before a command that is to run on that host."""
        return ["ip", "netns", "exec", f"{self._prefix}-{name}"]

    def connections(self, name: Host) -> int:
        """How many TCP connections that host holds for alive."""
        command = [*self.host(name), "ss", "--no-header", "--tcp", "--numeric", "state", "established"]
        return len(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())

    def cut_link(self) -> None:
        """Take the field's link down: its end sees that."""
        self._ip("-n", self._switch, "link", "set", "field", "down")

    def mend_link(self) -> None:
        self._ip("-n", self._switch, "link", "set", "field", "up")

    def cut_silently(self) -> None:
        """Let the switch forward nothing to the field, while its link stays up."""
        self._ip("-n", self._switch, "link", "set", "field", "nomaster")

    def mend_silently(self) -> None:
        self._ip("-n", self._switch, "link", "set", "field", "master", "bridge")

    def disturb(self, *netem: str) -> None:
        """Let the field's link lose and delay packets; skips where the kernel has no netem."""
        command = ["tc", "-n", self._switch, "qdisc", "add", "dev", "field", "root", "netem", *netem]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this kernel can't lose packets on purpose: {done.stderr.strip()}")

    def __enter__(self) -> Self:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("network namespaces need root and iproute2")
        try:
            self._take_away_orphans()
            self._make()
        except subprocess.CalledProcessError as error:
            self._take_away()
            pytest.skip(f"this host can't have network namespaces: {error.stderr.strip()}")
        return self

    def __exit__(self, _kind: object, _error: object, _trace: TracebackType | None) -> None:
        self._take_away()

    @property
    def _switch(self) -> str:
        return f"{self._prefix}-switch"

    def _make(self) -> None:
        for name in ("switch", "line", "field"):
            self._ip("netns", "add", f"{self._prefix}-{name}")
            self._made.append(f"{self._prefix}-{name}")
            self._ip("-n", f"{self._prefix}-{name}", "link", "set", "lo", "up")
        self._ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", self._switch, "link", "set", "bridge", "up")
        for name, address in ADDRESSES.items():
            host = f"{self._prefix}-{name}"
            peer = ("peer", "name", "eth0", "address", MACS[name], "netns", host)
            self._ip("-n", self._switch, "link", "add", name, "type", "veth", *peer)
            self._ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
            self._ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
            self._ip("-n", host, "link", "set", "eth0", "up")
            for other in ADDRESSES.keys() - {name}:
                known = ("lladdr", MACS[other], "nud", "permanent", "dev", "eth0")
                self._ip("-n", host, "neigh", "replace", ADDRESSES[other], *known)

    def _take_away(self) -> None:
        # With a namespace go its links, and with a veth's one end the other.
        while self._made:
            subprocess.run(["ip", "netns", "delete", self._made.pop()], capture_output=True, check=False)

    def _take_away_orphans(self) -> None:
        """Namespaces of a run that was killed before it could take its own away."""
        found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        for name in re.findall(r"^patchline-\d+-\w+", found, re.MULTILINE):
            if not Path("/proc", name.split("-")[1]).exists():
                self._made.append(name)
        self._take_away()

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
