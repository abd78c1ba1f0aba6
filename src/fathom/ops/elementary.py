"""Elementary functions with honest ends: how far a computed value may be from the real one, stated once.

The tables of torch's kernels (SLEEF, MKL, libm, CUDA) promise 0.5 to 2 units in the last place in float64. `ULPS` assumes
twice that and more, for values as torch returns them and for the short expressions below.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import OutOfDomain
from fathom.core.rounding import tiny

ULPS = {
    "exp": 4,
    "log": 4,
    "tanh": 4,
    "erf": 4,
    "sigmoid": 6,  # an exponential, a sum and a quotient where torch composes it
    "softplus": 12,
    "sqrt": 2,  # correctly rounded by IEEE 754; some accelerators are not
    "reciprocal": 2,
    "square": 2,
    "sin": 4,  # and cos
    "bell": 12,  # the derivatives of sigmoid and tanh: e / (1 + e)^2 for an exponential e
}
"""At most how many units in the last place a computed value may be off; one unit is at most eps times the value."""


def widen(value: Tensor, ulps: float | Tensor) -> Box:
    """A box that holds every real number within `ulps` units in the last place of `value`, underflow included."""
    error = value.abs() * (torch.finfo(value.dtype).eps * (ulps + 1)) + tiny(value.dtype)
    return Box(value - error, value + error)


def require(holds: Tensor, x: Box, what: str) -> None:
    """Refuse boxes on which a function has no finite real value.

    Raises:
        OutOfDomain: names the first box for which `holds` is false.
    """
    if not holds.all():
        at = tuple(int(i) for i in (~holds).nonzero()[0])
        raise OutOfDomain(
            f"expected {what}, got values in [{x.lower[at].item()!r}, {x.upper[at].item()!r}] at position {at} of the batch; "
            f"bound a smaller region, or tighten the bounds of the layers before"
        )
