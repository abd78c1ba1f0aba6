"""Property files as text: plain or gzipped, of bounded size, in UTF-8."""

from __future__ import annotations

from pathlib import Path

from fathom.capture.unpack import unpack
from fathom.core.errors import NotUnderstood

MOST_BYTES = 1 << 30
"""A gzip file of a megabyte may unfold to a gigabyte; nothing larger is a property that anyone wrote."""


def read_text(source: str | Path | bytes) -> tuple[str, str]:
    """The name and the text of a file at a path, or of its bytes; unzipped where it starts as a gzip file does.

    Raises:
        FathomError: there is no such file, or it cannot be read.
        NotUnderstood: it is no UTF-8, a damaged gzip file, or larger than `MOST_BYTES`.
    """
    name = "<bytes>" if isinstance(source, bytes) else Path(source).name
    raw = unpack(source, MOST_BYTES)
    try:
        return name, raw.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise NotUnderstood(
            f"{name}: expected text in UTF-8, got the byte {raw[reason.start]:#04x} at offset {reason.start}; is this a "
            "property file?"
        ) from reason
