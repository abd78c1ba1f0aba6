"""Sets that hold an input: what a user asks about. Of an empty set everything is proved, so it is refused at the door."""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.region import Region, Repairable

DRAWS = 16
"""Samples of a set, where neither its centre nor what repair makes of that lies certainly inside."""


def require_filled(region: Region) -> None:
    """Refuses sets of which no input is known.

    Sub-boxes and parts of sets may well be empty, and then nothing in them can fail; a set that a user writes is meant to hold
    something. Some kinds cannot tell for certain that a set is empty (relations of a table, say), so a point has to be found.

    Raises:
        FathomError: with the set, and what of it crosses.
    """
    certain = region.empty().nonzero()[:, 0]
    if len(certain):
        i = int(certain[0])
        raise FathomError(
            f"expected sets that hold an input, got an empty one: in set {i} {region.why_empty(i)}; no input of an empty set "
            "fails, so a proof about it says nothing: mend it, or leave it out"
        )
    unsure = (~_known(region)).nonzero()[:, 0]
    if len(unsure):
        i = int(unsure[0])
        raise FathomError(
            f"expected sets that hold an input, found none in set {i} ({region.take(unsure[:1])}); its bounds may exclude one "
            "another: make it round a sample that lies in it"
        )


def _known(region: Region) -> Tensor:
    """[n] whether a point is found that certainly lies in each set."""
    centres = region.centres().to(torch.float64)
    known = region.contains(centres)
    for k in range(1 + DRAWS):
        left = (~known).nonzero()[:, 0]
        if not len(left):
            break
        part = region.take(left)
        if k == 0:
            x = part.repair(centres[left]) if isinstance(part, Repairable) else centres[left]
        else:
            x = part.sample(1, torch.Generator().manual_seed(k))[:, 0]
        known = known.index_copy(0, left, part.contains(x))
    return known
