"""Families of regions that one number makes larger: what a least radius is asked of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.region import Region
from fathom.regions.balls import Ball
from fathom.regions.l0 import L0Ball
from fathom.regions.tabular import Tabular
from fathom.regions.wasserstein import WassersteinBall
from fathom.transforms.region import Transformed


@dataclass(frozen=True, eq=False)
class Family:
    """Sets round n samples, the larger the greater one number a sample is."""

    measure: str  # what the number is: "radius", "budget", "count" or "share"
    words: str  # with a place for it: "a budget of {}"
    most: Tensor  # [n] float64, > 0
    region: Callable[[Tensor], Region]  # numbers [n] to the region
    whole: bool = False  # numbers are whole


def family(region: Region) -> Family:
    """The family that a region is the greatest member of.

    Radii of balls, of images by moved mass too; how many inputs may change; the budget of rows of a table; and of
    transformations the share of all their ranges, from what changes least.

    Raises:
        FathomError: it has no such number, or it is 0.
    """
    made = _family(region)
    if made is None:
        kinds = "linf, l2, l1, wasserstein, l0, tabular with a budget, transformation"
        raise FathomError(f"expected a region that one number makes larger ({kinds}), got {region}")
    if not bool((made.most > 0).all()):
        raise FathomError(f"expected a {made.measure} above 0, the greatest asked about, got {made.most.min().item():g}")
    return made


def _family(region: Region) -> Family | None:
    if isinstance(region, Ball | WassersteinBall):
        return Family("radius", "{}", region.radius, lambda radius: replace(region, radius=radius.expand(len(region))))
    if isinstance(region, L0Ball):
        counted = region
        return Family(
            "count", "{} changed", region.count.double(), lambda count: replace(counted, count=count.long()), whole=True
        )
    if isinstance(region, Tabular) and bool(region.budget.isfinite().all()):
        rows = region
        return Family("budget", "a budget of {}", region.budget, lambda budget: replace(rows, budget=budget))
    if isinstance(region, Transformed):
        return Family("share", "{} of the ranges", torch.ones(len(region), dtype=torch.float64), region.shrunk)
    return None
