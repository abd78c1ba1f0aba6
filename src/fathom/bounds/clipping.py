"""What the linear bounds of a box show to be safe is cut off: branch and bound then splits less, and volumes shrink sooner."""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.bounds.margins import Margins, with_offsets
from fathom.core.box import Box
from fathom.core.rounding import up
from fathom.core.spec import Spec
from fathom.regions.box import BoxRegion


def clip(spec: Spec, margins: Margins, box: Box) -> tuple[Box, Tensor]:
    """Cut off what the rows' own linear bounds show to be safe.

    In a catastrophe every row of some clause is <= 0. A row whose linear bound has slope a and is at least v <= 0 on the *box*
    can be so only within -v / |a_j| of the end of input j where the bound is least. (On a ball it need not be least at that end:
    the v of a region inside the box would cut off too much.)

    Returns:
        The hull over clauses of the intersection over rows; and [n] whether nothing is left, so that the whole box is safe (and
        comes back as it was).
    """
    clause = spec.clause[spec.of]
    a, rows = margins.bound.a, margins.rows
    on_box = with_offsets(spec, margins.bound.minimise(BoxRegion(box.lower, box.upper))[0])
    reach = up(up((-on_box).clamp(min=0)[:, :, None] / a.abs()))  # inf where the slope is 0
    whole = (a == 0) | torch.isnan(reach)
    lower, upper = box.lower[:, None], box.upper[:, None]
    high = torch.where((a > 0) & ~whole, torch.minimum(upper, up(lower + reach)), upper.expand_as(a))
    low = torch.where((a < 0) & ~whole, torch.maximum(lower, -up(reach - upper)), lower.expand_as(a))
    has = spec.has()
    hull_low = torch.full_like(box.lower, torch.inf)
    hull_high = torch.full_like(box.upper, -torch.inf)
    for c in range(has.shape[1]):
        mine = (clause == c)[:, :, None]
        left = torch.where(mine, low, box.lower[:, None]).amax(1)
        right = torch.where(mine, high, box.upper[:, None]).amin(1)
        safe = ((clause == c) & (rows > 0)).any(1) | ~has[:, c] | (left > right).any(1)
        hull_low = torch.where(safe[:, None], hull_low, torch.minimum(hull_low, left))
        hull_high = torch.where(safe[:, None], hull_high, torch.maximum(hull_high, right))
    empty = (hull_low > hull_high).any(1)
    return Box(torch.where(empty[:, None], box.lower, hull_low), torch.where(empty[:, None], box.upper, hull_high)), empty
