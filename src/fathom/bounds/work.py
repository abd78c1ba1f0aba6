"""How much work a pass is: what decides how often the clock is looked at."""

from __future__ import annotations

import math

from fathom.core.network import Network
from fathom.core.operator import Linear

PIECE = 5e8  # multiplications of a part of a pass, after which the clock is looked at: about a sixth of a second


def products(network: Network) -> list[float]:
    """For every node, at most how many multiplications one row takes from there back to the input."""
    total, sums = 0.0, []
    for node in network.nodes:
        if isinstance(node.operator, Linear):
            total += max(node.operator.accumulation, 1) * math.prod(node.shape)
        sums.append(total)
    return sums
