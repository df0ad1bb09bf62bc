"""Disks that are full, read-only, frozen or slow: real file systems and real system calls, made for one test."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.conftest import DaemonProcess

EXT4_BYTES = 48 * 2**20


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs at `folder`; `options` as mount takes them, such as size=16m."""
    _needs("mount")
    folder.mkdir(parents=True, exist_ok=True)
    with _mounted(folder, "-t", "tmpfs", "-o", options, "tmpfs"):
        yield folder


@contextmanager
def ext4_disk(folder: Path) -> Iterator[Path]:
    """Mount a new ext4 at `folder`, which turns read-only at the first fault that its kernel finds."""
    _needs("mount", "mkfs.ext4", "losetup")
    folder.mkdir(parents=True, exist_ok=True)
    image = folder.with_name(f"{folder.name}.ext4")
    with image.open("wb") as file:
        file.truncate(EXT4_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with mounted_image(folder):
        yield folder


@contextmanager
def mounted_image(folder: Path) -> Iterator[None]:
    """Mount the image of an `ext4_disk` where it was."""
    image = folder.with_name(f"{folder.name}.ext4")
    with _mounted(folder, "-t", "ext4", "-o", "loop,errors=remount-ro", str(image)):
        yield


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take up all room; returns the file that does."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                os.write(file.fileno(), bytes(2**16))
        except OSError:
            pass
    return filler


def break_ext4(folder: Path) -> None:
    """Let the kernel find a fault in the file system, as after an I/O error: it turns read-only."""
    device = Path(_output("findmnt", "-no", "SOURCE", str(folder))).name
    trigger = Path(f"/sys/fs/ext4/{device}/trigger_fs_error")
    if not trigger.exists():
        pytest.skip(f"this kernel has no {trigger}")
    trigger.write_text("a test")


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Let every write to the file system at `folder` wait."""
    _needs("fsfreeze")
    subprocess.run(["fsfreeze", "--freeze", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(folder)], check=True)


@contextmanager
def delayed(daemon: DaemonProcess, calls: str, seconds: float, *, path: Path | None = None) -> Iterator[None]:
    """Let each of these system calls (of files at `path`) of a daemon take so many seconds more."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    inject = f"inject={calls}:delay_enter={int(seconds * 1e6)}"
    only = ["-P", str(path)] if path is not None else []
    words = ["strace", "-f", "-q", "-o", "/dev/null", "-e", f"trace={calls}", "-e", inject, *only]
    tracer = subprocess.Popen([*words, "-p", str(daemon.pid)], stderr=subprocess.PIPE, text=True)
    try:
        while not _traced(daemon.pid):
            if tracer.poll() is not None:
                pytest.skip(f"strace can't attach: {tracer.stderr.read() if tracer.stderr else ''}")
            time.sleep(0.01)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()


def _traced(pid: int) -> bool:
    """Whether a tracer is at every thread of a process."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return all(int(re.search(r"TracerPid:\s+(\d+)", status)[1]) for status in statuses)  # type: ignore[index]


@contextmanager
def _mounted(folder: Path, *words: str) -> Iterator[None]:
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"can't mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _needs(*commands: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
