"""VNN-LIB 1: against an evaluator of its own, over exact fractions; and files that must be refused, with the place."""

from __future__ import annotations

import gzip
import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fathom.capture.captured import Captured
from fathom.capture.vnnlib import Property, Style, assignment, read_property, serialise, to_problem
from fathom.capture.vnnlib import normal_form as normal_form_module
from fathom.capture.vnnlib import source as source_module
from fathom.capture.vnnlib.formula import Row
from fathom.capture.vnnlib.rational import down, exact_row, nearest, to_float, up
from fathom.core.confirm import confirm
from fathom.core.errors import FathomError, NotUnderstood
from fathom.core.network import Join, Network, Node, Port
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.ops.dense import Dense

DOUBLE = torch.float64


@dataclass(eq=False)
class Float32Matrix(Program):
    """y = x W^T in float32, as a deployed program."""

    weight: Tensor

    def __post_init__(self) -> None:
        m, d = self.weight.shape
        self.inputs, self.outputs = (Port("in", (d,), 0),), (Port("out", (m,), 0),)
        self.dtype, self.digest = torch.float32, "test"

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def matrix(weight: Tensor) -> Captured:
    """A linear model, deployed and captured."""
    m, d = weight.shape
    program = Float32Matrix(weight.float())
    nodes = (
        Node("input", None, (), (d,)),
        Node("dense", Dense(weight.float()), (0,), (m,)),
        Node("output", Join(((m,),)), (1,), (m,)),
    )
    return Captured(program, Network(nodes, program.inputs, program.outputs))


def model(inputs: int, outputs: int) -> Captured:
    """Some model of the given sizes."""
    return matrix(torch.arange(1.0, 1 + inputs * outputs).reshape(outputs, inputs))


def header(inputs: int, outputs: int) -> str:
    names = [*(f"X_{i}" for i in range(inputs)), *(f"Y_{j}" for j in range(outputs))]
    return "\n".join(f"(declare-const {name} Real)" for name in names) + "\n"


def unit_box(inputs: int) -> str:
    return "".join(f"(assert (>= X_{i} 0))(assert (<= X_{i} 1))\n" for i in range(inputs))


def of(text: str, inputs: int = 2, outputs: int = 2) -> Property:
    return read_property((header(inputs, outputs) + text).encode())


def catastrophe(problem: Problem, x: list[float], y: list[float]) -> bool:
    """Whether the written set holds x and the overseer says that (x, y) fails, in any of the problem's sets."""
    xs = torch.tensor(x, dtype=DOUBLE).repeat(len(problem), 1)
    ys = torch.tensor(y, dtype=DOUBLE).repeat(len(problem), 1)
    return bool((problem.written.contains(xs) & (problem.overseer.margin(xs, ys) <= 0)).any())


# An evaluator of its own: formulas as nested tuples, printed for Fathom and evaluated here over fractions.

VARIABLES = ("X_0", "X_1", "Y_0", "Y_1")
COMPARE = {
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "=": lambda a, b: a == b,
}


def value(term: tuple | str, point: dict[str, Fraction]) -> Fraction:
    if isinstance(term, str):
        return point[term] if term in point else Fraction(term)
    head, *rest = term
    values = [value(part, point) for part in rest]
    if head == "+":
        return sum(values, Fraction(0))
    if head == "-":
        return values[0] - sum(values[1:]) if len(values) > 1 else -values[0]
    return values[0] / values[1] if head == "/" else math.prod(values)


def truth(formula: tuple | str, point: dict[str, Fraction]) -> bool:
    if isinstance(formula, str):
        return formula == "true"
    head, *rest = formula
    if head in COMPARE:
        return all(COMPARE[head](a, b) for a, b in itertools.pairwise(value(part, point) for part in rest))
    values = [truth(part, point) for part in rest]
    if head == "=>":
        return not all(values[:-1]) or values[-1]
    return {"and": all(values), "or": any(values), "not": not values[0] if values else False}[head]


def text_of(formula: tuple | str) -> str:
    return formula if isinstance(formula, str) else f"({' '.join(map(text_of, formula))})"


