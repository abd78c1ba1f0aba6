"""The laws of every overseer, found by discovery: what is compiled judges as the overseer itself does, in sign exactly."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import Tensor

import fathom.overseers
from fathom.capture.captured import Captured
from fathom.core.composed import AllOf, AnyOf, Not
from fathom.core.discover import discover
from fathom.core.errors import FathomError, NotCompilable
from fathom.core.network import Join, Network, Node, Port, identity
from fathom.core.overseer import Overseer, Severity
from fathom.core.program import Program
from fathom.core.value import fingerprint
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.overseers.abstain import Abstain
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.checker_network import CheckerNetwork
from fathom.overseers.confident import Confident
from fathom.overseers.confusions import Confusions
from fathom.overseers.judgements import Judgement, Opinion
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.person import Person
from fathom.overseers.plausible import Plausible
from fathom.overseers.program import ProgramOverseer
from fathom.overseers.reference import OtherDecision, Reference
from fathom.overseers.targeted import Targeted
from fathom.overseers.top_k import TopK

KINDS = discover(fathom.overseers, Overseer) | {kind.__name__: kind for kind in (AllOf, AnyOf, Not)}


def network(inputs: int, outputs: int, seed: int = 0) -> Network:
    """A small float32 network."""
    g = torch.Generator().manual_seed(seed)
    hidden = Dense(torch.randn(8, inputs, generator=g), torch.randn(8, generator=g))
    scores = Dense(torch.randn(outputs, 8, generator=g))
    nodes = (
        Node("input", None, (), (inputs,)),
        Node("hidden", hidden, (0,), (8,)),
        Node("relu", Relu(), (1,), (8,)),
        Node("scores", scores, (2,), (outputs,)),
        Node("output", Join(((outputs,),)), (3,), (outputs,)),
    )
    return Network(nodes, (Port("x", (inputs,), 0),), (Port("y", (outputs,), 0),))


LEAST = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"margin": min(json.loads(line)["y"])}), flush=True)
"""


def captured(inputs: int, outputs: int, seed: int) -> Captured:
    """A small network in float64, with the program that is exactly it."""
    graph = network(inputs, outputs, seed).to(torch.float64)
    return Captured(Same(graph), graph)


class Same(Program):
    """A network run as it is."""

    def __init__(self, graph: Network) -> None:
        self.graph, self.inputs, self.outputs, self.dtype, self.digest = (
            graph,
            graph.inputs,
            graph.outputs,
            torch.float64,
            graph.digest,
        )

    def __call__(self, x: Tensor) -> Tensor:
        return self.graph(x)


def judge(kind: str, n: int, outputs: int, inputs: int, seed: int = 0) -> Overseer:
    """n judges of a kind. A new kind adds its case here."""
    g = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, outputs, (n,), generator=g)
    if kind == "Misclassification":
        return Misclassification(classes, outputs)
    if kind == "Targeted":
        return Targeted(classes, outputs)
    if kind == "PythonOverseer":
        return PythonOverseer(_spread, (classes,))
    if kind == "Confident":
        return Confident(classes, outputs, 0.8)
    if kind == "Abstain":
        return Abstain(torch.where(classes == 0, 0, classes % max(outputs - 1, 1)) if outputs > 2 else classes * 0, outputs, 0)
    if kind == "TopK":
        return TopK(classes, outputs, min(2, outputs - 1))
    if kind == "Confusions":
        costs = torch.arange(outputs)[:, None] - torch.arange(outputs)
        return Confusions.make(classes, costs.abs(), 1.0 if outputs < 4 else 2.0)
    if kind == "Plausible":
        return Plausible.make(torch.randn(2, inputs, generator=g).round(decimals=1), [0.1, -0.5], sets=n)
    if kind == "CheckerNetwork":
        return CheckerNetwork.make(captured(inputs + outputs, 1, 5), 0.1, sets=n)
    if kind == "Reference":
        return Reference.make(captured(inputs, outputs, 6), 2.0, sets=n)
    if kind == "OtherDecision":
        return OtherDecision.make(captured(inputs, outputs, 7), sets=n)
    if kind == "ProgramOverseer":
        return ProgramOverseer.make([sys.executable, "-S", "-c", LEAST], sets=n, name="the least output")
    if kind == "Person":
        x, y = torch.randn(inputs, generator=g).double(), torch.randn(outputs, generator=g).double()
        return Person.of([Judgement("q", x, y, "ada", Opinion.SERIOUS)], sets=n)
    if kind == "LinearRules":
        rows = torch.randn(3, outputs + inputs, generator=g).round(decimals=1)
        return LinearRules.make(rows, torch.tensor([0.1, -0.2, 0.0]), clause=[0, 0, 1], sets=n)
    if kind in ("AllOf", "AnyOf", "Not"):
        bad, rule = Misclassification(classes, outputs), judge("LinearRules", n, outputs, inputs, seed)
        return {"AllOf": bad & ~rule, "AnyOf": bad | rule, "Not": ~bad}[kind]
    pytest.fail(f"say in `judge` how to make a {kind}")


