"""The commands, one a file, found by looking."""

from __future__ import annotations

import importlib
import pkgutil


def load() -> None:
    """Import every command, each of which adds itself to the application."""
    for info in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{info.name}")
