"""Overseers that ask another model: checker, reference, plausibility by a score. Proof, search and judgement go through both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fathom
from fathom.capture.torch_module import capture_module
from fathom.core.budget import Budget
from fathom.core.errors import FathomError, NotCompilable
from fathom.core.overseer import Overseer, Severity
from fathom.core.problem import Problem
from fathom.core.value import fingerprint
from fathom.overseers.checker_network import CheckerNetwork
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.models import Model
from fathom.overseers.plausible import Plausible, plausible_where
from fathom.overseers.reference import OtherDecision, Reference
from fathom.regions.box import BoxRegion
from tests.contracts.test_overseers import captured, network


def whole(n: int, size: int, seed: int) -> Tensor:
    return torch.randint(-3, 4, (n, size), generator=torch.Generator().manual_seed(seed)).double()


def given(values: Tensor) -> Model:
    """A reference that gives these values, whatever x is."""
    return Model(lambda x: values, None, "given")


def test_a_difference_of_exactly_eps_is_none() -> None:
    f, g = whole(400, 3, 0), whole(400, 3, 1)
    judge = Reference(torch.full((400,), 2.0).double(), None, "", (given(g),))
    gap = (f - g).abs().amax(1)
    assert torch.equal(judge.margin(f, f) <= 0, gap > 2) and bool((gap == 2).any())
    table = Reference.to_table(g, 2.0)
    assert torch.equal(table.margin(f, f), judge.margin(f, f))
    assert torch.equal(table.compile(network(2, 3)).spec.margin(f) <= 0, gap > 2)
    assert torch.equal(table.take(torch.tensor([5, 0])).margin(f[[5, 0]], f[[5, 0]]), table.margin(f, f)[[5, 0]])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_several_references_are_their_mean(count: int) -> None:
    """In whole numbers, times how many there are: no mean is rounded."""
    f, values = whole(500, 2, 0), [whole(500, 2, k + 1) for k in range(count)]
    judge = Reference(torch.full((500,), 2.0).double(), None, "", tuple(given(g) for g in values))
    gap = (count * f - sum(values)).abs().amax(1)
    assert torch.equal(judge.margin(f, f) <= 0, gap > 2 * count) and bool((gap == 2 * count).any())


def test_tables_of_decimals_are_proved_to_their_last_digit() -> None:
    """0.1 + 0.2 is rounded up; that much is blur, and nothing within it is certain."""
    judge = Reference.to_table(torch.tensor([[0.2]], dtype=torch.float64), 0.1)
    spec = judge.compile(network(2, 1)).spec
    assert spec.blur.max().item() > 0
    y = torch.tensor([[0.1 + 0.2]], dtype=torch.float64)
    assert judge.margin(y, y).item() <= 0  # since 0.30000000000000004 - 0.2 > 0.1, as they are stored
    assert spec.enclose(fathom.core.box.Box(y, y)).lower.item() <= 0


def other(f: Tensor, g: Tensor) -> Tensor:
    """The definition: safe is where one class alone is highest in both."""
    alone = [(value == value.amax(1, keepdim=True)).sum(1) == 1 for value in (f, g)]
    return ~(alone[0] & alone[1] & (f.argmax(1) == g.argmax(1)))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_decisions_differ_or_tie(classes: int) -> None:
    f, g = whole(800, classes, 2), whole(800, classes, 3)
    judge = OtherDecision(torch.zeros(800).long(), "", (given(g),))
    fails = other(f, g)
    assert torch.equal(judge.margin(f, f) <= 0, fails) and 0 < fails.sum() < 800
    compiled = OtherDecision.make(captured(2, classes, 4), sets=800).compile(network(2, classes))
    assert compiled.exact
    assert torch.equal(compiled.spec.margin(torch.cat([f, g], 1)), judge.margin(f, f))


def test_decisions_among_many_classes_are_only_searched() -> None:
    f, g = torch.randn(300, 60, dtype=torch.float64), torch.randn(300, 60, dtype=torch.float64)
    g[:150] = f[:150] + 0.1 * g[:150]
    judge = OtherDecision(torch.zeros(300).long(), "", (given(g),))
    assert torch.equal(judge.margin(f, f) <= 0, other(f, g))
    with pytest.raises(NotCompilable, match="60 classes"):
        OtherDecision.make(captured(2, 60, 4), sets=300).compile(network(2, 60))
    assert OtherDecision.make(captured(2, 30, 4)).compile(network(2, 30)).exact


def test_a_vote_without_a_winner_judges_nothing() -> None:
    f = torch.tensor([[3.0, 1.0], [1.0, 3.0], [1.0, 3.0]])
    a, b, c = (
        torch.tensor([[1.0, 0], [1, 0], [1, 0]]),
        torch.tensor([[0.0, 1], [0, 1], [1, 0]]),
        torch.tensor([[1.0, 0], [1, 0], [0, 1]]),
    )
    three = OtherDecision(torch.zeros(3).long(), "", (given(a), given(b), given(c)))
    assert three.margin(f, f).tolist() == [2, -2, -2]
    two = OtherDecision(torch.zeros(3).long(), "", (given(a), given(b)))
    assert two.margin(f, f)[:2].isnan().all() and two.margin(f, f)[2].item() == -2
    assert not three.compilable
    with pytest.raises(NotCompilable, match="vote"):
        three.compile(network(2, 2))


class Narrow(nn.Module):
    """max(x) - y, for x [2] and y [1]: how far the output stays below the greatest input."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.maximum(z[:, :1], z[:, 1:2]) - z[:, 2:]