def formulas(factors: st.SearchStrategy[str], numbers: st.SearchStrategy[str]) -> st.SearchStrategy[tuple | str]:
    """Any formula of the language, over two inputs and two outputs; half of the atoms bound a single variable."""
    variable = st.sampled_from(VARIABLES)
    scaled = st.tuples(st.just("*"), factors, variable) | st.tuples(st.just("*"), variable, factors)
    simple = variable | numbers | scaled | st.tuples(st.just("/"), scaled, st.sampled_from(["2", "-4"]))
    term = st.one_of(
        simple,
        st.tuples(st.just("+"), simple, simple, simple),
        st.tuples(st.just("-"), simple),
        st.tuples(st.just("-"), simple, simple, st.tuples(st.just("-"), simple)),
    )
    symbol = st.sampled_from(["<=", ">=", "<=", ">=", "<", ">", "="])
    atom = st.one_of(
        st.tuples(symbol, variable, numbers),
        st.tuples(symbol, numbers, variable),
        st.tuples(symbol, variable, variable),
        st.tuples(symbol, term, term),
        st.tuples(symbol, simple, simple, simple),
        st.sampled_from(["true", "false"]),
    )
    return st.recursive(
        atom,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda parts: ("and", *parts)),
            st.lists(inner, max_size=3).map(lambda parts: ("or", *parts)),
            st.tuples(st.just("not"), inner),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: ("=>", *parts)),
        ),
        max_leaves=8,
    )


EIGHTHS = st.integers(-12, 12).map(lambda k: str(k / 8))
TENTHS = st.integers(-15, 15).map(lambda k: str(k / 10)) | st.sampled_from(["3e-1", ".5", "1.", "-7E-1", "+1"])
BOX = ("and", *((symbol, x, end) for x in ("X_0", "X_1") for symbol, end in ((">=", "-1"), ("<=", "1"))))


@settings(max_examples=300)
@given(
    st.lists(formulas(EIGHTHS, EIGHTHS), min_size=1, max_size=3),
    st.lists(st.tuples(*[st.integers(-12, 12)] * 4), min_size=1, max_size=20),
)
def test_a_formula_of_binary_fractions_is_judged_exactly(asserted: list[tuple | str], points: list[tuple[int, ...]]) -> None:
    asserted = [*asserted, BOX]
    found = of("".join(f"(assert {text_of(formula)})\n" for formula in asserted))
    problem = to_problem(found, model(2, 2))
    for point in points:
        at = dict(zip(VARIABLES, (Fraction(k, 8) for k in point), strict=True))
        numbers = [k / 8 for k in point]
        expected = all(truth(formula, at) for formula in asserted)
        assert catastrophe(problem, numbers[:2], numbers[2:]) == expected


@settings(max_examples=300)
@given(
    st.lists(formulas(TENTHS, TENTHS | st.just("0.30000000000000004")), min_size=1, max_size=3),
    st.lists(st.tuples(*[st.integers(-15, 15)] * 4), min_size=1, max_size=20),
)
def test_a_formula_of_decimals_never_fails_where_it_does_not(asserted: list[tuple | str], points: list[tuple[int, ...]]) -> None:
    """At the floats nearest to the decimals, where everything is almost equal: a failure is certain, and only a hair may miss."""
    asserted = [*asserted, BOX]
    found = of("".join(f"(assert {text_of(formula)})\n" for formula in asserted))
    problem = to_problem(found, model(2, 2))
    for point in points:
        numbers = [k / 10 for k in point]
        at = {name: Fraction(number) for name, number in zip(VARIABLES, numbers, strict=True)}
        expected = all(truth(formula, at) for formula in asserted)
        seen = catastrophe(problem, numbers[:2], numbers[2:])
        assert expected or not seen
        if expected and not seen:
            hair = {name: Fraction(round(10 * number), 10) for name, number in at.items()}
            assert at != hair and bool((problem.spec.blur > 0).any())


@given(st.lists(st.tuples(*[st.integers(-12, 12)] * 2), min_size=1, max_size=10), formulas(EIGHTHS, EIGHTHS))
def test_the_compiled_network_has_the_margin_of_the_overseer(points: list[tuple[int, ...]], formula: tuple | str) -> None:
    captured = model(2, 2)
    problem = to_problem(of(f"(assert {text_of(formula)})(assert {text_of(BOX)})"), captured)
    for point in points:
        x = torch.tensor([[k / 8 for k in point]] * len(problem), dtype=DOUBLE).reshape(-1, 2)
        assert problem.network is not None and problem.spec is not None and problem.exact
        compiled = problem.spec.certain_margin(problem.network.freeze(DOUBLE)(x))
        assert torch.equal(compiled, problem.overseer.margin(x, captured.program(x.float()).double()))


# Boxes: written, deployed and proved.

MIDDLE = Fraction(1) + Fraction(1, 1 << 24)  # between two float32s
DECIMALS = [
    "0.1",
    "-0.1",
    "0.30000000000000004",
    "1e-50",
    "-1e-46",
    "1e-400",
    "16777217",
    "0",
    "-0.0",
    "0.679857769",
    "3.4028235e38",
]


def decimal(number: Fraction) -> str:
    """A binary fraction as the decimal it is."""
    digits = number.denominator.bit_length() - 1
    sign, whole = "-" if number < 0 else "", str(abs(number.numerator) * 5**digits).zfill(digits + 1)
    return f"{sign}{whole[:-digits]}.{whole[-digits:]}" if digits else sign + whole


