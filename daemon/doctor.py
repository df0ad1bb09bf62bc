"""Everything `patchline doctor` looks at, in the order of its report."""

import errno
import json
import os
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import psutil

from daemon.config import MIB, RecipeSettings, Settings
from daemon.errors import KeyFileError
from daemon.memory_limit import memory_limit
from daemon.security import OPEN_DOORS_ADVICE, open_doors, read_door_keys
from patchcore_engine import diagnosis
from patchcore_engine.diagnosis import Finding

LOW_SPACE_BYTES: Final = 2048 * MIB
NO_SPACE_BYTES: Final = 64 * MIB
SLOW_FSYNC_MS: Final = 50.0
FSYNC_SAMPLES: Final = 7


def examine(settings: Settings, *, recipes: bool, banks: Path | None = None) -> Iterator[Finding]:
    """Run every check; one that finds a fault doesn't keep the next from running.

    `recipes`: check the banks that `settings` names.  `banks`: check every recipe in this folder too.
    """
    engine = settings.engine
    yield diagnosis.check_python()
    yield diagnosis.check_convolution_guard()
    wanted = diagnosis.LIBRARIES | (diagnosis.OPENVINO_LIBRARIES if engine.engine == "openvino" else {})
    libraries = list(diagnosis.check_libraries(wanted))
    yield from libraries
    broken = {finding.check for finding in libraries if finding.status == "fail"}
    if "library mindspore" not in broken:
        device = diagnosis.check_device(engine.device, engine.device_id)
        yield device
        if device.status != "fail":
            yield diagnosis.check_convolution()
    yield diagnosis.check_memory_bandwidth()
    if "library faiss-cpu" not in broken:
        yield diagnosis.check_faiss()
    yield from diagnosis.check_weights(engine.weights_dir)
    if recipes:
        yield from check_recipes(settings)
    if "library faiss-cpu" not in broken:
        yield from check_memory(settings)
    if banks is not None:
        yield from check_banks(banks, settings)
    yield from check_folder("state folder", settings.service.state_dir)
    if settings.journal_dir != settings.service.state_dir:
        yield from check_folder("journal folder", settings.journal_dir)
    if settings.archive.enabled:
        yield from check_folder("archive folder", settings.archive.dir)
    yield check_keys(settings)
    yield from check_addresses(settings)


def check_recipes(settings: Settings) -> Iterator[Finding]:
    """Check the bank of each recipe in the configuration."""
    from daemon.recipes import bank_folder

    if not settings.recipes:
        remedy = "Add a [recipes.NAME] with a bank and its cameras."
        yield Finding(check="recipes", status="warning", detail="the configuration names no recipe", remedy=remedy)
    for name, recipe in settings.recipes.items():
        yield from diagnosis.check_bank(
            bank_folder(settings, recipe),
            name,
            weights=_weights_source(settings, recipe),
            weights_dir=settings.engine.weights_dir,
            needs_weights=settings.engine.backbone_file is None,
        )


def check_banks(banks: Path, settings: Settings) -> Iterator[Finding]:
    """Check the active bank of each recipe in the folder `banks`."""
    from patchcore_engine.bank_store import recipes

    names = recipes(banks)
    if not names:
        remedy = "Make a bank with `patchline fit`, or name another folder."
        yield Finding(check="banks", status="fail", detail=f"{banks} holds no memory bank", remedy=remedy)
    for name in names:
        yield from diagnosis.check_bank(
            banks / name,
            name,
            weights=settings.engine.weights or None,
            weights_dir=settings.engine.weights_dir,
            needs_weights=settings.engine.backbone_file is None,
        )


def check_memory(settings: Settings) -> Iterator[Finding]:
    """Show what the daemon may take of memory, share by share, and check that it fits."""
    from daemon.memory_budget import footprints, in_mib, memory_budget

    budget = memory_budget(settings, footprints(settings), memory_limit(settings.service.memory_bytes))
    for share in budget.shares:
        keys = f"  {', '.join(share.keys)}" if share.keys else ""
        detail, figures = f"{in_mib(share.bytes):>10}{keys}", {"bytes": share.bytes}
        yield Finding(check=f"memory: {share.name}", status="ok", detail=detail, figures=figures)
    fits = budget.bytes <= budget.limit.bytes
    yield Finding(
        check="memory: all",
        status="ok" if fits else "fail",
        detail=f"{in_mib(budget.bytes):>10}  of {in_mib(budget.limit.bytes)}, {budget.limit.source}",
        remedy=None if fits else budget.remedy(),
        figures={"bytes": budget.bytes, "limit_bytes": budget.limit.bytes},
    )


