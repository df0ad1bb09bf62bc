"""Heat maps from the daemon to PNG files, each named after its camera, its journal offset and its part."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

import zmq

from daemon.errors import ArchiveError, MessageError
from daemon.file_names import safe_name
from daemon.keys import ClientKeys
from daemon.messages import HEATMAP_TOPIC, HeatmapHeader, Verdict
from daemon.sockets import connect, open_socket

LONGEST_NAME: Final = 240
_WAITING_LIMIT: Final = 256
_POLL_MS: Final = 100
_HIGH_WATER_MARK: Final = 1000

Identity = tuple[str, int, int]


class HeatmapFiles:
    """Subscribes to heat maps on a thread of its own and writes each once its verdict is known.

    Maps are not journalled, so one that its subscriber was too slow for is not replayed: `saved` counts what came.
    A float16 map is written as it is, *.f16. Raises ArchiveError when the folder can't be written.
    """

    def __init__(self, address: str, folder: Path, keys: ClientKeys | None = None) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        self._folder = folder
        self._address = address
        self._lock = threading.Lock()
        self._names: OrderedDict[Identity, str] = OrderedDict()
        self._maps: OrderedDict[Identity, tuple[HeatmapHeader, bytes]] = OrderedDict()
        self._stop = threading.Event()
        self._written = threading.Condition(self._lock)
        self._failure: ArchiveError | None = None
        self.saved = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = open_socket(self._context, zmq.SUB, rcvhwm=_HIGH_WATER_MARK)
        self._socket.subscribe(HEATMAP_TOPIC)
        connect(self._socket, address, keys)
        self._thread = threading.Thread(target=self._run, name="heatmaps", daemon=True)
        self._thread.start()

    def expect(self, verdict: Verdict) -> None:
        """Tell whose map may come: its part names the file. Raises ArchiveError when a map could not be written."""
        name = f"{verdict.camera}-{verdict.offset if verdict.offset is not None else verdict.seq:08d}"
        if verdict.part:
            name += "-" + verdict.part.removesuffix(".png")
        name = safe_name(name, LONGEST_NAME)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._names[verdict.identity] = name
            self._write_if_both(verdict.identity)
            while len(self._names) > _WAITING_LIMIT:
                self._names.popitem(last=False)

    def wait_for(self, saved: int, timeout_s: float) -> bool:
        """Wait until `saved` maps are on disk."""
        with self._written:
            return self._written.wait_for(lambda: self.saved >= saved, timeout_s)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close(linger=0)
        self._context.term()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._socket.poll(_POLL_MS):
                continue
            parts = self._socket.recv_multipart()
            if len(parts) != 3:
                continue
            try:
                header = HeatmapHeader.unpack(parts[1])
            except MessageError:
                continue
            identity = (header.camera, header.stream, header.seq)
            with self._lock:
                self._maps[identity] = (header, parts[2])
                self._write_if_both(identity)
                while len(self._maps) > _WAITING_LIMIT:
                    self._maps.popitem(last=False)

    def _write_if_both(self, identity: Identity) -> None:
        if identity not in self._names or identity not in self._maps:
            return
        name = self._names.pop(identity)
        header, payload = self._maps.pop(identity)
        suffix = ".f16" if header.encoding == "float16" else ".png"
        try:
            (self._folder / (name + suffix)).write_bytes(payload)
        except OSError as error:
            self._failure = _unwritable(self._folder, error)
        self.saved += self._failure is None
        self._written.notify_all()


def _unwritable(folder: Path, error: OSError) -> ArchiveError:
    return ArchiveError(f"{folder} can't be written: {error.strerror}. Give another folder, or make room there.")
