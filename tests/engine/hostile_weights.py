"""Weights files (`.pth`) that try to run something, to hang or to fill memory, made here.

`python -m tests.engine.hostile_weights` prints what each costs, and whatever Python's audit events saw it do.
"""

import io
import pickle
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from patchcore_engine.backbones.torch_file import read_torch_file
from patchcore_engine.errors import WeightsFormatError
from tests.engine.torch_files import LEGACY_MAGIC, dump, tensor, write_zip

HEAD = b"\x80\x02"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x01tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
BIGGEST = b"\x8a\xff" + b"\x7f" * 255
MANY = 390_000

# One or more of each class of operations, complete pickles.
PICKLES: dict[str, bytes] = {
    "GLOBAL and REDUCE": b"cos\nsystem\n(X\x04\x00\x00\x00exittR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04exit\x85R.",
    "STACK_GLOBAL of no names": b"\x80\x04K\x01K\x02\x93.",
    "INST": b"(X\x04\x00\x00\x00exitios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nX\x04\x00\x00\x00exito.",
    "NEWOBJ": b"\x80\x02cbuiltins\nobject\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04\x8c\x08builtins\x8c\x06object\x93)}\x92.",
    "BUILD on a list": b"](K\x01u]}b.",
    "BUILD with attributes": HEAD + b"}}X\x09\x00\x00\x00__class__K\x01sb.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"Pname\n.",
    "BINPERSID of a number": HEAD + b"K\x01Q.",
    "BINPERSID of a long tuple": HEAD + b"(" + b"K\x01" * 50_000 + b"tQ.",
    "REDUCE of no function": HEAD + b"K\x01)R.",
    "REDUCE with a list": HEAD + ORDERED + b"]R.",
    "BYTEARRAY8 of 2**60": b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"x.",
    "BINUNICODE8 of 2**63": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "BINBYTES of 4 GiB": b"\x80\x03B\xff\xff\xff\xffx.",
    "LONG4 of 2 GiB": HEAD + b"\x8b\xff\xff\xff\x7fx.",
    "LONG of 1,000,000 digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "DUP": b"K\x012.",
    "POP of nothing": b"0.",
    "GET of nothing": b"g7\n.",
    "STOP of nothing": b".",
    "MARK alone": b"(t" * 10 + b".",
    "no STOP": HEAD + b"}" * 100,
    "nested 100,000 deep, as a key": HEAD + b"})" + b"\x85" * 100_000 + b"K\x01s.",
    "a key of 2**40 parts by 40 steps": HEAD
    + b"})"
    + b"".join(b"q%ch%c\x86" % (step, step) for step in range(40))
    + b"K\x01s.",
    "a name of 2**40 parts by 40 steps": b"\x80\x04X\x02\x00\x00\x00os)"
    + b"".join(b"q%ch%c\x86" % (step, step) for step in range(40))
    + b"\x93.",
    "5,000 dictionaries of one long list": HEAD
    + b"]("
    + b"]K\x01aK\x01a" * 20_000
    + b"eq\x00"
    + (ORDERED + b"h\x00\x85R") * 5_000
    + b"K\x01.",
    "50,000 calls with one long tuple": HEAD
    + b"("
    + b"K\x01" * 100_000
    + b"tq\x00"
    + (ORDERED + b"h\x00R") * 50_000
    + b".",
    "a tensor of 100,000 dimensions": HEAD
    + TENSOR
    + b"("
    + STORAGE
    + b"K\x00("
    + BIGGEST * 20_000
    + b"t("
    + b"K\x00" * 20_000
    + b"t\x89NtR.",
    "a tensor of 2**2039 rows": HEAD + TENSOR + b"(" + STORAGE + b"K\x00(" + BIGGEST + b"t(K\x00t\x89NtR.",
    "a storage of 2**2039 numbers": HEAD + STORAGE.replace(b"K\x01t", BIGGEST + b"t") + b".",
    "many empty dictionaries": HEAD + b"}" * MANY + b".",
    "more operations than a table has": HEAD + b"}" * 500_000 + b".",
    "one text of 7 MB": HEAD + b"X" + struct.pack("<I", 7 * 2**20) + b"\xf0\x9f\x98\x80" * (7 * 2**18) + b".",
    "one text of 60 MB": HEAD + b"X" + struct.pack("<I", 60 * 2**20) + b"x" * (60 * 2**20) + b".",
    "one line of 60 MB": b"c" + b"x" * (60 * 2**20) + b"\nx\n.",
}