def neighbours(value: Fraction, kind: type[np.floating]) -> list[float]:
    """Floats of a kind round a number: with the nearest among them, whichever way it was first rounded."""
    start = kind(float(value))
    return [float(f) for f in (np.nextafter(start, kind(-np.inf)), start, np.nextafter(start, kind(np.inf))) if np.isfinite(f)]


@pytest.mark.parametrize(
    "text", [*DECIMALS, decimal(MIDDLE), decimal(MIDDLE + Fraction(1, 1 << 60)), decimal(MIDDLE - Fraction(1, 1 << 60))]
)
def test_ends_are_rounded_once(text: str) -> None:
    exact = Fraction(text)
    with np.errstate(over="ignore"):
        single, double = neighbours(exact, np.float32), neighbours(exact, np.float64)
    near = to_float(exact, torch.float32, nearest)
    assert near in single and abs(Fraction(near) - exact) == min(abs(Fraction(f) - exact) for f in single)
    assert to_float(exact, DOUBLE, nearest) == float(exact)
    assert to_float(exact, DOUBLE, down) == max(f for f in double if Fraction(f) <= exact)
    assert to_float(exact, DOUBLE, up) == min(f for f in double if Fraction(f) >= exact)


def test_double_rounding_is_not_done() -> None:
    above, tie, odd_tie = MIDDLE + Fraction(1, 1 << 60), MIDDLE, MIDDLE + Fraction(1, 1 << 23)
    assert float(np.float32(float(above))) == 1.0  # through float64, the wrong way
    assert to_float(above, torch.float32, nearest) == 1 + 2**-23
    assert to_float(tie, torch.float32, nearest) == 1.0
    assert to_float(odd_tie, torch.float32, nearest) == 1 + 2**-22
    assert to_float(Fraction(1, 3), torch.float16, nearest) == float(np.float16(1 / 3))
    assert to_float(Fraction(5, 4) * Fraction(1, 1 << 149), torch.float32, nearest) == 2.0**-149  # subnormal


