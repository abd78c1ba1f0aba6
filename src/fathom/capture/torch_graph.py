"""From a functional aten graph, as `torch.export` writes it, to a `Network`; live parameters stay references.

What depends on the input becomes a value of the `Graph`, through the table in `torch_table`. What does not is evaluated at
once, by torch itself: a weight that is a parameter of the module, or a view of one (`weight.T`), stays live. A weight that
is *computed* from a live parameter would be a copy that training leaves behind, and is refused.
"""

from __future__ import annotations

import operator as python
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fathom.capture.graph import Graph
from fathom.capture.torch_table import BATCH, Call, Value, leaves, packet, table
from fathom.core.errors import NotUnderstood
from fathom.core.network import Network

SIZES = {python.add, python.sub, python.mul, python.floordiv, python.neg, python.pow}
SHAPED = {"full", "zeros", "ones", "sym_size"}
"""What may be told the size of the batch, beside the layout operators: the result is one for every sample."""
IDENTITIES = {"alias", "clone", "contiguous", "lift_fresh", "lift_fresh_copy"}


def is_known(name: str) -> bool:
    """Whether this reader has a meaning for the aten operator of this name, in place or not."""
    return name.removesuffix("_") in {*table(), *SHAPED, *IDENTITIES, "arange", "scalar_tensor"}


def unknown_operators(aten: fx.Graph, inputs: Mapping[str, str]) -> set[str]:
    """The operators, applied to what depends on the placeholders `inputs`, that the table does not have."""
    dependent: set[fx.Node] = set()
    unknown = set()
    for node in aten.nodes:
        if node.name in inputs or any(used in dependent for used in node.all_input_nodes):
            dependent.add(node)
            if node.op == "call_function" and not is_known(packet(node.target)) and node.target not in (python.getitem, *SIZES):
                unknown.add(packet(node.target))
    return unknown


class Reader:
    """One walk through a functional aten graph, as `ExportedProgram.run_decompositions` leaves it."""

    def __init__(self, aten: fx.Graph, tensors: Mapping[str, Tensor], ports: Mapping[str, str], graph: Graph) -> None:
        """
        Args:
            aten: the graph.
            tensors: parameters, buffers and constants, by placeholder.
            ports: the names of the inputs, by placeholder.
            graph: the builder, with those inputs.
        """
        self.aten, self.tensors, self.ports, self.graph = aten, tensors, ports, graph
        self.storages = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
        self.found: dict[fx.Node, Any] = {}
        self.names: dict[str, str] = {}
        """The names of the network's nodes, by the names of the aten nodes whose values they have."""

    def read(self) -> Network:
        """The network.

        Raises:
            NotUnderstood: naming the aten node, its operator, and the line of the module.
        """
        for node in self.aten.nodes:
            if node.op == "placeholder":
                self.found[node] = self._placeholder(node)
            elif node.op != "output":
                call = Call(self.graph, node, self._name(node), _dtype(node))
                self.found[node] = self._call(call)
                self._note(node, self.found[node])
        nodes = [leaf for leaf in leaves(self.aten.output_node().args) if isinstance(leaf, fx.Node)]
        outputs = [self._output(i, len(nodes), node) for i, node in enumerate(nodes)]
        return self.graph.finish(outputs, [str(_dtype(node)).removeprefix("torch.") for node in nodes])

    def _placeholder(self, node: fx.Node) -> Any:
        if node.name in self.tensors:
            return self.tensors[node.name]
        index = self.graph.input(self.ports[node.name])
        return Value(index, self.graph.shape(index))

    def _name(self, node: fx.Node) -> str:
        return f"{node.name}/value" if node.name in self.ports.values() else node.name

    def _note(self, node: fx.Node, value: Any) -> None:
        """Remember a node that has this aten node's value, for the replay."""
        if isinstance(value, Value):
            self.names.setdefault(self.graph.nodes[value.index].name, node.name)

    def _output(self, place: int, count: int, node: fx.Node) -> tuple[str, int]:
        value = self.found[node]
        if not isinstance(value, Value):
            raise NotUnderstood(f"output {place} of the module ({node.name!r}) does not depend on its input; leave it out")
        return ("output" if count == 1 else f"output_{place}", value.index)

    def _call(self, call: Call) -> Any:
        node, name = call.node, packet(call.node.target)
        if node.op != "call_function":
            raise call.refuse(f"{node.op} is not understood", "write the model without control flow that depends on data")
        arguments: Any = fx.map_arg(node.args, self.found.__getitem__)
        keywords: Any = fx.map_arg(node.kwargs, self.found.__getitem__)
        if name.startswith(("_assert", "sym_constrain")):
            return None
        if node.target is python.getitem:
            return arguments[0][arguments[1]]
        if name == "sym_size" and isinstance(arguments[0], Value):
            return (BATCH, *arguments[0].shape)[arguments[1]]
        if name in IDENTITIES:
            return arguments[0]
        self._check_sizes(call, name)
        if not any(isinstance(part, Value) for part in leaves((arguments, keywords))):
            return self._evaluate(call, arguments, keywords)
        function = table().get(name)
        if function is None:
            raise call.refuse("there is no translation of this operator", "compute it by sums, products and activations")
        return function(call, *arguments, **keywords)

    def _check_sizes(self, call: Call, name: str) -> None:
        """The size of the batch may shape a value, and must not be a number in it."""
        sized = any(isinstance(node.meta.get("val"), torch.SymInt) for node in call.node.all_input_nodes)
        shapes = name in SHAPED or call.node.target in SIZES or getattr(table().get(name), "layout", False)
        if sized and not shapes:
            raise call.refuse("it computes with the size of the batch", "let the model treat each sample alone, batch on axis 0")

    def _evaluate(self, call: Call, arguments: Any, keywords: Any) -> Any:
        """A constant: torch computes it now, in the module's own dtype, as the module itself does on every call."""
        target: Any = call.node.target
        with torch.enable_grad():
            result = target(*arguments, **keywords)
        for part in leaves(result):
            if isinstance(part, Tensor) and part.requires_grad and part.untyped_storage().data_ptr() not in self.storages:
                raise call.refuse(
                    "it computes a weight from a live parameter, and the network could not follow its training",
                    "capture with live=False for the present values, or make the result itself the parameter, as "
                    "torch.nn.utils.parametrize.remove_parametrizations does",
                )
        return result


def _dtype(node: fx.Node) -> torch.dtype:
    value = next((part for part in leaves(node.meta.get("val")) if isinstance(part, Tensor)), None)
    return torch.float32 if value is None else value.dtype
