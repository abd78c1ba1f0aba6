"""The distributions that have a name: one kind, one file."""

from __future__ import annotations

import math

from fathom.core.errors import FathomError
from fathom.core.region import Region
from fathom.estimates.distribution import Distribution
from fathom.estimates.distributions.truncated_normal import TruncatedNormal
from fathom.estimates.distributions.uniform import Uniform
from fathom.estimates.distributions.uniform_ball import UniformBall
from fathom.estimates.distributions.uniform_points import UniformPoints
from fathom.regions.balls import core
from fathom.regions.box import BoxRegion
from fathom.regions.finite import FiniteSet
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall

NAMES = ("uniform", "normal")


def over(region: Region, name: str = "uniform", deviation: float = 0.5) -> Distribution:
    """The distribution called `name` over the sets of a region.

    Args:
        region: boxes, balls or finite sets; for "normal", boxes and L-infinity balls.
        name: "uniform", or "normal": a normal distribution around the centre, cut off at the ends.
        deviation: the standard deviation of "normal", in half widths (for a ball, radii) of each input.

    Raises:
        FathomError: no such distribution over such a region, or a set that is empty.
    """
    if name not in NAMES:
        raise FathomError(f"expected a distribution of {', '.join(NAMES)}, got {name!r}")
    if not len(region):
        raise FathomError("expected a region of one set or more, got none; nothing can be drawn")
    box, empty = region.box(), region.empty()
    if bool(empty.any()):
        raise FathomError(f"expected sets that hold an input, got an empty one at {int(empty.nonzero()[0])}; leave it out")
    if isinstance(region, L1Ball | L2Ball) and name == "uniform":
        return UniformBall(1 if isinstance(region, L1Ball) else 2, region.centre, region.radius, region.lower, region.upper)
    if isinstance(region, FiniteSet) and name == "uniform":
        return UniformPoints(region.points, region.present)
    if not isinstance(region, BoxRegion | LinfBall):
        raise FathomError(_refusal(region, name))
    inner = core(region.centre, region.radius).intersect(region.clip) if isinstance(region, LinfBall) else box
    if name == "uniform":
        return Uniform(inner, box)
    if not deviation > 0 or not math.isfinite(deviation):
        raise FathomError(f"expected a standard deviation > 0, in half widths of the region, got {deviation:g}")
    centre = region.centre if isinstance(region, LinfBall) else box.middle
    half = region.radius[:, None].expand_as(centre) if isinstance(region, LinfBall) else box.width / 2
    return TruncatedNormal(inner, box, centre, deviation * half)


def _refusal(region: Region, name: str) -> str:
    """What is possible instead."""
    if isinstance(region, L1Ball | L2Ball | FiniteSet):
        return f"expected boxes or L-infinity balls for a {name} distribution, got {region}; ask for a uniform one"
    kinds = "boxes, linf, l2 and l1 balls, transformations and finite sets" if name == "uniform" else "boxes and linf balls"
    return (
        f"expected a region with a {name} distribution of its own ({kinds}), got {region}; draw inputs as you mean them, and "
        "give them as finite sets: kind finite, or fathom.regions.FiniteSet"
    )
