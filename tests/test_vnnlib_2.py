"""VNN-LIB 2: several networks, hidden values, polynomial constraints, element types."""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from command import fathom, write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, numpy_helper
from onnx_models import f, model, op

from fathom.audits.verify import verify
from fathom.capture.joint import read_joint
from fathom.capture.monomials import append_monomials
from fathom.capture.onnx_file import read_onnx
from fathom.capture.vnnlib import Property, read_property, to_problem
from fathom.capture.vnnlib.declarations import MOST_MONOMIALS
from fathom.capture.vnnlib.query import parse_query
from fathom.core.errors import FathomError, NotUnderstood
from fathom.ops.dense import Dense

VERSION = "(vnnlib-version <2.0>)\n"
ONE = VERSION + "(declare-network N (declare-input X real [1,2]) (declare-output Y real [2]))\n"
TWO = ONE + "(declare-network M (declare-input A real [1,2]) (declare-output B real [2]))\n"
UNIT = "(assert (and (<= 0.0 X[0,0] 1.0) (<= 0.0 X[0,1] 1.0)))\n"
SAME = "(assert (== X[0,0] A[0,0]))(assert (<= X[0,1] A[0,1]))(assert (>= X[0,1] A[0,1]))\n"


def of(text: str) -> Property:
    return read_property(text.encode())


