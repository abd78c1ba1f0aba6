"""The guided search: fewer questions to an overseer that can only be asked, whose word alone counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import fathom
from fathom.attacks.guided import Guided
from fathom.attacks.values import Values
from fathom.core.budget import Budget
from fathom.core.errors import FathomError, NotCompilable
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.problem import Problem
from fathom.overseers.callable import PythonOverseer
from fathom.regions.box import BoxRegion


@dataclass(frozen=True, eq=False)
class Asked(Overseer):
    """A judge without a gradient, who counts the questions; no output may exceed its set's limit."""

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    limit: Tensor  # [n]
    count: list[int] = field(metadata={"fingerprint": False})
    word: bool = False  # whether it says no more than yes or no

    compilable = differentiable = property(lambda self: False)  # type: ignore[assignment]

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        self.count[0] += len(x)
        margin = self.limit - y[:, 0]
        return margin.sign() if self.word else margin

    def compile(self, network: Network) -> Compiled:
        raise NotCompilable("it can only be asked")

    def judgement(self, index: int, y: Tensor) -> str:
        return f"{y[0]:.2f}"


def problem(limit: list[float], *, word: bool = False, inputs: int = 40) -> tuple[Problem, list[int]]:
    """y = w x over [-1, 1]^d, with |w| summing to 1: y exceeds a limit near 1 in one corner alone."""
    torch.manual_seed(0)
    layer = nn.Linear(inputs, 2, bias=False)
    with torch.no_grad():
        layer.weight /= layer.weight.abs().sum(1, keepdim=True)
    model = fathom.capture_module(layer, (inputs,), live=False)
    ends = torch.ones(len(limit), inputs, dtype=torch.float64)
    count = [0]
    overseer = Asked(torch.tensor(limit, dtype=torch.float64), count, word)
    return Problem.make(model.program, model.network, BoxRegion(-ends, ends), overseer), count


def test_it_finds_a_corner_with_fewer_questions_than_a_search_by_values() -> None:
    asked, count = problem([0.97, 0.97])
    found = Guided().solve(asked, Budget())
    assert bool(found.broken.all())
    questions, count[0] = count[0], 0
    few = Values(samples=32, trials=4, steps=20).solve(asked, Budget())
    assert count[0] >= questions
    assert not bool(few.broken.any())


def test_what_the_guide_says_of_its_own_is_no_failure() -> None:
    """No input exceeds 1, whatever the fitted network believes; and the margin that is reported is the judge's."""
    asked, _ = problem([1.01, 0.5])
    found = Guided().solve(asked, Budget())
    assert found.broken.tolist() == [False, True]
    y = asked.program(found.found.x)[:, 0].double()
    assert torch.equal(found.found.deployed, torch.tensor([1.01, 0.5], dtype=torch.float64) - y)


def test_a_judge_who_only_says_yes_or_no_can_guide_too() -> None:
    asked, _ = problem([0.25], word=True)
    assert bool(Guided().solve(asked, Budget()).broken.all())


def test_sets_that_are_judged_otherwise_have_guides_of_their_own() -> None:
    asked, _ = problem([0.9, 0.2, 0.9])
    assert bool(Guided().solve(asked, Budget()).broken.all())


def test_a_judge_who_never_answers_leaves_everything_open() -> None:
    asked, _ = problem([torch.nan])
    found = Guided().solve(asked, Budget())
    assert not bool(found.broken.any())
    assert not bool(found.found.known.any())


@pytest.mark.parametrize("passes", [1, 40, 90, 200])
def test_no_set_spends_more_passes_than_it_has(passes: int) -> None:
    asked, count = problem([1.01, 1.01, 1.5])
    found = Guided().solve(asked, Budget(passes=passes))
    assert int((found.cost.forward + found.cost.backward).max()) <= passes
    assert count[0] <= 3 * (passes + 1)  # and what is confirmed at the end


def test_without_a_captured_model_it_says_what_to_use() -> None:
    asked, _ = problem([0.5])
    blind = Problem.make(asked.program, None, asked.written, PythonOverseer(lambda x, y: 1 - y[:, 0], name="limit"))
    with pytest.raises(FathomError, match=r"fathom\.attacks\.values\.Values"):
        Guided().solve(blind, Budget())
