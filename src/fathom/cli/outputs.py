"""Whether outputs can be written, asked before the work and not after it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fathom.core.errors import FathomError


def require_file(path: Path, what: str) -> None:
    """Makes sure that a file can be written at `path`, and leaves everything as it was.

    Raises:
        FathomError: it cannot, or a folder is there.
    """
    if path.is_dir():
        raise FathomError(f"expected a file to write {what} to, got the folder {path}; add the file's name")
    if path.exists() and not os.access(path, os.W_OK):
        raise FathomError(f"expected to write {what} to {path}, got a file that may not be written; name another")
    _probe(path.absolute().parent, what)


def require_folder(path: Path, what: str) -> None:
    """Makes sure that files can be written to a folder, which is made where there is none.

    Raises:
        FathomError: they cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FathomError(f"expected a folder {path} to write {what} in, got: {error.strerror}; name another") from error
    _probe(path, what)


def _probe(folder: Path, what: str) -> None:
    """Tries: whether a folder can be written, no flag of it says for certain."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise FathomError(f"expected to write {what} in {folder}, got: {error.strerror}; name another folder") from error
