"""Parts of cases: some of their inputs, and what holds the activations of these at a layer, a box and half-spaces."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.spec import Spec
from fathom.core.value import take

EVERY = -1
"""The clause of a half-space that is told to the proofs of all."""


@dataclass(frozen=True, eq=False)
class Parts:
    """k parts of cases: inputs, and what holds their activations."""

    owner: Tensor  # [k] the case
    inputs: Box  # [k, d] the part of its inputs
    latent: Box  # [k, w] the part of its region
    rows: Tensor  # [k, C, w] half-spaces rows z >= limit of it; limit -inf for none
    limit: Tensor  # [k, C]
    clause: Tensor  # [k, C] int64 the clause whose proof is told of it, or `EVERY`: proofs are slow with more than they need
    shared: Tensor  # [k] int64 parts of one number are one question; -1: alone
    bounded: Tensor  # [k] bool: `latent` is cut off at what the inputs reach
    lower: Tensor  # [k] float64 what is proved of it
    hit: Tensor  # [k, w] NaN rows for none
    suspect: Tensor  # [k] bool: neither a failure in the region was found nor a proof; `hit` is where one came nearest
    distance: Tensor  # [k]

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, index: Tensor) -> Parts:
        return take(self, index)


def with_rounding(box: Box, dtype: torch.dtype) -> Box:
    """The boxes with what rounding to `dtype` makes of them: a hit there is outside by rounding alone, and can be found again."""
    return box.hull(box.map(lambda end: end.to(dtype).to(torch.float64)))


def within(spec: Spec, parts: Parts) -> Spec:
    """The spec of k sets with clauses also asking for the parts' half-spaces: over [y, z] end to end.

    Without any half-space, over y alone.
    """
    present, (count, width) = spec.has(), parts.rows.shape[1:]
    clauses = torch.arange(present.shape[1])
    told = (parts.clause[:, None] == EVERY) | (parts.clause[:, None] == clauses[:, None])
    asked = (told & present[:, :, None] & parts.limit.isfinite()[:, None]).flatten(1)  # [k, clauses * C]
    most = int(asked.sum(1).amax()) if asked.numel() else 0
    if not most:
        return spec
    place = asked.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]  # those asked for, then padding
    asked, which, clause = asked.gather(1, place), place % count, place // count
    rows = -parts.rows.gather(1, which[..., None].expand(-1, -1, width)) * asked[..., None]
    limit = torch.where(asked, parts.limit.gather(1, which), 0.0)
    outputs, pad, of = spec.rows.shape[2], torch.nn.functional.pad, spec.of
    return Spec.make(
        torch.cat([pad(spec.rows[of], (0, width)), pad(rows, (outputs, 0))], 1),
        torch.cat([spec.offsets[of], limit], 1),
        torch.cat([spec.clause[of], torch.where(asked, clause, -1)], 1),
        torch.arange(len(parts)),
        pad(spec.strict[of], (0, most)),
        pad(spec.blur[of], (0, most)),
    )


def changed(parts: Parts, index: Tensor, **values: Tensor) -> Parts:
    """The parts with some fields changed at `index`."""
    return replace(parts, **{name: getattr(parts, name).index_copy(0, index, value) for name, value in values.items()})


def padded(parts: Parts, count: int) -> Parts:
    """The parts with places for so many half-spaces each."""
    more = count - parts.limit.shape[1]
    pad = torch.nn.functional.pad
    limit, clause = pad(parts.limit, (0, more), value=-torch.inf), pad(parts.clause, (0, more))
    return replace(parts, rows=pad(parts.rows, (0, 0, 0, more)), limit=limit, clause=clause)


def forgotten(parts: Parts) -> Parts:
    """The parts as not searched yet, each a question of its own."""
    return replace(
        parts,
        shared=torch.full_like(parts.shared, -1),
        lower=torch.full_like(parts.lower, -torch.inf),
        hit=torch.full_like(parts.hit, torch.nan),
        suspect=torch.zeros_like(parts.suspect),
        distance=torch.full_like(parts.distance, torch.inf),
    )
