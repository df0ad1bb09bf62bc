"""Decoding pictures, and the geometry from a camera's frame to the backbone's input and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from patchcore_engine import MAX_IMAGE_PIXELS
from patchcore_engine.errors import DataError, GeometryError, ImageTooLargeError, UndecodableImageError
from patchcore_engine.path_text import path_text
from patchcore_engine.picture_header import check_picture

PICTURE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

Color = Literal["mono", "rgb", "bgr"]


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle in pixels of the original frame; edges may fall between pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A picture ready for the backbone, and where it lies in the frame it was cut from.

    `pixels`: uint8 [image_size, image_size, 3], RGB.  `rect`: the part of the frame that `pixels` shows.
    """

    pixels: NDArray[np.uint8]
    frame_height: int
    frame_width: int
    rect: Rect


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """Shorter side to `resize` pixels, then a centre crop of `image_size` x `image_size`."""

    resize: int
    image_size: int

    def __post_init__(self) -> None:
        if not 32 <= self.image_size <= self.resize <= 4096:
            raise GeometryError(
                f"resize {self.resize} and image size {self.image_size} don't fit: 32 <= image size <= resize <= 4096."
            )

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        """Resize and crop `image`, uint8 [h, w, 3] RGB or [h, w] mono.

        Raises GeometryError for a sliver, which would be resized to more pixels than fit in memory.
        """
        height, width = image.shape[:2]
        if self.resize**2 * max(height, width) // min(height, width) > MAX_IMAGE_PIXELS:
            raise GeometryError(f"A picture of {width} x {height} pixels is too narrow to be inspected.")
        scale = self.resize / min(height, width)
        crop = self.image_size / scale
        rect = Rect((width - crop) / 2, (height - crop) / 2, crop, crop)
        scaled_height, scaled_width = max(round(height * scale), self.resize), max(round(width * scale), self.resize)
        if scale < 1:
            image = _shrink(image, scaled_height, scaled_width)
        elif scale > 1:
            image = cv2.resize(image, (scaled_width, scaled_height), interpolation=cv2.INTER_LINEAR)
        top, left = (scaled_height - self.image_size) // 2, (scaled_width - self.image_size) // 2
        pixels = image[top : top + self.image_size, left : left + self.image_size]
        if pixels.ndim == 2:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        return PreparedImage(np.ascontiguousarray(pixels), height, width, rect)

    def prepare_mask(self, mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Resize and crop a ground-truth mask, uint8 [h, w] -> bool [image_size, image_size], nearest neighbour."""
        height, width = mask.shape[:2]
        scale = self.resize / min(height, width)
        scaled = (max(round(width * scale), self.resize), max(round(height * scale), self.resize))
        mask = cv2.resize(mask, scaled, interpolation=cv2.INTER_NEAREST_EXACT)
        top, left = (scaled[1] - self.image_size) // 2, (scaled[0] - self.image_size) // 2
        return mask[top : top + self.image_size, left : left + self.image_size] > 0


def _shrink(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Average over areas. OpenCV halves a picture many times faster than it divides it by 4 or 8; cameras' sizes often
    are such multiples, and the average of averages is the same but for rounding.
    """
    while image.shape[0] % (2 * height) == 0 and image.shape[1] % (2 * width) == 0:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def decode(data: bytes | memoryview) -> NDArray[np.uint8]:
    """Decode an encoded picture (PNG, JPEG, BMP, TIFF, WebP) to uint8 [h, w, 3] RGB or [h, w] mono.

    A 16-bit picture is scaled from its full range. Raises UndecodableImageError and ImageTooLargeError.
    """
    if len(data) == 0:
        raise UndecodableImageError("The picture is empty (0 bytes).")
    checked = check_picture(bytes(data))
    try:
        image = cv2.imdecode(np.frombuffer(checked, dtype=np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise ImageTooLargeError(f"The picture holds more than {MAX_IMAGE_PIXELS:,} pixels.") from error
        raise UndecodableImageError("The picture can't be decoded.") from error
    if image is None:
        raise UndecodableImageError("The picture can't be decoded: it is damaged or of no known format.")
    return to_uint8_rgb(image, color="bgr" if image.ndim == 3 else "mono", bits=8 * image.dtype.itemsize)


def to_uint8_rgb(image: NDArray[Any], *, color: Color, bits: int) -> NDArray[np.uint8]:
    """Bring raw pixels, [h, w] or [h, w, c] of `bits` significant bits, to uint8: mono [h, w] or RGB [h, w, 3].

    Values above 2**bits - 1 saturate; they never wrap.
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise GeometryError(f"Pixels of type {image.dtype} can't be used: send 8 or 16 bit unsigned integers.")
    if bits != 8 or image.dtype != np.uint8:
        image = cv2.convertScaleAbs(image, alpha=255.0 / (2**bits - 1))
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 3:
        if image.shape[2] == 4:
            image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if color == "bgr" else cv2.COLOR_RGBA2RGB)
        elif color == "bgr":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return image.astype(np.uint8, copy=False)


def read_bytes(path: Path) -> bytes:
    """Read a file; a DataError names it and says why it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path_text(path)} can't be read: {error.strerror}.") from error


def decode_named(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode like `decode`; errors name the file the bytes came from."""
    try:
        return decode(data)
    except DataError as error:
        raise type(error)(f"{path_text(path)}: {error}") from error


def read(path: Path) -> NDArray[np.uint8]:
    """Read and decode a picture file; errors name the file."""
    return decode_named(read_bytes(path), path)


def prepare_named(geometry: Geometry, image: NDArray[np.uint8], path: Path) -> PreparedImage:
    """Prepare like `Geometry.prepare`; a picture that doesn't fit is a DataError that names the file it came from."""
    try:
        return geometry.prepare(image)
    except GeometryError as error:
        raise DataError(f"{path_text(path)}: {error}") from error


def list_pictures(folder: Path) -> list[Path]:
    """Return the picture files directly in `folder`, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode uint8 [h, w] or RGB [h, w, 3] as PNG, at the fast end of its compression levels."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    ok, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise GeometryError(f"A picture of shape {image.shape} can't be encoded as PNG.")
    return data.tobytes()
