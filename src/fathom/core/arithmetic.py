"""What a claim is about: the network over the real numbers, or the float32 program. `core.single` says what that means."""

from __future__ import annotations

import enum


class Arithmetic(enum.StrEnum):
    """What proofs and failures are about."""

    REAL = "real"
    FLOAT32 = "float32"
