"""What people hand over as numbers, checked before it means anything: a NaN in a limit would make every failure vanish."""

from __future__ import annotations

import math
import sys
from numbers import Integral, Real

import torch
from torch import Tensor

from fathom.core.errors import FathomError


def check_number(name: str, value: object, *, least: float = -math.inf, above: bool = False) -> float:
    """A finite number from `least` on, or above it; a tensor of no dimensions counts as its number.

    Raises:
        FathomError: with the name and the value, which is none: NaN, infinite, a text, true or false, too small.
    """
    given = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
    if isinstance(given, bool) or not isinstance(given, Real) or not _fits(given, least, above=above):
        bound = f" {'above' if above else 'of at least'} {least:g}" if least > -math.inf else ""
        raise FathomError(f"expected `{name}` as a finite number{bound}, got {given!r}")
    return float(given)


def _fits(value: Real, least: float, *, above: bool) -> bool:
    """Compared before it is a float, which whole numbers of 400 digits are not."""
    most = sys.float_info.max
    return bool(-most <= value <= most and value >= least and not (above and value == least))  # type: ignore[operator]


def check_whole(name: str, value: object, *, least: int = 0) -> int:
    """A whole number from `least` on.

    Raises:
        FathomError: with the name and the value, which is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise FathomError(f"expected `{name}` as a whole number of at least {least}, got {value!r}")
    return int(value)


def as_numbers(name: str, value: object) -> Tensor:
    """Numbers as a float64 tensor of whatever shape they have; whether NaN or infinity may be among them, the caller says.

    Raises:
        FathomError: with the name, where what came is no number, nor lists of equally many.
    """
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise FathomError(f"expected `{name}` as numbers, got {_shown(value)}: {error}") from error


def as_whole_numbers(name: str, value: object) -> Tensor:
    """Whole numbers as an int64 tensor of whatever shape they have. Nothing is rounded: 0.5 is refused.

    Raises:
        FathomError: with the name, where what came are no whole numbers.
    """
    try:
        given = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise FathomError(f"expected `{name}` as whole numbers, got {_shown(value)}: {error}") from error
    if given.numel() and (given.dtype == torch.bool or given.is_floating_point() or given.is_complex()):
        raise FathomError(f"expected `{name}` as whole numbers, got {_shown(value)}")
    return given.to(torch.int64)


def _shown(value: object) -> str:
    return repr(value)[:120]
