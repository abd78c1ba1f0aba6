"""Layers of few entries a row made fewer and cheaper: the same real function, and nothing is rounded.

Networks that spell out minima and maxima do it with rectifiers of z and of -z, of which one serves: relu(-z) = relu(z) - z. What
is left of such a layer is a part that bends and a part that does not, and relaxations lose nothing on the second. Layers that
only select, copy or subtract are composed with what they read; what is computed twice is computed once, and what nobody reads not
at all. Wherever a float64 cannot hold a result, a layer stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fathom.capture.rows import Rows
from fathom.core.network import Network, Node
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.ops.sparse import Sparse
from fathom.ops.sum import Sum


def condense(network: Network) -> Network | None:
    """The same real function on fewer rectifiers and cheaper layers, frozen in float64; None where nothing is gained."""
    rows = {}
    for i, node in enumerate(network.nodes):
        found = Rows.of(node.operator) if isinstance(node.operator, Dense) and len(node.shape) == 1 else None
        if found is not None:
            rows[i] = found
    if not rows:
        return None
    sheet = _Sheet()
    place: dict[int, int] = {}
    readers = [0] * len(network.nodes)
    for node in network.nodes:
        for j in node.inputs:
            readers[j] += 1
    for i, node in enumerate(network.nodes):
        layer = _rectified(network, rows, readers, i)
        pair = None if layer is None else sheet.untwinned(rows[layer], place[network.nodes[layer].inputs[0]], rows[i])
        if layer is None or pair is None:
            place[i] = sheet.add(replace(node, inputs=tuple(place[j] for j in node.inputs)), rows.get(i))
        else:
            place[i] = sheet.join(node, *pair)
    nodes = sheet.finish()
    if not sheet.changed and not any(isinstance(node.operator, Sparse) for node in nodes):
        return None
    return Network(nodes, network.inputs, network.outputs).freeze(torch.float64)


def _rectified(network: Network, rows: Mapping[int, Rows], readers: list[int], i: int) -> int | None:
    """The layer of few entries whose rectified value nothing but layer i, another one, reads."""
    if i not in rows:
        return None
    bend = network.nodes[i].inputs[0]
    if not isinstance(network.nodes[bend].operator, Relu) or readers[bend] != 1:
        return None
    layer = network.nodes[bend].inputs[0]
    return layer if layer in rows and readers[layer] == 1 else None


class _Sheet:
    """Nodes being written. Of elements known to be equal only the first is read, and what is not read is left out at the end."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.rows: dict[int, Rows] = {}  # of the affine nodes, whatever their operator
        self.first: dict[int, Tensor] = {}  # per node, where elements are known to be equal: [m] the first that is
        self.changed = False  # whether layers became fewer

    def add(self, node: Node, rows: Rows | None) -> int:
        """The place of a node; one with `rows` computes them."""
        place = len(self.nodes)
        if rows is not None:
            rows, source = self._reduced(rows, node.inputs[0])
            self.changed |= source != node.inputs[0]
            node = replace(node, inputs=(source,))
            self.rows[place] = rows
            self.first[place] = _groups(torch.cat([rows.index.to(torch.float64), rows.value], 1))
        elif isinstance(node.operator, Relu | Sum) and all(j in self.first for j in node.inputs):
            self.first[place] = _groups(torch.stack([self.first[j] for j in node.inputs], 1))
        self.nodes.append(node)
        return place

    def untwinned(self, first: Rows, source: int, second: Rows) -> tuple[int, Rows, Rows, Rows] | None:
        """Layer `second` behind rectifiers of layer `first` of node `source`, with one rectifier for each pair of opposites.

        Returns:
            A node, the layer over it whose rectifiers are left, the part of `second` over those, and the part over that node.
            None where no rectifier has an opposite, or sums round.
        """
        first, source = self._reduced(first, source)
        group, sign = _opposites(first)
        if bool((sign > 0).all()):
            return None
        bent = second.renamed(group, len(group))
        varying, constant = second.entries()
        mirrored = torch.cat([sign < 0, torch.zeros(2, dtype=torch.bool)])[second.index]
        straight = second.masked((varying & mirrored) | constant).after(first)
        if bent is None or straight is None:
            return None
        bends = torch.cat([(first.index < first.size).any(1), torch.zeros(2, dtype=torch.bool)])
        dead = ~bends & torch.cat([first.value.sum(1) <= 0, torch.ones(2, dtype=torch.bool)])
        bent = bent.masked(~dead[bent.index])  # the constant went with the straight part
        return source, first, bent, straight

    def join(self, node: Node, source: int, first: Rows, bent: Rows, straight: Rows) -> int:
        """The sum of a part over rectifiers and a part without, under the name of `node`."""
        self.changed = True
        z = self.add(Node(f"{node.name}/bending", None, (source,), (len(first),)), first)
        r = self.add(Node(f"{node.name}/rectified", Relu(), (z,), (len(first),)), None)
        parts = (
            self.add(Node(f"{node.name}/bent", None, (r,), node.shape), bent),
            self.add(Node(f"{node.name}/straight", None, (source,), node.shape), straight),
        )
        return self.add(Node(node.name, Sum((1, 1)), parts, node.shape), None)

    def _reduced(self, rows: Rows, source: int) -> tuple[Rows, int]:
        """Affine functions of a node, over the first of equal elements, or over what that node reads where this is cheaper."""
        while True:
            if source in self.first:
                rows = rows.renamed(self.first[source], rows.size) or rows
            composed = rows.after(self.rows[source]) if source in self.rows else None
            if composed is None or composed.cost() > rows.cost() + self.rows[source].cost():
                return rows, source
            rows, source = composed, self.nodes[source].inputs[0]

    def finish(self) -> tuple[Node, ...]:
        """The nodes and elements that the last one needs, with their operators."""
        needed = self._needed()
        place: dict[int, int] = {}
        nodes: list[Node] = []
        for i, node in enumerate(self.nodes):
            if i not in needed:
                continue
            keep = needed[i]
            name, operator, shape = node.name, node.operator, node.shape
            if i in self.rows:
                source = needed[node.inputs[0]]
                rows = self.rows[i].take(keep.nonzero()[:, 0]).renamed(source.cumsum(0) - 1, int(source.sum()))
                assert rows is not None
                operator = rows.operator()
            if i in self.first and not bool(keep.all()):
                name, shape = f"{name}/read", (int(keep.sum()),)
            place[i] = len(nodes)
            nodes.append(Node(name, operator, tuple(place[j] for j in node.inputs), shape))
        return tuple(nodes)

    def _needed(self) -> dict[int, Tensor]:
        """Per node that is read, the elements that are; all, where a reader is no layer of few entries."""
        needed: dict[int, Tensor] = {}

        def read(i: int, elements: Tensor) -> None:
            needed[i] = needed.get(i, torch.zeros_like(elements)) | elements

        def whole(i: int) -> Tensor:
            return torch.ones(torch.Size(self.nodes[i].shape).numel(), dtype=torch.bool)

        read(0, whole(0))
        read(len(self.nodes) - 1, whole(len(self.nodes) - 1))
        for i in range(len(self.nodes) - 1, -1, -1):
            for j in self.nodes[i].inputs if i in needed else ():
                if i in self.rows:
                    rows = self.rows[i].take(needed[i].nonzero()[:, 0])
                    used = torch.zeros(rows.size + 2, dtype=torch.bool)
                    used[rows.index.flatten()] = True
                    read(j, used[: rows.size] if j in self.first else whole(j))
                else:
                    read(j, needed[i] if i in self.first else whole(j))
        return needed


def _groups(keys: Tensor) -> Tensor:
    """[m] the first of the rows [m, k] that are equal to each."""
    _, group = torch.unique(keys, dim=0, return_inverse=True)
    m = torch.arange(len(keys))
    return torch.full((len(keys),), len(keys)).scatter_reduce(0, group, m, "amin")[group]


def _opposites(rows: Rows) -> tuple[Tensor, Tensor]:
    """[m] the first row that is equal to each but perhaps for its sign, and [m] that sign."""
    lead = torch.where(rows.value[:, :1] < 0, -1.0, 1.0)
    first = _groups(torch.cat([rows.index.to(torch.float64), rows.value * lead], 1))
    return first, lead[:, 0] * lead[first, 0]