def _in_zip(path: Path, table: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", table)


def _in_legacy(path: Path, table: bytes) -> None:
    head = b"".join(dump(value) for value in (LEGACY_MAGIC, 1001, {"little_endian": True}))
    path.write_bytes(head + table)


def _write_zip_bomb(path: Path) -> None:
    zeros = np.zeros(25_000_000, "<f4")
    write_zip(path, {"a": tensor("0", zeros)}, {"0": zeros.tobytes()}, compression=zipfile.ZIP_DEFLATED)


def _write_many_entries(path: Path) -> None:
    info = b"".join(
        struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0)
        + b"%04x" % (n % 65536)
        for n in range(300_000)
    )
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, len(info), 4, 0)
    path.write_bytes(b"PK\x03\x04" + info + end)


def _write_overlapping_entries(path: Path) -> None:
    """Many storages that are one and the same 4 MB of the file."""
    data = np.zeros(1 << 20, "<f4")
    table = {f"t{number}": tensor(str(number), data) for number in range(200)}
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("model/data.pkl", dump(table))
        archive.writestr("model/data/0", data.tobytes())
        for number in range(1, 200):
            twin = zipfile.ZipInfo(f"model/data/{number}")
            original = archive.getinfo("model/data/0")
            twin.header_offset, twin.file_size, twin.compress_size = original.header_offset, data.nbytes, data.nbytes
            twin.CRC = original.CRC
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    path.write_bytes(stored.getvalue())


def _write_lying_size(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", dump({"a": tensor("0", np.zeros(4, "<f4"))}))
        archive.writestr("model/data/0", bytes(16))
        archive.getinfo("model/data.pkl").file_size = 2**31
        archive.getinfo("model/data/0").file_size = 2**40


def _write_long_byteorder(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", dump({}))
        archive.writestr("model/byteorder", bytes(60_000_000))


FILES: dict[str, Callable[[Path], None]] = {
    **{f"zip: {name}": (lambda path, p=table: _in_zip(path, p)) for name, table in PICKLES.items()},  # type: ignore[misc]
    **{f"legacy: {name}": (lambda path, p=table: _in_legacy(path, p)) for name, table in PICKLES.items()},  # type: ignore[misc]
    **{
        f"protocol {protocol}": (lambda path, p=protocol: _in_zip(path, pickle.dumps(subprocess.Popen, p)))  # type: ignore[misc]
        for protocol in range(6)
    },
    "a zip bomb of 100 MB": _write_zip_bomb,
    "300,000 entries": _write_many_entries,
    "200 entries that overlap": _write_overlapping_entries,
    "entries that lie about their size": _write_lying_size,
    "a byte order of 60 MB": _write_long_byteorder,
}


def measured(folder: Path) -> Iterator[tuple[str, float, float, str]]:
    """Yield name, milliseconds, growth in MB and answer of each file."""
    status = Path("/proc/self/status")
    names = [f"t{number}" for number in range(200)] + ["a"]
    for name, write in FILES.items():
        path = folder / "hostile.pth"
        write(path)
        Path("/proc/self/clear_refs").write_text("5")
        before, start = _peak(status), time.perf_counter()
        try:
            read_torch_file(path, names)
            said = "READ"
        except WeightsFormatError as error:
            said = str(error).partition(": ")[2]
        yield name, 1000 * (time.perf_counter() - start), (_peak(status) - before) / 1e6, said


def measure_in_a_process_of_its_own() -> str:
    return subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, check=True).stdout


def _peak(status: Path) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def main() -> None:
    seen: set[str] = set()
    watched = (
        "pickle.",
        "exec",
        "compile",
        "os.system",
        "os.exec",
        "os.fork",
        "subprocess.",
        "import",
        "socket.",
        "ctypes.",
    )
    with tempfile.TemporaryDirectory() as folder:
        measurement = measured(Path(folder))
        first = next(measurement)
        sys.addaudithook(lambda event, _arguments: seen.add(event) if event.startswith(watched) else None)
        for name, milliseconds, grown, said in (first, *measurement):
            print(f"{name:50} {milliseconds:9.2f} ms  {grown:7.2f} MB  {said}")
    print(f"events seen: {', '.join(sorted(seen)) or 'none'}")


if __name__ == "__main__":
    main()