@given(st.fractions(), st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
def test_rounding_brackets_and_is_monotone(exact: Fraction, dtype: torch.dtype) -> None:
    if abs(exact) > 60000:
        return
    below, near, above = (to_float(exact, dtype, how) for how in (down, nearest, up))
    assert Fraction(below) <= exact <= Fraction(above) and near in (below, above)
    for end in (below, above):
        assert torch.tensor(end, dtype=DOUBLE).to(dtype).to(DOUBLE).item() == end
    step = torch.nextafter(torch.tensor(below, dtype=DOUBLE).to(dtype), torch.tensor(math.inf).to(dtype)).to(DOUBLE).item()
    assert above in (below, step)


def test_the_three_regions() -> None:
    problem = to_problem(of("(assert (and (<= 0.1 X_0) (<= X_0 0.1) (<= -0.7 X_1 0.5))) (assert (<= Y_0 0))"), model(2, 2))
    tenth = float(np.float32(0.1))
    assert Fraction(tenth) > Fraction(1, 10)  # the float32 lies outside of the decimals
    inside = torch.tensor([[tenth, 0.5], [0.1, 0.5]], dtype=DOUBLE)
    assert problem.deployed.contains(inside[:1]).all() and problem.region.contains(inside[:1]).all()
    assert not problem.written.contains(inside[:1]).any() and not problem.written.contains(inside[1:]).any()
    box = problem.region.box()
    assert Fraction(box.lower[0, 0].item()) < Fraction(1, 10) < Fraction(box.upper[0, 0].item()) == Fraction(tenth)
    assert box.lower[0, 1] == min(float(np.float32(-0.7)), np.nextafter(-0.7, -1) if Fraction(-0.7) > Fraction(-7, 10) else -0.7)
    assert problem.deployed.box().lower[0, 1] == float(np.float32(-0.7))


def test_a_witness_is_confirmed_by_the_program_and_the_decimals() -> None:
    captured = matrix(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    problem = to_problem(of("(assert (and (<= 0.1 X_0 0.1) (<= 0 X_1 1) (>= Y_1 0.5)))"), captured)
    found = confirm(problem, torch.tensor([[0.1, 0.75]]))
    assert found.broken.all() and not found.in_written.any()
    assert not confirm(problem, torch.tensor([[0.1, 0.25]])).broken.any()
    assert not confirm(problem, torch.tensor([[0.1, 1.5]])).known.any()


@pytest.mark.parametrize(("symbol", "expected"), [("<", [True, False, False]), ("<=", [True, True, False])])
def test_strict_bounds_on_inputs_are_kept(symbol: str, expected: list[bool]) -> None:
    problem = to_problem(of(f"(assert (>= X_0 0))(assert ({symbol} X_0 0.5))(assert (>= Y_0 3))", 1, 1), model(1, 1))
    assert problem.region.box().upper.item() == 0.5
    seen = [catastrophe(problem, [x], [3.0]) for x in (np.nextafter(0.5, 0), 0.5, np.nextafter(0.5, 1))]
    assert seen == expected
    assert problem.network is not None and problem.network.output_size == (2 if symbol == "<" else 1)


@pytest.mark.parametrize("order", list(itertools.permutations(["(< X_0 0.5)", "(<= X_0 0.5)", "(<= X_0 2)"])))
@pytest.mark.parametrize("form", ["(and {} {} {})", "(and {} (or (and {} {}) false))"])
def test_the_strict_one_of_two_equal_bounds_counts(form: str, order: tuple[str, ...]) -> None:
    for turned in (False, True):
        text = form.format(*order)
        if turned:  # the same below
            text = text.replace("<", ">").replace("0.5", "-0.5").replace(" 2)", " -2)")
        captured, rest = model(1, 1), "(assert (<= -1 X_0 1))(assert (>= Y_0 3))"
        problem = to_problem(of(f"(assert {text}){rest}", 1, 1), captured)
        edge = -0.5 if turned else 0.5
        assert not catastrophe(problem, [edge], [3.0]) and catastrophe(problem, [edge * 0.99], [3.0])


# Normal form.

PROP_6 = """
; outside of a small band of X_0, with the other bounds inside the disjuncts
(assert (or
    (and (<= -0.5 X_0) (<= X_0 -0.1) (>= X_1 0) (<= X_1 0.25))
    (and (<= 0.1 X_0) (<= X_0 0.5) (>= X_1 0) (<= X_1 0.25))
))
(assert (or (<= Y_0 Y_1) (and (<= 3 Y_0) (< Y_1 -1))))
"""


def test_disjunctive_inputs_become_sets_of_one_case() -> None:
    found = of(PROP_6)
    problem = to_problem(found, model(2, 2))
    assert [found.box(k)[0] for k in range(2)] == [(Fraction(-1, 2), Fraction(-1, 10)), (Fraction(1, 10), Fraction(1, 2))]
    assert problem.owner.tolist() == [0, 0] and problem.cases == 1
    assert problem.spec is not None and problem.spec.rows.shape == (1, 3, 2)  # one spec that both sets share
    assert problem.spec.clause.tolist() == [[0, 1, 1]] and problem.spec.strict.tolist() == [[False, False, True]]


def test_prop_7_style_outputs_become_clauses() -> None:
    both = "(assert (or (and (<= Y_3 Y_0) (<= Y_3 Y_1) (<= Y_3 Y_2)) (and (<= Y_4 Y_0) (<= Y_4 Y_1) (<= Y_4 Y_2))))"
    problem = to_problem(of(unit_box(1) + both, 1, 5), model(1, 5))
    assert problem.spec is not None
    assert len(problem) == 1 and problem.spec.clause.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert problem.spec.rows[0, 0].tolist() == [-1, 0, 0, 1, 0] and problem.network.output_size == 5


def test_conjunctions_of_disjunctions_share_the_box() -> None:
    found = of(unit_box(2) + "(assert (or (<= Y_0 0) (<= Y_1 0)))(assert (or (>= Y_0 -1) (>= Y_1 -1)))")
    assert len(found.sets) == 1 and len(found.sets[0].clauses) == 4


def test_empty_boxes_are_dropped() -> None:
    cases = " ".join(f"(and (>= X_0 {k / 100}) (< X_0 {(k + 1) / 100}) (<= Y_0 {k}))" for k in range(100))
    again = " ".join(f"(and (>= X_0 {k / 100}) (< X_0 {(k + 1) / 100}) (<= Y_1 {k}))" for k in range(100))
    found = of(unit_box(2) + f"(assert (or {cases}))(assert (or {again}))")
    assert len(found.sets) == 100  # and not 10,000


@pytest.mark.parametrize(
    "text",
    [
        "(assert false)",
        "(assert (or))",
        "(assert (and (>= X_0 1) (<= X_0 0)))",
        "(assert (or (and (> X_0 0) (< X_0 0)) (and (> X_1 1) (<= X_1 1))))",
        "(assert (>= 0 1))" + unit_box(2),
        "(assert (not (<= X_0 X_0)))",
        unit_box(2) + "(assert (< X_0 0))",
    ],
)
def test_a_property_that_nothing_satisfies_has_no_sets(text: str) -> None:
    found = of(text)
    problem = to_problem(found, model(2, 2))
    assert found.sets == () and len(problem) == 0 and problem.cases == 0
    assert problem.region.size == 2 and problem.overseer.margin(torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0,)


def test_a_clause_without_rows_always_fails() -> None:
    problem = to_problem(of(unit_box(2)), model(2, 2))
    assert problem.spec is not None and problem.spec.rows.tolist() == [[[0, 0]]] and not problem.spec.strict.any()
    assert catastrophe(problem, [0.5, 0.5], [1e300, -1e300]) and not catastrophe(problem, [0.5, 1.5], [0.0, 0.0])


def test_rows_over_several_inputs_stay_rows() -> None:
    problem = to_problem(of(unit_box(2) + "(assert (<= (+ X_0 X_1) (* 2 Y_0)))"), model(2, 2))
    assert problem.spec is not None and problem.spec.rows.tolist() == [[[-2, 0, 1, 1]]]
    assert catastrophe(problem, [0.5, 0.5], [0.5, 0.0]) and not catastrophe(problem, [0.5, 0.6], [0.5, 0.0])


def test_blow_up_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    many = "".join(f"(assert (or (<= Y_{i} 0) (>= Y_{i} 1)))" for i in range(40))
    with pytest.raises(NotUnderstood, match="at most 100000 alternatives"):
        of(unit_box(1) + many, 1, 40)
    monkeypatch.setattr(normal_form_module, "MOST_ALTERNATIVES", 7)
    with pytest.raises(NotUnderstood, match="at most 7 alternatives"):
        of(unit_box(2) + f"(assert (or {'(<= Y_0 0) ' * 8}))")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(assert (<= X_0 1))" + "(assert (<= 0 X_1 1))", "no lower bound for X_0"),
        ("(assert (<= 0 X_0 1))(assert (>= X_1 0))", "no upper bound for X_1"),
        ("(assert (<= 0 X_0 1))(assert (or (<= 0 X_1 1) (<= Y_0 0)))", "no lower bound for X_1"),
        ("(assert (<= 0 X_0 1))(assert (<= (+ X_0 X_1) 1))", "no lower bound for X_1"),
    ],
)
def test_unbounded_inputs_are_named(text: str, message: str) -> None:
    with pytest.raises(NotUnderstood, match=message):
        of(text)


