"""Networks that are chains of dense layers, convolutions and rectifiers, written down so that a peer can build them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fathom.core.network import Join, Network, Select
from fathom.core.problem import Problem
from fathom.ops.conv import Conv
from fathom.ops.dense import Dense
from fathom.ops.layout import Reshape
from fathom.ops.relu import Relu
from fathom.ops.scale import Shift


class NotAChain(Exception):
    """The network has something else in it; the text says what."""


def write_chain(asked: Problem, path: Path) -> None:
    """The network, the first set's box, and the rows over the output; see peer_lirpa.py.

    Raises:
        NotAChain: it cannot be written down so.
    """
    assert asked.network is not None and asked.spec is not None
    box = asked.region.box().take(torch.zeros(1, dtype=torch.int64))
    parts, shape, shift = layers(asked.network.freeze(torch.float64))
    parts["lower"], parts["upper"] = (box.lower[0] + shift).numpy(), (box.upper[0] + shift).numpy()
    parts["shape"] = np.array(shape)
    parts["rows"] = asked.spec.rows[asked.spec.of[0]].numpy()
    np.savez(path, **parts)


def layers(network: Network) -> tuple[dict[str, np.ndarray], tuple[int, ...], torch.Tensor]:
    """Arrays, the shape of a sample, and what a shift before all layers adds to the input.

    Raises:
        NotAChain: as above.
    """
    kinds: list[str] = []
    parts: dict[str, np.ndarray] = {}
    shape, shift = network.nodes[0].shape, torch.zeros(network.input_size, dtype=torch.float64)
    for i, node in enumerate(network.nodes[1:], 1):
        operator, k = node.operator, len(kinds)
        if node.inputs != (i - 1,):
            raise NotAChain(f"node {node.name!r} reads more than the node before it")
        if isinstance(operator, Shift) and not kinds:
            shift = shift + (operator.sign * operator.offset).expand(node.shape).flatten()
        elif isinstance(operator, Select | Reshape) and not kinds:
            shape = node.shape
        elif isinstance(operator, Reshape):
            kinds.append("flatten")
        elif isinstance(operator, Relu):
            kinds.append("relu")
        elif isinstance(operator, Dense) or (isinstance(operator, Conv) and len(operator.size) == 2):
            kinds.append("dense" if isinstance(operator, Dense) else "conv")
            if isinstance(operator, Conv):
                if operator.groups > 1 or set(operator.dilation) != {1} or any(a != b for a, b in operator.padding):
                    raise NotAChain(f"node {node.name!r} is a convolution in groups, dilated or padded on one side")
                parts[f"stride{k}"] = np.array(operator.stride)
                parts[f"padding{k}"] = np.array([before for before, _ in operator.padding])
            parts[f"weight{k}"] = operator.weight.numpy()
            none = torch.zeros(len(operator.weight), dtype=torch.float64)
            parts[f"bias{k}"] = (none if operator.shift is None else operator.shift).numpy()
        elif not isinstance(operator, Join):
            raise NotAChain(f"node {node.name!r} is a {type(operator).__name__}")
    parts["kinds"] = np.array(" ".join(kinds))
    return parts, shape, shift
