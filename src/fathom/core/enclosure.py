"""Rigorous interval evaluation: a box for every node, given a box of inputs. The loosest proof, and the referee of points."""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Linear, Nonlinear, Operator
from fathom.core.rounding import down, gamma, up


def image(operator: Operator, inputs: tuple[Box, ...]) -> Box:
    """A box [n, *out] that holds the operator's values on boxes [n, *in_i], rounding included.

    A linear operator is taken in midpoint-radius form: two products, however many inputs, and no case distinction on signs
    (Rump, Fast and parallel interval arithmetic, BIT 39, 1999).
    """
    if isinstance(operator, Nonlinear):
        return operator.interval(*inputs)
    assert isinstance(operator, Linear)
    if operator.accumulation == 0:
        return Box(operator(*(x.lower for x in inputs)), operator(*(x.upper for x in inputs)))
    middles = tuple(x.middle for x in inputs)
    centre = operator(*middles)
    spread = operator.magnitude(*(x.radius for x in inputs))
    size = operator.magnitude(*(m.abs() for m in middles)) + spread
    if operator.bias is not None:
        size = size + operator.bias.abs()
    reach = up(spread + gamma(operator.accumulation + 4, centre.dtype) * size)
    return Box(down(centre - reach), up(centre + reach))


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