def run(path: Path, x: np.ndarray) -> np.ndarray:
    """What a model gives for each of x [n, d], one at a time."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
    return np.stack([session.run(None, {name: row.reshape(shape)})[0].reshape(-1) for row in x.astype(np.float32)])


def grid(lower: float, upper: float, inputs: int, count: int) -> np.ndarray:
    return np.array(list(itertools.product(np.linspace(lower, upper, count), repeat=inputs)), dtype=np.float32)


def changed(source: Path, target: Path, weight: str, by: np.ndarray | float) -> Path:
    """A copy of a model with something added to one weight."""
    proto = ModelProto.FromString(source.read_bytes())
    for tensor in proto.graph.initializer:
        if tensor.name == weight:
            tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) + by).astype(np.float32), weight))
    target.write_bytes(proto.SerializeToString())
    return target


def ask(folder: Path, text: str, **files: Path) -> str:
    (folder / "q.vnnlib").write_text(text)
    return verify(files, folder / "q.vnnlib", seconds=60).verdict


# What is read.


def test_tensors_lie_end_to_end_and_are_indexed_row_by_row() -> None:
    text = VERSION + (
        '(declare-network N (declare-input X real [2, 3]) (declare-input S real []) (declare-hidden H real [4] "a \\"b; (c)")\n'
        "  (declare-output Y real [1,2]) ; (a comment\n (declare-output Z real []))\n"
        "(declare-network M (declare-input A real [2]) (declare-output B real [1]))\n"
        "(assert (and (>= X[0,0] 0.0) (<= X[ 0, 0 ] 1.0) (<= 0 X [0,1] 1) (<= 0 X[0,2] 1) (<= 0 X[1,0] 1) (<= 0 X[1,1] 1)\n"
        " (<= 0 X[1,2] 2) (<= 0 S 3) (<= 0 A[0] 4) (<= 0 A[1] 5)))\n"
        "(assert (<= (+ Y[0,1] Z H[3] B[0]) -1.5e-1))"
    )
    found = of(text)
    assert (found.inputs, found.outputs) == (9, 8)
    assert [upper for _, upper in found.base] == [1, 1, 1, 1, 1, 2, 3, 4, 5]
    assert found.sets[0].clauses[0][0].coefficients == ((~7, 1), (~6, 1), (~2, 1), (~1, 1))
    assert found.query is not None
    assert found.query.networks[0].hidden[0].onnx == 'a "b; (c)'
    assert [found.query.called(v) for v in (4, 6, 8, ~1, ~2, ~6, ~7)] == ["X[1,1]", "S", "A[1]", "Y[0,1]", "Z", "H[3]", "B[0]"]


def test_unequal_is_one_of_two_alternatives() -> None:
    (only,) = of(ONE + UNIT + "(assert (!= Y[0] Y[1]))").sets
    assert {tuple(c for _, c in row.coefficients) for (row,) in only.clauses} == {(1, -1), (-1, 1)}
    assert all(row.strict for (row,) in only.clauses)


def value(found: Property, point: dict[int, Fraction], variable: int) -> Fraction:
    """A variable, a product of variables and sums, or a sum of variables at a point."""
    query = found.query
    assert query is not None
    if ~variable >= query.outputs + MOST_MONOMIALS:
        terms, constant = query.sums[~variable - query.outputs - MOST_MONOMIALS]
        return sum((c * point[v] for v, c in terms), Fraction(constant))
    if ~variable >= query.outputs:
        factors = [value(found, point, v) for v in query.monomials[~variable - query.outputs]]
        return math.prod(factors, start=Fraction(1))
    return point[variable]


LONG = Fraction("0.12345678901234567891")
"""More digits than a float64 has, so that a sum with it is multiplied out."""

TERMS = [
    ("(* (+ X[0,0] Y[1] 1) (- X[0,0] Y[1]) 2)", lambda a, b, c, d: (a + d + 1) * (a - d) * 2),
    ("(* X[0,1] X[0,1] X[0,1])", lambda a, b, c, d: b**3),
    ("(* (- Y[0] Y[1]) (- Y[1] Y[0]))", lambda a, b, c, d: -((c - d) ** 2)),
    (
        "(* (+ (* 0.1 X[0,0]) (* 0.3 Y[0]) 0.7) (+ 0.7 (* 0.3 Y[0]) (/ X[0,0] 10)))",
        lambda a, b, c, d: ((a + 3 * c + 7) / 10) ** 2,
    ),
    ("(* (+ (* X[0,0] Y[0]) 3) (+ X[0,1] 1) (- Y[1] X[0,1]))", lambda a, b, c, d: (a * c + 3) * (b + 1) * (d - b)),
    (
        "(* (+ (* 0.12345678901234567891 X[0,0]) 1) (+ Y[0] 1))",
        lambda a, b, c, d: (LONG * a + 1) * (c + 1),
    ),
    ("(- (* (- Y[0] 1) (- Y[0] 1)) (* Y[0] Y[0]))", lambda a, b, c, d: 1 - 2 * c),
    ("(* (- X[0,0]) (* -2 X[0,0]) (/ Y[0] 4))", lambda a, b, c, d: a**2 * c / 2),
]


@pytest.mark.parametrize("k", range(len(TERMS)))
def test_products_say_what_is_written(k: int) -> None:
    text, meaning = TERMS[k]
    found = of(ONE + UNIT + f"(assert (<= {text} 0.25))")
    numbers = [Fraction(2, 3), Fraction(-3), Fraction(5), Fraction(7, 2)]
    point = dict(zip((0, 1, ~0, ~1), numbers, strict=True))
    (row,) = found.sets[0].clauses[0]
    said = sum((c * value(found, point, v) for v, c in row.coefficients), row.constant)
    assert said == meaning(*numbers) - Fraction(1, 4)


def test_squares_stay_squares() -> None:
    found = of(ONE + UNIT + "(assert (>= (+ (* (- Y[0] X[0,0]) (- Y[0] X[0,0])) (* (- X[0,0] Y[0]) (- X[0,0] Y[0]))) 1))")
    assert found.query is not None
    assert len(found.query.monomials) == len(found.query.sums) == 1


def test_equal_inputs_become_one() -> None:
    found = of(TWO + UNIT + SAME + "(assert (<= Y[0] B[0]))")
    assert found.query is not None
    assert (found.inputs, found.query.columns) == (2, (0, 1, 0, 1))
    assert len(found.sets[0].clauses[0]) == 1
    chained = of(TWO + UNIT + "(assert (and (== A[0,0] A[0,1]) (== A[0,1] X[0,1]))) (assert (<= Y[0] B[0]))")
    assert chained.query is not None
    assert chained.query.columns == (0, 1, 1, 1)


def test_only_what_always_holds_makes_inputs_equal() -> None:
    box = "(assert (and (<= 0 A[0,0] 1) (<= 0 A[0,1] 1)))"
    for weaker in (
        "(or (== X[0,0] A[0,0]) (<= Y[0] 0))",
        "(<= X[0,0] A[0,0])",
        "(== X[0,0] (+ A[0,0] 1))",
        "(== X[0,0] (- A[0,0]))",
    ):
        found = of(TWO + UNIT + box + f"(assert {weaker})")
        assert found.query is not None and found.query.columns == (0, 1, 2, 3), weaker


def test_inputs_that_equal_earlier_outputs_are_those() -> None:
    found = of(TWO + UNIT + "(assert (== A[0,0] Y[1])) (assert (== Y[0] A[0,1])) (assert (<= B[0] 0))")
    assert found.query is not None
    assert found.query.columns == (0, 1, ~1, ~0)
    with pytest.raises(NotUnderstood, match=r"no lower bound for X\[0,0\]"):  # of a later network's output: a loop in general
        of(TWO + "(assert (== X[0,0] B[0])) (assert (<= B[0] 0))")


def test_bounds_follow_from_differences() -> None:
    near = "(assert (and (<= (- X[0,0] A[0,0]) 0.25) (>= (- X[0,0] A[0,0]) -0.25) (<= -1 (* 2 (- A[0,1] A[0,0])) 1)))"
    found = of(TWO + UNIT + near + "(assert (<= Y[0] B[0]))")
    assert [tuple(map(float, ends)) for ends in found.base] == [(0, 1), (0, 1), (-0.25, 1.25), (-0.75, 1.75)]


# What is refused, and where.


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("(declare-network N)", "line 1, column 1", "(vnnlib-version <2.0>) before all else"),
        ("(vnnlib-version 2.0)", "line 1, column 17", "<2.0>, got '2.0'"),
        ("(vnnlib-version <3.0>)", "line 1, column 17", "got '<3.0>'"),
        (VERSION, "line 2, column 1", "then a (declare-network ...), got the end"),
        (VERSION + VERSION, "line 2, column 1", "one vnnlib-version"),
        (VERSION + "(assert (<= X[0] 1))", "line 2, column 13", "got 'X[0]'"),
        (VERSION + "(declare-network N (declare-output Y real [1]))", "line 2, column 1", "(declare-input ...)"),
        (VERSION + "(declare-network N (declare-input Y real [1]))", "line 2, column 1", "(declare-output ...)"),
        (VERSION + "(declare-network 7 (declare-input Y real [1]))", "line 2, column 18", "a network's name"),
        (VERSION + "(declare-input X real [1])", "line 2, column 2", "at the top level"),
        (
            VERSION + "(declare-network N (declare-output Y real [1]) (declare-input X real [1]))",
            "line 2, column 48",
            "(declare-input ...), then",
        ),
        (VERSION + "(declare-network N (declare-input X real))", "line 2, column 37", "a shape of positive sizes"),
        (VERSION + "(declare-network N (declare-input X))", "line 2, column 20", "NAME TYPE [SIZES]"),
        (VERSION + "(declare-network N (declare-input X real [0]))", "line 2, column 37", "positive sizes"),
        (VERSION + "(declare-network N (declare-input X real [a]))", "line 2, column 37", "positive sizes"),
        (VERSION + "(declare-network N (declare-input X real [1))", "line 2, column 20", "got 4 words"),
        (VERSION + "(declare-network N (declare-input X real [99999999]))", "line 2, column 37", "16777216 elements"),
        (
            VERSION + "(declare-network N (declare-input X int8 [1]))",
            "line 2, column 37",
            "float64 and a shape such as [1,2], got 'int8",
        ),
        (VERSION + "(declare-network N (declare-input X float16 [1]))", "line 2, column 37", "got 'float16 [1]'"),
        (VERSION + '(declare-network N (declare-input X real [1] "x"))', "line 2, column 20", "and no more"),
        (VERSION + "(declare-network N (declare-input X real [1] initialized))", "line 2, column 20", "and no more"),
        (VERSION + "(declare-network N (declare-hidden H real [1] h))", "line 2, column 47", "in quotes"),
        (VERSION + '(declare-network N (declare-hidden H real [1] "))', "line 2, column 47", "in quotes"),
        (
            VERSION + "(declare-network N (declare-input X real [1]) (declare-input X real [1]))",
            "line 2, column 62",
            "not declared yet",
        ),
        (
            ONE + "(declare-network N (declare-input A real [1]) (declare-output B real [1]))",
            "line 3, column 18",
            "not declared yet",
        ),
        (ONE + UNIT + "(declare-network M (declare-input A real [1]))", "line 4, column 1", "before the first assertion"),
        (
            ONE + "(declare-network M (equal-to Q) (declare-input A real [1,2])(declare-output B real [2]))",
            "line 3, column 20",
            "(N)",
        ),
        (
            ONE + "(declare-network M (equal-to N) (declare-input A real [2])(declare-output B real [2]))",
            "line 3, column 20",
            "X real [1, 2], where there is A real [2]",
        ),
        (
            ONE + "(declare-network M (isomorphic-to N) (declare-input A real [1,2]) (declare-input C real [1])"
            "(declare-output B real [2]))",
            "line 3, column 20",
            "as many inputs and outputs",
        ),
        (ONE + "(declare-network M (declare-input A real [1]) (equal-to N))", "line 3, column 47", "(declare-input ...), then"),
        (ONE + "(assert (<= X[0] 1))", "line 3, column 13", "an index for each of its dimensions [1, 2], got 'X[0]'"),
        (ONE + "(assert (<= X 1))", "line 3, column 13", "an index for each"),
        (ONE + "(assert (<= X[0,2] 1))", "line 3, column 13", "less than its dimension"),
        (ONE + "(assert (<= X[0,-1] 1))", "line 3, column 13", "an index for each"),
        (ONE + "(assert (<= X[] 1))", "line 3, column 13", "an index for each"),
        (ONE + "(assert (<= X_0 1))", "line 3, column 13", "a declared variable"),
        (ONE + "(assert (<= N 1))", "line 3, column 13", "got 'N'"),
        (ONE + "(assert (<= X[0,0 1))", "line 3, column 13", "an index for each"),
        (ONE + "(assert (<= (/ 1 X[0,0]) 1))", "line 3, column 18", "affine"),
        (ONE + "(assert (<= (exp X[0,0]) 1))", "line 3, column 14", "got 'exp'"),
        (ONE + f"(assert (<= (*{' Y[0]' * 17}) 1))", "line 3, column 96", "at most 16 factors"),
        (ONE + "(assert (+ X[0,0] 1))", "line 3, column 9", "got an arithmetic term in X[0,0]"),
        (ONE + "(assert (!= X[0,0]))", "line 3, column 9", "2 arguments of !="),
        (ONE + "(assert (declare-input A real [1]))", "line 3, column 9", "got a declaration"),
        (ONE + "(check-sat)", "line 3, column 2", "got 'check-sat'"),
        (ONE + '(assert "x")', "line 3, column 9", "a comparison"),
        (ONE + "(assert (<= X[0,0] 1)", "line 3, column 1", "a `)` for this `(`"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: str, place: str, message: str) -> None:
    with pytest.raises(NotUnderstood) as refusal:
        of(text)
    assert str(refusal.value).startswith(f"<bytes>, {place}: expected "), str(refusal.value)
    assert message in str(refusal.value)


def test_inputs_without_bounds_are_named_as_they_are_written() -> None:
    with pytest.raises(NotUnderstood, match=r"no upper bound for X\[0,1\]; add \(assert \(<= X\[0,1\] "):
        of(ONE + "(assert (and (<= 0 X[0,0] 1) (>= X[0,1] 0) (>= Y[0] 0)))")
    with pytest.raises(NotUnderstood, match=r"no lower bound for A\[0,1\]"):
        of(TWO + UNIT + "(assert (== A[0,0] X[0,1])) (assert (>= Y[0] B[0]))")


def test_large_products_end() -> None:
    power = f"(+ (* {LONG.numerator}.1 X[0,0]) X[0,1] Y[0] Y[1] A[0,0] A[0,1] B[0] B[1])"
    with pytest.raises(NotUnderstood, match=r"different products|steps"):
        of(TWO + UNIT + f"(assert (<= (* {power * 16}) 1))")


def test_depth_is_no_limit() -> None:
    deep = 50_000
    assert of(ONE + UNIT + "(assert " + "(and " * deep + "(<= Y[0] 1)" + ")" * deep + ")").sets


WORDS = re.findall(
    r"[^\s()\[\]]+|[()\[\]]", TWO.replace("M (", "M (isomorphic-to N) (") + UNIT + SAME + "(assert (<= (* Y[0] B[1]) 2))"
)


@settings(max_examples=400)
@given(st.data())
def test_no_damage_to_a_file_escapes_as_another_error(data: st.DataObject) -> None:
    words = list(WORDS)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(words) - 1))
        other = data.draw(st.sampled_from([*words, "-", "*", '"', "[", "==", "1e5", "true", "", "()", "\x00", "[]", "equal-to"]))
        words[at : at + data.draw(st.integers(0, 2))] = [other]
    try:
        of(" ".join(words))
    except NotUnderstood as refusal:
        assert "expected" in str(refusal)


# Models.


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """n and m of one graph and other weights; the values behind n's rectifiers are v1 and v2; near differs from n by a little."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: write_model(folder / f"{name}.onnx", [2, 5, 5, 2], seed) for seed, name in enumerate("nm")}
    found["shifted"] = changed(found["n"], folder / "shifted.onnx", "b2", 0.125)
    noise = np.random.default_rng(5).normal(size=(5, 5)) * 0.1
    found["near"] = changed(found["n"], folder / "near.onnx", "w1", noise)
    found["wide"] = write_model(folder / "wide.onnx", [2, 5, 2], 3)
    return found


