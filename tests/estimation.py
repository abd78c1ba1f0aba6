"""Questions whose probability of failure is known exactly, for the tests and the benchmark of estimations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from fathom.capture.torch_module import capture_module
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.estimates.distribution import Distribution
from fathom.estimates.distributions import over
from fathom.estimates.question import Question
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.linear_rules import LinearRules
from fathom.regions.box import BoxRegion


def box(lower: Sequence[float], upper: Sequence[float]) -> BoxRegion:
    """One box."""
    return BoxRegion(torch.tensor([lower], dtype=torch.float64), torch.tensor([upper], dtype=torch.float64))


def ask(
    module: nn.Module, region: Region, overseer: Overseer, distribution: str | Distribution = "uniform", deviation: float = 0.5
) -> Question:
    """A question about a module; in float64 where its weights are."""
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    captured = capture_module(module, (region.size,), dtype=dtype, live=False)
    problem = Problem.make(captured.program, captured.network, region, overseer)
    chosen = over(problem.deployed, distribution, deviation) if isinstance(distribution, str) else distribution
    return Question(problem, chosen)


def linear(weights: Sequence[float], bias: float = 0.0) -> nn.Module:
    """y = weights x + bias, in float64."""
    layer = nn.Linear(len(weights), 1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights], dtype=torch.float64))
        layer.bias.fill_(bias)
    return layer


BELOW_ZERO = LinearRules.make([[1.0]], [0.0])
"""y <= 0 is a catastrophe."""


def half_space(inputs: int, share: float) -> Question:
    """Uniform over [0, 1]^d; fails where the first input is at most `share`, so with probability `share`."""
    return ask(linear([1.0] + [0.0] * (inputs - 1), -share), box([0.0] * inputs, [1.0] * inputs), BELOW_ZERO)


def by_value(margin: Callable[[Tensor], Tensor], region: Region, distribution: str = "uniform") -> Question:
    """A margin of the inputs that can only be evaluated, judged behind a network that returns its input."""
    size = region.size
    identity = nn.Linear(size, size, bias=False).double()
    with torch.no_grad():
        identity.weight.copy_(torch.eye(size))
    return ask(identity, region, PythonOverseer(lambda x, y: margin(x), name="margin"), distribution)


class Diamond(nn.Module):
    """y = |x0| + |x1| - radius, by rectifiers, in float64: y <= 0 on an area of 2 radius^2."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 4, bias=False).double(), nn.Linear(4, 1).double()
        with torch.no_grad():
            self.inner.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
            self.outer.weight.fill_(1.0)
            self.outer.bias.fill_(-radius)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.relu(self.inner(x)))


def piecewise(seed: int, hidden: int = 8) -> nn.Sequential:
    """A random network [n, 1] -> [n, 1] with one layer of rectifiers, in float64; its weights are multiples of 1/64."""
    random = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((64 * torch.randn(parameter.shape, generator=random)).round() / 64)
    return module


def exact_share(module: nn.Sequential, lower: Fraction, upper: Fraction) -> Fraction:
    """The share of [lower, upper] on which a network of `piecewise` is <= 0, in rational arithmetic."""
    first, last = module[0], module[2]
    w, b = ([Fraction(v) for v in t.flatten().tolist()] for t in (first.weight, first.bias))
    a, (c,) = ([Fraction(v) for v in t.flatten().tolist()] for t in (last.weight, last.bias))

    def value(x: Fraction) -> Fraction:
        return c + sum((ai * max(wi * x + bi, Fraction(0)) for ai, wi, bi in zip(a, w, b)), Fraction(0))

    bends = sorted({lower, upper, *(-bi / wi for wi, bi in zip(w, b) if wi and lower < -bi / wi < upper)})
    total = Fraction(0)
    for left, right in itertools.pairwise(bends):
        at_left, at_right = value(left), value(right)
        if at_left <= 0 and at_right <= 0:
            total += right - left
        elif at_left <= 0 or at_right <= 0:
            zero = left + (right - left) * at_left / (at_left - at_right)
            total += zero - left if at_left <= 0 else right - zero
    return total / (upper - lower)
