"""A network that may ask for the logarithm of a negative number: nothing is proved there, failures elsewhere still count."""

import torch

from fathom.audits.portfolio import Portfolio
from fathom.capture.graph import Graph
from fathom.core.answer import Reason
from fathom.core.budget import Budget
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.ops.dense import Dense
from fathom.ops.exp import Log
from fathom.overseers.linear_rules import LinearRules
from fathom.regions.box import BoxRegion


class Itself(Program):
    dtype = torch.float32

    def __init__(self, network: Network) -> None:
        self.network, self.inputs, self.outputs = network, network.inputs, network.outputs
        self.digest = network.freeze(torch.float32).digest

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def logarithm() -> Network:
    graph = Graph([("x", (1,))])
    moved = graph.add("moved", Dense(torch.ones(1, 1)), graph.input("x"))
    return graph.finish([("y", graph.add("log", Log(), moved))])


def test_sets_without_values_are_unknown_and_the_others_answered() -> None:
    network = logarithm()
    # log x <= 0 is a failure: on [2, 3] there is none, on [0.5, 2] there is, on [-1, 3] the network has no value everywhere.
    region = BoxRegion(torch.tensor([[2.0], [0.5], [-1.0]]).double(), torch.tensor([[3.0], [2.0], [3.0]]).double())
    problem = Problem.make(Itself(network), network, region, LinearRules.make([[1.0]], [0.0], sets=3))
    answers = Portfolio().solve(problem, Budget(seconds=20))
    assert answers.proved.tolist() == [True, False, False]
    assert bool(answers.broken[1])
    assert not bool(answers.proved[2])
    assert bool(answers.broken[2]) or answers.why(2) is Reason.OUT_OF_DOMAIN
