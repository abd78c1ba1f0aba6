"""Affine functions over a box cut by one half-space: the least value, in closed form.

Where a branch allows only inputs with h x + g <= 0 (the side of a neuron's kink that it took, or what a bound of the margin
leaves for a failure), every other function's range shrinks with it:

    min { a x + c : x in box, h x + g <= 0 }  >=  max over t >= 0 of  min over the box of (a + t h) x + c + t g

with equality where the cut leaves anything. The right side is concave and piecewise linear in t, and bends where an entry of
a + t h changes its sign: a continuous knapsack, solved by sorting (Dantzig 1957). Any t >= 0 gives a sound bound, so t may be
found in single precision, and only the value there is computed with its rounding subtracted.

Reference: Zhou et al., Clip-and-verify: linear constraint-driven domain clipping for accelerating neural network verification,
NeurIPS 2025.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.rounding import down, gamma, tiny


def least_within(box: Box, a: Tensor, c: Tensor, h: Tensor, g: Tensor) -> Tensor:
    """Rigorous lower bounds [k, m] on a x + c over the x of box [k, d] with h x + g <= 0.

    Args:
        a: [m, d] or [k, m, d].
        c: [m] or [k, m].
        h: [k, d].
        g: [k].

    Returns:
        Never below the bound over the whole box but for rounding; anything where nothing is left of the box.
    """
    price = _price(box, a, h, g)
    rows = a + price[:, :, None] * h[:, None]
    middle, radius = box.middle, box.radius
    value = (rows @ middle[:, :, None] - rows.abs() @ radius[:, :, None])[:, :, 0]
    # What the entries of `rows`, the sums over them, the middle and the radius may be off by, in units of what they are sums of.
    size = box.magnitude
    weight = (a.abs() @ size[:, :, None])[:, :, 0] + price * (h.abs() * size).sum(1, keepdim=True)
    loss = gamma(2 * a.shape[-1] + 16, a.dtype) * weight + tiny(a.dtype) * (1 + size.sum(1, keepdim=True))
    moved = price * g[:, None]
    total = value + moved + c
    return down(total - (loss + gamma(8, a.dtype) * (value.abs() + moved.abs() + c.abs())))


def _price(box: Box, a: Tensor, h: Tensor, g: Tensor) -> Tensor:
    """[k, m] about the best t: where the derivative, h x + g at the minimiser x, falls to 0."""
    a, h, g = a.float(), h.float()[:, None], g.float()[:, None]
    middle, radius = box.middle.float()[:, None], box.radius.float()[:, None]
    side = torch.where(a != 0, torch.sign(a), torch.sign(h))
    slope = (h * (middle - side * radius)).sum(2) + g
    bend = -a / h
    bend = torch.where(bend > 0, bend, torch.inf)  # NaN, from 0 / 0, is none either
    bend, order = bend.sort(dim=2)
    fall = (2 * h.abs() * radius).expand(bend.shape).gather(2, order).cumsum(2)
    past = (fall < slope[:, :, None]).sum(2, keepdim=True).clamp(max=bend.shape[2] - 1)
    price = bend.gather(2, past)[:, :, 0]
    return torch.where((slope > 0) & torch.isfinite(price), price, 0.0).to(torch.float64)
