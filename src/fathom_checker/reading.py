"""What can come of checking, and files as bytes: exactly the one named, never one beside it; unzipped where it starts as gzip."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

MOST_BYTES, MOST_ELEMENTS = 1 << 31, 1 << 27


class Malformed(Exception):
    """A file is not what it should be, or uses what the checker does not understand."""


class Rejected(Exception):
    """The certificate is well formed, and does not prove what it should."""


def read_bytes(path: Path) -> bytes:
    """Raises: Malformed: it cannot be read, is a damaged gzip file, or unfolds to more than `MOST_BYTES`."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (EOFError, OSError, zlib.error) as reason:
        raise Malformed(f"{path}: cannot be read: {reason}") from reason
    if len(content) > MOST_BYTES:
        raise Malformed(f"{path}: more than {MOST_BYTES} bytes")
    return content