def _spread(x: Tensor, y: Tensor, classes: Tensor) -> Tensor:
    return y.amax(1) - y.amin(1) - 0.1 * classes


every = pytest.mark.parametrize("kind", KINDS)
sizes = pytest.mark.parametrize(("n", "outputs"), [(1, 2), (2, 2), (10_000, 2), (10_000, 10), (1, 10), (0, 3)])


def test_every_kind_is_found() -> None:
    assert {"Misclassification", "Targeted", "PythonOverseer", "LinearRules"} <= set(KINDS)


@every
@sizes
def test_what_is_compiled_judges_alike(kind: str, n: int, outputs: int) -> None:
    """At random inputs the margins agree in sign everywhere, and in value up to rounding."""
    inputs = 4
    plain, overseer = network(inputs, outputs).to(torch.float64), judge(kind, n, outputs, inputs)
    x = torch.randn(n, inputs, generator=torch.Generator().manual_seed(1)).double()
    y = plain(x)
    margin = overseer.margin(x, y)
    assert margin.shape == (n,)
    try:
        compiled = overseer.compile(plain)
    except NotCompilable as reason:
        assert len(str(reason)) > 20
        return
    assert len(compiled.spec) == n
    again = compiled.network(x)
    ours = compiled.spec.certain_margin(again)
    if compiled.exact:
        assert torch.equal(ours <= 0, margin <= 0)
        assert torch.allclose(ours, margin, rtol=1e-12, atol=1e-12)
    assert bool(((ours <= 0) | ~(margin <= 0)).all())  # rows that also hold elsewhere still hold in every catastrophe
    assert bool((compiled.spec.margin(again) <= margin + 1e-9 * (1 + margin.abs())).all())
    assert n < 100 or 0 < (margin <= 0).sum() < n  # both verdicts were seen


CLASSES = 6


def several(n: int) -> dict[str, Overseer]:
    """Every kind that compiles, those that do not compile exactly in several ways, and compositions of both."""
    made = {kind: judge(kind, n, CLASSES, CLASSES) for kind in KINDS}
    label = torch.randint(0, CLASSES, (n,), generator=torch.Generator().manual_seed(3))
    sure = {f"sure at {tau:g}": Confident(label, CLASSES, tau) for tau in (1e-3, 0.1, 0.3, math.nextafter(0.5, 0), 0.5, 0.9)}
    ranked, timid, cheap = TopK(label, CLASSES, 2), sure["sure at 0.3"], made["Confusions"]
    composed = {
        "timid and costly": timid & cheap,
        "timid or not costly": timid | ~cheap,
        "timid, ranked and plausible": timid & ranked & made["Plausible"],
        "timid and judged by what has no rows": timid & made["PythonOverseer"],
        "not ranked, or timid": ~ranked | timid,
        "sure, but not by the reference": sure["sure at 0.9"] & ~made["Reference"],
    }
    return made | sure | composed


