"""From an activation back to inputs: which input of a set comes nearest to it, and what line no input of the set crosses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.attacks.steps import stepper
from fathom.bounds.alpha import AlphaCrown
from fathom.bounds.intermediate import never
from fathom.core.budget import Budget, Goal
from fathom.core.problem import Problem
from fathom.core.region import Region, Repairable
from fathom.core.rounding import dot_down, down
from fathom.core.spec import Spec
from fathom.hunt.layers import Layer, Piece
from fathom.overseers.linear_rules import LinearRules

STARTS = 4
STEPS = 60
FIRST, LAST = 0.5, 1e-4
"""Of the steps, in half-widths of the input set."""
ASCENT = AlphaCrown(steps=20)
"""What bounds a direction."""
CHUNK = 1 << 24
"""Numbers in a batch of activations."""


@dataclass(frozen=True, eq=False)
class Pulled:
    """For h activations, the inputs that came nearest."""

    x: Tensor  # [h, d] in the program's dtype, of the deployed sets
    near: Tensor  # [h, w] float64: the activations there
    distance: Tensor  # [h] float64: how far the element that is furthest off still is, in units of `scale`

    def take(self, index: Tensor) -> Pulled:
        return Pulled(self.x[index], self.near[index], self.distance[index])


@dataclass(frozen=True, eq=False)
class Cuts:
    """For h sets of inputs half-spaces rows z >= limit that hold all they reach at a layer, proved."""

    rows: Tensor  # [h, D, w] float64
    limit: Tensor  # [h, D] float64; -inf where nothing is known

    def exclude(self, z: Tensor) -> Tensor:
        """[h] whether z[i], [h, w], certainly lies outside one of the half-spaces i."""
        return (down(dot_down(-self.rows, z.to(torch.float64)[:, None]) + self.limit) > 0).any(1)


def pull_back(
    layer: Layer,
    region: Region,
    dtype: torch.dtype,
    z: Tensor,
    scale: Tensor,
    generator: torch.Generator,
    late: Callable[[], bool] = never,
) -> Pulled:
    """Search the inputs of h sets for those whose activations come nearest to z.

    Args:
        region: h sets of inputs, as the program can be given them.
        dtype: of the program.
        z: [h, w] activations.
        scale: [h, w] > 0, the unit of each element.
        late: asked between steps; once it says so, what was found by then is returned.

    Method: descent of the squared distance from a few starting points at once, by the steps of the attacks, ever shorter ones.
        What it does not reach may be reached all the same.
    """
    h, d = len(z), region.size
    most = max(1, CHUNK // max(STARTS * (d + layer.size), 1))
    parts = [
        _pulled(layer, region.take(part), dtype, z[part], scale[part], generator, late)
        for part in torch.split(torch.arange(h), most)
    ]
    return Pulled(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x", "near", "distance")))


def _pulled(
    layer: Layer,
    region: Region,
    dtype: torch.dtype,
    z: Tensor,
    scale: Tensor,
    generator: torch.Generator,
    late: Callable[[], bool],
) -> Pulled:
    h, owner = len(z), torch.arange(len(z)).repeat_interleave(STARTS)
    goal, unit, every = z.to(torch.float64)[owner], scale[owner], region.take(owner)
    head = layer.head.freeze(dtype)
    starts = torch.cat([region.box().middle[:, None], region.sample(STARTS - 1, generator)], 1).to(dtype)
    x = (region.repair(starts) if isinstance(region, Repairable) else starts).flatten(0, 1)
    best, least = x, torch.full((len(x),), torch.inf, dtype=torch.float64)
    step, previous = stepper(every, dtype), x
    for k in range(STEPS + 1):
        free = x.detach().requires_grad_()
        with torch.enable_grad():
            off = (head(free).to(torch.float64) - goal) / unit
            (slope,) = torch.autograd.grad(off.square().sum(), free)
        far = torch.where(every.contains(x), off.detach().abs().amax(1), torch.inf)
        best, least = torch.where((far < least)[:, None], x, best), torch.minimum(far, least)
        if k == STEPS or late():
            break
        size = torch.full((len(x),), FIRST * (LAST / FIRST) ** (k / STEPS), dtype=dtype)
        x, previous = step.move(x, previous, slope.nan_to_num(nan=0.0), size).detach(), x
    at = least.reshape(h, STARTS).argmin(1) + STARTS * torch.arange(h)
    near = layer.activations(best[at])
    return Pulled(best[at], near, torch.where(least[at].isfinite(), ((near - z) / scale).abs().amax(1), torch.inf))


def cut(layer: Layer, region: Region, dtype: torch.dtype, rows: Tensor, near: Tensor, budget: Budget) -> Cuts:
    """Half-spaces that hold what h sets of inputs reach at a layer, across the directions `rows` [h, D, w].

    How far a set reaches against a direction is a problem of its own, the margin being how far behind `near` [h, w], an
    activation that is reached; what is returned is its lower bound, a proof.
    """
    h, count, width = rows.shape
    rows = (rows / rows.abs().amax(2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)).nan_to_num(nan=0.0)
    offset = -(rows * near[:, None]).sum(2)
    each = torch.arange(h * count)
    spec = Spec.make(rows.reshape(-1, 1, width), offset.reshape(-1, 1), torch.zeros(h * count, 1), each)
    every = region.take(each // count)
    asked = Problem.of_any_sets(Piece(layer.head, dtype), layer.head, every, LinearRules(spec))
    lower = ASCENT.solve(asked, replace(budget, goal=Goal.VALUE)).lower.reshape(h, count)
    return Cuts(rows, torch.where(lower.isfinite(), down(lower - offset), -torch.inf))
