"""Published weights fetched over HTTP, resumed where an earlier try ended, and checked before they are used."""

import fcntl
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from patchcore_engine.backbones.registry import PublishedWeights
from patchcore_engine.backbones.sidecar import file_sha256
from patchcore_engine.backbones.torch_file import MAX_FILE_BYTES
from patchcore_engine.errors import DigestMismatchError, WeightsDownloadError

TIMEOUT_S: Final = 30.0
"""How long the server may stay silent."""

ATTEMPTS: Final = 4
"""How often a cut connection is taken up again before the error is shown."""

_CHUNK_BYTES: Final = 1 << 18

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes that are here and the file's size, None where the server doesn't tell it."""


def check_digest(path: Path, published: PublishedWeights) -> None:
    """Raise DigestMismatchError where `path` isn't the published file."""
    found = file_sha256(path)
    if not found.startswith(published.sha256):
        raise DigestMismatchError(
            f"{path} isn't the published file: its SHA-256 begins with {found[: len(published.sha256)]}, "
            f"not {published.sha256}."
        )


def download(published: PublishedWeights, url: str, directory: Path, on_progress: OnProgress) -> Path:
    """Fetch `url` to `directory` under its published name and return the path; a file that is there is only checked.

    What has arrived is kept in NAME.part and resumed by an HTTP range request (RFC 9110, section 14).
    Raises WeightsDownloadError, and DigestMismatchError, after which nothing is left.
    """
    if not url.startswith(("http://", "https://")):
        raise WeightsDownloadError(f"{url} isn't an http or https address.")
    target = directory / published.file_name
    try:
        if target.is_file():
            check_digest(target, published)
            return target
        directory.mkdir(parents=True, exist_ok=True)
        part = directory / f"{published.file_name}.part"
        with _locked(part) as file:
            _fetch(url, file, on_progress)
            file.flush()
            os.fsync(file.fileno())
            try:
                check_digest(part, published)
            except DigestMismatchError:
                part.unlink()
                raise
            part.replace(target)
    except OSError as error:
        raise WeightsDownloadError(f"{directory} can't be written to: {error.strerror or error}.") from error
    return target


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WeightsDownloadError(f"Another process is downloading {part.stem} already.") from None
        yield file


def _fetch(url: str, file: IO[bytes], on_progress: OnProgress) -> None:
    for attempt in range(ATTEMPTS):
        before = file.seek(0, os.SEEK_END)
        reason = _fetch_rest(url, file, on_progress)
        if reason is None:
            return
        if attempt == ATTEMPTS - 1 or file.tell() <= before:
            break
    raise WeightsDownloadError(
        f"The download of {url} broke off after {file.tell():,} bytes ({reason}). Run the command again to resume it."
    )


def _fetch_rest(url: str, file: IO[bytes], on_progress: OnProgress) -> str | None:
    """Append what `file` lacks; returns None when it is complete, else why the connection ended."""
    start = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310  # nosec B310  # (http, https)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None  # everything is here already; the digest decides whether it is the right file
        raise WeightsDownloadError(
            f"{url} can't be downloaded: the server answers {error.code} {error.reason}."
        ) from error
    except urllib.error.URLError as error:
        if start:
            return str(error.reason)
        raise WeightsDownloadError(
            f"{url} can't be reached: {error.reason}. Or bring the file from another host to the weights folder."
        ) from error
    except (http.client.HTTPException, OSError) as error:
        return str(error) or type(error).__name__
    with response:
        return _append(response, file, start, on_progress)


def _append(response: Any, file: IO[bytes], start: int, on_progress: OnProgress) -> str | None:
    if response.status == http.client.PARTIAL_CONTENT:
        match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            return "the server sent another range than asked for"
        total = None if match[2] == "*" else int(match[2])
    else:
        # The server doesn't do ranges and sends the file from its beginning.
        file.truncate(0)
        start = 0
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
    done = start
    on_progress(done, total)
    while True:
        try:
            chunk = response.read1(_CHUNK_BYTES)
        except (http.client.HTTPException, OSError) as error:
            # Caught here, where it is surely the network's (TLS, no route) and not the disk's.
            return str(error) or type(error).__name__
        if not chunk:
            break
        done += len(chunk)
        if done > MAX_FILE_BYTES:
            raise WeightsDownloadError(f"The server sends more than {MAX_FILE_BYTES // 1024**3} GiB; given up.")
        file.write(chunk)
        on_progress(done, total)
    file.seek(0, os.SEEK_END)
    return None if total is None or done == total else "the connection was cut"