def near_ties(y: Tensor, g: torch.Generator) -> Tensor:
    """Scores of every size, of which some are equal or nearly so."""
    size = 10.0 ** torch.randint(-3, 3, (len(y), 1), generator=g)
    tied = torch.rand(y.shape, generator=g) < 0.3
    return torch.where(tied, y[:, :1] + torch.randint(-1, 2, y.shape, generator=g) * 1e-3, y) * size


@pytest.mark.parametrize("name", several(1))
def test_what_is_compiled_is_never_above_what_it_stands_for(name: str) -> None:
    """The order of margins, and where `exact` says so their equality: or lower bounds would lie above upper ones."""
    n, g = 4000, torch.Generator().manual_seed(5)
    overseer, same = several(n)[name], identity((Port("x", (CLASSES,), 0),))
    if name in ("PythonOverseer", "ProgramOverseer", "Person"):
        assert not overseer.compilable
        return
    compiled = overseer.compile(same)
    x = near_ties(torch.randn(n, CLASSES, generator=g).double(), g)
    margin, spec = overseer.margin(x, x), compiled.spec.margin(compiled.network(x))
    slack = 1e-12 * (1 + x.abs().amax(1))
    known = ~margin.isnan()
    assert bool((spec <= margin + slack)[known].all())
    if compiled.exact:
        assert bool((spec >= margin - slack)[known].all())


@pytest.mark.parametrize("kind", ["Misclassification", "Targeted"])
def test_sign_is_exact_where_scores_nearly_tie(kind: str) -> None:
    """float32 scores a unit in the last place apart: overseer and spec say what exact comparison says."""
    n, classes = 3000, 5
    g = torch.Generator().manual_seed(0)
    base = torch.randn(n, 1, generator=g) * 10.0 ** torch.randint(-30, 30, (n, 1), generator=g)
    y = base.expand(-1, classes).contiguous().view(torch.int32) + torch.randint(
        -1, 2, (n, classes), generator=g, dtype=torch.int32
    )
    y = y.view(torch.float32)
    overseer = judge(kind, n, classes, 2)
    label = getattr(overseer, "label", None) if kind == "Misclassification" else overseer.target
    mine = y.gather(1, label[:, None])[:, 0]
    rival = y.scatter(1, label[:, None], -torch.inf).amax(1)
    fails = rival >= mine if kind == "Misclassification" else mine >= rival
    assert 0 < fails.sum() < n
    for precise in (y, y.double()):
        assert torch.equal(overseer.margin(torch.zeros(n, 2), precise) <= 0, fails)
    spec = overseer.compile(network(2, classes)).spec
    assert torch.equal(spec.certain_margin(y.double()) <= 0, fails)
    assert torch.equal(spec.margin(y.double()) <= 0, fails)


def test_a_tie_is_a_catastrophe() -> None:
    y = torch.tensor([[1.0, 1.0, 0.0]])
    for overseer in (
        Misclassification(torch.tensor([0]), 3),
        Misclassification(torch.tensor([1]), 3),
        Targeted(torch.tensor([1]), 3),
    ):
        assert overseer.margin(y, y).item() == 0
        assert overseer.compile(network(3, 3)).spec.margin(y).item() == 0


def test_margins_are_what_they_are_called() -> None:
    y = torch.tensor([[3.0, 1.0, 2.5], [0.0, 5.0, 1.0]])
    assert Misclassification(torch.tensor([0, 0]), 3).margin(y, y).tolist() == [0.5, -5.0]
    assert Targeted(torch.tensor([2, 1]), 3).margin(y, y).tolist() == [0.5, -4.0]


@every
def test_take_is_the_judge_of_those_sets(kind: str) -> None:
    overseer = judge(kind, 50, 4, 3)
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(50, 3, generator=g).double(), torch.randn(50, 4, generator=g).double()
    index = torch.tensor([7, 7, 0, 49])
    part = overseer.take(index)
    assert type(part) is type(overseer)
    assert torch.allclose(part.margin(x[index], y[index]), overseer.margin(x, y)[index], rtol=0, atol=0, equal_nan=True)
    assert fingerprint(overseer.take(torch.tensor([7]))) == fingerprint(part.take(torch.tensor([0])))


