"""The semidefinite relaxation of a rectifier network: first and second moments of the input that a failure could have.

Raghunathan, Steinhardt and Liang, Semidefinite relaxations for certifying robustness to adversarial examples, NeurIPS 2018; the
first order of Lasserre, Global optimization with polynomials and the problem of moments, SIAM J. Optim. 2001. Variables are the
inputs that vary and the rectifiers whose side bounds leave open, each over its own range; everything else is affine in them. The
matrix of moments of (1, variables) is positive semidefinite, which is all that is kept of it being a matrix of moments.

Values are as good as the solver's tolerance: nothing rests on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from scipy.sparse import csc_matrix, diags, hstack, vstack
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.core.network import Network, Node
from fathom.core.operator import Linear
from fathom.ops.relu import Relu

Form = np.ndarray
"""[1 + variables] a constant, and coefficients: an affine function of the variables."""


@dataclass(frozen=True, eq=False)
class Rectifier:
    """An open one: its variable is its value over `high`, and `before` its input."""

    variable: int
    before: Tensor  # [1 + variables so far] float64
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Lifted:
    """A network over one set, affine in its variables: inputs that vary, from -1 to 1, and open rectifiers, from 0 to 1."""

    middle: Tensor  # [d] of the box
    half: Tensor  # [d] half its width
    varying: Tensor  # [v] the inputs that vary
    rectifiers: tuple[Rectifier, ...]
    output: Tensor  # [1 + variables, m] float64

    @property
    def size(self) -> int:
        """How many variables there are."""
        return len(self.varying) + len(self.rectifiers)

    @staticmethod
    def of(network: Network, boxes: Sequence[Box], most: int) -> Lifted:
        """The network over one set.

        Args:
            network: in float64, frozen.
            boxes: a box [1, *shape] for the value of every node.
            most: variables that are allowed.

        Raises:
            FathomError: an operator that is neither affine nor a rectifier, an input without bounds, or too many variables.
        """
        box = boxes[0]
        if not bool(torch.isfinite(box.lower).all() & torch.isfinite(box.upper).all()):
            raise FathomError("expected inputs with bounds, got an unbounded one; moments need ranges: bound every input")
        middle, half = box.middle[0], box.width[0] / 2
        varying = (half > 0).nonzero()[:, 0]
        first = torch.zeros(1 + len(varying), len(middle), dtype=torch.float64)
        first[0], first[1 + torch.arange(len(varying)), varying] = middle, half[varying]
        values, rectifiers = [first], list[Rectifier]()
        for node in network.nodes[1:]:
            parents = [_grown(values[j], len(varying) + len(rectifiers)) for j in node.inputs]
            if isinstance(node.operator, Linear):
                values.append(_affine(node, parents))
            elif isinstance(node.operator, Relu):
                values.append(_rectified(parents[0], boxes[node.inputs[0]], rectifiers))
            else:
                kind = type(node.operator).__name__
                raise FathomError(
                    f"expected affine layers and rectifiers alone, got {kind} at {node.name}; moments know no other: use Gradient"
                )
            if len(varying) + len(rectifiers) > most:
                raise FathomError(
                    f"expected at most {most} variables in the matrix of moments, got {len(varying)} inputs that vary and at "
                    f"least {len(rectifiers)} open rectifiers; ask for a smaller region, or raise `most`, whose fifth power "
                    "or so is the time that it takes"
                )
        output = _grown(values[-1], len(varying) + len(rectifiers))
        return Lifted(middle, half, varying, tuple(rectifiers), output)

    def inputs(self, points: Tensor) -> Tensor:
        """Inputs [k, d] from values [k, v] of the variables that stand for those that vary."""
        x = self.middle.repeat(len(points), 1)
        x[:, self.varying] += self.half[self.varying] * points
        return x


def _grown(value: Tensor, size: int) -> Tensor:
    """With coefficients, of zero, for variables that came later."""
    return torch.cat([value, value.new_zeros(1 + size - len(value), *value.shape[1:])])


def _affine(node: Node, parents: list[Tensor]) -> Tensor:
    assert node.operator is not None
    value: Tensor = node.operator(*parents)
    still = node.operator(*(torch.zeros_like(parent[:1]) for parent in parents))
    return torch.cat([value[:1], value[1:] - still])


def _rectified(before: Tensor, box: Box, rectifiers: list[Rectifier]) -> Tensor:
    """What is open gets a variable of its own."""
    flat, low, high = before.flatten(1), box.lower.flatten(), box.upper.flatten()
    open_ = ((low < 0) & (high > 0)).nonzero()[:, 0]
    value = torch.cat([torch.where(low >= 0, flat, 0.0), flat.new_zeros(len(open_), flat.shape[1])])
    value[len(flat) + torch.arange(len(open_)), open_] = high[open_]
    for k, i in enumerate(open_.tolist()):
        rectifiers.append(Rectifier(len(flat) + k - 1, flat[:, i], float(low[i]), float(high[i])))
    return value.reshape(-1, *before.shape[1:])


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the inputs that vary, in their ranges from -1 to 1."""

    value: float  # at the relaxation's optimum, the greatest of the rows: no input has a lower one, up to the solver's tolerance
    mean: Tensor  # [v] float64
    spread: Tensor  # [v, v] float64: the covariance


