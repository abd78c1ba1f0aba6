"""Ties between inputs: some can only change together, such as the choices of a one-hot group or the two sides of a relation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def labellings(ties: Sequence[Iterable[int]], n: int, d: int) -> tuple[Tensor, ...]:
    """What `Region.ties` says of n sets of d inputs of which those of each tie change together.

    Returns:
        First ties with all that they share inputs with, as one tie each; then each alone that is a part of such a one.
    """
    several = [frozenset(tie) for tie in ties]
    several = [tie for tie in dict.fromkeys(several) if len(tie) > 1]
    whole: list[frozenset[int]] = []
    for tie in several:
        touched = [other for other in whole if other & tie]
        whole = [other for other in whole if not other & tie] + [tie.union(*touched)]
    apart = [[tie] for tie in several if tie not in whole]
    return tuple(_labelled(kind, n, d) for kind in ([whole] if whole else []) + apart)


def _labelled(ties: Sequence[frozenset[int]], n: int, d: int) -> Tensor:
    """[n, d] the number of the tie that each input belongs to; -1 for none."""
    label = torch.full((d,), -1)
    for k, tie in enumerate(ties):
        label[sorted(tie)] = k
    return label.expand(n, d)