@every
def test_severity_is_a_field_that_is_named(kind: str) -> None:
    overseer = judge(kind, 3, 4, 3)
    assert overseer.severity is (Severity.BENIGN if kind == "Plausible" else Severity.SERIOUS)
    severity = next(f for f in fields(KINDS[kind]) if f.name == "severity")
    assert severity.kw_only


@every
def test_judgement_is_words(kind: str) -> None:
    overseer = judge(kind, 3, 4, 3)
    words = overseer.judgement(2, torch.tensor([0.1, 0.2, 0.9, -1.0]))
    assert 3 < len(words) < 200
    assert "tensor" not in words


def test_judgements_name_the_classes() -> None:
    y = torch.tensor([0.0, 2.0, 1.0])
    assert Misclassification(torch.tensor([0, 2]), 3).judgement(1, y) == "2 read as 1"
    assert Misclassification(torch.tensor([1]), 3).judgement(0, y) == "1 read as 1"
    assert Misclassification(torch.tensor([2]), 3, ("cat", "dog", "cow")).judgement(0, y) == "cow read as dog"
    tie = torch.tensor([2.0, 2.0, 1.0])
    assert Misclassification(torch.tensor([0]), 3).judgement(0, tie) == "0 read as 1"
    assert Targeted(torch.tensor([1]), 3).judgement(0, tie) == "read as 1, where 1 is the target"
    assert Targeted(torch.tensor([2]), 3).judgement(0, y) == "read as 1, where 2 is the target"


def test_rows_are_shared_by_label() -> None:
    """200 sets of 10 classes make 10 blocks of rows, and of fewer labels fewer."""
    plain = network(4, 10)
    assert Misclassification(torch.arange(200) % 10, 10).compile(plain).spec.rows.shape == (10, 9, 10)
    assert Misclassification(torch.tensor([3, 7, 3]), 10).compile(plain).spec.rows.shape == (2, 9, 10)
    assert Targeted(torch.tensor([3, 7, 3]), 10).compile(plain).spec.of.tolist() == [0, 1, 0]


def test_gradients_reach_the_scores() -> None:
    y = torch.randn(6, 4, requires_grad=True)
    for kind in ("Misclassification", "Targeted", "PythonOverseer"):
        (slope,) = torch.autograd.grad(judge(kind, 6, 4, 3).margin(torch.zeros(6, 3), y).sum(), y)
        assert (slope != 0).sum() >= 12


@pytest.mark.parametrize("kind", [Misclassification, Targeted])
def test_classifier_judges_refuse_what_cannot_be(kind: type[Overseer]) -> None:
    good = torch.tensor([0, 1])
    for args, word in (
        ((good, 1), "at least 2 classes"),
        ((torch.tensor([1, 10]), 10), "start at 1"),
        ((torch.tensor([-1, 1]), 10), "got -1"),
        ((good.float(), 10), "int64"),
        ((good[None], 10), r"\[n\]"),
        ((good, 3, ("a", "b")), "3 class names"),
    ):
        with pytest.raises(FathomError, match=word):
            kind(*args)
    with pytest.raises(FathomError, match="one output for each of 10 classes, got one of 3"):
        kind(good, 10).compile(network(4, 3))
    with pytest.raises(FathomError, match="10 classes"):
        kind(good, 10).margin(torch.zeros(2, 4), torch.zeros(2, 3))


def test_class_names_are_no_part_of_the_question() -> None:
    label = torch.tensor([0, 1])
    assert fingerprint(Misclassification(label, 2, ("a", "b"))) == fingerprint(Misclassification(label, 2))
    assert fingerprint(Misclassification(label, 2)) != fingerprint(Targeted(label, 2))
    assert fingerprint(Misclassification(label, 2)) != fingerprint(Misclassification(label, 2, severity=Severity.MALIGN))


