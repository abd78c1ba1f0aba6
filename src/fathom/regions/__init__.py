"""Regions: what the adversary may choose. One kind, one file, found by discovery."""

from __future__ import annotations

import sys

from fathom.core.discover import entry
from fathom.core.region import Region


def __getattr__(name: str) -> type[Region]:
    """`fathom.regions.NAME`, whatever file NAME is in."""
    if name.startswith("_"):
        raise AttributeError(name)
    return entry(sys.modules[__name__], Region, name)  # type: ignore[type-abstract]
