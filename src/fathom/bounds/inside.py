"""Bounds of the inside with the choices of every row optimised, whatever the operators: the gradient is that of the pass itself.

Every iterate is rigorous, so the best one counts, and a few steps give most of what there is to gain. For networks whose
operators all have kinks `sharpen.py` does the same at less cost, and keeps what was chosen.

Reference: Xu et al., Fast and complete: enabling complete verification with rapid and massively parallel incomplete verifiers,
ICLR 2021 (optimised slopes of intermediate bounds).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fathom.bounds.backward import Reach, backward
from fathom.bounds.contraction import contractions
from fathom.bounds.intermediate import Bounder, by_backward
from fathom.core.ascent import Ascent
from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Nonlinear
from fathom.core.region import Region

RATE = 0.5
GRAPH = 24  # times what a plain pass has alive at once is kept for its gradient, about


def optimised(
    network: Network, region: Region, steps: int, memory: int, late: Callable[[], bool], hurry: Callable[[], bool]
) -> Bounder:
    """What `tighten` may ask for the box of a node: the plain pass, then `steps` of ascent for what that leaves unstable.

    Once `hurry` says so, plain passes do.
    """

    def ascend(boxes: Sequence[Box], reach: Reach, start: int, rows: Tensor, part: Region) -> Tensor:
        return _ascend(network, boxes, reach, start, rows, part, steps)

    def bound(boxes: Sequence[Box], reach: Reach, at: int, kinks: Sequence[float | None]) -> Box:
        boxes = list(boxes)
        boxes[at] = by_backward(network, region, boxes, reach, at, kinks, memory, late)
        if hurry():
            return boxes[at]
        return by_backward(network, region, boxes, reach, at, kinks, memory // GRAPH, hurry, ascend)

    return bound


def _ascend(network: Network, boxes: Sequence[Box], reach: Reach, start: int, rows: Tensor, region: Region, steps: int) -> Tensor:
    """Rigorous lower bounds [n, rows] on rows over a node: the best of the plain pass and `steps` of ascent."""
    with torch.no_grad():
        plain = backward(network, boxes, reach, start, rows, keep=True)
        best, _ = plain.minimise(region)
    choices = initial_choices(network, boxes, plain.met)
    for whole in contractions(network).values():
        if whole.product in choices:  # one for each element of the second value: nearly as good as one for each term
            choices[whole.product] = choices[whole.product].detach()[..., :1, :, :].clone().requires_grad_()
    if not choices:
        return best
    ascent = Ascent([(choice, RATE, 0.0, 1.0) for choice in choices.values()])
    for _ in range(steps):
        values, _ = backward(network, boxes, reach, start, rows, choices).minimise(region)
        best = torch.maximum(best, values.detach())
        ascent.step(values.sum())
    with torch.no_grad():
        values, _ = backward(network, boxes, reach, start, rows, choices).minimise(region)
    return torch.maximum(best, values)


def initial_choices(network: Network, boxes: Sequence[Box], met: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """A leaf tensor [n, rows, *shape] of choices for every nonlinear node that a pass met: the middle, or for an operator with
    a kink the end on whose side most of the box lies."""
    choices = {}
    for i, coefficient in met.items():
        node = network.nodes[i]
        operator = node.operator
        assert isinstance(operator, Nonlinear)
        if operator.kink is None:
            value = torch.full_like(coefficient, 0.5, memory_format=torch.contiguous_format)
        else:
            box = boxes[node.inputs[0]]
            above = box.upper - operator.kink > operator.kink - box.lower
            value = above.to(coefficient.dtype).unsqueeze(1).expand(coefficient.shape).clone()
        choices[i] = value.requires_grad_()
    return choices