@pytest.mark.parametrize(
    ("text", "files", "message"),
    [
        (ONE, {}, r"\(N\), and for no other, got none; give each as --network NAME=FILE"),
        (ONE, {"M": "n"}, "got M"),
        (ONE, {"N": "n", "M": "m"}, "got N, M"),
        (TWO.replace("M (", "M (equal-to N) ("), {"N": "n", "M": "m"}, r"\(N\)"),
        (TWO, {"N": "n"}, r"\(N, M\)"),
        (TWO.replace("M (", "M (isomorphic-to N) ("), {"N": "n", "M": "wide"}, "2 nodes of Gemm where that has 3"),
        (ONE.replace("[1,2]", "[3]"), {"N": "n"}, r"inputs as the model has them \(x \[2\]\), got X \[3\]"),
        (ONE.replace("Y real [2]", "Y real [1]"), {"N": "n"}, r"got Y \[1\]"),
        (ONE.replace("real [1,2]", "float64 [2]"), {"N": "n"}, "got X of float64: proofs are about real arithmetic"),
        (ONE.replace("real", "float32"), {"N": "n"}, "declare all variables as real"),
        (
            ONE.replace("(declare-output", '(declare-hidden H real [5] "none") (declare-output'),
            {"N": "n"},
            "got 'none'.*there are v0",
        ),
        (ONE.replace("(declare-output", '(declare-hidden H real [2] "y") (declare-output'), {"N": "n"}, "an output of the model"),
        (ONE.replace("(declare-output", '(declare-hidden H real [4] "v1") (declare-output'), {"N": "n"}, r"v1 \[.*5\].*H \[4\]"),
        (ONE.replace("(declare-output", '(declare-hidden H real [2] "x") (declare-output'), {"N": "n"}, "got 'x'"),
    ],
)
def test_models_are_what_is_declared(text: str, files: dict[str, str], message: str, models: dict[str, Path]) -> None:
    query, _ = parse_query("q", text)
    with pytest.raises(FathomError, match=message):
        read_joint(query, {name: models[file] for name, file in files.items()})


