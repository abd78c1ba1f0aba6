"""The float32 program, and how far it may be from the network over the real numbers.

Under `real` a node's value is the real function of the values that it reads. Under `float32` it is the number that the deployed
program computed there, which is that function of the *computed* values that it reads, give or take

    g(k) s + k 2^-126,   g(k) = k 2^-24 / (1 - k 2^-24),

where k (`Operator.terms`) counts the terms of one element and s is the sum of their magnitudes: whatever the order of summation,
with or without fused multiply-add (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1; 2^-126 for
results that are subnormal). docs/certificate.md says the same, and what it assumes. Nodes that a program rounds in are marked
(`Node.rounded`); the rest of a network, such as the rows of a property behind it, is exact. So in float32

* boxes (intervals, and those that bounds tighten) hold the values computed, each widened by its own node's error;
* rows pushed back are a statement about the values computed: a step through a node subtracts what its error is worth, and so does
  whoever starts with a node's weights instead of its value. CROWN, alpha-CROWN, bounds of the inside with slopes, both
  kinds of branch and bound, half-spaces and the multipliers of linear programs all rest on these two, and say no more;
* affine forms are left out, since nothing charges them;
* dual ascent and attacks claim nothing, and go on searching over the reals;
* a witness is an input on which the program's own output fails: there is no second judgement;
* the network is captured as the file computes it, node by node; what rewriting would hide is not rewritten, and an operator that
  states no count of terms is refused.
"""

from __future__ import annotations

import math
from fractions import Fraction

from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import NotUnderstood, OutOfDomain
from fathom.core.operator import Linear, Nonlinear, Operator
from fathom.core.rounding import gamma, up

LARGEST = 2.0**127
"""Sums of magnitudes below this do not overflow float32, whatever their rounding."""

LEAST = 2.0**-126
"""What a float32 result may lose besides, where it is subnormal: perhaps all of it."""


def program_error(operator: Operator, size: Tensor) -> Tensor | None:
    """At most how far the float32 program's value of a node is from the operator's real value at what it computed before.

    Args:
        size: `magnitudes` of that operator; differentiated through by nobody.

    Returns:
        [n, *out], or None where the program computes exactly.

    Raises:
        NotUnderstood: the operator does not say how its program rounds.
        OutOfDomain: a sum may overflow float32.
    """
    terms = operator.terms
    if terms is None or terms >= 1 << 23:
        raise NotUnderstood(f"expected operators whose float32 program is known, got {type(operator).__name__}; use real")
    if terms == 0:
        return None
    if not bool((size < LARGEST).all()):
        raise OutOfDomain("as far as bounds can tell, float32 may overflow; ask for a smaller region")
    exact = Fraction(terms, (1 << 24) - terms)
    share = math.nextafter(float(exact), math.inf)
    counted = gamma(operator.accumulation + 8 if isinstance(operator, Linear) else 8, size.dtype)
    return up(up(size * (share * (1 + counted))) + terms * LEAST).detach()


def magnitudes(operator: Operator, *r: Tensor) -> Tensor:
    """How large the sums of magnitudes are that an operator's elements are made of, for inputs of magnitude r_i: |W| r + |bias|;
    of a nonlinear one how large its value may be. But for the rounding of this computation."""
    if isinstance(operator, Nonlinear):
        return operator.interval(*(Box(-x, x) for x in r)).magnitude
    assert isinstance(operator, Linear)
    size = operator.magnitude(*r)
    return size if operator.bias is None else size + operator.bias.abs()


def widened(box: Box, error: Tensor | None) -> Box:
    """The box of a real value made one of the value that is computed."""
    return box if error is None else Box(-up(error - box.lower), up(box.upper + error))
