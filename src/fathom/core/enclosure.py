"""Rigorous interval evaluation: a box for every node, given a box of inputs. The loosest proof, and the referee of points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Linear, Nonlinear, Operator
from fathom.core.rounding import down, gamma, up
from fathom.core.single import magnitudes, program_error, widened


def image(operator: Operator, inputs: tuple[Box, ...], *, rounded: bool = False) -> Box:
    """A box [n, *out] that holds the operator's values on boxes [n, *in_i], rounding included; `rounded`: the float32 program's.

    A linear operator is taken in midpoint-radius form: two products, however many inputs, and no case distinction on signs
    (Rump, Fast and parallel interval arithmetic, BIT 39, 1999). One without negative entries is taken end by end, and so keeps
    small ends beside huge ones: a sum of exponentials stays positive.
    """
    if isinstance(operator, Linear) and not (operator.copies or operator.increasing):
        middles = [x.middle for x in inputs]
        return _near(operator, middles, operator.magnitude(*(x.radius for x in inputs)), rounded=rounded)
    box = _by_ends(operator, inputs)
    return widened(box, program_error(operator, magnitudes(operator, *(x.magnitude for x in inputs)))) if rounded else box


def _by_ends(operator: Operator, inputs: tuple[Box, ...]) -> Box:
    """The real values of an operator that takes boxes end by end."""
    if isinstance(operator, Nonlinear):
        return operator.interval(*inputs)
    assert isinstance(operator, Linear)
    if operator.copies:
        return Box(operator(*(x.lower for x in inputs)), operator(*(x.upper for x in inputs)))
    return Box(_near(operator, [x.lower for x in inputs]).lower, _near(operator, [x.upper for x in inputs]).upper)


def _near(operator: Linear, x: Sequence[Tensor], spread: Tensor | float = 0.0, *, rounded: bool = False) -> Box:
    """A box that holds the operator's real value at x, and all within `spread` of it; `rounded`: the program's values there."""
    y = operator(*x)
    size = operator.magnitude(*(value.abs() for value in x)) + spread
    if operator.bias is not None:
        size = size + operator.bias.abs()
    reach = up(spread + gamma(operator.accumulation + 4, y.dtype) * size)
    box = Box(down(y - reach), up(y + reach))
    return widened(box, program_error(operator, size)) if rounded else box


def enclose(network: Network, box: Box) -> list[Box]:
    """A box [n, *shape] for every node of a network, for inputs in `box` [n, d]."""
    boxes = [box]
    for node in network.nodes[1:]:
        assert node.operator is not None
        boxes.append(image(node.operator, tuple(boxes[i] for i in node.inputs), rounded=node.rounded))
    return boxes


def enclose_point(network: Network, x: Tensor) -> Box:
    """A box [n, m] that holds the real value of a float64 network at exactly x [n, d] (float32 inputs are exact in float64)."""
    x = x.to(torch.float64)
    return enclose(network, Box(x, x))[-1]