def test_a_value_may_be_named_by_its_node(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(op("Relu", "x").named("h"), op("Neg", "h"), x=(1, 2)).SerializeToString())
    text = ONE.replace("(declare-output", '(declare-hidden H real [2] "the Relu of h") (declare-output') + UNIT
    assert ask(tmp_path, text + "(assert (>= H[0] 0.5))", N=path) == "sat"
    assert ask(tmp_path, text + "(assert (>= (+ Y[0] H[0]) 0.5))", N=path) == "unsat"


def test_different_element_types_are_not_mixed(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "d.onnx"
    path.write_bytes(model(op("Relu", "x"), x=(1, 2), kind=TensorProto.DOUBLE).SerializeToString())
    with pytest.raises(NotUnderstood, match="models of one element type"):
        ask(tmp_path, TWO + UNIT + SAME + "(assert (>= Y[0] B[0]))", N=models["n"], M=path)


def test_the_joint_program_is_every_program_and_its_network(models: dict[str, Path]) -> None:
    text = (
        TWO.replace("(declare-output Y", '(declare-hidden H real [5] "v1") (declare-hidden G real [5] "h1") (declare-output Y')
        + "(declare-network K (equal-to N) (declare-input C real [1,2]) (declare-output D real [2]))\n"
        + UNIT
        + "(assert (and (== A[0,0] X[0,1]) (== A[0,1] Y[0]) (<= 0 C[0,0] 1) (== C[0,1] B[1])))"
        + "(assert (<= (* Y[0] B[1]) (* X[0,0] (+ X[0,0] 0.1) H[2])))"
    )
    found = of(text)
    assert found.query is not None
    captured = read_joint(found.query, {"N": models["n"], "M": models["m"]})
    x = torch.from_numpy(grid(-2, 2, 3, 5))
    y = captured.program(x).numpy()
    assert y.shape == (125, found.outputs)
    first = run(models["n"], x[:, :2].numpy())
    second = run(models["m"], np.stack([x[:, 1].numpy(), first[:, 0]], 1))
    third = run(models["n"], np.stack([x[:, 2].numpy(), second[:, 1]], 1))
    assert (y[:, :2] == first).all() and (y[:, 12:14] == second).all() and (y[:, 14:16] == third).all()
    assert (y[:, 2:7] >= 0).all() and (y[:, 2:7] == 0).any()
    assert y[:, 16] == pytest.approx(first[:, 0] * second[:, 1].astype(np.float64))
    with torch.no_grad():
        assert captured.network.freeze(torch.float64)(x.double()).numpy() == pytest.approx(y, abs=1e-4)


def test_a_single_plain_network_is_left_as_it_is(models: dict[str, Path]) -> None:
    found = of(ONE + UNIT + "(assert (<= Y[0] Y[1]))")
    assert found.query is not None
    captured, plain = read_joint(found.query, models["n"]), read_onnx(models["n"])
    assert (captured.program.digest, captured.network.digest) == (plain.program.digest, plain.network.digest)


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=6).map(sorted).map(tuple), unique=True, max_size=6),
    st.lists(st.integers(-3, 3), min_size=2, max_size=2),
)
def test_monomials_are_products(monomials: list[tuple[int, ...]], point: list[int]) -> None:
    sums = Dense(torch.tensor([[1.0, -1.0], [2.0, 0.0]], dtype=torch.float64), torch.tensor([0.0, 3.0], dtype=torch.float64))
    network = append_monomials(2, 1, monomials, sums)
    y = network(torch.tensor([point], dtype=torch.float64))[0].tolist()
    values = [*point, point[0] - point[1], 2 * point[0] + 3]
    assert y == [point[0], *(float(np.prod([values[i] for i in monomial])) for monomial in monomials)]


