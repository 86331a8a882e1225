"""Raw files: from the mirror directory first, then from the network, and only with their pinned sha256."""

import hashlib
import http.client
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

MIRROR = "DDPM_JAX_MIRROR"
BACKOFF = (1.0, 3.0, 9.0)  # seconds before the second, third and fourth attempt
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16
NETWORK = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)

logger = logging.getLogger(__name__)


class File(NamedTuple):
    """A public file: where it lies under a mirror or raw directory, where it comes from, and what it must be."""

    path: str
    url: str
    sha256: str
    size: int  # bytes


def fetch(files: Sequence[File], directory: Path) -> list[Path]:
    """Where the verified `files` lie: under the mirror, already in `directory`, or now downloaded into it.

    The mirror is the directory that the environment variable DDPM_JAX_MIRROR names; its files are used in place and
    never changed. Raises ValueError where a file has other bytes than pinned, or cannot be had.
    """
    found = [_at_hand(file, directory) for file in files]
    missing = [file for file, path in zip(files, found, strict=True) if path is None]
    for file in missing:
        try:
            _download(file, directory / file.path)
        except NETWORK as error:
            lacking = [one for one in missing if not (directory / one.path).exists()]
            raise ValueError(_by_hand(lacking, directory, str(error))) from error
    return [path or directory / file.path for file, path in zip(files, found, strict=True)]


def at_hand(files: Sequence[File], directory: Path) -> bool:
    """Whether all of `files` lie under the mirror or in `directory`, so that `fetch` needs no network."""
    return all(_at_hand(file, directory) for file in files)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _at_hand(file: File, directory: Path) -> Path | None:
    """The verified copy of `file` in the mirror or in `directory`, or None; a damaged one in `directory` is removed."""
    mirror = os.environ.get(MIRROR)
    if mirror and (path := Path(mirror) / file.path).is_file():
        if (digest := sha256_of(path)) != file.sha256:
            raise ValueError(f"{path} has sha256 {digest}, expected {file.sha256}; remove or replace it")
        return path
    path = directory / file.path
    if not path.is_file():
        return None
    if (digest := sha256_of(path)) == file.sha256:
        return path
    path.unlink()
    logger.warning("removed %s: sha256 %s, expected %s", path, digest, file.sha256)
    return None


def _download(file: File, path: Path) -> None:
    """Download into `path`, by an atomic rename once the bytes are verified."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        received, digest = _with_retries(file, part)
        if digest != file.sha256:
            raise ValueError(
                f"{file.url} gave {received} bytes of sha256 {digest}, expected {file.sha256} ({file.size} bytes); "
                "the download was removed"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _with_retries(file: File, part: Path) -> tuple[int, str]:
    """The transfer, tried again after each of the waits in `BACKOFF` where that may help."""
    for wait in BACKOFF:
        try:
            return _transfer(file, part)
        except NETWORK as error:
            if isinstance(error, urllib.error.HTTPError) and error.code not in (408, 429) and error.code < 500:
                raise
            logger.warning("%s: %s; trying again in %g s", file.url, error, wait)
            time.sleep(wait)
    return _transfer(file, part)


def _transfer(file: File, part: Path) -> tuple[int, str]:
    """One attempt: the body into `part`, its length and its sha256. A longer body than pinned is left unread."""
    logger.info("downloading %s", file.url)
    with _open(file.url) as response, part.open("wb") as stream:
        announced = int(response.headers.get("Content-Length") or 0)
        received, digest = _copy(response, stream, file.size + 1)
    if received < min(announced, file.size + 1):
        raise ConnectionError(f"cut after {received} of {announced} bytes")
    return received, digest


def _open(url: str) -> http.client.HTTPResponse:
    """The answer to a request for `url`."""
    try:
        return urllib.request.urlopen(url, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection, and outlives this call in the traceback
        raise


def _copy(source: http.client.HTTPResponse, target: BinaryIO, limit: int) -> tuple[int, str]:
    """Copy at most `limit` bytes: how many there were, and their sha256."""
    digest, received = hashlib.sha256(), 0
    while received < limit and (chunk := source.read(min(CHUNK, limit - received))):
        target.write(chunk)
        digest.update(chunk)
        received += len(chunk)
    return received, digest.hexdigest()


def _by_hand(files: Sequence[File], directory: Path, reason: str) -> str:
    """What to tell somebody whose machine cannot download `files`."""
    wanted = [f"  {file.url} (sha256 {file.sha256}) as {directory / file.path}\n" for file in files]
    return (
        f"cannot download {files[0].url}: {reason}. Where there is a network, get\n{''.join(wanted)}"
        f"or set {MIRROR} to a directory that holds {', '.join(file.path for file in files)}"
    )
