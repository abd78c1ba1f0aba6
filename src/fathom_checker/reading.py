"""Files as bytes: exactly the file named, never one beside it; unzipped where it starts as a gzip file does; of bounded size."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from pathlib import Path
from typing import IO

from fathom_checker.errors import Malformed

MOST_BYTES = 1 << 31


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, after gunzip if it is gzipped.

    Raises:
        Malformed: it cannot be read, is a damaged gzip file, or larger than `MOST_BYTES`.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not zipped:
                return bounded(path.name, file)
            with gzip.GzipFile(fileobj=file) as unzipped:
                return bounded(path.name, unzipped)
    except (EOFError, gzip.BadGzipFile, zlib.error) as reason:
        raise Malformed(f"{path.name}: a damaged gzip file ({reason})") from reason
    except OSError as reason:
        raise Malformed(f"{path}: cannot be read: {reason.strerror or reason}") from reason


def bounded(name: str, file: IO[bytes] | gzip.GzipFile) -> bytes:
    """All that is left of a file."""
    chunks = io.BytesIO()
    while chunk := file.read(1 << 20):
        chunks.write(chunk)
        if chunks.tell() > MOST_BYTES:
            raise Malformed(f"{name}: expected at most {MOST_BYTES} bytes, got more")
    return chunks.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