# Verdicts.


@pytest.mark.parametrize("threshold", [-1.0, -0.25, 0.0, 0.25, 1.0])
def test_both_versions_say_the_same(threshold: float, models: dict[str, Path], tmp_path: Path) -> None:
    old = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1"))
    rule = "(or (and (<= Y_0 Y_1) (>= X_0 0.5)) (>= (+ Y_0 (* 2.0 X_1)) 6.0))"
    old += f"(assert (and (<= -1 X_0 1) (<= -1 X_1 1)))(assert (or {rule} (>= Y_1 {threshold + 2})))"
    body = old.split(")(assert", 1)[1]
    new = ONE + "(assert" + re.sub(r"X_(\d)", r"X[0,\1]", re.sub(r"Y_(\d)", r"Y[\1]", body))
    problems = [to_problem(of(text), read_onnx(models["n"])) for text in (old, new)]
    specs = [problem.spec for problem in problems]
    assert specs[0] is not None and specs[1] is not None and torch.equal(specs[0].rows, specs[1].rows)
    assert ask(tmp_path, old, N=models["n"]) == ask(tmp_path, new, N=models["n"])


@pytest.mark.parametrize("other", ["m", "near"])
def test_two_networks_differ_by_no_more_than_they_do(other: str, models: dict[str, Path], tmp_path: Path) -> None:
    points = grid(0, 1, 2, 41)
    most = np.abs(run(models["n"], points)[:, 0] - run(models[other], points)[:, 0]).max()
    apart = "(assert (or (>= (- Y[0] B[0]) {0:.6f}) (<= (- Y[0] B[0]) -{0:.6f})))"
    files = {"N": models["n"], "M": models[other]}
    assert ask(tmp_path, TWO + UNIT + SAME + apart.format(most * 0.95), **files) == "sat"
    assert ask(tmp_path, TWO + UNIT + SAME + apart.format(most * 1.2 + 0.01), **files) == "unsat"


