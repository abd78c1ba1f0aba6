"""The one door to witnesses: the deployed program is run again, on an input inside the closed region, with no tolerance."""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.core.answer import Witnesses
from fathom.core.arithmetic import Arithmetic
from fathom.core.box import Box
from fathom.core.enclosure import enclose_point
from fathom.core.errors import OutOfDomain
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.spec import Spec


def confirm(problem: Problem, x: Tensor) -> Witnesses:
    """Judge one candidate a set.

    Args:
        problem: n sets.
        x: candidates [n, d], of any float dtype; rounded to the program's. NaN rows are no candidates.

    Returns:
        Witnesses of n rows. A candidate outside the deployed region is no candidate. Under `real`, the margin is enclosed
        rigorously at exactly the rounded x; the deployed margin is that of the program itself, and the only one under `float32`.
        Where the overseer cannot judge (its margin is NaN) there is no witness. Where the region only over-approximates what was
        asked for, no input of it is known to be one that was meant, so there are none.
    """
    x = x.detach().to(problem.program.dtype)
    outputs = sum(port.size for port in problem.program.outputs)
    found = Witnesses.none(len(problem), x.shape[1], outputs, x.dtype)
    candidates = ~torch.isnan(x).any(1) & problem.deployed.contains(x)
    inside = (candidates & problem.deployed.exact).nonzero()[:, 0]
    if not len(inside):
        return found
    here, x = problem.take(inside), x[inside]
    y = problem.program(x)
    deployed = here.overseer.margin(x.to(torch.float64), y.to(torch.float64)).to(torch.float64)
    judged = (~deployed.isnan()).nonzero()[:, 0]
    if len(judged) < len(inside):
        inside, here, x, y, deployed = inside[judged], here.take(judged), x[judged], y[judged], deployed[judged]
    lower, upper = torch.full_like(deployed, -torch.inf), torch.full_like(deployed, torch.inf)
    if here.exact and here.spec is not None and here.network is not None and here.arithmetic is Arithmetic.REAL:
        real = _real_margins(here.spec, here.network.freeze(torch.float64), x)
        # An enclosure that overflowed is still a judgement, "not known to fail": it must not look like the lack of one.
        lower, upper = real.lower.clamp(min=-torch.finfo(torch.float64).max), real.upper
    part = Witnesses(x, y.detach().to(torch.float64), deployed, lower, upper, here.written.contains(x))
    rows = {name: getattr(found, name).index_copy(0, inside, getattr(part, name)) for name in found.__dataclass_fields__}
    return Witnesses(**rows)


def _real_margins(spec: Spec, network: Network, x: Tensor) -> Box:
    """Boxes [n] that hold the real margins at x [n, d]; all numbers at points where a function of the network has no value."""
    try:
        return spec.enclose(enclose_point(network, x))
    except OutOfDomain:
        if len(x) == 1:
            return Box(torch.full((1,), -torch.inf, dtype=torch.float64), torch.full((1,), torch.inf, dtype=torch.float64))
        ones = torch.arange(len(x))[:, None]
        parts = [_real_margins(spec.take(one), network, x[one]) for one in ones]
        return Box(torch.cat([part.lower for part in parts]), torch.cat([part.upper for part in parts]))
