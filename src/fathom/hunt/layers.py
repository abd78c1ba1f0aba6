"""A model cut in two at a layer: what comes before it, and what comes after, each a network and a program of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.bounds.backward import Reach
from fathom.bounds.batches import batch_size
from fathom.bounds.intermediate import by_backward, never, tighten
from fathom.core.arithmetic import Arithmetic
from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.core.region import Region


@final
class Piece(Program):
    """A part of a model, run as a network in the dtype of the whole. What fails here fails a relaxation, and not the model."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        self.inputs, self.outputs, self.dtype = network.inputs, network.outputs, dtype
        self._network = network.freeze(dtype)
        self.digest = hashlib.sha256(f"piece {dtype} {self._network.digest}".encode()).hexdigest()

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._network(x)


@dataclass(frozen=True, eq=False)
class Layer:
    """A problem's network cut at a node; `head.then(tail)` is the network, in float64 and frozen."""

    name: str
    shape: tuple[int, ...]  # of one activation
    head: Network  # [n, d] -> [n, w]
    tail: Network  # [n, w] -> [n, m]

    @staticmethod
    def of(problem: Problem, name: str) -> Layer:
        """The layer called `name`.

        Raises:
            FathomError: there is no network, it is about float32, there is no such node, or a path goes round it; the text lists
                the layers there are.
        """
        if problem.network is None or problem.spec is None:
            raise FathomError(f"expected a problem that can be proved, to look inside the network; here {problem.obstacle}")
        if problem.arithmetic is not Arithmetic.REAL:
            raise FathomError(f"expected a network in real arithmetic to cut at a layer, got {problem.arithmetic.value}")
        network = problem.network.freeze(torch.float64)
        there = layers(network)
        listed = ", ".join(f"{node} {list(shape)}" for node, shape in there) or "none"
        if name not in {node.name for node in network.nodes}:
            raise FathomError(f"expected the name of a layer, got {name!r}; there are {listed}")
        if name not in dict(there):
            if name in (network.nodes[0].name, network.nodes[-1].name):
                raise FathomError(f"expected a layer between input and output, got {name!r}; there are {listed}")
            try:
                network.cut([name])
            except FathomError as error:
                raise FathomError(f"{error}; every path passes {listed}") from error
        head, tail = network.cut([name])
        return Layer(name, dict(there)[name], head, tail)

    @property
    def size(self) -> int:
        """w, how many numbers one activation is."""
        return self.head.output_size

    def activations(self, x: Tensor) -> Tensor:
        """[..., w] float64, of inputs x [..., d], computed in float64."""
        with torch.no_grad():
            return self.head(x.to(torch.float64).reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.size)


def layers(network: Network) -> list[tuple[str, tuple[int, ...]]]:
    """The names and shapes of the nodes that every path from input to output passes, in order, without the two ends.

    Nodes are in topological order, so a path goes round a node if and only if some edge of one leaps over it.
    """
    count = len(network.nodes)
    after, before = [False] * count, [False] * count  # on a path from the input; on a path to the output
    after[0], before[-1] = True, True
    for i, node in enumerate(network.nodes):
        after[i] |= any(after[j] for j in node.inputs)
    leapt = [False] * count
    for i in range(count - 1, 0, -1):
        for j in network.nodes[i].inputs:
            before[j] |= before[i]
            if before[i] and after[j]:
                leapt[j + 1 : i] = [True] * (i - j - 1)
    inner = range(1, count - 1)
    return [(network.nodes[i].name, network.nodes[i].shape) for i in inner if after[i] and before[i] and not leapt[i]]


def reach_boxes(head: Network, region: Region, memory: int = 1 << 30, late: Callable[[], bool] = never) -> Box:
    """Boxes [n, w] that hold the real head's every value over n sets, each element bounded by a backward pass of its own.

    Sound: rounding is accounted for, as in every bound; once `late` says so, what is left keeps intervals, which are loose.
    """
    parts = [
        _bounds(head, region.take(index), memory, late)
        for index in torch.split(torch.arange(len(region)), batch_size(head, memory))
    ]
    return Box(torch.cat([box.lower for box in parts]), torch.cat([box.upper for box in parts]))


def _bounds(head: Network, region: Region, memory: int, late: Callable[[], bool]) -> Box:
    boxes: Sequence[Box]
    account: Reach
    boxes, account = tighten(head, region, memory=memory, late=late)
    return by_backward(head, region, list(boxes), account, len(head.nodes) - 1, [None], memory, late)
