"""Transformations of pictures: how a picture may be moved, warped, lit and blurred. One kind, one file, found by discovery."""

from __future__ import annotations

import sys

from fathom.core.discover import entry
from fathom.transforms.region import Transformed as Transformed
from fathom.transforms.transformation import Transformation


def __getattr__(name: str) -> type[Transformation]:
    """`fathom.transforms.NAME`, whatever file NAME is in."""
    if name.startswith("_"):
        raise AttributeError(name)
    return entry(sys.modules[__name__], Transformation, name)  # type: ignore[type-abstract]