def test_depth_is_no_limit() -> None:
    depth = 30_000
    nots = "(not " * (2 * depth) + "(<= Y_0 0)" + ")" * (2 * depth)
    minus = "(- " * depth + "Y_0" + ")" * depth
    assert len(of(unit_box(2) + f"(assert {nots})(assert (>= {minus} 3))").sets) == 1
    with pytest.raises(NotUnderstood, match="line 5, column 150004"):
        of("(assert " + "(and " * depth)
    shallow = "".join(f"(and (<= Y_0 {k}) (or (<= Y_1 {k}) " for k in range(50)) + "false" + "))" * 50
    assert len(of(unit_box(2) + f"(assert {shallow})").sets[0].clauses) == 50
    with pytest.raises(NotUnderstood, match="at most 10000000 steps"):
        of(unit_box(2) + "(assert " + "(and (<= Y_0 0) (or (<= Y_1 0) " * depth + "false" + "))" * depth + ")")


def test_a_megabyte_keeps_its_structure() -> None:
    parts = [
        f"(and (>= X_0 {k}.0000000000) (<= X_0 {k}.7500000000) (>= X_1 -{k % 7}.125) (<= X_1 {k % 5}.375) (<= Y_0 -{k}.0001))"
        for k in range(12_000)
    ]
    text = "(assert (or\n" + "\n".join(parts) + "))\n"
    assert len(text) > 1_000_000
    problem = to_problem(of(text), model(2, 2))
    assert len(problem) == 12_000 and problem.cases == 1
    box = problem.region.box()
    assert torch.equal(box.lower[:, 0], torch.arange(12_000, dtype=DOUBLE)) and torch.equal(
        box.upper[:, 0], box.lower[:, 0] + 0.75
    )
    assert torch.equal(box.lower[:, 1], -(torch.arange(12_000) % 7).double() - 0.125)
    assert problem.spec is not None and torch.allclose(problem.spec.offsets[:, 0], torch.arange(12_000, dtype=DOUBLE) + 0.0001)


