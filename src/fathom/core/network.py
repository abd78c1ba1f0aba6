"""A network: a graph of operators from one flat vector to another.

Several named inputs and outputs live as slices (`Port`s) of the two flat vectors, so that regions, specs, searches and
proofs see [n, d] in and [n, m] out, whatever the model's own signature.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fathom.core.arithmetic import Arithmetic
from fathom.core.errors import FathomError
from fathom.core.operator import Linear, Operator
from fathom.core.value import fingerprint, floats_to, map_tensors


@dataclass(frozen=True)
class Port:
    """One named input or output: the slice [start, start + size) of the flat vector, of `shape` for one sample."""

    name: str
    shape: tuple[int, ...]
    start: int
    dtype: str = "float32"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        return self.start + self.size


@dataclass(frozen=True, eq=False)
class Node:
    """One value of the graph: `operator` applied to the values of earlier nodes; None for the flat input, node 0."""

    name: str
    operator: Operator | None
    inputs: tuple[int, ...]
    shape: tuple[int, ...]  # of one sample
    rounded: bool = False  # the float32 program computes this value, and claims are about what it computes


@dataclass(frozen=True, eq=False)
class Select(Linear):
    """Elements [start, start + size) of a flat vector, given a shape: how a port leaves the flat input."""

    start: int
    shape: tuple[int, ...]
    total: int

    @property
    def terms(self) -> int:
        return 0

    @property
    def accumulation(self) -> int:
        return 0

    def __call__(self, *x: Tensor) -> Tensor:
        return x[0][:, self.start : self.start + math.prod(self.shape)].reshape(-1, *self.shape)

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        size = math.prod(self.shape)
        flat = a.reshape(*a.shape[:2], size)
        return (torch.nn.functional.pad(flat, (self.start, self.total - self.start - size)),)

    def magnitude(self, *r: Tensor) -> Tensor:
        return self(*r)


@dataclass(frozen=True, eq=False)
class Join(Linear):
    """Several values of `shapes`, flattened and laid end to end: how outputs become one flat vector."""

    shapes: tuple[tuple[int, ...], ...]

    @property
    def terms(self) -> int:
        return 0

    @property
    def accumulation(self) -> int:
        return 0

    def __call__(self, *x: Tensor) -> Tensor:
        flat = [value.reshape(len(value), math.prod(shape)) for value, shape in zip(x, self.shapes, strict=True)]
        return torch.cat(flat, 1) if len(flat) > 1 else flat[0]

    def transpose(self, a: Tensor) -> tuple[Tensor, ...]:
        pieces = torch.split(a, [math.prod(shape) for shape in self.shapes], 2)
        return tuple(p.reshape(*a.shape[:2], *s) for p, s in zip(pieces, self.shapes, strict=True))

    def magnitude(self, *r: Tensor) -> Tensor:
        return self(*r)


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in topological order. Node 0 is the flat input [n, d]; the last node is the flat output [n, m]."""

    nodes: tuple[Node, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    _digest: list[str] = field(default_factory=list, repr=False, metadata={"fingerprint": False})

    @property
    def arithmetic(self) -> Arithmetic:
        """What bounds of this network are about."""
        return Arithmetic.FLOAT32 if any(node.rounded for node in self.nodes) else Arithmetic.REAL

    @property
    def input_size(self) -> int:
        return self.nodes[0].shape[0]

    @property
    def output_size(self) -> int:
        return self.nodes[-1].shape[0]

    def __call__(self, x: Tensor) -> Tensor:
        """[n, d] -> [n, m], in the dtype of the weights."""
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """The value [n, *shape] of every node, node 0 (x itself) first."""
        values = [x]
        for node in self.nodes[1:]:
            assert node.operator is not None
            values.append(node.operator(*(values[i] for i in node.inputs)))
        return values

    def map(self, change: Callable[[Tensor], Tensor]) -> Network:
        """The same graph with every weight replaced by `change(weight)`."""
        return Network(tuple(replace(n, operator=map_tensors(n.operator, change)) for n in self.nodes), self.inputs, self.outputs)

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Network:
        """Weights cast, and still live: gradients reach the original parameters."""
        cast = floats_to(dtype)
        return self.map(lambda t: cast(t).to(device) if device is not None else cast(t))

    def freeze(self, dtype: torch.dtype) -> Network:
        """Constants in `dtype`, cut off from the live parameters. Only a frozen network has a digest."""
        cast = floats_to(dtype)
        return self.map(lambda t: cast(t.detach()).clone())

    @property
    def digest(self) -> str:
        """A SHA-256 over graph and weights.

        Raises:
            FathomError: a weight requires a gradient, so the network may still change.
        """
        if not self._digest:
            self.map(_refuse_live)
            self._digest.append(fingerprint((self.nodes, self.inputs, self.outputs)))
        return self._digest[0]

    def then(self, after: Network) -> Network:
        """`after` applied to this network's flat output.

        Raises:
            FathomError: the sizes differ.
        """
        if after.input_size != self.output_size:
            raise FathomError(
                f"expected a network of {self.output_size} inputs to follow one of {self.output_size} outputs, got one of "
                f"{after.input_size}; check the order of `then`"
            )
        joint = len(self.nodes) - 1
        tail = (replace(node, inputs=tuple(i + joint for i in node.inputs)) for node in after.nodes[1:])
        return Network((*self.nodes, *tail), self.inputs, after.outputs)

    def cut(self, names: Sequence[str]) -> tuple[Network, Network]:
        """Two networks, `front.then(back)` equal to this one: front ends, and back starts, at the named nodes' values.

        Raises:
            FathomError: no such node, or a path from input to output that goes round them (the path is named).
        """
        at = [self.index(name) for name in names]
        shapes = tuple(self.nodes[i].shape for i in at)
        front = _network(self, _ancestors(self, at), at, self.inputs)
        back_nodes = [Node("input", None, (), (sum(math.prod(s) for s in shapes),))]
        place: dict[int, int] = {}
        start = 0
        for i, shape in zip(at, shapes, strict=True):
            place[i] = len(back_nodes)
            back_nodes.append(Node(f"{self.nodes[i].name}/cut", Select(start, shape, back_nodes[0].shape[0]), (0,), shape))
            start += math.prod(shape)
        for i in sorted(_ancestors(self, [len(self.nodes) - 1], stop=set(at)) - set(at)):
            if i == 0:
                raise FathomError(
                    f"the nodes {list(names)} do not separate input from output: {self._way_round(set(at))} goes round them"
                )
            place[i] = len(back_nodes)
            back_nodes.append(replace(self.nodes[i], inputs=tuple(place[j] for j in self.nodes[i].inputs)))
        if len(self.nodes) - 1 in at:
            back_nodes.append(Node("output", Join(shapes), tuple(place[i] for i in at), (start,)))
        return front, Network(tuple(back_nodes), front.outputs, self.outputs)

    def index(self, name: str) -> int:
        """The place of the node called `name`.

        Raises:
            FathomError: there is none; the text lists those there are.
        """
        for i, node in enumerate(self.nodes):
            if node.name == name:
                return i
        raise FathomError(f"expected the name of a node, got {name!r}; there are {', '.join(n.name for n in self.nodes)}")

    def _way_round(self, avoid: set[int]) -> str:
        path, i = [self.nodes[-1].name], len(self.nodes) - 1
        while i != 0:
            i = next(j for j in self.nodes[i].inputs if j not in avoid and 0 in _ancestors(self, [j], stop=avoid))
            path.append(self.nodes[i].name)
        return " <- ".join(path)


def _refuse_live(weight: Tensor) -> Tensor:
    if weight.requires_grad:
        raise FathomError("expected a frozen network, got one with live parameters; call freeze(dtype) first")
    return weight


def _ancestors(network: Network, of: Iterable[int], stop: set[int] = frozenset()) -> set[int]:  # type: ignore[assignment]
    found: set[int] = set()
    todo = list(of)
    while todo:
        i = todo.pop()
        if i not in found:
            found.add(i)
            todo.extend(() if i in stop else network.nodes[i].inputs)
    return found


def _network(network: Network, keep: set[int], emit: Sequence[int], inputs: tuple[Port, ...]) -> Network:
    """The sub-graph `keep` (and the input) with a new flat output made of the nodes `emit`."""
    order = sorted(keep | {0})
    place = {i: k for k, i in enumerate(order)}
    nodes = [replace(network.nodes[i], inputs=tuple(place[j] for j in network.nodes[i].inputs)) for i in order]
    shapes = tuple(network.nodes[i].shape for i in emit)
    ports, start = [], 0
    for i, shape in zip(emit, shapes, strict=True):
        ports.append(Port(network.nodes[i].name, shape, start))
        start += math.prod(shape)
    nodes.append(Node("output", Join(shapes), tuple(place[i] for i in emit), (start,)))
    return Network(tuple(nodes), inputs, tuple(ports))


def identity(inputs: tuple[Port, ...]) -> Network:
    """The network that returns its input; joined to another by `fork`, it makes one that also emits x."""
    size = sum(port.size for port in inputs)
    return Network((Node("input", None, (), (size,)), Node("emit", Join(((size,),)), (0,), (size,))), inputs, inputs)


def fork(*networks: Network) -> Network:
    """All networks on one shared input; their flat outputs end to end.

    Raises:
        FathomError: the input sizes differ.
    """
    first = networks[0]
    if any(n.input_size != first.input_size for n in networks):
        raise FathomError(f"expected networks of one input size to fork, got {[n.input_size for n in networks]}")
    nodes: list[Node] = [first.nodes[0]]
    ends: list[int] = []
    ports: list[Port] = []
    start = 0
    for k, network in enumerate(networks):
        offset = len(nodes) - 1
        for node in network.nodes[1:]:
            inputs = tuple(i + offset if i else 0 for i in node.inputs)
            nodes.append(replace(node, name=f"{k}/{node.name}", inputs=inputs))
        ends.append(len(nodes) - 1)
        ports.extend(replace(p, name=f"{k}/{p.name}", start=p.start + start) for p in network.outputs)
        start += network.output_size
    shapes = tuple(nodes[i].shape for i in ends)
    nodes.append(Node("output", Join(shapes), tuple(ends), (start,)))
    return Network(tuple(nodes), first.inputs, tuple(ports))


def share(*networks: Network) -> tuple[Network, tuple[Tensor, ...]]:
    """All networks on one input, and every value that two of them have in common computed once.

    Networks that were made behind the same one (by `then` or `fork`) have its operators in common, so their union holds it once:
    two copies would cost twice the bound, and loosen it, since no bound knows that they are equal.

    Returns:
        The union, and for each of `networks` the distinct columns [m_i] of its flat output that are its own.

    Raises:
        FathomError: the input sizes differ.
    """
    first = networks[0]
    if any(n.input_size != first.input_size for n in networks):
        raise FathomError(f"expected networks of one input size to share, got {[n.input_size for n in networks]}")
    if all(n is first for n in networks):
        return first, tuple(torch.arange(first.output_size) for _ in networks)
    nodes: list[Node] = [first.nodes[0]]
    known: dict[tuple[object, ...], int] = {}
    ends: list[list[int]] = []
    for k, network in enumerate(networks):
        place = [0]
        for node in network.nodes[1:]:
            inputs = tuple(place[i] for i in node.inputs)
            key = (id(node.operator), inputs, node.shape, node.rounded)
            if key not in known:
                known[key] = len(nodes)
                nodes.append(replace(node, name=node.name if k == 0 else f"{k}/{node.name}", inputs=inputs))
            place.append(known[key])
        ends.append(_joined_parts(nodes, place[-1]))
    layout: list[tuple[int, int]] = []  # (node, how often the same network has emitted it before)
    wanted = [[(i, parts[:j].count(i)) for j, i in enumerate(parts)] for parts in ends]
    for part in itertools.chain(*wanted):
        if part not in layout:
            layout.append(part)
    sizes = [math.prod(nodes[i].shape) for i, _ in layout]
    starts = dict(zip(layout, itertools.accumulate(sizes, initial=0)))
    widths = dict(zip(layout, sizes))
    columns = tuple(torch.cat([starts[part] + torch.arange(widths[part]) for part in parts]) for parts in wanted)
    graph = Network(tuple(nodes), first.inputs, first.outputs)
    emit = [i for i, _ in layout]
    return _network(graph, _ancestors(graph, emit), emit, first.inputs), columns


def _joined_parts(nodes: Sequence[Node], i: int) -> list[int]:
    """The values that node i lays end to end, in order; itself where it is no `Join`."""
    if not isinstance(nodes[i].operator, Join):
        return [i]
    return [part for j in nodes[i].inputs for part in _joined_parts(nodes, j)]
