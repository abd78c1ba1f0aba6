"""Files as bytes: plain or gzipped, and of bounded size, so that a small archive cannot fill the memory."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO

from fathom.core.errors import FathomError, NotUnderstood

GZIP = b"\x1f\x8b"
CHUNK = 1 << 20


def unpack(source: str | Path | bytes, limit: int) -> bytes:
    """The bytes of a file or, given bytes, these; uncompressed where they start as gzip does, whatever the file is called.

    Raises:
        FathomError: there is no such file, or it cannot be read.
        NotUnderstood: it is damaged, or larger than `limit` bytes uncompressed.
    """
    if isinstance(source, bytes):
        return _unpack(io.BytesIO(source), limit, f"{len(source)} bytes")
    try:
        with Path(source).open("rb") as file:
            return _unpack(file, limit, str(source))
    except OSError as problem:
        raise FathomError(f"expected a file to read at {source}, got: {problem.strerror or problem}") from problem


def _unpack(file: BinaryIO, limit: int, label: str) -> bytes:
    zipped = file.read(2) == GZIP
    file.seek(0)
    try:
        return _bounded(gzip.GzipFile(fileobj=file) if zipped else file, limit, label)
    except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
        raise NotUnderstood(f"{label}: expected a whole gzip file, got a damaged one ({problem}); copy it again") from problem


def _bounded(file: BinaryIO | gzip.GzipFile, limit: int, label: str) -> bytes:
    whole = bytearray()
    while chunk := file.read(CHUNK):
        whole += chunk
        if len(whole) > limit:
            raise NotUnderstood(f"{label}: expected at most {limit} bytes uncompressed, got more; is this the right file?")
    return bytes(whole)