def test_a_shift_is_found_and_no_more(models: dict[str, Path], tmp_path: Path) -> None:
    files = {"N": models["n"], "M": models["shifted"]}
    assert ask(tmp_path, TWO + UNIT + SAME + "(assert (>= (- B[0] Y[0]) 0.12))", **files) == "sat"
    assert ask(tmp_path, TWO + UNIT + SAME + "(assert (>= (- B[0] Y[0]) 0.13))", **files) == "unsat"


def test_monotony_is_a_question_about_a_network_and_itself(tmp_path: Path) -> None:
    rising, falling = tmp_path / "rising.onnx", tmp_path / "falling.onnx"
    rising.write_bytes(model(op("MatMul", "x", f(1, 2).reshape(2, 1)).named("h"), op("Relu", "h"), x=(1, 2)).SerializeToString())
    falling.write_bytes(
        model(op("MatMul", "x", f(1, -2).reshape(2, 1)).named("h"), op("Relu", "h"), x=(1, 2)).SerializeToString()
    )
    text = TWO.replace("[2]", "[1]").replace("M (", "M (equal-to N) (") + UNIT + UNIT.replace("X", "A")
    text += "(assert (== X[0,0] A[0,0]))(assert (<= X[0,1] A[0,1]))(assert (>= Y[0] (+ B[0] 0.01)))"
    assert ask(tmp_path, text, N=rising) == "unsat"
    assert ask(tmp_path, text, N=falling) == "sat"


