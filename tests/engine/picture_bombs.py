"""Pictures that claim or hold far more than their bytes, one or more of each codec, made here.

`python -m tests.engine.picture_bombs` prints what each costs: the time to its refusal and the growth of the process.
"""

import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from patchcore_engine import images
from patchcore_engine.errors import DataError
from patchcore_engine.png_file import PNG_SIGNATURE

SIDE = 8000
TALL = SIDE - 1  # so that SIDE x TALL pixels are within the limit


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png(
    width: int,
    height: int,
    *,
    colour: int = 0,
    depth: int = 8,
    interlaced: bool = False,
    before: bytes = b"",
    pixels: bytes = b"",
    folded: bytes = b"",
) -> bytes:
    """A PNG of the chunks that are given; `pixels` unfolded, b"" for a few, or `folded` as they stand in the file."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = folded or zlib.compress(pixels or bytes(1000), 9)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def folded_zeros(size: int, before: bytes = b"") -> bytes:
    """A zlib stream of about `size` bytes, which unfolds to a thousand times as many zeros behind those of `before`."""
    zeros = bytes(1_000_000)
    stream = zlib.compressobj(9)
    begin = stream.compress(before) + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(zeros) + stream.flush(zlib.Z_FULL_FLUSH)
    count = -(-size // len(block))
    # Zeros leave Adler's first sum as it is and add it to the second.
    check = zlib.adler32(before)
    first, second = check & 0xFFFF, check >> 16
    second = (second + first * count * len(zeros)) % 65521
    return begin + block * count + b"\x03\0" + struct.pack(">HH", second, first)


def folded_nothing(blocks: int) -> bytes:
    """A zlib stream of 11 bytes a block: the lengths of a code whose table takes microseconds to make, and no byte."""
    lengths = {18: 1, 1: 1}  # of codes: "up to 138 zeros" is 1, "of one bit" is 0
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
    block = "001" + "00000" * 2 + "0111"  # dynamic; 257 literals, one distance, 18 lengths
    block += "".join("100" if symbol in lengths else "000" for symbol in order)
    block += "1" + "1111111" + "1" + f"{118 - 11:07b}"[::-1] + "0" + "0"  # 256 zeros, then the end and a distance
    block += "0"  # the end
    bits = block * 8
    whole = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
    return b"\x78\x01" + whole * (blocks // 8) + b"\x03\0" + struct.pack(">I", 1)


def png_of_noise_and_zeros() -> bytes:
    rows = [b"\0" + row.tobytes() for row in np.random.default_rng(0).integers(0, 256, (2000, 2000), np.uint8)]
    return png(2000, 2000, folded=folded_zeros(400_000, b"".join(rows)))


def jpeg(width: int, height: int, *, progressive: bool = False, scans: int = 0) -> bytes:
    """A JPEG of 64 x 64 pixels that claims others, with its second scan repeated."""
    ok, data = cv2.imencode(".jpg", np.zeros((64, 64), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)])
    assert ok
    whole = data.tobytes()
    frame = whole.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    whole = whole[: frame + 5] + struct.pack(">HH", height, width) + whole[frame + 9 :]
    if scans:
        first = whole.index(b"\xff\xda")
        second = whole.index(b"\xff\xda", first + 2)
        third = min(found for marker in (b"\xff\xda", b"\xff\xc4") if (found := whole.find(marker, second + 2)) > 0)
        whole = whole[:second] + whole[second:third] * scans + whole[second:]
    return whole


def bmp(width: int, height: int, *, compression: int = 0) -> bytes:
    file = b"BM" + struct.pack("<IHHI", 1082, 0, 0, 1078)
    picture = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 256, 0)
    return file + picture + bytes(1024) + bytes([0, 0, 0, 1])


def tiff(width: int, height: int, body: bytes, *, compression: int = 1, **more: int) -> bytes:
    """A TIFF of one strip; `more`: further tags as tag123=value."""
    tags = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: height, 279: len(body)}
    tags |= {int(name.removeprefix("tag")): value for name, value in more.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def webp(width: int, height: int) -> bytes:
    body = b"\x2f" + struct.pack("<I", (width - 1) | ((height - 1) << 14)) + bytes(51)
    return b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def webp_of_one_colour() -> bytes:
    ok, data = cv2.imencode(".webp", np.zeros((TALL, SIDE, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert ok
    return data.tobytes()


def png_with_a_long_chunk(kind: bytes) -> bytes:
    whole = png(8, 8)
    return whole[:33] + struct.pack(">I", 0x7FFFFFF0) + kind + bytes(100) + whole[33:]


def animated_png() -> bytes:
    control = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    return png(8, 8, before=control + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 1, 0, 0)))


def others() -> bytes:
    """Formats that OpenCV would read and that no camera sends."""
    return b"GIF89a" + struct.pack("<HH", SIDE, TALL) + b"\x80\0\0" + bytes(40)


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG of 65000 x 65000": lambda: png(65000, 65000),
    "PNG of 8000 x 7999 in 80 bytes": lambda: png(SIDE, TALL),
    "PNG of 16-bit RGBA in 80 bytes": lambda: png(TALL, TALL, colour=6, depth=16),
    "PNG of 1 x 2**31 - 1": lambda: png(1, 2**31 - 1),
    "PNG that announces pixels of 2 GiB": lambda: png_with_a_long_chunk(b"IDAT"),
    "PNG that announces a note of 2 GiB": lambda: png_with_a_long_chunk(b"tEXt"),
    "PNG that unfolds to 100 MB behind its pixels": lambda: png(8, 8, pixels=bytes(100_000_000)),
    "PNG of 4000 x 4000 that unfolds to 32 GB": lambda: png(4000, 4000, folded=folded_zeros(32_000_000)),
    "PNG of 4000 x 4000 that unfolds to 16 GB": lambda: png(4000, 4000, folded=folded_zeros(16_000_000)),
    "PNG of 4000 x 4000 that unfolds to 4 GB": lambda: png(4000, 4000, folded=folded_zeros(4_000_000)),
    "PNG of 8000 x 7999 that unfolds to 4 GB": lambda: png(SIDE, TALL, folded=folded_zeros(4_050_000)),
    "PNG of 270 x 270 that unfolds to 75 MB": lambda: png(270, 270, folded=folded_zeros(75_000)),
    "PNG of 16-bit RGBA that unfolds to 4 GB": lambda: png(
        3000, 3000, colour=6, depth=16, folded=folded_zeros(4_000_000)
    ),
    "PNG of 8000 x 7999 RGB that unfolds to 16 GB": lambda: png(SIDE, TALL, colour=2, folded=folded_zeros(16_000_000)),
    "PNG of 500 MB of zeros in 0.5 MB": lambda: png(
        SIDE, TALL, colour=6, depth=16, folded=zlib.compress(bytes((1 + 8 * SIDE) * TALL), 9)
    ),
    "PNG of noise with 400 MB of zeros behind it": png_of_noise_and_zeros,
    "PNG of 1,000,000 blocks of nothing": lambda: png(4000, 4000, folded=folded_nothing(1_000_000)),
    "PNG of 1,000,000 pieces": lambda: png(8, 8, before=chunk(b"IDAT", b"") * 1_000_000),
    "PNG with 2**31 frames": animated_png,
    "JPEG of 65000 x 65000": lambda: jpeg(65000, 65000),
    "JPEG of 8000 x 7999 in 400 bytes": lambda: jpeg(SIDE, TALL),
    "JPEG, progressive, in 300 bytes": lambda: jpeg(SIDE, TALL, progressive=True),
    "JPEG of 600,000 scans": lambda: jpeg(SIDE, TALL, progressive=True, scans=600_000),
    "BMP of 60000 x 60000": lambda: bmp(60000, 60000),
    "BMP of 8000 x 7999 in 1 KB": lambda: bmp(SIDE, TALL),
    "BMP, run-length, in 1 KB": lambda: bmp(SIDE, TALL, compression=1),
    "TIFF of 60000 x 60000": lambda: tiff(60000, 60000, bytes(100)),
    "TIFF, deflate, in 300 bytes": lambda: tiff(SIDE, TALL, zlib.compress(bytes(1000)), compression=8),
    "TIFF of 64-bit floats": lambda: tiff(SIDE, TALL, zlib.compress(bytes(10**6)), compression=8, tag258=64, tag339=3),
    "TIFF, fax, in 200 bytes": lambda: tiff(SIDE, TALL, b"\x00\x10\x01" * 20, compression=4, tag258=1),
    "TIFF with a tile of 16384 x 16384": lambda: tiff(64, 64, b"", tag322=16384, tag323=16384, tag324=8, tag325=100),
    "WebP of 16384 x 16384": lambda: webp(16384, 16384),
    "WebP of 8000 x 7999 in 80 bytes": lambda: webp(SIDE, TALL),
    "WebP of one colour in 3 KB": webp_of_one_colour,
    "GIF": others,
}


def cost(data: bytes) -> tuple[float, int, str]:
    """Return the milliseconds and the bytes of memory that `decode` takes for a bomb, and what it says."""
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak(status)
    start = time.perf_counter()
    try:
        shape = images.decode(data).shape
        said = f"DECODED to {shape}"
    except DataError as error:
        said = str(error)
    return 1000 * (time.perf_counter() - start), _peak(status) - before, said


def measured() -> Iterator[tuple[str, int, float, int, str]]:
    """Yield name, size, milliseconds, growth and answer of each bomb."""
    images.decode(images.encode_png(np.zeros((8, 8), np.uint8)))
    for name, make in BOMBS.items():
        data = make()
        yield name, len(data), *cost(data)


def measure_in_a_process_of_its_own() -> str:
    return subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, check=True).stdout


def _peak(status: Path) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def main() -> None:
    for name, size, milliseconds, grown, said in measured():
        print(f"{name:45} {size:>10,} B  {milliseconds:8.2f} ms  {grown / 1e6:7.2f} MB  {said}")


if __name__ == "__main__":
    main()
