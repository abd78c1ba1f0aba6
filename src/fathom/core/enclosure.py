"""Rigorous interval evaluation: a box for every node, given a box of inputs. The loosest proof, and the referee of points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Linear, Nonlinear, Operator
from fathom.core.rounding import down, gamma, up


def image(operator: Operator, inputs: tuple[Box, ...]) -> Box:
    """A box [n, *out] that holds the operator's values on boxes [n, *in_i], rounding included.

    A linear operator is taken in midpoint-radius form: two products, however many inputs, and no case distinction on signs
    (Rump, Fast and parallel interval arithmetic, BIT 39, 1999). One without negative entries is taken end by end, and so keeps
    small ends beside huge ones: a sum of exponentials stays positive.
    """
    if isinstance(operator, Nonlinear):
        return operator.interval(*inputs)
    assert isinstance(operator, Linear)
    if operator.copies:
        return Box(operator(*(x.lower for x in inputs)), operator(*(x.upper for x in inputs)))
    if operator.increasing:
        return Box(_near(operator, [x.lower for x in inputs]).lower, _near(operator, [x.upper for x in inputs]).upper)
    middles = [x.middle for x in inputs]
    return _near(operator, middles, operator.magnitude(*(x.radius for x in inputs)))


def _near(operator: Linear, x: Sequence[Tensor], spread: Tensor | float = 0.0) -> Box:
    """A box that holds the operator's real value at x, and all within `spread` of it."""
    y = operator(*x)
    size = operator.magnitude(*(value.abs() for value in x)) + spread
    if operator.bias is not None:
        size = size + operator.bias.abs()
    reach = up(spread + gamma(operator.accumulation + 4, y.dtype) * size)
    return Box(down(y - reach), up(y + reach))


def enclose(network: Network, box: Box) -> list[Box]:
    """A box [n, *shape] for every node of a network, for inputs in `box` [n, d]."""
    boxes = [box]
    for node in network.nodes[1:]:
        assert node.operator is not None
        boxes.append(image(node.operator, tuple(boxes[i] for i in node.inputs)))
    return boxes


def enclose_point(network: Network, x: Tensor) -> Box:
    """A box [n, m] that holds the real value of a float64 network at exactly x [n, d] (float32 inputs are exact in float64)."""
    x = x.to(torch.float64)
    return enclose(network, Box(x, x))[-1]
