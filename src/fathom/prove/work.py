"""How many leaves to bound at once: enough to keep the processor busy, few enough to look at the clock and the memory often.

The number follows from the network alone, so that the same search visits the same leaves on every machine.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

from fathom.bounds.work import products
from fathom.core.network import Network
from fathom.core.threads import one_thread

ROUND = 1.5e9  # multiplications of a round: about half a second
SMALL = 1e6  # multiplications of one evaluation, up to which a second thread waits more than it works


def batch(network: Network, rows: dict[int, float], memory: int, most: int) -> int:
    """How many leaves fit in a round and in memory.

    Args:
        rows: per node, how many rows a leaf sends back from there.
        memory: bytes of working tensors.
        most: leaves, whatever they cost.
    """
    sums = products(network)
    work = sum(count * sums[i] for i, count in rows.items())
    widest = max(math.prod(node.shape) for node in network.nodes)
    bytes_ = 8 * widest * max([1.0, *rows.values()]) * 8
    return int(max(4, min(most, ROUND / max(work, 1.0), memory / bytes_)))


def suited_threads(network: Network | None) -> AbstractContextManager[None]:
    """Within, torch works on a small network with one thread: its steps are too short to share."""
    return nullcontext() if network is None or products(network)[-1] > SMALL else one_thread()