# What must be refused, and where.


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "line 3, column 1", "(declare-const X_0 Real)"),
        ("(assert (<= X_0 1)", "line 3, column 1", "a `)` for this `(`"),
        ("(assert (<= X_0 1)))", "line 3, column 20", "got ')'"),
        ("  assert", "line 3, column 3", "got 'assert'"),
        ("()", "line 3, column 1", "got ()"),
        ("((assert) true)", "line 3, column 3", "got 'assert'"),
        ("(assert ((<= X_0 1)))", "line 3, column 10", "head"),
        ("(check-sat)", "line 3, column 2", "got 'check-sat'"),
        ("(assert (<= X_0 1) (<= X_0 2))", "line 3, column 1", "1 argument of assert, got 2"),
        ("(assert)", "line 3, column 1", "1 argument of assert, got 0"),
        ("(assert (<= X_0))", "line 3, column 9", "at least 2 arguments of <=, got 1"),
        ("(assert (not))", "line 3, column 9", "1 argument of not, got 0"),
        ("(assert\n ; a comment (with\n  (<= X_7 1))", "line 5, column 7", "(declare-const X_7 Real), got 'X_7'"),
        ("(assert (<= X_0 x))", "line 3, column 17", "got 'x'"),
        ("(assert (<= X_0 0x1F))", "line 3, column 17", "got '0x1F'"),
        ("(assert (<= X_0 1_000))", "line 3, column 17", "got '1_000'"),
        ("(assert (<= X_0 inf))", "line 3, column 17", "got 'inf'"),
        ("(assert (<= X_0 1/3))", "line 3, column 17", "got '1/3'"),
        ("(assert (<= X_0 ١))", "line 3, column 17", "a number"),
        ("(assert (<= X_0 1e99999))", "line 3, column 17", "1000 digits"),
        (f"(assert (<= X_0 1{'0' * 5000}))", "line 3, column 17", "1000 digits"),
        ("(assert (<= (* X_0 Y_0) 1))", "line 3, column 20", "stays affine in X and Y, got 'Y_0'"),
        ("(assert (<= (* X_0 (+ 1 Y_0)) 1))", "line 3, column 20", "got an arithmetic term in Y_0"),
        ("(assert (<= (/ 1 X_0) 1))", "line 3, column 18", "stays affine"),
        ("(assert (<= (/ X_0 0) 1))", "line 3, column 20", "a divisor other than 0"),
        ("(assert (<= (<= X_0 1) 1))", "line 3, column 13", "got a comparison"),
        ("(assert (<= X_0 ()))", "line 3, column 17", "got ()"),
        ("(assert (and (<= X_0 1) X_0))", "line 3, column 25", "got 'X_0'"),
        ("(assert (or (+ X_0 1)))", "line 3, column 13", "got an arithmetic term in X_0"),
        ("(assert X_0)", "line 3, column 9", "a comparison such as"),
        ("(assert (ite true (<= X_0 1) (<= X_0 2)))", "line 3, column 10", "got 'ite'"),
        ("(assert (assert true))", "line 3, column 10", "got 'assert'"),
        ("(assert (exp X_0))", "line 3, column 10", "got 'exp'"),
        ("(declare-const X_0 Real)", "line 3, column 16", "not declared yet, got 'X_0'"),
        ("(declare-const Z_0 Real)", "line 3, column 16", "got 'Z_0'"),
        ("(declare-const X_01 Real)", "line 3, column 16", "got 'X_01'"),
        ("(declare-const X_2 Real)", "line 3, column 25", "(declare-const X_1 Real)"),
        ("(declare-const Y_1 Real)(declare-const Y_3 Real)", "line 3, column 49", "(declare-const Y_2 Real)"),
        ("(declare-const X_1 Int)", "line 3, column 20", "the type Real, got 'Int'"),
        ("(declare-const X_1)", "line 3, column 1", "2 arguments of declare-const, got 1"),
        ("(declare-fun X_1 (Real) Real)", "line 3, column 19", "got 'Real'"),
        ("(declare-fun X_1 Real Real)", "line 3, column 18", "() for a constant, got 'Real'"),
        ("(vnnlib-version <2.0>)", "line 3, column 2", "assert at the top level, got 'vnnlib-version'"),
        ("(declare-network N (declare-input X float32 [1,5]))", "line 3, column 21", "got 'declare-input'"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: str, place: str, message: str) -> None:
    first = "" if not text else "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n"
    message, place = ("a word" if message == "head" else message), (place if text else "line 1, column 1")
    with pytest.raises(NotUnderstood) as refusal:
        read_property((first + text).encode())
    assert str(refusal.value).startswith(f"<bytes>, {place}: expected ") and message in str(refusal.value)


def test_the_file_is_named_and_may_be_zipped(tmp_path: Path) -> None:
    text = (header(2, 2) + PROP_6).encode()
    for name, raw in (("a.vnnlib", text), ("b.vnnlib.gz", gzip.compress(text)), ("c.txt", b"\xef\xbb\xbf" + text)):
        (tmp_path / name).write_bytes(raw)
        found = read_property(tmp_path / name)
        assert found.name == name and found.sets == of(PROP_6).sets
    assert read_property(gzip.compress(text[:100]) + gzip.compress(text[100:])).sets == of(PROP_6).sets
    (tmp_path / "d.vnnlib").write_bytes(b"(assert")
    with pytest.raises(NotUnderstood, match=r"d\.vnnlib, line 1, column 1"):
        read_property(str(tmp_path / "d.vnnlib"))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (gzip.compress(b"(assert true)" * 100, mtime=0)[:-9], "damaged"),
        (b"\x1f\x8b\x08" + bytes(range(40)), "damaged"),
        (b"\x1f\x8b", "damaged"),
        (gzip.compress(b"(assert true)", mtime=0) + b"rubbish", "damaged"),
        (b"\x08\x07\x12\x0c\xff\xfe", "0xff at offset 4"),
        (b"\x00\x00", r"got '\\x00"),
    ],
)
def test_what_is_no_text_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(NotUnderstood, match=message):
        read_property(raw)


