"""Whether a search that halves boxes does best by lean affine forms: by structure and, where that leaves a doubt, by measuring.

A few leaves are bounded both ways, and the work that either way would take from there to a proof is compared. Work is counted in
multiplications, so the choice is the same on every machine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.bounds.affine import halvings, lean_passes, pays
from fathom.bounds.intermediate import bends, tighten, unstable
from fathom.bounds.margins import bound_margins
from fathom.bounds.work import products
from fathom.core.errors import OutOfDomain
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.core.spec import Spec
from fathom.core.value import flat

SURE = 2.0  # halvings that lean forms can afford, from which on they are taken
NEVER = 1.0  # and up to which they are not: one halving is too few for small dense networks
LEAVES = 4  # to be bounded both ways
PARTS = 4  # of every input's range: a leaf is one of them, as after two halvings


def lean(problem: Problem, memory: int = 1 << 30) -> bool:
    """Whether to halve a problem's boxes by lean forms. `memory`: bytes of working tensors."""
    assert problem.network is not None and problem.spec is not None
    box = problem.region.box()
    affords = halvings(problem.network, box)
    if affords <= NEVER or affords > SURE or not problem.region.convex or pays(problem.network, box):
        return affords > SURE
    try:
        return _measured(problem, memory)
    except OutOfDomain:  # the search will meet it too, and say so
        return False


def _measured(problem: Problem, memory: int) -> bool:
    """Whether leaves of a few sets, the same ones for the same problem, are less work to prove by forms than by rows.

    What a bound falls short of a margin by closes in as the square of a box's width. So a leaf whose margin is m, with a bound g
    below, is proved in about max(1, g / m)^(q / 2) pieces, for the q inputs that vary. A leaf that fails has no such number.
    """
    assert problem.network is not None and problem.spec is not None
    network = problem.network.freeze(torch.float64)
    owner = torch.arange(LEAVES) * len(problem) // LEAVES
    box = problem.region.box().take(owner)
    turn = torch.randint(0, PARTS, box.lower.shape, generator=torch.Generator().manual_seed(0))
    lower = box.lower + turn / PARTS * box.width
    leaves = problem.region.restrict(owner, lower, torch.minimum(lower + box.width / PARTS, box.upper))
    spec = problem.spec.take(owner)
    rows, forms = (_bounded(network, leaves, spec, memory, lean=lean) for lean in (False, True))
    reached = torch.minimum(rows[1], forms[1])
    counts = ~leaves.empty() & (reached > 0)
    power = int((box.lower < box.upper).any(0).sum()) / 2
    needs = [(((reached - bound) / reached).clamp(min=1) ** power * work)[counts].sum() for bound, _, work in (rows, forms)]
    return bool(needs[1] < needs[0])


def _bounded(network: Network, leaves: Region, spec: Spec, memory: int, *, lean: bool) -> tuple[Tensor, Tensor, Tensor]:
    """[n] bounds of the margins of leaves, the least margin at a minimiser of each, and the multiplications of a leaf."""
    boxes, reach = tighten(network, leaves, memory=memory, lean=lean)
    margins = bound_margins(network, leaves, spec, boxes, reach)
    n, count, d = margins.minimisers.shape
    every = spec.take(torch.arange(n).repeat_interleave(count))
    reached = every.margin(network(margins.minimisers.reshape(n * count, d))).reshape(n, count).amin(1)
    box, sums = leaves.box(), products(network)
    work = torch.full((n,), count * sums[-1], dtype=torch.float64)
    if lean:
        work += lean_passes(int((box.lower < box.upper).any(0).sum())) * sums[-1]
    else:
        for i, kinks in bends(network).items():
            work += 2 * flat(unstable(boxes[i], kinks), 1).sum(1) * sums[i] if i else 0.0
    return margins.margin, reached, work
