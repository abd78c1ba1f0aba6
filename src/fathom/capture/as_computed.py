"""Networks as float32 programs: what the file computes, node by node, and nothing that only the real function would justify.

See `core.single` for what is claimed of such a network. Refused is, by name, whatever docs/certificate.md does not give an
error for: here the operators of the file, and by `Operator.terms` those that they were captured as.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from onnx import NodeProto

from fathom.capture.fold import rebuilt
from fathom.capture.onnx_model import Model
from fathom.capture.onnx_table import Array, described
from fathom.core.errors import NotUnderstood
from fathom.core.network import Network, Node
from fathom.core.operator import Linear, Operator
from fathom.ops.dense import Dense
from fathom.ops.reduce import Reduce
from fathom.ops.scale import Divide, Shift

COMPUTED = ("Add", "AveragePool", "Conv", "Div", "Gemm", "LeakyRelu", "MatMul", "Mul", "ReduceMean", "ReduceSum", "Relu", "Sub")
MOVED = (
    *("Concat", "Dropout", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose"),
    "Unsqueeze",
)
EXACT = (*MOVED, "Constant", "ConstantOfShape", "Expand", "Shape", "Size", "Tile")
"""What may make constants: no two programs give other numbers there. So may any operator whose result is no float."""


def require_known_rounding(model: Model, run: Mapping[str, Array]) -> None:
    """Refuse what a float32 program of the model may compute in a way that no error is given for.

    Args:
        run: the values computed for one sample, by name.

    Raises:
        NotUnderstood: naming the node, and what it would take.
    """
    if model.dtype != torch.float32:
        raise NotUnderstood(f"expected a model of float32 for proofs about float32, got {model.dtype}; ask for real arithmetic")
    for node in model.nodes:
        live = not model.live.isdisjoint(node.output)
        if live and node.op_type not in (*COMPUTED, *MOVED):
            raise _unknown(node, f"expected one of {', '.join(sorted((*COMPUTED, *MOVED)))}")
        if live and node.op_type == "Gemm":
            _require_plain_gemm(node, model, run)
        floats = any(np.asarray(run[name]).dtype.kind == "f" for name in node.output if name in run)
        if not live and floats and node.op_type not in EXACT:
            raise _unknown(node, "expected constants that are stored and not computed (fold them into the file)")


def _require_plain_gemm(node: NodeProto, model: Model, run: Mapping[str, Array]) -> None:
    """Factors and a matrix C may enter a sum anywhere, or be applied to it in the end: in more ways than one count covers."""
    factors = {attribute.name: attribute.f for attribute in node.attribute}
    live = [name in model.live for name in node.input]
    third = node.input[2] if len(node.input) > 2 else ""
    shape = tuple(model.weights[third].dims) if third in model.weights else np.shape(run[third]) if third in run else ()
    plain = factors.get("alpha", 1.0) == factors.get("beta", 1.0) == 1 and math.prod(shape[:-1]) == 1
    if not plain or live[:1] != [True] or any(live[1:]):
        raise _unknown(node, "expected a Gemm of a value and constants, with alpha and beta 1, and one row of C")


def _unknown(node: NodeProto, wanted: str) -> NotUnderstood:
    return NotUnderstood(f"{described(node)}: {wanted}, whose rounding in float32 is known; or ask for real arithmetic")


def as_computed(network: Network) -> Network:
    """The network with its nodes marked as values of the float32 program; means become sums and divisions.

    Raises:
        NotUnderstood: a node has no count of terms, or is a product's sum with a constant that programs may fuse in two ways.
    """
    made: dict[int, tuple[Node, ...]] = {}
    for i, node in enumerate(network.nodes):
        operator = node.operator
        if operator is None:
            continue
        if isinstance(operator, Reduce) and operator.divisor != 1:
            total = replace(node, name=f"{node.name}/total", operator=replace(operator, divisor=1), rounded=True)
            made[i] = total, replace(node, operator=Divide(torch.tensor(float(operator.divisor))), inputs=(-1,), rounded=True)
            continue
        if operator.terms is None:
            raise NotUnderstood(
                f"node {node.name!r} ({type(operator).__name__}): its rounding in float32 is not known; ask for real arithmetic"
            )
        before = _source(network, node)
        if isinstance(operator, Shift) and isinstance(before, Dense) and before.shift is None:
            raise NotUnderstood(
                f"node {node.name!r}: expected a product to be followed by the sum with one row of constants, which no other "
                "node reads in between; ask for real arithmetic"
            )
        made[i] = (replace(node, rounded=True),)
    return rebuilt(network, set(), made)


def _source(network: Network, node: Node) -> Operator | None:
    """What made the elements of a node's first input, but for moves."""
    before = network.nodes[node.inputs[0]]
    while isinstance(before.operator, Linear) and before.operator.terms == 0 and len(before.inputs) == 1:
        before = network.nodes[before.inputs[0]]
    return before.operator
