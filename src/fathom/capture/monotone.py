"""Monotonicity in a feature, as a question about pairs: two inputs that differ in that feature alone.

pair, region, overseer = monotone(captured, box, feature=3, tolerance=0.01)
result = fathom.audit(pair, region, overseer)
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fathom.capture.captured import Captured
from fathom.capture.joint_program import JointProgram, Part
from fathom.core.arithmetic import Arithmetic
from fathom.core.checks import check_number, check_whole
from fathom.core.errors import FathomError
from fathom.core.network import Network, Node, Port, fork
from fathom.ops.pick import Pick
from fathom.overseers.linear_rules import LinearRules
from fathom.regions.box import BoxRegion


class Pairs(NamedTuple):
    """What `audit` is called with."""

    model: Captured  # [n, d + 1] -> [n, 2 m]: outputs at x, then at x with the feature put to the last input
    region: BoxRegion
    overseer: LinearRules


def monotone(
    captured: Captured, region: BoxRegion, *, feature: int, tolerance: float, output: int = 0, falling: bool = False
) -> Pairs:
    """Whether an output may fall by as much as `tolerance` where the feature rises, and nothing else changes.

    The pair shares every input but the feature, whose second value is one more input, in the same range; so a failure is one pair
    (x, x') with x'[feature] >= x[feature] and y'[output] <= y[output] - tolerance. Steps of every size are covered.
    exact: yes. At x = x' the outputs are equal, so with no tolerance nothing could be proved.

    Args:
        captured: a model of d inputs and m outputs.
        region: n boxes of inputs.
        tolerance: above 0, in the unit of the output.
        falling: ask instead that the output may not rise.

    Raises:
        FathomError: a feature or output that there is not, no tolerance, boxes of another size, or float32 arithmetic.
    """
    d, m = captured.network.input_size, captured.network.output_size
    if region.size != d or check_whole("feature", feature) >= d or check_whole("output", output) >= m:
        raise FathomError(
            f"expected a feature below {d}, an output below {m}, boxes of {d} inputs, got {feature}, {output} and {region.size}"
        )
    tolerance = check_number("tolerance", tolerance)
    if tolerance <= 0:
        raise FathomError(f"expected a tolerance above 0, got {tolerance}: where both inputs are equal, so are the outputs")
    if captured.network.arithmetic is not Arithmetic.REAL:
        raise FathomError("expected a model captured for real arithmetic to pair, got one for float32; read it again")
    first = torch.arange(d)
    second = first.clone()
    second[feature] = d
    program = JointProgram([Part(captured.program, places, None) for places in (first, second)], d + 1, [], [])
    network = fork(*(_picked(places, d + 1, program.inputs).then(captured.network) for places in (first, second)))
    rows = torch.zeros(2, 2 * m + d + 1, dtype=torch.float64)
    rows[0, output], rows[0, m + output] = (1.0, -1.0) if falling else (-1.0, 1.0)
    rows[1, 2 * m + feature], rows[1, 2 * m + d] = 1.0, -1.0
    judge = LinearRules.make(rows, [tolerance, 0.0], clause=[0, 0], sets=len(region))
    ends = (torch.cat([end, end[:, feature : feature + 1]], 1) for end in (region.lower, region.upper))
    return Pairs(Captured(program, Network(network.nodes, program.inputs, program.outputs)), BoxRegion(*ends), judge)


def _picked(places: torch.Tensor, size: int, inputs: tuple[Port, ...]) -> Network:
    """The inputs at `places` of one flat vector."""
    pick = Node("pick", Pick((size,), places), (0,), tuple(places.shape))
    return Network((Node("input", None, (), (size,)), pick), inputs, (Port("picked", tuple(places.shape), 0),))
