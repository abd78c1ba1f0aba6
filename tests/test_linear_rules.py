"""Linear rules: signs that no rounding turns round, rows over inputs too, and judges that are indexed like their sets."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.network import Join, Network, Node, Port
from fathom.core.overseer import Severity
from fathom.core.spec import Spec
from fathom.core.value import fingerprint
from fathom.ops.dense import Dense
from fathom.overseers.linear_rules import LinearRules

RULES = LinearRules.make([[-1.0, 0.0], [1.0, -1.0]], [3.0, 0.0])  # y0 >= 3, or y0 <= y1
NONE = torch.zeros(1, 1)


def network(weight: Tensor) -> Network:
    m, d = weight.shape
    nodes = (
        Node("input", None, (), (d,)),
        Node("dense", Dense(weight), (0,), (m,)),
        Node("output", Join(((m,),)), (1,), (m,)),
    )
    return Network(nodes, (Port("in", (d,), 0),), (Port("out", (m,), 0),))


@pytest.mark.parametrize(
    ("y", "margin", "words"),
    [
        ([2.0, 1.0], 1.0, "no rule on the outputs holds"),
        ([3.0, 1.0], 0.0, "Y_0 >= 3"),
        ([1.0, 4.0], -3.0, "Y_0 <= Y_1"),
        ([5.0, 5.0], -2.0, "Y_0 >= 3, Y_0 <= Y_1"),
    ],
)
def test_any_rule_is_a_catastrophe_by_default(y: list[float], margin: float, words: str) -> None:
    assert RULES.margin(NONE, torch.tensor([y])).tolist() == [margin]
    assert RULES.judgement(0, torch.tensor(y)) == words


def test_rules_of_one_clause_fail_only_together() -> None:
    rules = LinearRules.make([[-1.0, 0.0], [1.0, -1.0]], [3.0, 0.0], clause=[0, 0], strict=[False, True], sets=3)
    y = torch.tensor([[3.0, 1.0], [3.0, 4.0], [3.0, 3.0]])
    margin = rules.margin(torch.zeros(3, 1), y)
    assert margin[:2].tolist() == [2.0, 0.0] and 0 < margin[2] < 1e-300  # a strict row at 0 does not hold
    assert rules.judgement(1, y[1]) == "Y_0 >= 3, Y_0 < Y_1" and rules.judgement(2, y[2]) == "Y_0 >= 3"


NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 1e16, -1e16, 0.1, 1e-30, 2.0**-1074, 3.0])


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4), st.tuples(NUMBERS, NUMBERS, NUMBERS))
def test_signs_are_those_of_exact_arithmetic(rows: list[tuple[float, ...]], y: tuple[float, ...]) -> None:
    rules = LinearRules.make([row[:3] for row in rows], [row[3] for row in rows])
    exact = [sum(Fraction(a) * Fraction(b) for a, b in zip(row, (*y, 1.0), strict=True)) for row in rows]
    margin = rules.margin(NONE, torch.tensor([y], dtype=torch.float64)).item()
    assert (margin > 0) == (min(exact) > 0) and (margin < 0) == (min(exact) < 0)


def test_rules_over_inputs_get_a_network_that_emits_them() -> None:
    weight = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    rules = LinearRules.make([[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0]], [0.0, 10.0], sets=2)  # y0 <= x0, or y1 <= -10
    compiled = rules.compile(network(weight))
    x = torch.tensor([[1.0, 2.0], [-1.0, 2.0]], dtype=torch.float64)
    assert compiled.exact and compiled.network(x).tolist() == [[2.0, 2.0, 1.0, 2.0], [-2.0, 2.0, -1.0, 2.0]]
    assert compiled.spec.margin(compiled.network(x)).tolist() == rules.margin(x, x @ weight.T).tolist() == [1.0, -1.0]
    assert rules.judgement(0, torch.tensor([0.0, -11.0])) == "Y_1 <= -10"  # a rule over inputs is not judged by y alone
    plain = RULES.compile(network(weight))
    assert plain.network.output_size == 2 and plain.spec is RULES.spec


def test_judges_are_taken_with_their_own_rows_only() -> None:
    parts = [LinearRules.make([[1.0, float(k)]], [float(-k)]).spec for k in range(4)]
    rules = LinearRules(Spec.stack(parts), severity=Severity.MALIGN)
    y = torch.tensor([[1.0, 1.0], [2.0, 2.0], [0.5, 3.0]])
    index = torch.tensor([3, 1, 3])
    taken = rules.take(index)
    assert taken.severity is Severity.MALIGN and len(taken.spec.rows) == 2
    assert taken.margin(y, y).tolist() == rules.margin(torch.zeros(4, 1), y[[0, 1, 2, 2]][:, :])[:0].tolist() + [
        (LinearRules(parts[k]).margin(y[i : i + 1], y[i : i + 1])).item() for i, k in enumerate(index.tolist())
    ]
    assert fingerprint(rules.take(torch.tensor([2]))) == fingerprint(LinearRules(parts[2], severity=Severity.MALIGN))
    again = taken.take(torch.tensor([1])).take(torch.tensor([0, 0]))
    assert again.margin(y[:2], y[:2]).tolist() == [1.0, 3.0]
    assert len(rules.take(torch.tensor([], dtype=torch.int64)).spec) == 0


def test_gradients_reach_the_output() -> None:
    y = torch.tensor([[2.0, 1.0]], requires_grad=True)
    RULES.margin(NONE, y).sum().backward()
    assert y.grad is not None and y.grad.tolist() in ([[-1.0, 0.0]], [[1.0, -1.0]], [[0.0, -0.5]])


def test_many_rules_are_shown_in_part() -> None:
    rules = LinearRules.make([[float(k)] for k in range(1, 8)], [0.5] * 7)
    assert rules.judgement(0, torch.tensor([-1.0])) == "Y_0 <= -0.5, 2 Y_0 <= -0.5, 3 Y_0 <= -0.5, 4 Y_0 <= -0.5 and 3 more"
    others = LinearRules.make([[0.0, 0.0], [1.0, -2.0], [1.0, -1.0]], [-0.25, 0.5, -0.5], strict=[True, False, False])
    assert others.judgement(0, torch.ones(2)) == "0 < 0.25, Y_0 + 0.5 <= 2 Y_1, Y_0 <= Y_1 + 0.5"


@pytest.mark.parametrize(
    ("rows", "offsets", "options", "message"),
    [
        ([[1.0, 2.0]], [1.0, 2.0], {}, "got the shapes [1, 2], [2], [2], [2]"),
        ([1.0, 2.0], [1.0, 2.0], {}, "expected rows [R, m]"),
        ([[1.0]], 1.0, {}, "expected rows [R, m]"),
        ([[1.0]], [1.0], {"clause": [0, 1]}, "got the shapes [1, 1], [1], [2], [1]"),
        ([[1.0]], [1.0], {"strict": [True, True]}, "got the shapes [1, 1], [1], [1], [2]"),
        ([[1.0]], [1.0], {"clause": [-1]}, "clauses numbered from 0, got [-1]"),
        ([[float("nan")]], [1.0], {}, "finite numbers, got rows [[nan]]"),
    ],
)
def test_what_is_no_rule_is_refused(rows: list, offsets: list, options: dict, message: str) -> None:
    with pytest.raises(FathomError, match=re.escape(message)):
        LinearRules.make(rows, offsets, **options)


def test_rules_for_another_model_are_refused() -> None:
    rules = LinearRules.make([[1.0, 2.0, 3.0]], [0.0])
    message = (
        "expected rules with 4 coefficients (one an output) or 5 (then one an input) for this model of 1 inputs and 4 outputs"
    )
    with pytest.raises(FathomError, match=re.escape(message)):
        rules.margin(NONE, torch.zeros(1, 4))
    with pytest.raises(FathomError, match=re.escape(message)):
        rules.compile(network(torch.ones(4, 1)))
