"""The exact answer where no neuron's phase is open: the network is affine there, and its worst margin a linear program.

The program is solved in floating point and not trusted: its dual values become row weights and multipliers of one more backward
pass, which gives a rigorous bound (as Neumaier and Shcherbina, Safe bounds in linear and mixed-integer linear programming, Math.
Programming 99, 2004, do for general programs); its minimiser becomes a candidate for `confirm`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fathom.bounds.backward import LinearBound


@dataclass(frozen=True, eq=False)
class Dual:
    """What a linear program leaves behind: a candidate input, and multipliers that prove its optimality but for rounding."""

    point: Tensor  # [d]
    weight: Tensor  # [rows] >= 0, adding up to about 1
    multiplier: Tensor  # [constraints] >= 0
    feasible: bool  # False: no input meets the constraints, and the multipliers price that


def worst_on_leaf(rows: LinearBound, constraints: LinearBound, lower: Tensor, upper: Tensor) -> Dual | None:
    """Minimise the greatest row over the inputs of a box [d] at which every constraint is >= 0.

    Args:
        rows: one set with affine rows [1, R, d].
        constraints: one set with affine constraints [1, C, d].

    Returns:
        The dual, or None where the solver gives up.
    """
    from scipy.optimize import linprog  # here, because importing it takes longer than most problems

    d = len(lower)
    a, c = _numpy(rows)
    g, h = _numpy(constraints)
    if not all(np.isfinite(part).all() for part in (a, c, g, h)):
        return None
    bounds = [*zip(lower.tolist(), upper.tolist(), strict=True), (None, None)]
    cost = np.append(np.zeros(d), 1.0)
    # row <= t, and constraint >= 0
    left = np.vstack([np.hstack([a, -np.ones((len(a), 1))]), np.hstack([-g, np.zeros((len(g), 1))])])
    result = linprog(cost, A_ub=left, b_ub=np.concatenate([-c, h]), bounds=bounds, method="highs")
    if result.status == 0:
        prices = np.maximum(-result.ineqlin.marginals, 0.0)
        weight, multiplier = prices[: len(a)], prices[len(a) :]
        return Dual(torch.from_numpy(result.x[:d]), torch.from_numpy(weight), torch.from_numpy(multiplier), feasible=True)
    if result.status != 2:
        return None
    # No input meets all constraints: how far apart they are, s with constraint >= -s, has multipliers that prove it.
    left = np.hstack([-g, -np.ones((len(g), 1))])
    result = linprog(cost, A_ub=left, b_ub=h, bounds=bounds, method="highs")
    if result.status != 0 or result.x[d] <= 0:
        return None
    prices = np.maximum(-result.ineqlin.marginals, 0.0)
    # The rows' own bound may be anything: priced high enough, the infeasibility outweighs it.
    floor = float((np.minimum(a * lower.numpy(), a * upper.numpy()).sum(1) + c).min())
    prices *= (2 * abs(floor) + 1) / result.x[d]
    return Dual(
        torch.from_numpy(result.x[:d]),
        torch.full((len(a),), 1 / len(a), dtype=torch.float64),
        torch.from_numpy(prices),
        feasible=False,
    )


def _numpy(bound: LinearBound) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return bound.a[0].detach().numpy(), bound.constant[0].detach().numpy()