def test_a_file_that_unfolds_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source_module, "MOST_BYTES", 1 << 21)
    with pytest.raises(NotUnderstood, match="at most 2097152 bytes"):
        read_property(gzip.compress(b" " * (1 << 24)))
    with pytest.raises(FathomError, match=re.escape(str(tmp_path / "none.vnnlib"))):
        read_property(tmp_path / "none.vnnlib")
    with pytest.raises(FathomError, match="expected a file to read"):
        read_property(tmp_path)


@settings(max_examples=400)
@given(st.data())
def test_no_damage_to_a_file_escapes_as_another_error(data: st.DataObject) -> None:
    words = re.findall(r"[()]|[^\s()]+", re.sub(";.*", "", header(2, 2) + PROP_6))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(words) - 1))
        other = data.draw(st.sampled_from([*words, "-", "*", "not", "=>", "1e5", "true", "", "()", "\x00"]))
        words[at : at + data.draw(st.integers(0, 2))] = [other]
    try:
        found = read_property(" ".join(words).encode())
        to_problem(found, model(found.inputs, found.outputs))
    except NotUnderstood as refusal:
        assert "expected" in str(refusal)


# Problems.


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"), [(3, 2, r"many X as this model has: 3 \(in \[3\]\), got 2"), (2, 5, "many Y .*5.*got 2")]
)
def test_a_property_of_another_model_is_refused(inputs: int, outputs: int, message: str) -> None:
    with pytest.raises(FathomError, match=message):
        to_problem(of(PROP_6), model(inputs, outputs))


def test_numbers_beyond_float64_are_refused() -> None:
    with pytest.raises(NotUnderstood, match=r"range of torch.float64, got one of about 2\^1328"):
        to_problem(of("(assert (<= 0 X_0 1e400))(assert (<= 0 X_1 1))"), model(2, 2))
    with pytest.raises(NotUnderstood, match=r"range of torch.float32, got one of 1e\+39"):
        to_problem(of("(assert (<= 0 X_0 1e39))(assert (<= 0 X_1 1))"), model(2, 2))
    with pytest.raises(NotUnderstood, match="at most 15 digits"):
        to_problem(of(unit_box(2) + "(assert (<= (* 0.12345678901234567891 Y_0) Y_1))"), model(2, 2))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-99999, 99999), st.integers(0, 6)), min_size=1, max_size=4))
def test_rows_are_exact_and_keep_their_size(parts: list[tuple[int, int, int]]) -> None:
    numbers = [whole + Fraction(digits, 10**places) for whole, digits, places in parts]
    written = {~i: number for i, number in enumerate(numbers) if number}
    row = Row(tuple(sorted(written.items())), Fraction(1, 3), strict=False)
    coefficients, offset, blur = exact_row(row)
    factors = {Fraction(number) / written[variable] for variable, number in coefficients} or {Fraction(1)}
    factor = factors.pop()
    assert not factors and Fraction(1, 2) < factor <= 1  # one factor for all, exactly
    assert 0 < abs(Fraction(offset) - factor / 3) <= Fraction(blur) < Fraction(1, 1 << 53)


def test_equal_rows_are_left_as_written() -> None:
    problem = to_problem(of(unit_box(2) + "(assert (>= Y_0 3))(assert (= (* 0.25 Y_1) 0.1))"), model(2, 2))
    assert problem.spec is not None
    assert problem.spec.rows.tolist() == [[[-1, 0], [0, 0.25], [0, -0.25]]]
    assert problem.spec.offsets.tolist() == [[3, -0.1, 0.1]] and (problem.spec.blur > 0).tolist() == [[False, True, True]]


# Assignments.

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5)


@given(FLOATS, FLOATS)
def test_assignments_name_exactly_the_floats(x: list[float], y: list[float]) -> None:
    xs, ys = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=DOUBLE)
    text = assignment(xs, ys, Style.COMPETITION)
    pairs = re.findall(r"\(([XY]_[0-9]+) (-?[0-9]+\.[0-9]+(?:e-?[0-9]+)?)\)", text)
    assert text == "(" + "\n".join(f"({name} {number})" for name, number in pairs) + ")"
    assert [name for name, _ in pairs] == [*(f"X_{i}" for i in range(len(x))), *(f"Y_{j}" for j in range(len(y)))]
    for kind in (float, np.float64, np.float32):  # a reader of any type gets the same numbers
        assert [float(kind(number)) for _, number in pairs] == [*x, *y]
    lines = assignment(xs, ys, Style.STANDARD).split("\n")
    assert lines[0] == f"X float32 [{len(x)}]" and lines[1 + len(x)] == f"Y float32 [{len(y)}]"
    assert [float(line) for line in lines[1 : 1 + len(x)] + lines[2 + len(x) :]] == [*x, *y]


