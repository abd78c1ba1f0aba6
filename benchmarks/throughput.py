"""How many sub-problems does branch and bound bound in a second, and in how much memory?

    python -m benchmarks.throughput [--seconds 10]

Two seeded random networks, one for each kind of split: boxes over 5 inputs through six layers of 50 rectifiers, and phases of a
network of 60 inputs and three layers of 100. Figures of one run compare with each other, not with those of another machine.
"""

import argparse
import itertools
import resource
import sys
import time

import torch

from fathom.capture.graph import Graph
from fathom.cli.memory import keep_freed_memory
from fathom.core.budget import Budget
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.overseers.misclassification import Misclassification
from fathom.prove.branch import BranchAndBound
from fathom.regions.linf import LinfBall


class Itself(Program):
    """A network as its own deployed program."""

    dtype = torch.float32

    def __init__(self, network: Network) -> None:
        self.network, self.inputs, self.outputs = network, network.inputs, network.outputs
        self.digest = network.freeze(torch.float32).digest

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def dense_network(sizes: list[int], seed: int) -> Network:
    """Dense layers of the given sizes with rectifiers between, weights of variance 2 / fan-in."""
    generator = torch.Generator().manual_seed(seed)
    graph = Graph([("x", (sizes[0],))])
    value = graph.input("x")
    for k, (fan_in, size) in enumerate(itertools.pairwise(sizes)):
        if k:
            value = graph.add(f"relu{k}", Relu(), value)
        weight = torch.randn(size, fan_in, generator=generator) * (2 / fan_in) ** 0.5
        value = graph.add(f"dense{k}", Dense(weight, torch.randn(size, generator=generator) * 0.1), value)
    return graph.finish([("y", value)])


def problem(sizes: list[int], radius: float, cases: int, seed: int) -> Problem:
    """Misclassification round random points."""
    network = dense_network(sizes, seed)
    x = torch.rand(cases, sizes[0], generator=torch.Generator().manual_seed(seed))
    label = network(x).argmax(1)
    return Problem.make(Itself(network), network, LinfBall.around(x, radius), Misclassification(label=label, classes=sizes[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Boxes and leaves bounded a second.")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each kind of split")
    seconds = parser.parse_args().seconds
    keep_freed_memory()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, asked in (
        ("boxes, 5 x 6 x 50", problem([5, *[50] * 6, 5], 0.4, 8, 0)),
        ("phases, 60 x 3 x 100", problem([60, *[100] * 3, 10], 0.05, 8, 1)),
    ):
        began = time.monotonic()
        answers = BranchAndBound().solve(asked, Budget(seconds=seconds))
        spent = time.monotonic() - began
        done, bounded = int(answers.decided.sum()), int(answers.cost.boxes.sum())
        print(f"{name}: {bounded / spent:.0f} a second ({bounded} in {spent:.1f} s, {done} of {len(asked)} decided)")
    scale = 1 if sys.platform == "darwin" else 1024
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
