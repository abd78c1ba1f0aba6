"""Overseers: what judges an output. One kind, one file, found by discovery."""

from __future__ import annotations

import sys

from fathom.core.discover import entry
from fathom.core.overseer import Overseer


def __getattr__(name: str) -> type[Overseer]:
    """`fathom.overseers.NAME`, whatever file NAME is in."""
    if name.startswith("_"):
        raise AttributeError(name)
    return entry(sys.modules[__name__], Overseer, name)  # type: ignore[type-abstract]
