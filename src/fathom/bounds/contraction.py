"""Matrix products of two values, bounded whole: rows pass through by matrix products of the boxes, not term by term.

Capture writes a matrix product as copies of two values, their product element by element, and a sum. Here the four are one step
with the very planes of the product operator, y = sum over j of x_ij z_kj, and no tensor of the size of all products i k j, unless
a choice is given for each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.arithmetic import Arithmetic
from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.rounding import gamma, up
from fathom.core.value import flat
from fathom.ops.pick import Gather
from fathom.ops.product import Product
from fathom.ops.reduce import Reduce

TERMS = 32  # what one product's roundings are charged for, in units of its largest magnitude


@dataclass(frozen=True)
class Contraction:
    """A node y [*lead, I, K] that is the sum over j of x [*lead, I, 1, J] times z [*lead, 1, K, J]; places in the network."""

    product: int
    inputs: tuple[int, int]  # x and z


@dataclass(frozen=True, eq=False)
class Passed:
    """Rows over y turned into rows over x and z."""

    parts: tuple[Tensor, Tensor]
    shift: Tensor  # [n, rows]
    moved: Tensor  # [n, rows]: the magnitude of what `shift` is a sum of, at least
    lost: Tensor  # [n, rows]: at most what rounding took, but for underflow


def contractions(network: Network) -> dict[int, Contraction]:
    """Per node that ends a matrix product: where its parts are.

    What is also read from elsewhere is left alone, and so is a float32 program, which errs at every node on the way.
    """
    products = [i for i, node in enumerate(network.nodes) if isinstance(node.operator, Product)]
    if not products or network.arithmetic is not Arithmetic.REAL:
        return {}
    readers = [0] * len(network.nodes)
    for node in network.nodes:
        for j in node.inputs:
            readers[j] += 1
    found = {}
    for i, node in enumerate(network.nodes):
        operator = node.operator
        if not isinstance(operator, Reduce) or operator.divisor != 1 or operator.axes != (len(operator.before) - 1,):
            continue
        (j,) = node.inputs
        if j in products and len(operator.before) >= 3:
            left, right = network.nodes[j].inputs
            copied = _copied(network, left, len(operator.before) - 2) and _copied(network, right, len(operator.before) - 3)
            if copied and readers[j] == readers[left] == readers[right] == 1:
                found[i] = Contraction(j, (network.nodes[left].inputs[0], network.nodes[right].inputs[0]))
    return found


def _copied(network: Network, i: int, axis: int) -> bool:
    """Whether a node repeats its input along one axis, where that has length 1."""
    operator = network.nodes[i].operator
    return isinstance(operator, Gather) and operator.size == 1 and operator.axis == axis


def contract(a: Tensor, x: Box, z: Box, sizes: tuple[Tensor, Tensor], choice: Tensor | None) -> Passed:
    """Rows a [n, rows, *lead, I, K] over y through McCormick's planes.

    Args:
        a: coefficients.
        x: boxes [n, *lead, I, 1, J].
        z: boxes [n, *lead, 1, K, J].
        sizes: how large x and z can be, in their shapes; first dimension n or 1.
        choice: as for the product operator, [n, 1 or rows, *lead, I, K, J] or with ones for I or K; None takes the planes midway.

    The planes hold exactly for the real slopes that are meant; what is stored differs by roundings, each at most a unit of
    |a| |x| |z| for the largest x and z in their boxes.
    """
    x, z = x.map(lambda t: t.squeeze(-2).unsqueeze(1)), z.map(lambda t: t.squeeze(-3).unsqueeze(1))
    size = a.abs()
    with torch.no_grad():
        most = torch.maximum(x.magnitude, sizes[0].squeeze(-2).unsqueeze(1)) @ _turned(
            torch.maximum(z.magnitude, sizes[1].squeeze(-3).unsqueeze(1))
        )
        heavy = _sum(size.detach(), most)
        count = math.prod(a.shape[2:]) * x.lower.shape[-1] + sum(a.shape[-2:]) + TERMS
        lost = TERMS * gamma(count, a.dtype) * heavy
    if choice is None:
        parts, shift = _midway(a, size, x, z)
    else:
        parts, shift = _chosen(a, size, x, z, choice)
    parts = parts[0].unsqueeze(-2), parts[1].unsqueeze(-3)
    return Passed(parts, shift, TERMS * heavy, lost)


def _midway(a: Tensor, size: Tensor, x: Box, z: Box) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """x z = x_m z + x z_m - x_m z_m, give or take the product of the radii."""
    first, second = x.middle, z.middle
    half = up(x.radius @ _turned(z.radius))
    shift = -_sum(a, first @ _turned(second)) - _sum(size, half)
    return (a @ second, _turned(a) @ first), shift


def _chosen(a: Tensor, size: Tensor, x: Box, z: Box, choice: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Between the two planes on the side of each coefficient's sign: what the first gives, and `choice` times the change to the
    second. The change of the offsets is that of the slopes times the middles."""
    plus, minus = a.clamp(min=0), a.clamp(max=0)
    high = z.upper - z.lower
    wide = x.upper - x.lower
    if choice.shape[-2] == 1 and choice.shape[-3] != 1:  # one for each element of x
        share = choice.squeeze(-2)
        left, right = share * (size @ high), _turned(a) @ (share * wide)
    elif choice.shape[-3] == 1:  # one for each element of z
        share = choice.squeeze(-3)
        left, right = size @ (share * high), share * (_turned(a) @ wide)
    else:
        left = (choice * size.unsqueeze(-1) * high.unsqueeze(-3)).sum(-2)
        right = (choice * a.unsqueeze(-1) * wide.unsqueeze(-2)).sum(-3)
    corner = _sum(plus, x.lower @ _turned(z.lower)) + _sum(minus, x.lower @ _turned(z.upper))
    change = _sum(left, x.lower / 2 + x.upper / 2) + _sum(right, z.lower / 2 + z.upper / 2)
    return (plus @ z.lower + minus @ z.upper + left, _turned(a) @ x.lower + right), -corner - change


def _turned(t: Tensor) -> Tensor:
    return t.transpose(-1, -2)


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """[n, rows] sums of a [n, rows, *shape] times b, which broadcasts."""
    return flat(a * b, 2).sum(2)