class Mean(nn.Module):
    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        with torch.no_grad():
            self.linear.weight.fill_(0.5)
            self.linear.bias.fill_(shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@pytest.mark.parametrize(("shift", "verdict"), [(-0.01, "proved"), (0.3, "broken")])
def test_a_checker_of_input_and_output_is_proved_through(shift: float, verdict: str) -> None:
    """A mean is at most the maximum; the deployed checker confirms what is found."""
    checker = capture_module(Narrow(), (3,))
    box = BoxRegion(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    judge = CheckerNetwork.make(checker, 0.0)
    model = capture_module(Mean(shift), (2,))
    result = fathom.audit(model, box, judge, budget=Budget(seconds=20))
    assert result.answers.verdict(0).value == verdict
    if verdict == "broken":
        found = result.answers.found
        z = torch.cat([found.x, found.y.float()], 1)
        assert checker.program(z).item() == found.deployed.item() <= 0
        assert found.real_upper.item() <= 0


def test_what_a_checker_sees() -> None:
    """On y, on x, and on both; deployed and compiled agree."""
    plain = network(4, 3)
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    for sees, size in (("y", 3), ("x", 4), ("xy", 7)):
        judge = CheckerNetwork.make(captured(size, 1, 5), 0.1, sees=sees, sets=2000)
        compiled = judge.compile(plain)
        ours = compiled.spec.margin(compiled.network.freeze(torch.float64)(x.double()))
        direct = judge.margin(x.double(), plain(x).double())
        assert torch.allclose(ours, direct, atol=1e-4)
        assert bool((direct <= 0).any()) and bool((direct > 0).any())
        assert compiled.exact and judge.compilable
    for sees, size in (("y", 4), ("xy", 3)):
        with pytest.raises(FathomError, match="expected a checker of"):
            CheckerNetwork.make(captured(size, 1, 5), sees=sees).compile(plain)
    with pytest.raises(FathomError, match="one output"):
        CheckerNetwork.make(captured(3, 2, 5), sees="y").margin(x[:1], plain(x[:1]))
    with pytest.raises(FathomError, match="one of y, x, xy"):
        CheckerNetwork.make(captured(3, 1, 5), sees="z")


@pytest.mark.parametrize(("eps", "verdict"), [(0.5, "proved"), (0.2, "broken")])
def test_a_fast_model_stays_near_its_reference(eps: float, verdict: str) -> None:
    """Mean + 0.1 + relu against the mean of two: the difference is between 0.1 and 0.4, and both are bounded together."""
    model, low, high = Mean(0.4), Mean(0.0), Mean(0.2)
    box = BoxRegion(-torch.ones(1, 2).double(), torch.ones(1, 2).double())
    judge = Reference.make([capture_module(low, (2,)), capture_module(high, (2,))], eps)
    result = fathom.audit(model, box, judge, budget=Budget(seconds=20))
    assert result.answers.verdict(0).value == verdict
    assert result.overseer == "departs from the reference"


def test_a_function_may_be_a_reference_and_is_searched() -> None:
    judge = Reference.make(lambda x: x.sum(1, keepdim=True) / 2 + (x[:, :1] > 0.9), 0.5, name="a step")
    box = BoxRegion(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    result = fathom.audit(Mean(), box, judge, budget=Budget(seconds=10))
    assert result.broken.tolist() == [True] and "a step is a Python function" in result.obstacle
    assert not judge.compilable and not judge.differentiable
    for bad, words in ((lambda x: x.sum(), r"expected to return a tensor \[1, m\]"), (lambda x: x[9], "raised IndexError")):
        with pytest.raises(FathomError, match=words):
            Reference.make(bad, 0.1, name="bad").margin(torch.zeros(1, 2), torch.zeros(1, 1))
    with pytest.raises(FathomError, match="name"):
        Reference.make(lambda x: x, 0.1)
    with pytest.raises(FathomError, match="capture_module"):
        Reference.make(Mean(), 0.1)  # type: ignore[arg-type]
    with pytest.raises(FathomError, match="of 1 outputs"):
        Reference.make(captured(2, 3, 0), 0.1).margin(torch.zeros(1, 2), torch.zeros(1, 1))


def test_bad_decisions_on_plausible_inputs() -> None:
    """x0 < x1 is read as class 1, but no plausible input has it: proved; without the condition it is broken."""
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
        linear.bias.copy_(torch.tensor([0.01, 0.0]))
    box = BoxRegion(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    bad, sorted_down = Misclassification(torch.tensor([0]), 2), Plausible.make([[-1.0, 1.0]], [0.0])
    assert fathom.audit(linear, box, bad, budget=Budget(seconds=10)).broken.tolist() == [True]
    result = fathom.audit(linear, box, bad & sorted_down, budget=Budget(seconds=20))
    assert result.proved.tolist() == [True]
    assert (bad & sorted_down).severity is Severity.SERIOUS and sorted_down.severity is Severity.BENIGN
    scored = plausible_where(capture_module(Mean(), (2,)), above=0.9)
    result = fathom.audit(linear, box, bad & scored, budget=Budget(seconds=20))
    assert result.broken.tolist() == [True] and result.answers.found.x.mean().item() > 0.9
    assert scored.severity is Severity.BENIGN
    nowhere = plausible_where(capture_module(Mean(), (2,)), above=1.01)
    assert fathom.audit(linear, box, bad & nowhere, budget=Budget(seconds=20)).proved.tolist() == [True]


def test_rules_of_plausibility_hold_together() -> None:
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    rows = [[1.0, -1.0], [0.0, 1.0]]
    assert (Plausible.make(rows, [0.0, -1.0], sets=3).margin(x, x) <= 0).tolist() == [True, False, True]
    either = Plausible.make(rows, [0.0, -1.0], clause=[0, 1], sets=3)
    assert (either.margin(x, x) <= 0).tolist() == [True, True, True]
    with pytest.raises(FathomError, match="2 inputs"):
        Plausible.make([[1.0]], [0.0]).compile(network(2, 3))


def test_who_asks_another_model_is_told_apart_by_it() -> None:
    def mark(judge: Overseer) -> str:
        return fingerprint(judge.take(torch.tensor([0])))

    one, two = captured(2, 1, 0), captured(2, 1, 1)
    assert mark(Reference.make(one, 0.1)) != mark(Reference.make(two, 0.1))
    assert mark(Reference.make(one, 0.1)) == mark(Reference.make(one, 0.1, sets=3)) != mark(Reference.make(one, 0.2))
    assert mark(CheckerNetwork.make(one, sees="x")) != mark(CheckerNetwork.make(two, sees="x"))
    assert mark(OtherDecision.make(one)) != mark(OtherDecision.make([one, two]))
    assert mark(Reference.make(one, 0.1) & LinearRules.make([[1.0]], [0.0])) != mark(
        Reference.make(two, 0.1) & LinearRules.make([[1.0]], [0.0])
    )


def test_float32_claims_are_not_made_of_joined_networks() -> None:
    from dataclasses import replace

    plain = network(2, 1)
    rounded = replace(plain, nodes=tuple(replace(node, rounded=True) for node in plain.nodes))
    for judge in (Reference.make(captured(2, 1, 0), 0.1), CheckerNetwork.make(captured(1, 1, 0), sees="y")):
        judge.compile(plain)
        with pytest.raises(NotCompilable, match="real arithmetic"):
            judge.compile(rounded)


def test_an_export_names_the_other_model(tmp_path) -> None:
    box = BoxRegion(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    model = capture_module(Mean(), (2,))
    problem = Problem.make(model.program, model.network, box, Reference.make(model, 0.1) & Plausible.make([[1.0, 0.0]], [0.0]))
    problem.export(tmp_path)
    assert "AllOf" in (tmp_path / "problem.json").read_text()
