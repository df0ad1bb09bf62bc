"""A bank whose files were changed and whose manifest was made to fit them: a bank that can search, or a BankError."""

import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from patchcore_engine.bank import CALIBRATION, INDEX, MANIFEST, PARITY, MemoryBank
from patchcore_engine.errors import BankError
from patchcore_engine.fit import fit
from tests.engine import parts

_NAMES = (MANIFEST, CALIBRATION, INDEX, PARITY)
_BLANK = "0" * 64


@functools.cache
def _files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        pictures = parts.write_good_parts(Path(folder), count=12)
        return fit(pictures, parts.extractor(), parts.settings(coreset_ratio=0.01)).bank.files()


def seeds() -> Iterator[bytes]:
    """Which file, where, and what is written there."""
    for number, name in enumerate(_NAMES):
        data = _files()[name]
        for position in range(0, min(len(data), 400), 40):
            yield bytes([number]) + position.to_bytes(2, "little") + data[position : position + 12]


def one_input(data: bytes) -> None:
    if len(data) < 4:
        return
    files = dict(_files())
    name, position = _NAMES[data[0] % len(_NAMES)], int.from_bytes(data[1:3], "little")
    changed = bytearray(files[name])
    position %= len(changed)
    changed[position : position + len(data) - 3] = data[3:]
    files[name] = bytes(changed)
    if name != MANIFEST:
        values = json.loads(files[MANIFEST])
        values["files"][name] = hashlib.sha256(changed).hexdigest()
        values["digest"] = _BLANK
        text = json.dumps(values, indent=2) + "\n"
        files[MANIFEST] = text.replace(_BLANK, hashlib.sha256(text.encode()).hexdigest()).encode()
    try:
        bank = MemoryBank.from_files(files, "fuzzed")
    except BankError as error:
        assert len(str(error)) < 500
        return
    found = bank.search(np.zeros((1, 4, bank.index.dimension), np.float32))
    assert np.isfinite(found.distances).all()
