"""Composed overseers: compiled and direct judgement agree for any formula, and nothing is negated that is half known."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import fathom
from fathom.attacks.gradient import Gradient
from fathom.attacks.objective import has_gradient
from fathom.bounds.crown import Crown
from fathom.core.budget import Budget
from fathom.core.composed import AllOf, AnyOf, Not
from fathom.core.errors import FathomError, NotCompilable
from fathom.core.logic import MOST_NUMBERS, both, neither
from fathom.core.network import Network, fork, identity, share
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.problem import Problem
from fathom.core.spec import Spec
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.confident import Confident
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.targeted import Targeted
from fathom.regions.linf import LinfBall
from tests.contracts.test_attacks import Deployed
from tests.contracts.test_overseers import network


def whole(g: torch.Generator, *shape: int) -> Tensor:
    """Small whole numbers, so that ties are many and float arithmetic is exact."""
    return torch.randint(-2, 3, shape, generator=g).double()


def random_spec(g: torch.Generator, n: int, outputs: int) -> Spec:
    """Some distinct specs of up to 3 clauses and 5 rows, some of them without any."""
    k = 4
    rows = int(torch.randint(1, 6, (), generator=g))
    clause = torch.randint(-1, 3, (k, rows), generator=g)
    strict = torch.rand(k, rows, generator=g) < 0.5
    of = torch.randint(0, k, (n,), generator=g)
    return Spec.make(whole(g, k, rows, outputs), whole(g, k, rows), clause, of, strict)


def random_formula(g: torch.Generator, n: int, outputs: int, depth: int) -> tuple[Overseer, object]:
    """An overseer, and the same formula as nested tuples over leaves."""
    pick = int(torch.randint(0, 4, (), generator=g)) if depth else 0
    if pick == 0:
        leaf = LinearRules(random_spec(g, n, outputs))
        return leaf, leaf
    first, left = random_formula(g, n, outputs, depth - 1)
    if pick == 1:
        return ~first, ("not", left)
    second, right = random_formula(g, n, outputs, depth - 1)
    return (first & second, ("and", left, right)) if pick == 2 else (first | second, ("or", left, right))


def truth(formula: object, y: Tensor) -> Tensor:
    """[n] whether the formula holds, by the definition of its leaves alone: in whole numbers, by comparison."""
    if isinstance(formula, LinearRules):
        spec = formula.spec
        values = torch.einsum("nrm,nm->nr", spec.rows[spec.of], y) + spec.offsets[spec.of]
        holds = torch.where(spec.strict[spec.of], values < 0, values <= 0)
        clause = spec.clause[spec.of]
        found = torch.zeros(len(y), dtype=torch.bool)
        for c in range(int(clause.max()) + 1):
            mine = clause == c
            found |= mine.any(1) & (holds | ~mine).all(1)
        return found
    assert isinstance(formula, tuple)
    parts = [truth(part, y) for part in formula[1:]]
    if formula[0] == "not":
        return ~parts[0]
    return parts[0] & parts[1] if formula[0] == "and" else parts[0] | parts[1]


@pytest.mark.parametrize("seed", range(40))
def test_any_formula_means_what_it_says(seed: int) -> None:
    """Ties, strict rows, specs without clauses and shared rows: direct and compiled margins have the sign of the truth."""
    g = torch.Generator().manual_seed(seed)
    n, outputs = 60, 3
    overseer, formula = random_formula(g, n, outputs, depth=3)
    y = whole(g, n, outputs)
    want = truth(formula, y)
    assert torch.equal(overseer.margin(y, y) <= 0, want)
    compiled = overseer.compile(network(2, outputs))
    assert compiled.exact and len(compiled.spec) == n
    for margin in (compiled.spec.certain_margin(y), compiled.spec.margin(y)):
        assert torch.equal(margin <= 0, want)
    index = torch.tensor([3, 3, 59, 0])
    part = overseer.take(index)
    assert torch.equal(part.margin(y[index], y[index]) <= 0, want[index])
    assert torch.equal(part.compile(network(2, outputs)).spec.margin(y[index]) <= 0, want[index])


def test_padding_of_combined_specs_is_zero() -> None:
    """Whoever multiplies by all rows reads 0 in the padding, as in every spec."""
    g = torch.Generator().manual_seed(7)
    first, second = random_spec(g, 20, 3), random_spec(g, 20, 3)
    for spec in (both(first, second), neither(first), neither(both(first, second))):
        padding = spec.clause < 0
        assert bool((spec.rows[padding] == 0).all() and (spec.offsets[padding] == 0).all() and not spec.strict[padding].any())


def test_a_margin_of_zero_is_one_side_alone() -> None:
    y = torch.tensor([[1.0, 1.0, 0.0]])
    tie = Misclassification(torch.tensor([0]), 3)
    assert tie.margin(y, y).item() == 0
    for dtype in (torch.float32, torch.float64):
        assert 0 < (~tie).margin(y.to(dtype), y.to(dtype)).item() < 1e-30
    assert (~tie).compile(network(3, 3)).spec.margin(y).item() > 0
    strict = LinearRules.make([[1.0, -1.0, 0.0]], [0.0], strict=[True])
    assert strict.margin(y, y).item() > 0 >= (~strict).margin(y, y).item()


def test_what_is_within_blur_is_certain_of_neither() -> None:
    """An offset that no float64 equals: neither the rule nor its negation may claim the numbers in between."""
    rows = torch.tensor([[[1.0]]])
    spec = Spec.make(rows, torch.tensor([[-0.1]]), torch.tensor([[0]]), torch.tensor([0]), blur=torch.tensor([[1e-3]]))
    y = torch.tensor([[0.1]], dtype=torch.float64)
    assert spec.certain_margin(y).item() > 0 and neither(spec).certain_margin(y).item() > 0
    for part in (spec, neither(spec)):
        assert part.blur.item() == spec.blur.item() > 0


@dataclass(frozen=True, eq=False)
class Loose(Overseer):
    """Fails where y[0] <= 0; its rows hold where y[0] <= 1."""

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    of: Tensor

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        return y[:, 0]

    def compile(self, network: Network) -> Compiled:
        n = len(self.of)
        row = torch.eye(network.output_size, dtype=torch.float64)[:1]
        zero = torch.zeros(1, 1)
        return Compiled(network, Spec.make(row[None], zero - 1.0, zero, torch.zeros(n)), exact=False)

    def judgement(self, index: int, y: Tensor) -> str:
        return "loosely judged"


def test_the_negation_of_rows_that_hold_too_often_is_refused() -> None:
    """~Loose fails where y[0] > 0; the negated rows would hold only where y[0] > 1, and prove 0.5 safe."""
    loose, plain = Loose(torch.zeros(1)), network(2, 3)
    y = torch.tensor([[0.5, 0.0, 0.0]])
    assert (~loose).margin(y, y).item() <= 0
    assert neither(loose.compile(plain).spec).margin(y.double()).item() > 0  # so this is what must not be made
    rule = LinearRules.make([[1.0, 0.0, 0.0]], [0.0])
    whole = Not(loose | rule, severity=loose.severity)  # not pushed down
    for bad in (~loose, ~loose & ~loose, ~loose | rule, ~(loose & rule), whole):
        with pytest.raises(NotCompilable, match="hold elsewhere"):
            bad.compile(plain)
    for good in (loose & rule, loose | rule, ~~loose, ~(loose | rule) | rule):
        assert not good.compile(plain).exact
    assert (rule & ~rule).compile(plain).exact
    partly = (rule & ~loose).compile(plain)  # the rule alone, which is implied
    assert not partly.exact
    assert torch.equal(partly.spec.rows, rule.compile(plain).spec.rows)


def test_a_part_that_cannot_be_compiled_may_be_left_out_of_and_alone() -> None:
    plain, rule = network(2, 3), LinearRules.make([[1.0, 0.0, 0.0]], [0.0])
    blind = PythonOverseer(lambda x, y: y[:, 1], name="blind")
    assert not (rule & blind).compile(plain).exact
    assert not (~(rule | blind)).compile(plain).exact  # ~rule and ~blind
    for refused in (rule | blind, ~blind, ~(rule & blind), blind & blind):
        with pytest.raises(NotCompilable):
            refused.compile(plain)
    assert (rule & blind).compilable and not (rule | blind).compilable and not (~blind).compilable
    assert (rule & blind).differentiable and (~(rule | blind)).differentiable


def test_who_cannot_judge_makes_no_failure_and_hides_none() -> None:
    """NaN is unknown, in the logic of three values."""
    nan, y = float("nan"), torch.zeros(3, 1)
    unknown = PythonOverseer(lambda x, y: y[:, 0] * nan, name="unknown")
    some = PythonOverseer(lambda x, y: torch.tensor([-1.0, 0.0, 1.0]), name="some")
    assert (~unknown).margin(y, y).isnan().all()
    assert (unknown & some).margin(y, y).isnan().tolist() == [True, True, False]
    assert (some & unknown).margin(y, y)[2].item() == 1
    assert (unknown | some).margin(y, y).isnan().tolist() == [False, False, True]
    assert (some | unknown).margin(y, y)[:2].tolist() == [-1, 0]


def test_products_that_are_too_large_are_refused_before_they_are_made() -> None:
    many = LinearRules.make(torch.randn(3000, 3), torch.zeros(3000))
    plain = network(2, 3)
    with pytest.raises(NotCompilable, match=f"at most {MOST_NUMBERS}.*3000 clauses and 3000"):
        (many & many).compile(plain)
    deep = LinearRules.make(torch.randn(80, 3), torch.zeros(80), clause=[c for c in range(40) for _ in range(2)])
    with pytest.raises(NotCompilable, match="negation"):
        (~deep).compile(plain)
    assert (~~deep).compile(plain).exact
    assert len((~many).compile(plain).spec.clause.unique()) == 1


def test_the_model_is_held_once() -> None:
    """Overseers that look at x and those that do not, and such as put networks behind the model, share its operators."""
    plain = network(4, 3)
    labels = torch.tensor([0, 1])
    on_x = LinearRules.make(torch.randn(2, 7, generator=torch.Generator().manual_seed(0)), [0.1, 0.2], sets=2)
    again = LinearRules.make(torch.randn(2, 7, generator=torch.Generator().manual_seed(1)), [0.1, 0.2], sets=2)
    bad = Misclassification(labels, 3)
    compiled = (bad & on_x | again).compile(plain)
    model = {id(node.operator) for node in plain.nodes[1:-1]}
    held = [node for node in compiled.network.nodes if id(node.operator) in model]
    assert len(held) == len(model)
    assert compiled.network.output_size == 7  # y and x, once each
    assert (bad & Targeted(labels, 3)).compile(plain).network is plain
    x = torch.randn(2, 4)
    joint, columns = share(plain, fork(plain, identity(plain.inputs)), network(4, 2, seed=5))
    whole = joint(x)
    for part, where in zip((plain, fork(plain, identity(plain.inputs)), network(4, 2, seed=5)), columns, strict=True):
        assert torch.equal(whole[:, where], part(x))


def test_outputs_that_are_emitted_twice_keep_their_places() -> None:
    plain = network(4, 3)
    twice = fork(plain, plain)
    joint, (first, second) = share(plain, twice)
    x = torch.randn(5, 4)
    assert torch.equal(joint(x)[:, first], plain(x)) and torch.equal(joint(x)[:, second], twice(x))
    assert len(second.unique()) == 6


def test_bounds_of_a_composition_are_those_of_its_parts() -> None:
    """Nothing is loosened by being composed, and a conjunction is bounded at least as well as either part."""
    plain, n = network(4, 3), 20
    centre = torch.rand(n, 4, generator=torch.Generator().manual_seed(3))
    region = LinfBall.around(centre, 0.02)
    bad = Misclassification(plain(centre).argmax(1), 3)
    near = LinearRules.make([[0.0] * 3 + [1.0, 0.0, 0.0, 0.0]], [-0.5], sets=n)  # x[0] <= 0.5

    def lower(overseer: Overseer) -> Tensor:
        problem = Problem.make(Deployed(plain), plain, region, overseer)
        return Crown().solve(problem, Budget()).lower

    one, other = lower(bad), lower(near)
    assert bool((lower(bad & near) >= torch.maximum(one, other) - 1e-9).all())
    assert torch.allclose(lower(bad | near), torch.minimum(one, other), atol=1e-9)
    assert bool((one > 0).any()) and bool((other > 0).any())


def test_an_audit_takes_a_composition() -> None:
    """Proved where either part is ruled out, broken where both happen at once."""
    linear = torch.nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
        linear.bias.zero_()
    centre = torch.tensor([[0.6, 0.4], [0.6, 0.4], [2.0, 0.0]])
    region = fathom.regions.LinfBall.around(centre, 0.2)
    bad = fathom.Misclassification(torch.zeros(3, dtype=torch.int64), 2)
    rows, limits = torch.tensor([[[0.0, 0, 1, 0]]]).repeat(3, 1, 1), torch.tensor([[-0.5], [-0.3], [-5.0]])
    low = LinearRules(Spec.make(rows, limits, torch.zeros(3, 1), torch.arange(3)))
    result = fathom.audit(linear, region, bad & low, budget=Budget(seconds=20))
    assert result.broken.tolist() == [True, False, False]
    assert result.proved.tolist() == [False, True, True]
    assert result.overseer == "misclassified and a rule holds"


def test_severity_is_of_what_holds() -> None:
    rule = LinearRules.make([[1.0]], [0.0], sets=3, severity=Severity.MALIGN)
    mild = LinearRules.make([[1.0]], [-1.0], sets=3, severity=Severity.BENIGN)
    y = torch.tensor([[-1.0], [0.5], [2.0]])
    assert (rule | mild).severity is Severity.MALIGN
    assert (rule | mild).severities(y, y).tolist() == [2, 0, -1]
    assert (rule & mild).severities(y, y).tolist() == [2, -1, -1]
    assert (~mild).severities(y, y).tolist() == [-1, -1, 0]


def test_compositions_of_other_numbers_of_judges_are_refused() -> None:
    pair = Misclassification(torch.tensor([0, 1]), 3) & Misclassification(torch.tensor([0]), 3)
    with pytest.raises(FathomError, match="as many judges"):
        pair.compile(network(2, 3))
    with pytest.raises(TypeError):
        Misclassification(torch.tensor([0]), 3) & 3  # type: ignore[operator]


def test_formulas_are_flat_and_say_what_they_are() -> None:
    a, b, c = (PythonOverseer(lambda x, y: y[:, 0], name=name) for name in "abc")
    assert str(a & b & c) == "a and b and c" and len((a & b & c).parts) == 3
    assert str((a | b) & ~c) == "(a or b) and not c"
    assert str(~(a & ~b)) == "not a or b"
    assert (~~a) is a
    assert isinstance(a | b, AnyOf) and isinstance(~a, Not) and isinstance(a & b, AllOf)


def test_rows_that_hold_too_often_do_not_mislead_the_attack() -> None:
    """Gradients are those of the overseer itself: its rows alone would hold at once, and never lead to a failure."""
    plain = network(4, 3)
    centre = torch.rand(6, 4, generator=torch.Generator().manual_seed(3))
    region = LinfBall.around(centre, 0.5)
    always = LinearRules.make([[0.0, 0.0, 0.0]], [-1.0], sets=6)
    level = plain(centre).norm(dim=1) * 0.8
    small = PythonOverseer(lambda x, y, level: y.norm(dim=1) - level, (level,), name="small")
    problem = Problem.make(Deployed(plain), plain, region, always & small)
    assert not problem.exact and has_gradient(problem)
    answers = Gradient().solve(problem, Budget(passes=600))
    assert answers.broken.all()


def test_what_nested_parts_say_alike_is_said_once() -> None:
    label = torch.tensor([0])
    wrong, sure = Misclassification(label, 2), Confident(label, 2, 0.9)
    words = ((wrong & sure) | wrong).judgement(0, torch.tensor([0.0, 9.0]))
    assert words.count("0 read as 1") == 2 and words.split("; ")[0] == "0 read as 1" and len(words.split("; ")) == 2