RULES = [
    "(<= (* Y[0] B[0]) {})",
    "(>= (+ (* Y[0] Y[0]) (* Y[1] Y[1])) {})",
    "(and (>= H[0] {}) (<= B[1] 0.0))",
    "(or (>= (- Y[0] B[1]) {}) (and (>= (* X[0,0] Y[1]) {}) (<= H[3] 0.1)))",
    "(>= (* 0.5 X[0,0] X[0,1] (+ Y[0] H[1])) {})",
    "(<= (+ (* (- Y[0] B[0]) (- Y[0] B[0])) (* (- Y[1] B[1] 0.1) (- Y[1] B[1] 0.1))) {})",
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("threshold", [-1.5, -0.2, 0.1, 0.6, 3.0])
@pytest.mark.parametrize("chained", [False, True])
def test_verdicts_agree_with_enumeration(
    rule: str, threshold: float, *, chained: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    """M is fed with N's inputs, or with N's outputs; the answer is that of a fine grid, but where that is not fine enough."""
    text = TWO.replace("(declare-output Y", '(declare-hidden H real [5] "v1") (declare-output Y') + UNIT
    text += "(assert (and (== A[0,0] Y[0]) (== A[0,1] Y[1])))" if chained else SAME
    path = tmp_path / "q.vnnlib"
    path.write_text(text + f"(assert {rule.format(threshold, threshold)})")
    found = verify({"N": models["n"], "M": models["m"]}, path, seconds=60)
    x = grid(0, 1, 2, 41)
    y = run(models["n"], x)
    b = run(models["m"], y if chained else x)
    hidden = _hidden(models["n"], x)
    holds = np.array([_holds(rule, threshold, *point) for point in zip(x, y, b, hidden, strict=True)])
    assert found.verdict in ("sat", "unsat")
    assert found.verdict == "sat" or not holds.any()
    if found.verdict == "sat":
        given, outputs = found.witness or (torch.zeros(0), torch.zeros(0))
        point = given[None, :2].numpy(), run(models["n"], given[None, :2].numpy())
        other = run(models["m"], given[None, 2:].numpy())
        assert outputs.tolist() == [*point[1][0], *outputs.tolist()[2:7], *other[0]]
        assert given[2:].tolist() == (point[1][0] if chained else point[0][0]).tolist()
        assert _holds(rule, threshold, point[0][0], point[1][0], other[0], outputs.numpy()[2:7])
        assert outputs.numpy()[2:7] == pytest.approx(_hidden(models["n"], point[0])[0], abs=1e-5)


def _hidden(path: Path, x: np.ndarray) -> np.ndarray:
    proto = ModelProto.FromString(path.read_bytes())
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return np.maximum(x @ weights["w0"] + weights["b0"], 0)


def _holds(rule: str, t: float, x: np.ndarray, y: np.ndarray, b: np.ndarray, h: np.ndarray) -> bool:
    x, y, b, h = (part.astype(np.float64) for part in (x, y, b, h))
    return bool(
        {
            RULES[0]: lambda: y[0] * b[0] <= t,
            RULES[1]: lambda: y[0] ** 2 + y[1] ** 2 >= t,
            RULES[2]: lambda: h[0] >= t and b[1] <= 0,
            RULES[3]: lambda: y[0] - b[1] >= t or (x[0] * y[1] >= t and h[3] <= 0.1),
            RULES[4]: lambda: 0.5 * x[0] * x[1] * (y[0] + h[1]) >= t,
            RULES[5]: lambda: (y[0] - b[0]) ** 2 + (y[1] - b[1] - 0.1) ** 2 <= t,
        }[rule]()
    )


# The command line.


def test_assignments_follow_the_declarations(models: dict[str, Path], tmp_path: Path) -> None:
    text = TWO.replace("(declare-output Y", '(declare-hidden H real [1,5] "v1") (declare-output Y') + UNIT + SAME
    (tmp_path / "q.vnnlib").write_text(text + "(assert (>= Y[0] (- B[0] 9.0)))")
    words = ["verify", "q.vnnlib", "--network", f"M={models['m']}", "--network", f"N={models['n']}"]
    result = fathom(*words, folder=tmp_path)
    lines = result.out.splitlines()
    assert (result.code, result.verdict) == (0, "sat")
    heads = {1: "X float32 [1,2]", 4: "H float32 [1,5]", 10: "Y float32 [2]", 13: "A float32 [1,2]", 16: "B float32 [2]"}
    assert {i: line for i, line in enumerate(lines) if " " in line} == heads
    assert lines[2:4] == lines[14:16]
    assert len(lines) == 19
    fathom(*words, "--serialise-assignments", "out", folder=tmp_path)
    tensors = {p.stem: TensorProto.FromString(p.read_bytes()) for p in (tmp_path / "out").iterdir()}
    assert {name: tuple(t.dims) for name, t in tensors.items()} == {"X": (1, 2), "H": (1, 5), "Y": (2,), "A": (1, 2), "B": (2,)}
    assert numpy_helper.to_array(tensors["A"]).dtype == np.float32
    competition = fathom(*words, "--competition", folder=tmp_path).out
    assert re.findall(r"\((\w+) ", competition) == [*(f"X_{i}" for i in range(4)), *(f"Y_{j}" for j in range(9))]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "--network"),
        (["--network", "N=n.onnx", "--network", "n.onnx"], 2, "NAME=FILE, once for each"),
        (["--network", "N=n.onnx", "--network", "N=n.onnx"], 2, "NAME=FILE, once for each"),
        (["--network", "n.onnx"], 1, "got a file without a name"),
        (["--network", "N=n.onnx"], 1, "(N, M), and for no other, got N"),
        (["--network", "N=n.onnx", "--network", "M=n.onnx", "--network", "K=n.onnx"], 1, "got N, M, K"),
        (["--network", "N=n.onnx", "--network", "M=none.onnx"], 1, "none.onnx"),
        (["--network", "N=n.onnx", "--network", "M=n.onnx", "--certificate", "c"], 1, "VNN-LIB 1 for a certificate"),
    ],
)
def test_files_that_do_not_fit_the_networks_are_an_error(
    words: list[str], code: int, message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "n.onnx").write_bytes(models["n"].read_bytes())
    (tmp_path / "q.vnnlib").write_text(TWO + UNIT + SAME + "(assert (>= Y[0] B[0]))")
    result = fathom("verify", "q.vnnlib", *words, folder=tmp_path)
    assert (result.code, result.out) == (code, "")
    assert message in " ".join(result.err.split())
    assert "Traceback" not in result.err


