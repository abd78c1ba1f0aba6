"""What dual ascent is given, and what it gives: sub-problems, the relaxations of loose neurons, and choices for them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fathom.core.value import take


@dataclass(frozen=True, eq=False)
class Bend:
    """One nonlinear node with a kink."""

    node: int
    kink: float
    at: Tensor  # [U_i] the places of its loose neurons
    columns: slice  # where these are among all loose neurons
    slope: Tensor  # [sets, *shape] of neurons that are not loose; anything at those that are
    offset: Tensor | None  # [sets, *shape]; None for zero


@dataclass(frozen=True, eq=False)
class Lines:
    """The relaxations of loose neurons [k, U]: the lower line at choice c is (low + gain c) z + low_offset + offset_gain c."""

    low: Tensor
    gain: Tensor
    low_offset: Tensor
    offset_gain: Tensor
    up: Tensor
    up_offset: Tensor

    def gap(self, kinks: Tensor) -> Tensor:
        """[k, U] how far the lines at choice 0 are apart at the kinks [U]."""
        return self.up_offset - self.low_offset + (self.up - self.low) * kinks


@dataclass(frozen=True, eq=False)
class Dual:
    """k sub-problems: minimise, over a set and a branch, the weighted mean of rows of one node's value."""

    place: Tensor  # [k] the set
    rows: Tensor  # [k, R, *shape] float32
    offset: Tensor  # [k, R]
    member: Tensor  # [k, R] 1 for rows that count, 0 for the others
    lower: Tensor  # [k, U] float32: bounds of the loose neurons' inputs
    upper: Tensor  # [k, U]
    sign: Tensor  # [k, U] float32: the side of its kink that a neuron is fixed to, or 0
    choice: Tensor  # [k, U]
    multiplier: Tensor  # [k, U]
    weight: Tensor  # [k, R]
    means: Tensor | None = None  # [k, 4, U] `Found.means` of a problem whose optimum is where this one starts

    def __len__(self) -> int:
        return len(self.place)

    def take(self, index: Tensor) -> Dual:
        return take(self, index)


@dataclass(frozen=True, eq=False)
class Found:
    """The best choices for k sub-problems, and what is known at them."""

    bound: Tensor  # [k] estimates
    choice: Tensor  # [k, U]
    multiplier: Tensor  # [k, U]
    weight: Tensor  # [k, R]
    point: Tensor  # [k, d] float32
    met: Tensor  # [k, U] the coefficients that met the loose neurons at the last step taken
    value: Tensor  # [k, U] what the relaxation makes of the loose neurons' inputs at the last step but one; 0 before
    means: Tensor  # [k, 4, U] of the derivatives in slopes, of their squares; of how far above the kink inputs are, of its square
    gap: Tensor  # [k, U] how far the relaxations are apart at the kinks
