"""Masked gradients are told from real robustness: three planted defences are flagged, and honest networks are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fathom.attacks.gradient import Gradient
from fathom.attacks.indicators import RIVALS, Indicators, Rival, examine
from fathom.core.answer import Answers
from fathom.core.budget import Budget
from fathom.core.network import Network
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.ops.sigmoid import Sigmoid
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.regions.linf import LinfBall
from tests.contracts.test_attacks import Deployed, chain, classify

SIZES = [6, 24, 24, 24, 24, 1]


def parts(scale: float = 1.0) -> list[Dense | Relu]:
    """A random network of one output, in layers."""
    g = torch.Generator().manual_seed(5)
    weights = [torch.randn(b, a, generator=g) * (2 / a) ** 0.5 for a, b in ((6, 24), (24, 24), (24, 1))]
    one, two, three = (Dense(w, 0.1 * torch.randn(len(w), generator=g)) for w in weights)
    return [one, Relu(), two, Relu(), Dense(three.weight * scale, three.shift * scale)]


def centres(network: Network, n: int = 25) -> Tensor:
    """Inputs whose output is at least a little above zero."""
    x = torch.rand(2000, 6, generator=torch.Generator().manual_seed(1))
    return x[network(x)[:, 0] > 0.05][:n]


def judged(program: Program, network: Network | None, x: Tensor, zero: float = 0.0, radius: float = 0.1) -> Problem:
    """A failure is an output of at most `zero`."""
    rules = LinearRules.make([[1.0]], [-zero])
    return Problem.make(program, network, LinfBall.around(x, radius, (0.0, 1.0)), rules_for(rules, len(x)))


def rules_for(rules: LinearRules, n: int) -> LinearRules:
    return rules.take(torch.zeros(n, dtype=torch.int64))


def examined(problem: Problem) -> tuple[Answers, Indicators]:
    outputs = sum(port.size for port in problem.program.outputs)
    attacked = problem.network is not None
    none = Answers.none(len(problem), problem.region.size, outputs, problem.program.dtype)
    answers = Gradient().solve(problem, Budget()) if attacked else none
    return answers, examine(problem, answers, Budget())


class Changed(Deployed):
    """A network whose program does something else besides."""

    def __init__(self, network: Network, before, after) -> None:  # type: ignore[no-untyped-def]
        super().__init__(network)
        self.before, self.after = before, after

    def __call__(self, x: Tensor) -> Tensor:
        return self.after(super().__call__(self.before(x)))


def same(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(("seed", "radius"), [(0, 0.25), (1, 0.12), (2, 0.25)])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_honest_networks_are_not_flagged(seed: int, radius: float, scale: float) -> None:
    problem = classify(n=12, radius=radius, seed=seed, scale=scale)
    answers, seen = examined(problem)
    assert seen.silent.any()
    assert torch.equal(seen.silent, ~answers.broken)
    assert not seen.masking.any(), [seen.reasons(i) for i in seen.masking.nonzero()[:, 0].tolist()]
    assert (seen.flat == 0).all()
    assert (seen.noise == 0).all()
    assert (seen.cost.forward[seen.silent] > 0).all()
    assert (seen.cost.forward[~seen.silent] == 0).all()
    assert all(seen.reasons(i) == () for i in (~seen.silent).nonzero()[:, 0].tolist())


def test_an_honest_network_of_one_output_is_not_flagged() -> None:
    """What the planted defences stand in front of, or behind."""
    network = chain(*parts(), sizes=SIZES)
    answers, seen = examined(judged(Deployed(network), network, centres(network)))
    assert answers.broken.any()
    assert seen.silent.any()
    assert not seen.masking.any(), [seen.reasons(i) for i in seen.masking.nonzero()[:, 0].tolist()]


def test_saturated_outputs_are_flagged() -> None:
    """A sigmoid of a thousand times the output: 1 as far as float32 can tell, and flat."""
    plain = chain(*parts(), sizes=SIZES)
    network = chain(*parts(1000.0), Sigmoid(), sizes=[*SIZES, 1])
    answers, seen = examined(judged(Deployed(network), network, centres(plain), zero=0.5))
    assert seen.silent.sum() > 5
    flagged = seen.masking & seen.silent
    assert flagged.double().sum() > 0.8 * seen.silent.sum()
    assert ((seen.beaten >= 0) & flagged).any()
    assert seen.answers.broken[answers.broken | (seen.beaten >= 0)].all()
    words = " ".join(reason for i in flagged.nonzero()[:, 0].tolist() for reason in seen.reasons(i))
    assert "has no gradient" in words
    assert RIVALS[int(seen.beaten[seen.beaten >= 0][0])].value in words


def test_a_quantised_front_end_is_flagged() -> None:
    """Rounding of the input, which capture does not know: no network, and so no gradient, as a user would meet it."""
    network = chain(*parts(), sizes=SIZES)
    program = Changed(network, lambda x: (x * 8).round() / 8, same)
    _, seen = examined(judged(program, None, centres(network)))
    assert seen.masking.all()
    assert (seen.beaten >= 0).sum() > 5
    assert all("no gradient" in " ".join(seen.reasons(i)) for i in range(len(seen)))


def test_a_captured_quantised_front_end_is_flagged() -> None:
    """The same as a staircase of steep rectifiers: there is a network, and its gradient is zero nearly everywhere."""
    plain, levels, steep = chain(*parts(), sizes=SIZES), 8, 1e4
    edges = (torch.arange(levels) + 0.5) / levels
    up = torch.eye(6).repeat_interleave(levels, 0) * steep
    shift = -steep * edges.repeat(6)
    front = [
        Dense(torch.cat([up, up]), torch.cat([shift, shift - 1])),
        Relu(),
        Dense(torch.cat([up.T, -up.T], 1) / (steep * levels), torch.zeros(6)),
    ]
    network = chain(*front, *parts(), sizes=[6, 12 * levels, 12 * levels, *SIZES])
    _, seen = examined(judged(Deployed(network), network, centres(plain)))
    assert seen.silent.sum() > 5
    assert seen.masking[seen.silent].double().mean() > 0.8
    assert (seen.flat[seen.silent] > 0.5).double().mean() > 0.8


def test_random_noise_is_flagged() -> None:
    network, g = chain(*parts(), sizes=SIZES), torch.Generator().manual_seed(0)
    program = Changed(network, same, lambda y: y + 0.02 * torch.randn(y.shape, generator=g))
    problem = judged(program, network, centres(network))
    _, seen = examined(problem)
    assert seen.silent.any()
    assert seen.masking[seen.silent].all()
    assert all("different answers" in " ".join(seen.reasons(i)) for i in seen.silent.nonzero()[:, 0].tolist())


def test_an_attack_that_stopped_too_soon_is_told_so() -> None:
    problem = classify(n=30, radius=0.08)
    short = Gradient(restarts=1, steps=2, full=0).solve(problem, Budget(passes=1))
    seen = examine(problem, short, Budget())
    falling = (seen.falling > 0.1) & seen.silent
    assert falling.sum() > 3
    assert all("still falling" in " ".join(seen.reasons(i)) for i in falling.nonzero()[:, 0].tolist())
    long = examine(problem, Gradient().solve(problem, Budget()), Budget())
    assert ((long.falling > 0.1) & long.silent).sum() <= 1


def test_what_is_attacked_but_does_not_run_is_told() -> None:
    """The network fails, and the program, which adds one, does not."""
    network = chain(*parts(), sizes=SIZES)
    program = Changed(network, same, lambda y: y + 1.0)
    problem = judged(program, network, centres(network))
    _, seen = examined(problem)
    assert seen.refused.sum() > 3
    assert all("does not" in " ".join(seen.reasons(i)) for i in seen.refused.nonzero()[:, 0].tolist())


def test_failures_are_carried_over() -> None:
    """One that breaks another model, given; and the way in which another set fails."""
    network = chain(*parts(), sizes=SIZES)
    problem = judged(Deployed(network), network, centres(network))
    broken = Gradient(full=0).solve(problem, Budget())
    problem = replace(problem, network=None, spec=None)  # nothing but values, which find these by themselves too
    outputs = sum(port.size for port in problem.program.outputs)
    none = Answers.none(len(problem), 6, outputs, torch.float32)
    points = torch.where(broken.broken[:, None], broken.found.x, torch.nan)[:, None]
    seen = examine(problem, none, Budget(), points=points)
    assert (seen.beaten[broken.broken] == RIVALS.index(Rival.TRANSFER)).all()
    assert seen.masking[broken.broken].all()
    half = broken.broken & (torch.arange(len(problem)) % 2 == 0)
    some = replace(none, found=broken.found.where(half, none.found))
    carried = examine(problem, some, Budget())
    assert (carried.beaten == RIVALS.index(Rival.TRANSFER)).any()


def test_a_gradient_attack_that_was_merely_too_short_is_not_called_masked() -> None:
    problem = classify(n=30, radius=0.25)
    broken = Gradient().solve(problem, Budget())
    short = Gradient(restarts=1, steps=1, nearest=1, lone=1, full=0).solve(problem, Budget())
    seen = examine(problem, short, Budget(), points=torch.where(broken.broken[:, None], broken.found.x, torch.nan)[:, None])
    beaten = (seen.beaten >= 0) & seen.silent
    assert beaten.any()
    assert not seen.masking.any()
    assert all("too short" in " ".join(seen.reasons(i)) for i in beaten.nonzero()[:, 0].tolist())


def test_nothing_to_examine_costs_nothing() -> None:
    problem = classify(n=4)
    for some in (problem, problem.take(torch.arange(0))):
        answers = Gradient().solve(some, Budget())
        rest = some.take(answers.broken.nonzero()[:, 0])
        seen = examine(rest, answers.take(answers.broken.nonzero()[:, 0]), Budget())
        assert not seen.masking.any()
        assert seen.cost.forward.sum() == 0
        assert len(seen.take(torch.arange(len(rest)))) == len(rest)


def test_no_more_is_spent_than_allowed() -> None:
    problem = classify(n=10, radius=0.01)
    answers = Gradient(restarts=1).solve(problem, Budget())
    seen = examine(problem, answers, Budget(seconds=0.0))
    assert (seen.cost.forward < 100).all()


def test_the_label_that_a_random_judge_gives_is_no_noise() -> None:
    """Sums in another order are no noise: batches of one and many."""
    problem = classify(n=20, radius=0.05, scale=1000.0)
    assert isinstance(problem.overseer, Misclassification)
    seen = examined(problem)[1]
    assert (seen.noise == 0).all()