def test_a_property_of_version_1_speaks_of_one_network(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "q.vnnlib").write_text("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= 0 X_0 1))")
    words = ["--network", f"N={models['n']}", "--network", f"M={models['m']}"]
    result = fathom("verify", "q.vnnlib", *words, folder=tmp_path)
    assert (result.code, result.out) == (1, "")
    assert "VNN-LIB 1 speaks of one, got 2" in result.err


def test_bounds_on_what_a_network_is_fed_with_are_kept(models: dict[str, Path], tmp_path: Path) -> None:
    fed = TWO + UNIT + "(assert (and (== A[0,0] Y[0]) (== A[0,1] Y[1])))"
    files = {"N": models["n"], "M": models["m"]}
    assert ask(tmp_path, fed + "(assert (<= -100.0 A[0,0] 100.0))", **files) == "sat"
    assert ask(tmp_path, fed + "(assert (<= 100.0 A[0,0] 200.0))", **files) == "unsat"


@pytest.mark.parametrize(("value", "shape"), [("h", "[3]"), ("g", "[1,3]"), ("r", "[2,1]"), ("dead", "[3]")])
def test_hidden_values_survive_folding_and_lie_anywhere(value: str, shape: str, tmp_path: Path) -> None:
    """A value that is folded into the next layer, that layer's, a reshaped input, and one that no output needs."""
    path = tmp_path / "m.onnx"
    weight = np.array([[1.0, -2.0, 0.5], [0.25, 1.0, -1.0]], dtype=np.float32)
    nodes = [
        op("Gemm", "x", weight, f(1, 2, 3)).named("h"),
        op("BatchNormalization", "h", f(1, 2, 3), f(0, 1, 0), f(0.25, 0.5, 1), f(1, 2, 3), epsilon=0.0).named("g"),
        op("Reshape", "x", np.array([2, 1])).named("r"),
        op("Sigmoid", "h").named("dead"),
        op("Relu", "g"),
    ]
    path.write_bytes(model(*nodes, x=(1, 2)).SerializeToString())
    at = "0" if shape == "[3]" else "0,0"
    text = VERSION + "(declare-network N (declare-input X real [1,2])"
    text += f'(declare-hidden H real {shape} "{value}") (declare-output Y real [3]))' + UNIT
    most = {"h": 2.25, "g": 2.0, "r": 1.0, "dead": 1 / (1 + math.exp(-2.25))}[value]
    assert ask(tmp_path, text + f"(assert (>= H[{at}] {most - 0.01}))", N=path) == "sat"
    assert ask(tmp_path, text + f"(assert (>= H[{at}] {most + 0.01}))", N=path) == "unsat"


def test_a_query_that_allows_no_input_is_unsat(models: dict[str, Path], tmp_path: Path) -> None:
    assert ask(tmp_path, ONE + UNIT + "(assert (>= X[0,0] 2.0))", N=models["n"]) == "unsat"