def test_the_standard_form_has_names_and_shapes(tmp_path: Path) -> None:
    x, y = torch.tensor([0.5, 0.3, -1.0]), torch.tensor([0.1], dtype=DOUBLE)
    ports = (Port("A", (1, 2), 0), Port("B", (1,), 2))
    expected = "A float32 [1,2]\n0.5\n0.30000001192092896\nB float32 [1]\n-1.0\nY float32 [1]\n0.1"
    assert assignment(x, y, Style.STANDARD, inputs=ports) == expected
    files = serialise(tmp_path / "new" / "folder", x, y, inputs=ports)
    assert [file.name for file in files] == ["A.pb", "B.pb", "Y.pb"]
    stored = [onnx.TensorProto.FromString(file.read_bytes()) for file in files]
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in stored]
    assert [array.shape for array in arrays] == [(1, 2), (1,), (1,)] and {array.dtype for array in arrays} == {
        np.dtype("float32")
    }
    assert np.array_equal(np.concatenate([array.ravel() for array in arrays]), np.array([0.5, 0.3, -1.0, 0.1], dtype=np.float32))
    assert [tensor.name for tensor in stored] == ["A", "B", "Y"]


def test_assignments_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    one, bad = torch.ones(2), torch.tensor([0.0, math.inf])
    for style in Style:
        with pytest.raises(FathomError, match="got inf for element 1 of Y"):
            assignment(one, bad, style)
    with pytest.raises(FathomError, match="expected inputs of 2 elements in all, got A"):
        assignment(one, one, Style.STANDARD, inputs=(Port("A", (3,), 0),))
    with pytest.raises(FathomError, match=r"can name a file, got '\.\./A'"):
        serialise(tmp_path, one, one, inputs=(Port("../A", (2,), 0),))
    (tmp_path / "file").write_text("")
    with pytest.raises(FathomError, match="could not write"):
        serialise(tmp_path / "file", one, one)


# The public benchmarks.

FAMILIES = {  # inputs of the first property
    "acasxu": 5, "cgan_2023": 5, "collins_rul_cnn": 400, "cora": 784, "dist_shift_2023": 792, "linearizenn": 4, "mnist_fc": 784,
    "oval21": 3072, "reach_prob_density": 14, "rl_benchmarks": 4, "safenlp": 30, "sri_resnet_a": 3072, "tllverifybench": 2,
    "vit_2023": 3072,
}  # fmt: skip


@pytest.mark.public
@pytest.mark.parametrize("family", FAMILIES)
def test_public_properties_are_read(family: str, vnncomp: Path) -> None:
    files = sorted((vnncomp / family / "vnnlib").rglob("*.vnnlib.gz"))
    assert files
    for file in files[:: math.ceil(len(files) / 8)]:
        found = read_property(file)
        words = Counter(re.findall(r"declare-const ([XY])_", gzip.decompress(file.read_bytes()).decode()))
        assert (found.inputs, found.outputs) == (words["X"], words["Y"])
        assert len(found.sets) == 1 and all(None not in ends for ends in found.box(0))
        assert all(lower <= upper for lower, upper in found.box(0))
    assert read_property(files[0]).inputs == FAMILIES[family]


@pytest.mark.public
def test_some_public_properties_are_what_they_say(vnncomp: Path) -> None:
    seventh = read_property(vnncomp / "acasxu" / "vnnlib" / "prop_7.vnnlib.gz")
    assert seventh.box(0)[0] == (Fraction("-0.328422877"), Fraction("0.679857769"))
    assert [len(clause) for clause in seventh.sets[0].clauses] == [3, 3]
    low, high = (
        Row(((~0, sign),), Fraction(number), strict=False)
        for sign, number in ((1, "-0.5064396858215332"), (-1, "0.5364396572113037"))
    )
    name = "cGAN_imgSz32_nCh_1_prop_0_input_eps_0.010_output_eps_0.015.vnnlib.gz"
    assert read_property(vnncomp / "cgan_2023" / "vnnlib" / name).sets[0].clauses == ((high,), (low,))
    robot = read_property(vnncomp / "reach_prob_density" / "vnnlib" / "robot_0.vnnlib.gz")
    assert [len(clause) for clause in robot.sets[0].clauses] == [5]
    assert robot.sets[0].clauses[0][4] == Row(((~0, -1),), Fraction("0.06360789758578266"), strict=False)