def relax(lifted: Lifted, rows: Tensor, offsets: Tensor, seconds: float = float("inf")) -> Moments | None:
    """The moments at which the greatest of some rows over the output is least, were the relaxation the truth.

    Args:
        rows: [r, m], at least one.
        offsets: [r].
        seconds: how long the solver may take.

    Returns:
        None where the solver came to no end in its time.

    Raises:
        FathomError: the solver is not installed.
    """
    clarabel = _solver()
    program = _Program(1 + lifted.size)
    for k in range(len(lifted.varying)):
        program.at_least(-program.product(_unit(program.size, 1 + k), _unit(program.size, 1 + k)), 1.0)
    for rectifier in lifted.rectifiers:
        _constrain(program, rectifier)
    forms = (lifted.output @ rows.T.to(torch.float64)).numpy().T
    for form, offset in zip(forms, offsets.tolist(), strict=True):
        program.at_least(-program.product(form, _unit(program.size, 0)), -offset, bound=1.0)
    solution = program.solve(clarabel, seconds)
    if solution is None:
        return None
    value, moments = solution
    v = len(lifted.varying)
    mean, second = torch.from_numpy(moments[0, 1 : 1 + v].copy()), torch.from_numpy(moments[1 : 1 + v, 1 : 1 + v].copy())
    return Moments(value, mean, second - mean[:, None] * mean)


def _solver() -> ModuleType:
    try:
        import clarabel
    except ImportError:
        raise FathomError(
            "expected the solver clarabel for semidefinite programs, got none; install it: pip install 'fathom-verify[moments]'"
        ) from None
    found: ModuleType = clarabel
    return found


def _constrain(program: _Program, rectifier: Rectifier) -> None:
    """z >= 0, z >= a, z (z - a) = 0, z <= its chord, and products of the bounds of z and of a, with z = high * its variable."""
    one, z = _unit(program.size, 0), _unit(program.size, 1 + rectifier.variable)
    before = np.zeros(program.size)
    before[: len(rectifier.before)] = rectifier.before.numpy()
    low, high = rectifier.low, rectifier.high
    a = before / high
    program.at_least(program.product(z, one), 0.0)
    program.at_least(program.product(z - a, one), 0.0)
    program.equal(program.product(z, z - a), 0.0)
    program.at_least(program.product((before - low * one) / (high - low) - z, one), 0.0)
    program.at_least(program.product(z, one - z), 0.0)
    scale = ((high - low) / 2) ** 2
    program.at_least(program.product(before - low * one, high * one - before) / scale, 0.0)


def _unit(size: int, k: int) -> Form:
    unit = np.zeros(size)
    unit[k] = 1.0
    return unit


class _Program:
    """min g over positive semidefinite P [n, n] with P_00 = 1, under linear constraints on the upper triangle of P, and g."""

    def __init__(self, size: int) -> None:
        self.size = size
        row, column = np.triu_indices(size)
        order = np.lexsort((row, column))  # the solver's: by columns
        self.row, self.column = row[order], column[order]
        self.equalities: list[tuple[np.ndarray, float]] = [(self.product(_unit(size, 0), _unit(size, 0)), 1.0)]
        self.least: list[tuple[np.ndarray, float, float]] = []

    def product(self, one: Form, other: Form) -> np.ndarray:
        """The moment of a product of two affine functions, as a row over the triangle."""
        both = one[self.row] * other[self.column] + other[self.row] * one[self.column]
        row: np.ndarray = np.where(self.row == self.column, both / 2, both)
        return row

    def equal(self, row: np.ndarray, value: float) -> None:
        self.equalities.append((row, value))

    def at_least(self, row: np.ndarray, plus: float, bound: float = 0.0) -> None:
        """row . P + plus + bound * g >= 0."""
        self.least.append((row, plus, bound))

    def solve(self, clarabel: ModuleType, seconds: float) -> tuple[float, np.ndarray] | None:
        """The least g, and P; None where the solver came to no end in its time."""
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        settings.time_limit = seconds
        count = len(self.row)
        equal = csc_matrix(np.array([row for row, _ in self.equalities]))
        least = -csc_matrix(np.array([row for row, _, _ in self.least]))
        bound = -csc_matrix(np.array([[bound] for _, _, bound in self.least]))
        triangle = diags(np.where(self.row == self.column, -1.0, -(2.0**0.5)))
        none = csc_matrix((len(self.equalities), 1)), csc_matrix((count, 1))
        matrix = vstack([hstack([equal, none[0]]), hstack([least, bound]), hstack([triangle, none[1]])]).tocsc()
        right = np.concatenate([[value for _, value in self.equalities], [plus for _, plus, _ in self.least], np.zeros(count)])
        cones = [
            clarabel.ZeroConeT(len(self.equalities)),
            clarabel.NonnegativeConeT(len(self.least)),
            clarabel.PSDTriangleConeT(self.size),
        ]
        cost = np.append(np.zeros(count), 1.0)
        solution = clarabel.DefaultSolver(csc_matrix((count + 1, count + 1)), cost, matrix, right, cones, settings).solve()
        if solution.status not in (clarabel.SolverStatus.Solved, clarabel.SolverStatus.AlmostSolved):
            return None
        moments = np.zeros((self.size, self.size))
        moments[self.row, self.column] = solution.x[:count]
        moments[self.column, self.row] = solution.x[:count]
        return float(solution.x[count]), moments
