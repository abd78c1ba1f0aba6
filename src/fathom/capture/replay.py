"""The replay: a captured network against its original, node by node, before anyone trusts it.

Every operator is evaluated in float64 on the original's own values of its inputs, and compared with the original's value
of its output. So the tolerance has to cover the rounding of one node and not of the whole depth, and the first node that
differs is the one that was captured wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.errors import ReplayMismatch
from fathom.core.network import Network, Node
from fathom.core.operator import Linear
from fathom.core.value import floats_to, map_tensors

UNITS = 128
"""How far a node may be off, in units in the last place of the largest sum of magnitudes that its elements are made of.

Measured on the public benchmarks the worst linear node needs 5; a wrong padding, axis or epsilon gives thousands.
"""

FLOOR = 1.0
"""How far a nonlinear node may be off at least, in units in the last place of 1: fast sigmoids are no better near 0."""


def probes(size: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Inputs [8, size] to replay on: normal and positive uniform, from small to the range of pixels."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(4, size, generator=generator, dtype=torch.float64)
    uniform = torch.rand(4, size, generator=generator, dtype=torch.float64)
    scale = torch.tensor([[1.0], [1.0], [0.1], [10.0]], dtype=torch.float64)
    return torch.cat([normal * scale, uniform * torch.tensor([[1.0], [1.0], [10.0], [255.0]])]).to(dtype)


def replay(network: Network, x: Tensor, y: Tensor, originals: Mapping[str, Tensor]) -> None:
    """Compare a network with what its original computed.

    Args:
        network: as captured; evaluated in float64, one layer's weights at a time.
        x: inputs [k, d], in the original's dtype.
        y: the original's flat outputs [k, m] there.
        originals: the original's values [k, ...] of the nodes of these names, any layout of the same elements; nodes that
            are not named, such as the steps of a rewritten operator, are evaluated from the nearest named ones.

    Raises:
        ReplayMismatch: naming the first node that differs, by how much, and on which input; or the node that could not be
            compared, because the original is not finite there for any input.
    """
    unit = torch.finfo(x.dtype).eps
    alive = torch.ones(len(x), dtype=torch.bool)
    last = len(network.nodes) - 1
    last_use = {j: i for i, node in enumerate(network.nodes) for j in node.inputs}
    known = {0: _Known(x.to(torch.float64), x.to(torch.float64).abs())}
    for i, node in enumerate(network.nodes[1:], 1):
        ours = _evaluate(node, [known[j] for j in node.inputs])
        original = y if i == last else originals.get(node.name)
        if original is not None:
            theirs = original.detach().to(torch.float64).reshape(len(x), -1)
            alive = alive & theirs.isfinite().all(1)
            floor = torch.finfo(x.dtype).tiny if isinstance(node.operator, Linear) else FLOOR * unit
            allowed = (UNITS * unit * ours.size.flatten(1)).amax(1, keepdim=True).clamp(min=floor)
            _compare(node, ours.value.flatten(1), theirs, allowed, alive, x)
            ours = _Known(theirs.reshape(ours.value.shape), theirs.reshape(ours.value.shape).abs())
        known[i] = ours
        for j in {j for j in node.inputs if last_use[j] == i}:
            del known[j]


@dataclass(frozen=True, eq=False)
class _Known:
    """A node's value [k, *shape], and the sums of magnitudes that its elements are made of: what rounding is relative to."""

    value: Tensor
    size: Tensor


def _evaluate(node: Node, inputs: list[_Known]) -> _Known:
    operator = map_tensors(node.operator, floats_to(torch.float64))
    assert operator is not None
    with torch.no_grad():
        value: Tensor = operator(*(known.value for known in inputs))
        if not isinstance(operator, Linear):
            return _Known(value, value.abs())
        size = operator.magnitude(*(known.size for known in inputs))
        return _Known(value, size if operator.bias is None else size + operator.bias.abs())


def _compare(node: Node, ours: Tensor, theirs: Tensor, allowed: Tensor, alive: Tensor, x: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ReplayMismatch(
            f"node {node.name!r}: the captured network has {ours.shape[1]} elements, the original {theirs.shape[1]}; "
            "please report this with the model"
        )
    if not alive.any():
        raise ReplayMismatch(
            f"node {node.name!r}: the original gave no finite value on any of {len(x)} random inputs, so the import cannot be "
            "checked; put the scaling of the inputs inside the model"
        )
    gaps = (ours - theirs).abs().nan_to_num(nan=torch.inf)
    worst, places = gaps.max(1) if gaps.shape[1] else (torch.zeros(len(x)), torch.zeros(len(x)).long())
    wrong = alive & (worst > allowed[:, 0])
    if wrong.any():
        row = int((worst / allowed[:, 0]).where(wrong, 0.0).argmax())
        place = int(places[row])
        raise ReplayMismatch(
            f"node {node.name!r} ({type(node.operator).__name__}): the original gives {theirs[row, place].item()!r} at element "
            f"{place}, and the captured network {ours[row, place].item()!r}: a difference of {worst[row].item():.3g} where "
            f"rounding explains {allowed[row].item():.3g}; on the input {_shown(x[row])}; please report this with the model"
        )


def _shown(x: Tensor) -> str:
    start = ", ".join(f"{v:.6g}" for v in x[:8].tolist())
    return f"[{start}{', ...' if len(x) > 8 else ''}] ({len(x)} numbers)"
