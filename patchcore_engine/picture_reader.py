"""Reads a fit's pictures, decoding ahead of the backbone."""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from patchcore_engine import images
from patchcore_engine.errors import DataError
from patchcore_engine.images import Geometry, PreparedImage


class PictureReader:
    """Yields prepared pictures in batches, and keeps account of them.

    `used` and `skipped` fill as the batches are taken; a picture is skipped only when `skip_unreadable` is set,
    otherwise its DataError is raised, naming the file.
    """

    def __init__(self, pictures: Sequence[Path], geometry: Geometry, *, skip_unreadable: bool) -> None:
        self._pictures = pictures
        self._geometry = geometry
        self._skip_unreadable = skip_unreadable
        self._digest = hashlib.sha256()
        self.used: list[Path] = []
        self.skipped: list[Path] = []

    def batches(self, size: int) -> Iterator[list[PreparedImage]]:
        batch: list[PreparedImage] = []
        for image in self._prepared(ahead=2 * size):
            batch.append(image)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def digest(self) -> str:
        """Return the SHA-256 (hex) over the digests of the files used, in their order."""
        return self._digest.hexdigest()

    def _prepared(self, ahead: int) -> Iterator[PreparedImage]:
        under_way: deque[tuple[Path, Future[tuple[PreparedImage, bytes]]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
            try:
                for path in self._pictures:
                    under_way.append((path, pool.submit(self._prepare, path)))
                    if len(under_way) > ahead:
                        yield from self._take(*under_way.popleft())
                while under_way:
                    yield from self._take(*under_way.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _prepare(self, path: Path) -> tuple[PreparedImage, bytes]:
        data = images.read_bytes(path)
        image = images.prepare_named(self._geometry, images.decode_named(data, path), path)
        return image, hashlib.sha256(data).digest()

    def _take(self, path: Path, future: Future[tuple[PreparedImage, bytes]]) -> Iterator[PreparedImage]:
        try:
            image, digest = future.result()
        except DataError:
            if not self._skip_unreadable:
                raise
            self.skipped.append(path)
            return
        self.used.append(path)
        self._digest.update(digest)
        yield image
