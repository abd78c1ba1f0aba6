"""What a certificate is made of: the tree of a search's splits, and the choices that close its leaves.

Whoever splits tells a `Record`, a batch at a time. Nodes are numbered as they come; a node never split is a leaf, and one that
was closed without choices is proved with the defaults. docs/certificate.md says what each kind of split and flag means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fathom.core.value import flat

LEAF, BOX, PHASE, CLAUSE = range(4)
TIGHTEN, CLIP = 1, 2
LEVELS = 255
"""A slope is stored in steps of one part in so many."""


@dataclass(frozen=True, eq=False)
class Splits:
    """k nodes that were split alike. Children of node[j] are first[j], first[j] + 1, ..."""

    kind: int
    flags: int  # of the children
    node: NDArray[np.int64]  # [k]
    index: NDArray[np.int64]  # [k] the input, or the place of the neuron among all
    cut: NDArray[np.float64]  # [k]
    first: NDArray[np.int64]  # [k]
    count: NDArray[np.int64]  # [k] of children


@dataclass(frozen=True, eq=False)
class Closings:
    """k leaves that these choices prove."""

    node: NDArray[np.int64]  # [k]
    weight: NDArray[np.float64]  # [k, R]
    slopes: NDArray[np.uint8]  # [k, neurons]
    row: NDArray[np.int64]  # [j] multiplier j belongs to leaf node[row] ...
    neuron: NDArray[np.int64]  # [j] ... and to the split of this neuron
    multiplier: NDArray[np.float64]  # [j]

    @property
    def bytes(self) -> int:
        return sum(int(getattr(self, name).nbytes) for name in self.__dataclass_fields__)


@dataclass(frozen=True, eq=False)
class Inner:
    """Slopes that the bounds of m neurons' inputs rest on, at the roots `node`."""

    node: NDArray[np.int64]  # [m]
    neuron: NDArray[np.int64]  # [m]
    slopes: NDArray[np.uint8]  # [m, 2, neurons]: for the lower bound, and for the upper


@dataclass(eq=False)
class Record:
    """The trees of one search. Beyond `limit` bytes it forgets everything and stays empty."""

    limit: int = 1 << 30
    roots: list[tuple[int, int]] = field(default_factory=list)  # set, node
    flags: int = 0  # of the roots
    splits: list[Splits] = field(default_factory=list)
    closings: list[Closings] = field(default_factory=list)
    inner: list[Inner] = field(default_factory=list)
    nodes: int = 0
    bytes: int = 0

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self.bytes < self.limit

    def plant(self, sets: Tensor, flags: int = 0) -> Tensor:
        """The roots [k] of trees over these sets."""
        nodes = self._new(len(sets))
        self.flags = flags
        if self.on:
            self.roots += zip(sets.tolist(), nodes.tolist(), strict=True)
        return nodes

    def split(self, node: Tensor, kind: int, index: Tensor, cut: Tensor | None = None, flags: int = 0) -> Tensor:
        """The children [2k] of nodes [k]: first all the first ones, then all the second ones."""
        first = self.fan(node, torch.full_like(node, 2), kind, index, cut, flags)
        first = first[::2]
        return torch.cat([first, first + 1]) if self.on else torch.cat([first, first])

    def fan(
        self,
        node: Tensor,
        count: Tensor,
        kind: int = CLAUSE,
        index: Tensor | None = None,
        cut: Tensor | None = None,
        flags: int = 0,
    ) -> Tensor:
        """The children [sum of count] of nodes [k], node by node."""
        children = self._new(int(count.sum()))
        if self.on:
            zero = torch.zeros_like(node)
            first = count.cumsum(0) - count + (children[0] if len(children) else 0)
            parts = (node, zero if index is None else index, zero.double() if cut is None else cut, first, count)
            self.splits.append(Splits(kind, flags, *(part.numpy().copy() for part in parts)))
            self._spend(40 * len(node))
        return children

    def close(
        self,
        node: Tensor,
        weight: Tensor,
        sign: Sequence[Tensor],
        choice: Sequence[Tensor],
        multiplier: Sequence[Tensor],
    ) -> None:
        """Leaves [k] that are proved with these weights [k, R] and tensors [k, *shape] for each bend, slopes already in steps."""
        if not self.on or not len(node):
            return
        signs, slopes, prices = (_flat(part) for part in (sign, choice, multiplier))
        row, neuron = signs.nonzero().unbind(1)
        closed = Closings(
            node.numpy().copy(),
            (weight / weight.sum(1, keepdim=True)).to(torch.float64).numpy(),  # the scale that multipliers are in
            (slopes * LEVELS).round().to(torch.uint8).numpy(),
            row.numpy(),
            neuron.numpy(),
            prices[row, neuron].to(torch.float64).numpy(),
        )
        self.closings.append(closed)
        self._spend(closed.bytes)

    def within(self, node: Tensor, neuron: Tensor, slopes: Tensor) -> None:
        """Roots [m] at which the bounds of neurons [m] rest on these slopes [m, 2, neurons], in steps."""
        if self.on and len(node):
            self.inner.append(Inner(node.numpy().copy(), neuron.numpy().copy(), slopes.numpy()))
            self._spend(slopes.numel())

    def _new(self, count: int) -> Tensor:
        if not self.on:
            return torch.zeros(count, dtype=torch.int64)
        self.nodes += count
        return torch.arange(self.nodes - count, self.nodes)

    def _spend(self, count: int) -> None:
        self.bytes += count
        if not self.on:
            self.roots, self.splits, self.closings, self.inner = [], [], [], []


def off() -> Record:
    """A record that keeps nothing."""
    return Record(limit=0)


def _flat(parts: Sequence[Tensor]) -> Tensor:
    """[k, neurons]"""
    return torch.cat([flat(part.detach(), 1) for part in parts], 1)
