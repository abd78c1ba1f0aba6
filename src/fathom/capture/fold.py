"""Batch normalisation folded into the convolution before it, with the roundings of the folding on record.

Dense layers are left alone: their normalisation costs next to nothing, and their stored weights stay the real ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.network import Network, Node
from fathom.core.operator import Operator
from fathom.ops.batch_norm import BatchScale
from fathom.ops.conv import Conv, ConvTranspose
from fathom.ops.scale import Shift

ROUNDINGS = 6
"""Of a folded weight, in float64: three of the factor, one of the product; of a folded shift one more, the subtraction of the
mean, whose error is relative to its own result. One to spare. Adding the normalisation's own shift could cancel, so that stays a
node of its own."""

Layer = Conv | ConvTranspose


def fold(network: Network) -> Network:
    """The same real function with every convolution, mean and factor that follow each other alone made into one convolution.

    The value of the normalisation keeps its name; those of the layer and of the difference are gone.

    Raises:
        FathomError: the network is not frozen in float64.
    """
    network.map(_require_frozen)
    uses = [0] * len(network.nodes)
    for node in network.nodes:
        for i in node.inputs:
            uses[i] += 1
    gone: set[int] = set()
    made: dict[int, tuple[Node, ...]] = {}
    for i, node in enumerate(network.nodes):
        chain = _chain(network, uses, i)
        if chain is not None:
            layer, mean = chain
            gone |= {layer, mean}
            made[i] = _folded(network, layer, mean, node)
    return rebuilt(network, gone, made)


def foldable(network: Network) -> bool:
    """Whether there is a batch normalisation to fold."""
    return any(isinstance(node.operator, BatchScale) for node in network.nodes)


def _require_frozen(weight: Tensor) -> Tensor:
    if weight.requires_grad or (weight.is_floating_point() and weight.dtype != torch.float64):
        kind = "live parameters" if weight.requires_grad else f"weights in {weight.dtype}"
        raise FathomError(f"expected a network frozen in float64 to fold, got one with {kind}; call freeze(torch.float64) first")
    return weight


def _chain(network: Network, uses: list[int], i: int) -> tuple[int, int] | None:
    """The places of the layer and the mean that the normalisation at i stands on, if it can be folded."""
    node = network.nodes[i]
    if not isinstance(node.operator, BatchScale):
        return None
    mean = node.inputs[0]
    subtraction = network.nodes[mean].operator
    if uses[mean] != 1 or not isinstance(subtraction, Shift) or subtraction.sign != -1:
        return None
    layer = network.nodes[mean].inputs[0]
    operator = network.nodes[layer].operator
    channels = (len(node.operator.variance), *[1] * node.operator.trailing)
    fits = isinstance(operator, Layer)
    return (layer, mean) if fits and uses[layer] == 1 and tuple(subtraction.offset.shape) == channels else None


def _folded(network: Network, layer: int, mean: int, node: Node) -> tuple[Node, ...]:
    before, subtraction, scale = network.nodes[layer], network.nodes[mean].operator, node.operator
    assert isinstance(before.operator, Layer) and isinstance(subtraction, Shift) and isinstance(scale, BatchScale)
    folded = _scaled(before.operator, scale.factor.flatten(), subtraction.offset.flatten())
    bias = scale.bias
    if bias is None:
        return (replace(node, operator=folded, inputs=before.inputs),)
    return (
        Node(f"{node.name}/folded", folded, before.inputs, node.shape),
        Node(node.name, Shift(bias), (-1,), node.shape),  # -1: the node before
    )


def _scaled(operator: Layer, factor: Tensor, mean: Tensor) -> Operator:
    """(operator(x) - mean) * factor, channel by channel."""
    shift = -mean if operator.shift is None else operator.shift - mean
    if isinstance(operator, ConvTranspose):  # weight [in, out / groups, *kernel], outputs group by group
        groups, (_, out, *kernel) = operator.groups, operator.weight.shape
        weight = operator.weight.reshape(groups, -1, out, *kernel)
        weight = (weight * factor.reshape(groups, 1, out, *[1] * len(kernel))).flatten(0, 1)
    else:
        weight = operator.weight * factor.reshape(-1, *[1] * (operator.weight.ndim - 1))
    return replace(operator, weight=weight, shift=shift * factor, roundings=operator.roundings + ROUNDINGS)


def rebuilt(network: Network, gone: set[int], made: dict[int, tuple[Node, ...]]) -> Network:
    """The network without the nodes `gone`, and with chains of new ones in the place of others; input -1 is the node before."""
    place: dict[int, int] = {}
    nodes: list[Node] = []
    for i, node in enumerate(network.nodes):
        if i in gone:
            continue
        for new in made.get(i, (node,)):
            nodes.append(replace(new, inputs=tuple(len(nodes) - 1 if j < 0 else place[j] for j in new.inputs)))
        place[i] = len(nodes) - 1
    return Network(tuple(nodes), network.inputs, network.outputs)