def check_folder(check: str, folder: Path) -> Iterator[Finding]:
    """Check that `folder` can be written, its free space, and how long one fsync takes there."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        remedy = "Give this user the right to write there, or name another folder."
        yield Finding(check=check, status="fail", detail=f"{place} can't be written to", remedy=remedy)
        return
    free = shutil.disk_usage(place).free
    yield Finding(
        check=f"{check}: space",
        status="ok" if free >= LOW_SPACE_BYTES else "warning" if free >= NO_SPACE_BYTES else "fail",
        detail=f"{free / 1e9:.1f} GB free at {place}",
        remedy=None if free >= LOW_SPACE_BYTES else "Make room, or lower max_bytes and max_age_days of the journal.",
        figures={"free_bytes": free},
    )
    try:
        milliseconds = _fsync_milliseconds(place)
    except OSError as error:
        detail = f"a file at {place} can't be written: {error.strerror}"
        yield Finding(check=f"{check}: fsync", status="fail", detail=detail, remedy="Mend or replace this disk.")
        return
    slow = milliseconds > SLOW_FSYNC_MS
    yield Finding(
        check=f"{check}: fsync",
        status="warning" if slow else "ok",
        detail=f"{milliseconds:.1f} ms (a verdict waits for one)",
        remedy="Each batch of verdicts waits for this disk: use a local SSD for it." if slow else None,
        figures={"milliseconds": milliseconds},
    )


def check_keys(settings: Settings) -> Finding:
    """Check that no door stands open to other hosts, and that the files of keys can be used."""
    check = "keys"
    doors = open_doors(settings)
    if doors:
        detail = f"other hosts reach {', '.join(doors)} without a key"
        return Finding(check=check, status="warning", detail=detail, remedy=OPEN_DOORS_ADVICE)
    try:
        keys = read_door_keys(settings.security)
    except KeyFileError as error:
        remedy = "Mend the files of [security], and try again as the daemon's user."
        return Finding(check=check, status="fail", detail=str(error), remedy=remedy)
    if keys is None:
        return Finding(check=check, status="ok", detail="none asked for; no door is reached from other hosts")
    counts = {name: len(peers) for name, peers in keys.lists.items()}
    empty = [name for name, count in counts.items() if not count and getattr(settings.security, name)]
    return Finding(
        check=check,
        status="warning" if empty else "ok",
        detail="asked for at every door: " + ", ".join(f"{count} {name}" for name, count in counts.items()),
        remedy=f"The list of {' and '.join(empty)} is empty, so nobody gets in there." if empty else None,
        figures=counts,
    )


def check_addresses(settings: Settings) -> Iterator[Finding]:
    """Check that each TCP address of the configuration is free, or say who has it."""
    addresses = {
        "intake.push": settings.intake.push,
        "intake.acked": settings.intake.acked,
        "publish.verdicts": settings.publish.verdicts,
        "publish.replay": settings.publish.replay,
        "telemetry.listen": f"tcp://{settings.telemetry.listen}" if settings.telemetry.listen else "",
    }
    for name, address in addresses.items():
        if address.startswith("tcp://"):
            yield check_address(name, address)


def check_address(name: str, address: str) -> Finding:
    """Check one address of the form tcp://HOST:PORT."""
    check = f"address {name}"
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    host = {"*": "0.0.0.0"}.get(host, host).strip("[]")  # noqa: S104  (looked at, as the user configured it)
    if port in ("0", "*"):
        return Finding(check=check, status="ok", detail=f"{address}: a free port is taken at start")
    try:
        family, _, _, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            remedy = "Name an address of this host; ports below 1024 need a privilege."
            return Finding(check=check, status="fail", detail=f"{address}: {error.strerror}", remedy=remedy)
        owner = _listener(int(port))
        if owner is not None and "patchline" in owner:
            return Finding(check=check, status="ok", detail=f"{address}: in use by {owner}")
        remedy = "Stop the program that has it, or name another port."
        return Finding(
            check=check, status="warning", detail=f"{address}: in use by {owner or 'another'}", remedy=remedy
        )
    return Finding(check=check, status="ok", detail=f"{address}: free")


def to_json(findings: Iterable[Finding]) -> str:
    """Return the findings as one JSON document: `status` is the worst of them."""
    findings = list(findings)
    return json.dumps({"status": worst(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)


def worst(findings: Iterable[Finding]) -> diagnosis.Status:
    statuses = {finding.status for finding in findings}
    return "fail" if "fail" in statuses else "warning" if "warning" in statuses else "ok"


def _weights_source(settings: Settings, recipe: RecipeSettings) -> str | None:
    return (recipe.weights if recipe.weights is not None else settings.engine.weights) or None


def _fsync_milliseconds(folder: Path) -> float:
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(FSYNC_SAMPLES):
            file.write(bytes(4096))
            file.flush()
            started = time.monotonic_ns()
            os.fsync(file.fileno())
            times.append((time.monotonic_ns() - started) / 1e6)
    return statistics.median(times)


def _listener(port: int) -> str | None:
    """Return the name and process id of the local program that listens on a TCP port, where this user may know it."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    return None
                process = psutil.Process(connection.pid)
                words = process.cmdline()
                name = "patchline" if any(Path(word).name == "patchline" for word in words[:2]) else process.name()
                return f"{name} (process {connection.pid})"
    except psutil.Error:
        return None
    return None
