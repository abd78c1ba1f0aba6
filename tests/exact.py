"""The worst margin of small piecewise-linear networks in rational arithmetic: what proofs are held against.

Nothing here is shared with the prover. A network of one or two inputs is affine on convex cells of its region; cells are cut
along the lines where a neuron bends or two rows of the spec cross, and the worst margin is the least over the corners left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.network import Network
from fathom.core.operator import Linear, Lines, Nonlinear
from fathom.core.region import Region
from fathom.core.rounding import down, up
from fathom.core.spec import Spec
from fathom.ops.relu import Abs, LeakyRelu, Relu
from fathom.regions.l1 import L1Ball

Point = tuple[Fraction, ...]
Cell = list[Point]  # the corners of a convex set, in order
Values = list[list[list[Fraction]]]  # of every node, at every corner


def fractions(values: Sequence[float]) -> list[Fraction]:
    return [Fraction(v) for v in values]


@dataclass(frozen=True, eq=False)
class Hinge(Nonlinear):
    """max(x - at, 0): an operator whose kink is not at 0, which none in `fathom.ops` is."""

    at: float  # a small dyadic number, so that x - at is exact in these tests

    @property
    def kink(self) -> float | None:
        return self.at

    def __call__(self, *x: Tensor) -> Tensor:
        return (x[0] - self.at).relu()

    def interval(self, *x: Box) -> Box:
        return Box(down(self(x[0].lower)).relu(), up(self(x[0].upper)))

    def relax(self, *x: Box, choice: Tensor | None) -> Lines:
        moved = Box(down(x[0].lower - self.at), up(x[0].upper - self.at))
        moved = Box(
            torch.where(x[0].lower >= self.at, moved.lower.relu(), moved.lower),
            torch.where(x[0].upper <= self.at, moved.upper.clamp(max=0), moved.upper),
        )
        lines = Relu().relax(moved, choice=choice)
        low, high = lines.lower_slope[0], lines.upper_slope[0]
        under, over = down(-low * self.at), up(-high * self.at)
        return Lines((low,), down(lines.lower_offset + under), (high,), up(lines.upper_offset + over))


@dataclass(frozen=True)
class Bend:
    """The function that is x - kink to the right of the kink, and `left` times that to the left."""

    left: Fraction
    kink: Fraction

    def __call__(self, x: Fraction, side: Fraction | int) -> Fraction:
        return x - self.kink if side > 0 else self.left * (x - self.kink)


class ExactNetwork:
    """A network of linear operators and rectifiers, evaluated and followed over cells without rounding."""

    def __init__(self, network: Network) -> None:
        network = network.freeze(torch.float64)
        self.size = network.input_size
        self.nodes = [(self._meaning(node.operator, node.shape), node.inputs) for node in network.nodes[1:]]

    @staticmethod
    def _meaning(operator: object, shape: tuple[int, ...]) -> object:
        """Matrices and bias, the entries read off unit rows, which no operator here rounds; or where and how it bends."""
        if isinstance(operator, Linear):
            eye = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(1, -1, *shape)
            parts = [part[0].flatten(1).tolist() for part in operator.transpose(eye)]
            bias = torch.zeros(shape, dtype=torch.float64) if operator.bias is None else operator.bias.expand(shape)
            sparse = [[[(k, Fraction(w)) for k, w in enumerate(row) if w] for row in part] for part in parts]
            return sparse, fractions(bias.flatten().tolist())
        if isinstance(operator, Relu):
            return Bend(Fraction(0), Fraction(0))
        if isinstance(operator, LeakyRelu):
            return Bend(Fraction(operator.slope), Fraction(0))
        if isinstance(operator, Abs):
            return Bend(Fraction(-1), Fraction(0))
        if isinstance(operator, Hinge):
            return Bend(Fraction(0), Fraction(operator.at))
        raise TypeError(f"no exact account of {operator}")

    def __call__(self, x: Sequence[float] | Point) -> list[Fraction]:
        """The output at one input."""
        values = [[Fraction(v) for v in x]]
        for meaning, inputs in self.nodes:
            if isinstance(meaning, Bend):
                values.append([meaning(v, v - meaning.kink) for v in values[inputs[0]]])
            else:
                values.append(_apply(meaning, [values[i] for i in inputs]))
        return values[-1]

    def pieces(self, cell: Cell) -> list[tuple[Cell, list[list[Fraction]]]]:
        """Cells that make up a cell, on each of which every neuron keeps its side; with the outputs at their corners."""
        todo = [(cell, [[list(p) for p in cell]])]  # values[node][corner]
        for meaning, inputs in self.nodes:
            following = []
            for corners, values in todo:
                if not isinstance(meaning, Bend):
                    made = [_apply(meaning, [values[i][c] for i in inputs]) for c in range(len(corners))]
                    following.append((corners, [*values, made]))
                    continue
                for part, inner in self._cut(corners, values, inputs[0], meaning.kink):
                    before = inner[inputs[0]]
                    sides = [_side([corner[k] - meaning.kink for corner in before]) for k in range(len(before[0]))]
                    made = [[meaning(v, side) for v, side in zip(corner, sides, strict=True)] for corner in before]
                    following.append((part, [*inner, made]))
            todo = following
        return [(corners, values[-1]) for corners, values in todo]

    @staticmethod
    def _cut(corners: Cell, values: Values, node: int, kink: Fraction) -> list[tuple[Cell, Values]]:
        """Parts of a cell on which no element of a node crosses the kink inside."""
        parts = [(corners, values)]
        for k in range(len(values[node][0])):
            halves = []
            for part_corners, part_values in parts:
                levels = [corner[k] - kink for corner in part_values[node]]
                if min(levels) >= 0 or max(levels) <= 0:
                    halves.append((part_corners, part_values))
                    continue
                for sign in (1, -1):
                    mix = _clip([sign * level for level in levels])
                    halves.append((_mixed(part_corners, mix), [_mixed(v, mix) for v in part_values]))
            parts = halves
        return parts


def _side(levels: list[Fraction]) -> int:
    return 1 if max(levels) > 0 else -1


def _apply(meaning: tuple, inputs: list[list[Fraction]]) -> list[Fraction]:
    matrices, bias = meaning
    total = list(bias)
    for matrix, x in zip(matrices, inputs, strict=True):
        for k, row in enumerate(matrix):
            for j, w in row:
                total[k] += w * x[j]
    return total


def _clip(levels: list[Fraction]) -> list[tuple[int, int, Fraction]]:
    """Where level >= 0 round a convex cell: new corners as (i, j, t), standing for corner i + t (corner j - corner i)."""
    kept = []
    for i, level in enumerate(levels):
        j = (i + 1) % len(levels)
        if level >= 0:
            kept.append((i, i, Fraction(0)))
        if (level > 0 > levels[j]) or (level < 0 < levels[j]):
            kept.append((i, j, level / (level - levels[j])))
    return kept


def _mixed(corners: list, mix: list[tuple[int, int, Fraction]]) -> list:
    """Values at new corners, from those at the old ones between which they are affine."""
    return [
        type(corners[i])(a + t * (b - a) for a, b in zip(corners[i], corners[j], strict=True)) if t else corners[i]
        for i, j, t in mix
    ]


def cell_of(region: Region, index: int) -> Cell:
    """Set `index` of a region of boxes or L1 balls in one or two inputs, as a cell."""
    box = region.box()
    low, high = fractions(box.lower[index].tolist()), fractions(box.upper[index].tolist())
    if isinstance(region, L1Ball):
        c, r = fractions(region.centre[index].tolist()), Fraction(region.radius[index].item())
        low, high = fractions(region.lower[index].tolist()), fractions(region.upper[index].tolist())
        cell: Cell = [(c[0] + r, c[1]), (c[0], c[1] + r), (c[0] - r, c[1]), (c[0], c[1] - r)]
        for axis in (0, 1):
            for sign, end in ((1, low[axis]), (-1, high[axis])):
                cell = _mixed(cell, _clip([sign * (p[axis] - end) for p in cell]))
        return cell
    if len(low) == 1:
        return [(low[0],), (high[0],)]
    return [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]


@dataclass(frozen=True)
class Clauses:
    """The spec of one set: clauses of rows (coefficients, offset, strict)."""

    clauses: list[list[tuple[list[Fraction], Fraction, bool]]]

    @staticmethod
    def of(spec: Spec, index: int) -> Clauses:
        k = int(spec.of[index])
        found: dict[int, list[tuple[list[Fraction], Fraction, bool]]] = {}
        for row, offset, clause, strict in zip(
            spec.rows[k].tolist(), spec.offsets[k].tolist(), spec.clause[k].tolist(), spec.strict[k].tolist(), strict=True
        ):
            if clause >= 0:
                found.setdefault(clause, []).append((fractions(row), Fraction(offset), strict))
        return Clauses(list(found.values()))

    def values(self, y: list[Fraction]) -> list[list[Fraction]]:
        return [[_row(row, offset, y) for row, offset, _ in clause] for clause in self.clauses]

    def margin(self, y: list[Fraction]) -> Fraction | None:
        """None: no clause, and so no catastrophe."""
        return min((max(values) for values in self.values(y)), default=None)

    def fails(self, y: list[Fraction]) -> bool:
        return any(
            all(v < 0 if row[2] else v <= 0 for v, row in zip(values, clause, strict=True))
            for values, clause in zip(self.values(y), self.clauses, strict=True)
        )


def _row(row: list[Fraction], offset: Fraction, y: list[Fraction]) -> Fraction:
    return sum((a * v for a, v in zip(row, y, strict=True) if a), offset)


@dataclass(frozen=True)
class Truth:
    """The worst margin of one set, None where nothing can fail, and whether some input is a catastrophe, strictness included."""

    worst: Fraction | None
    fails: bool


def worst(pieces: list[tuple[Cell, list[list[Fraction]]]], clauses: Clauses) -> Truth:
    """The exact answer for a set cut into pieces."""
    least: Fraction | None = None
    fails = False
    for _, outputs in pieces:
        for clause in clauses.clauses:
            levels = [[_row(row, offset, y) for row, offset, _ in clause] for y in outputs]
            lowest = _least_of_greatest(levels)
            least = lowest if least is None else min(least, lowest)
            fails = fails or _can_hold(levels, [strict for _, _, strict in clause])
    return Truth(least, fails)


def _least_of_greatest(levels: list[list[Fraction]]) -> Fraction:
    """The minimum over a cell of the greatest of affine functions, given at its corners."""
    parts = [levels]
    for i in range(len(levels[0])):
        for j in range(i):
            halves = []
            for part in parts:
                gaps = [corner[i] - corner[j] for corner in part]
                if min(gaps) >= 0 or max(gaps) <= 0:
                    halves.append(part)
                else:
                    halves += [_mixed(part, _clip([sign * gap for gap in gaps])) for sign in (1, -1)]
            parts = halves
    return min(max(corner) for part in parts for corner in part)


def _can_hold(levels: list[list[Fraction]], strict: list[bool]) -> bool:
    """Whether some point of a cell has every affine function <= 0, and the strict ones < 0."""
    for r in range(len(strict)):
        levels = _mixed(levels, _clip([-corner[r] for corner in levels]))
        if not levels:
            return False
    # The mean of the corners of what is left has a function < 0 if any corner has.
    return all(any(corner[r] < 0 for corner in levels) for r in range(len(strict)) if strict[r])


def truths(network: Network, region: Region, spec: Spec) -> list[Truth]:
    """The exact answers of all sets."""
    exact = ExactNetwork(network)
    return [worst(exact.pieces(cell_of(region, i)), Clauses.of(spec, i)) for i in range(len(region))]
