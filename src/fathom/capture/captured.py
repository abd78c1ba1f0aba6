"""What every import ends with: the program as its owner runs it, and the network that was shown to compute the same."""

from __future__ import annotations

from dataclasses import dataclass

from fathom.core.network import Network
from fathom.core.program import Program


@dataclass(frozen=True, eq=False)
class Captured:
    """A deployed program and its graph; made only by readers that replayed one against the other."""

    program: Program
    network: Network