def test_functions_are_told_apart_by_their_code() -> None:
    one, same = PythonOverseer(lambda x, y: y[:, 0] - 1.0), PythonOverseer(lambda x, y: y[:, 0] - 1.0)
    other, nested = PythonOverseer(lambda x, y: y[:, 0] - 2.0), PythonOverseer(lambda x, y: sum(v for v in y.T))
    assert fingerprint(one) == fingerprint(same)
    assert len({fingerprint(o) for o in (one, other, nested)}) == 3
    assert fingerprint(PythonOverseer(_spread, name="spread")) == fingerprint(PythonOverseer(lambda x, y: y[:, 0], name="spread"))
    partial = functools.partial(_spread, classes=1)
    with pytest.raises(FathomError, match="name"):
        PythonOverseer(partial)
    assert PythonOverseer(partial, name="spread").name == "spread"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, y: y[:, 0] > 0, "got a tensor bool"),
        (lambda x, y: y, r"for each of 2 inputs, got a tensor float32 \[2, 4\]"),
        (lambda x, y: y.sum(), r"got a tensor float32 \[\]"),
        (lambda x, y: 1.0, "got 1.0"),
        (lambda x, y: y[:, 9], "raised IndexError"),
    ],
)
def test_a_judge_in_python_that_gives_no_margins_is_told_so(function: Callable[[Tensor, Tensor], Tensor], words: str) -> None:
    with pytest.raises(FathomError, match=words):
        PythonOverseer(function, name="judge").margin(torch.zeros(2, 3), torch.zeros(2, 4))


def test_a_judge_that_returns_nan_is_counted_and_told() -> None:
    """A missing judgement is no safety: whoever reads the result sees how many there were."""
    judge = PythonOverseer(lambda x, y: torch.where(x[:, 0] > 0, torch.nan, y[:, 0] + 9), name="half a judge")
    x = torch.tensor([[1.0], [-1.0], [2.0]])
    assert judge.take(torch.tensor([0])).troubles() == ()
    assert judge.margin(x, x).isnan().tolist() == [True, False, True]
    part = judge.take(torch.tensor([0]))  # parts of one judge count together
    part.margin(x[1:2], x[1:2])
    (trouble,) = (judge & Misclassification(torch.zeros(3, dtype=torch.int64), 2)).troubles()
    assert trouble == ("half a judge gave no judgement on 2 of 4 inputs, which are neither failures nor safe: it returned NaN.")
    assert judge.troubles() == part.troubles() == (~judge).troubles()


@pytest.mark.parametrize("make", [OtherDecision.make, functools.partial(Reference.make, eps=1.0), CheckerNetwork.make])
def test_models_that_give_nan_are_counted_and_told(make: Callable[..., Overseer]) -> None:
    size = 1 if make is CheckerNetwork.make else 3
    judge = make(lambda x: x.new_full((len(x), size), torch.nan), name="nothing")
    assert judge.margin(torch.zeros(1, 2), torch.zeros(1, 3)).isnan().all()
    assert "no judgement on 1 of 1 inputs" in judge.troubles()[0] and "nothing" not in judge.troubles()[0]


def test_a_vote_is_none_where_it_is_tied_or_a_voter_gives_nan() -> None:
    first, second = (lambda x, k=k: torch.eye(3)[torch.full((len(x),), k)] for k in (0, 1))
    y = torch.tensor([[3.0, 1.0, 2.0]])
    assert OtherDecision.make([first, first, second], name="votes").margin(y, y).tolist() == [1.0]
    for last in (second, lambda x: torch.full((len(x), 3), torch.nan)):
        judge = OtherDecision.make([first, last], name="votes")
        assert judge.margin(y, y).isnan().all() and "took no decision" in judge.troubles()[0]
    lost = OtherDecision.make([first, first, lambda x: torch.full((len(x), 3), torch.nan)], name="votes")
    assert lost.margin(y, y).isnan().all()
