"""Property files as text: plain or gzipped, of bounded size, in UTF-8."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO

from fathom.core.errors import FathomError, NotUnderstood

MOST_BYTES = 1 << 30
"""A gzip file of a megabyte may unfold to a gigabyte; nothing larger is a property that anyone wrote."""

_CHUNK = 1 << 20


def read_text(source: str | Path | bytes) -> tuple[str, str]:
    """The name and the text of a file at a path, or of its bytes; unzipped where it starts as a gzip file does.

    Raises:
        FathomError: there is no such file, or it cannot be read.
        NotUnderstood: it is no UTF-8, a damaged gzip file, or larger than `MOST_BYTES`.
    """
    if isinstance(source, bytes):
        return "<bytes>", _decode("<bytes>", io.BytesIO(source))
    path = Path(source)
    try:
        with path.open("rb") as file:
            return path.name, _decode(path.name, file)
    except OSError as reason:
        raise FathomError(f"expected a property file at {path}, and could not read one: {reason.strerror}") from reason


def _decode(name: str, file: BinaryIO) -> str:
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    raw = _unzip(name, file) if zipped else _bounded(name, file)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise NotUnderstood(
            f"{name}: expected text in UTF-8, got the byte {raw[reason.start]:#04x} at offset {reason.start}; is this a "
            "property file?"
        ) from reason


def _unzip(name: str, file: BinaryIO) -> bytes:
    try:
        with gzip.GzipFile(fileobj=file) as unzipped:
            return _bounded(name, unzipped)
    except (EOFError, gzip.BadGzipFile, zlib.error) as reason:
        raise NotUnderstood(
            f"{name}: expected a whole gzip file, got a damaged one ({reason}); fetch or zip it again"
        ) from reason


def _bounded(name: str, file: BinaryIO | gzip.GzipFile) -> bytes:
    chunks, size = [], 0
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        if size > MOST_BYTES:
            raise NotUnderstood(
                f"{name}: expected a property of at most {MOST_BYTES} bytes, got more; split it into several files"
            )
        chunks.append(chunk)
    return b"".join(chunks)
