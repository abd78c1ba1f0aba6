"""Claims about the float32 program: what they hold against, every order of summation tried, and what they refuse.

The oracles are the program itself (onnxruntime), float32 sums in random orders with and without fused multiply-add, and the
error model of docs/certificate.md taken to its limit at every node.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor

from fathom.attacks.gradient import Gradient
from fathom.audits.engine import audit
from fathom.audits.portfolio import Portfolio
from fathom.audits.verify import Verification, verify
from fathom.bounds.affine import halvings, pays
from fathom.bounds.alpha import AlphaCrown
from fathom.bounds.backward import Reach
from fathom.bounds.crown import Crown
from fathom.bounds.intermediate import tighten
from fathom.bounds.interval import Interval
from fathom.bounds.sharpen import sharpen
from fathom.capture.onnx_file import read_onnx
from fathom.casebook.store import Casebook
from fathom.core.answer import Answers, ContradictionError, Verdict
from fathom.core.arithmetic import Arithmetic
from fathom.core.box import Box
from fathom.core.budget import Budget, Goal
from fathom.core.confirm import confirm
from fathom.core.enclosure import enclose
from fathom.core.errors import FathomError, NotUnderstood
from fathom.core.network import Network
from fathom.core.operator import Linear
from fathom.core.problem import Problem
from fathom.core.single import magnitudes, program_error
from fathom.core.solver import Hints, Observer, Solver, ignore
from fathom.ops.relu import LeakyRelu
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.targeted import Targeted
from fathom.prove.branch import BranchAndBound
from fathom.prove.input_split import InputTree
from fathom.prove.phase_split import PhaseTree
from fathom.prove.search import Tree, search
from fathom.prove.shallow_split import ShallowTree
from fathom.regions.box import BoxRegion
from tests.contracts.test_ops import LINEAR_CASES, Case
from tests.onnx_models import Array, Node, f, i, model, op, w

HUGE = 1e8  # 8 float32 apart


def saved(folder: Path, *nodes: Node, x: Sequence[int] = (1, 1)) -> Path:
    path = folder / "model.onnx"
    onnx.save(model(*nodes, x=x), path)
    return path


def asked(folder: Path, size: int, lower: float, upper: float, *rules: str, outputs: int = 1) -> Path:
    path = folder / "property.vnnlib"
    lines = [f"(declare-const {v}_{k} Real)" for v, count in (("X", size), ("Y", outputs)) for k in range(count)]
    lines += [f"(assert (>= X_{k} {lower!r}))(assert (<= X_{k} {upper!r}))" for k in range(size)]
    path.write_text("\n".join([*lines, *(f"(assert {rule})" for rule in rules)]))
    return path


def both(network: Path, prop: Path) -> tuple[Verification, Verification]:
    return tuple(verify(network, prop, seconds=30, arithmetic=way) for way in ("real", "float32"))  # type: ignore[return-value]


def gemm(name: str, value: str, weight: Array, shift: Array) -> Node:
    return op("Gemm", value, weight, shift).named(name)


# What is safe over the reals, and not in float32.


def test_a_large_bias_swallows_the_input(tmp_path: Path) -> None:
    """(x + 1e8) - 1e8 is x over the reals, and 0 or 8 in float32."""
    network = saved(tmp_path, op("Add", "x", f(HUGE)).named("a"), op("Sub", "a", f(HUGE)))
    real, single = both(network, asked(tmp_path, 1, 1.0, 2.0, "(<= Y_0 0.5)"))
    assert (real.verdict, single.verdict) == ("unsat", "sat")
    assert single.witness is not None and single.witness[1].item() == 0
    assert real.answers is not None and real.answers.found.rounding_failure.all()
    assert single.answers is not None and not single.answers.rounding_failure.any()
    assert (real.arithmetic, single.arithmetic) == (Arithmetic.REAL, Arithmetic.FLOAT32)


def test_a_sum_that_cancels_may_be_taken_in_any_order(tmp_path: Path) -> None:
    """1e8 x + x - 1e8 x is x, or 0 where the small term is added to a large one; whatever this machine's order gives."""
    for order in ([HUGE, 1, -HUGE], [HUGE, -HUGE, 1], [1, HUGE, -HUGE]):
        network = saved(tmp_path, gemm("y", "x", np.array(order, np.float32)[:, None], f(0)), x=(1, 3))
        real, single = both(network, asked(tmp_path, 3, 1.0, 1.0, "(<= Y_0 0.5)"))
        assert real.verdict == "unsat"
        assert single.verdict != "unsat"


def test_a_neuron_below_rounding_is_not_relied_on(tmp_path: Path) -> None:
    """relu(x + 1e8) - relu(1e8 - 1) > 0.9 for x >= 0 over the reals; in float32 both are 1e8."""
    first = gemm("a", "x", f(1, 0)[None], np.array([HUGE, HUGE - 8], np.float32))
    network = saved(tmp_path, first, op("Relu", "a").named("r"), gemm("y", "r", f(1, -1)[:, None], f(0)))
    real, single = both(network, asked(tmp_path, 1, 1.0, 1.5, "(<= Y_0 8.5)"))
    assert (real.verdict, single.verdict) == ("unsat", "sat")


def test_a_failure_over_the_reals_alone_is_none_of_the_program(tmp_path: Path) -> None:
    """x + 1e8 - 1e8 is 1 over the reals; the program gives 0, and is safe where 1 is what is asked for."""
    network = saved(tmp_path, op("Add", "x", f(HUGE)).named("a"), op("Sub", "a", f(HUGE)))
    prop = asked(tmp_path, 1, 1.0, 1.0, "(<= Y_0 1.5)", "(>= Y_0 0.5)")
    assert verify(network, prop, seconds=5, arithmetic="float32").verdict in ("unknown", "timed-out")


@pytest.mark.parametrize("at", [1e3, 2e3])
def test_overflow_is_not_proved(tmp_path: Path, at: float) -> None:
    """3e35 x - 3e35 x is 0, but for inputs at which float32 overflows, or comes near it."""
    wide = gemm("a", "x", f(3e35, 3e35)[None], f(0, 0))
    network = saved(tmp_path, wide, gemm("y", "a", f(1, -1)[:, None], f(0)))
    real, single = both(network, asked(tmp_path, 1, at, at, "(>= Y_0 1e36)"))
    assert (real.verdict, single.verdict) == ("unsat", "unknown")
    assert "overflow" in single.reason


# How close to the edge proofs go.


def test_a_linear_program_is_proved_up_to_its_worst_order(tmp_path: Path) -> None:
    """What some order of summation attains is never excluded; what the error model cannot reach, is."""
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=30).astype(np.float32), rng.uniform(1, 2, 30).astype(np.float32)
    network = saved(tmp_path, gemm("y", "x", weight[:, None], f(0)), x=(1, 30))
    products = [float(a) * float(b) for a, b in zip(weight, x, strict=True)]
    exact, size = sum(products), sum(map(abs, products))
    attained = min(float(summed(rng, weight, x, np.float32(0))) for _ in range(200))
    least = exact - 31 * 2.0**-24 * size * (1 + 1e-5)
    assert least < attained < exact
    point = [f"(>= X_{k} {float(v)!r})(<= X_{k} {float(v)!r})" for k, v in enumerate(x)]
    fixed = [rule for pair in point for rule in (pair[: pair.index(")") + 1], pair[pair.index(")") + 1 :])]
    for bound, proved in ((attained, False), (least, True)):
        prop = asked(tmp_path, 30, 0.0, 3.0, f"(<= Y_0 {bound!r})", *fixed)
        assert (verify(network, prop, seconds=5, arithmetic="float32").verdict == "unsat") == proved


# Programs of every order, and the error model at its limit, against every bound.


def summed(rng: np.random.Generator, a: Array, b: Array, start: np.float32) -> np.float32:
    """The sum of start and all a b in float32: in a random order, perhaps in two halves, with or without fused multiply-add."""
    fused, order = rng.random() < 0.5, rng.permutation(len(a))
    parts = np.array_split(order, rng.integers(1, 4))
    first = rng.random() < 0.5  # the bias first, or last
    totals = []
    for k, part in enumerate(parts):
        total = start if first and k == 0 else np.float32(0)
        for j in part:
            exact = np.float64(a[j]) * np.float64(b[j])
            total = np.float32(np.float64(total) + (exact if fused else np.float64(np.float32(exact))))
        totals.append(total)
    whole = totals[0]
    for total in totals[1:]:
        whole = np.float32(whole + total)
    return whole if first else np.float32(whole + start)


def program(network: Network, x: Array, rng: np.random.Generator) -> list[Array]:
    """The values of all nodes of a network of dense layers, sums and rectifiers, as some float32 program computes them."""
    values = [x.astype(np.float32)]
    for node in network.nodes[1:]:
        operator = node.operator
        read = [values[j] for j in node.inputs]
        if type(operator).__name__ == "Dense":
            weight, shift = operator.weight.numpy().astype(np.float32), operator.shift  # type: ignore[union-attr]
            starts = np.zeros(len(weight), np.float32) if shift is None else shift.numpy().astype(np.float32)
            values.append(np.array([summed(rng, row, read[0].reshape(-1), s) for row, s in zip(weight, starts, strict=True)]))
        else:
            assert operator is not None
            single = [torch.from_numpy(value)[None] for value in read]
            values.append(operator(*single)[0].numpy().astype(np.float32))
    return values


def perturbed(network: Network, x: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Values as far from the real functions of those before them as the error model allows, to either side at random."""
    values = [x]
    for node in network.nodes[1:]:
        assert node.operator is not None
        read = [values[j] for j in node.inputs]
        y = node.operator(*read)
        error = program_error(node.operator, magnitudes(node.operator, *(v.abs() for v in read))) if node.rounded else None
        if error is not None:
            y = y + error * (1 - 1e-6) * (2 * torch.randint(0, 2, y.shape, generator=generator) - 1)
        values.append(y)
    return values


def dense(*sizes: int, seed: int = 0, scale: float = 1.0, bend: str = "Relu") -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    nodes, value = [], "x"
    for k, (a, b) in enumerate(itertools.pairwise(sizes)):
        weight = (rng.normal(size=(a, b)) * scale / np.sqrt(a)).astype(np.float32)
        nodes.append(gemm(f"z{k}", value, weight, rng.normal(size=b).astype(np.float32)))
        nodes.append(op(bend, f"z{k}").named(f"r{k}"))
        value = f"r{k}"
    return model(*nodes[:-1], x=(1, sizes[0]))


def problem_of(content: onnx.ModelProto, radius: float, *, rows: int = 2, seed: int = 0) -> Problem:
    captured = read_onnx(content.SerializeToString(), "float32")
    g = torch.Generator().manual_seed(seed)
    d, m = captured.network.input_size, captured.network.output_size
    middle = torch.randn(1, d, generator=g, dtype=torch.float64).float().double()
    region = BoxRegion((middle - radius).float().double(), (middle + radius).float().double())
    rules = LinearRules.make(torch.randn(rows, m, generator=g, dtype=torch.float64), torch.zeros(rows), clause=list(range(rows)))
    return Problem.make(captured.program, captured.network, region, rules)


CONTENTS: dict[str, Callable[[], onnx.ModelProto]] = {
    "deep": lambda: dense(6, 12, 12, 8, 3, seed=1, scale=1.5),
    "shallow": lambda: dense(5, 20, 3, seed=2, scale=3.0),
    "leaky": lambda: dense(6, 10, 10, 3, seed=3, scale=1.5, bend="LeakyRelu"),
    "wide": lambda: dense(24, 16, 16, 2, seed=4),
    "offset": lambda: model(
        op("Sub", "x", f(1000.0)).named("m"),
        op("Div", "m", f(3.0)).named("q"),
        op("Mul", "q", f(0.7, -2.0, 1.0)).named("s"),
        gemm("z", "s", w(3, 6), w(6) * np.float32(100)),
        op("Relu", "z").named("r"),
        op("MatMul", "r", w(6, 6)).named("p"),
        op("Add", "p", w(6)).named("t"),
        op("Add", "t", "r").named("u"),
        gemm("y", "u", w(6, 2), w(2)),
        x=(1, 3),
    ),
    "pictures": lambda: model(
        op("Conv", "x", w(4, 2, 3, 3), w(4), pads=[1, 1, 1, 1], strides=[2, 2]).named("c"),
        op("Relu", "c").named("r"),
        op("AveragePool", "r", kernel_shape=[2, 2]).named("v"),
        op("ReduceMean", "v", axes=[2], keepdims=0).named("n"),
        op("Flatten", "n").named("l"),
        gemm("y", "l", w(4, 2), w(2)),
        x=(1, 2, 4, 4),
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("radius", [0.0, 1e-4, 0.3])
def test_boxes_hold_what_programs_compute(name: str, radius: float) -> None:
    problem = problem_of(CONTENTS[name](), radius)
    assert problem.network is not None
    network = problem.network.freeze(torch.float64)
    assert network.arithmetic is Arithmetic.FLOAT32
    boxes, reach = tighten(network, problem.region)
    sharp = sharpen(network, problem.region, steps=3).boxes
    plain = enclose(network, problem.region.box())
    g = torch.Generator().manual_seed(5)
    box = problem.region.box()
    share = torch.rand(40, network.input_size, generator=g, dtype=torch.float64)
    x = (box.lower + share * (box.upper - box.lower)).float().double()
    x = torch.minimum(torch.maximum(x, box.lower), box.upper)
    for values in (perturbed(network, x, g), [v.double() for v in network.freeze(torch.float32).values(x.float())]):
        for k, value in enumerate(values):
            for found in (boxes[k], sharp[k], plain[k]):
                assert bool(((found.lower <= value) & (value <= found.upper)).all()), network.nodes[k].name
    assert any(off is not None for off in reach.program)


@pytest.mark.parametrize("name", ["deep", "shallow", "leaky", "wide"])
def test_boxes_hold_every_order_of_summation(name: str) -> None:
    problem = problem_of(CONTENTS[name](), 0.05)
    assert problem.network is not None
    network, rng = problem.network.freeze(torch.float64), np.random.default_rng(1)
    boxes, _ = tighten(network, problem.region)
    box = problem.region.box()
    for _ in range(6):
        share = torch.from_numpy(rng.random((1, network.input_size)))
        x = (box.lower + share * (box.upper - box.lower)).float()
        x = torch.minimum(torch.maximum(x.double(), box.lower), box.upper)[0].numpy()
        for found, value in zip(boxes, program(network, x, rng), strict=True):
            computed = torch.from_numpy(value).double()
            assert bool(((found.lower[0] <= computed) & (computed <= found.upper[0])).all())


@pytest.mark.parametrize("bend", ["Relu", "LeakyRelu"])
def test_bounds_that_start_at_a_neurons_weights_are_charged_for_its_sum(bend: str) -> None:
    """Two terms of 1e4 that cancel: the neuron's input is 0 over the reals, and within rounding of 1e4 in float32."""
    nodes = [gemm("z", "x", f(1e4, -1e4)[:, None], f(0)), op(bend, "z").named("r"), gemm("y", "r", f(1)[:, None], f(0))]
    network = read_onnx(model(*nodes, x=(1, 2)).SerializeToString(), "float32").network.freeze(torch.float64)
    point = torch.ones(1, 2).double()
    error, at = 2.5e4 * 2.0**-24, network.index("z")
    for radius in (0.0, 1e-9):
        region = BoxRegion(point - radius, point + radius)
        for boxes in (tighten(network, region)[0], sharpen(network, region, steps=2).boxes, enclose(network, region.box())):
            assert boxes[at].lower.item() <= -error and boxes[at].upper.item() >= error


def test_a_leaky_slope_is_rounded() -> None:
    x = torch.linspace(-3, 3, 1001)[None]
    operator = LeakyRelu(float(np.float32(0.01)))
    y, exact = operator(x).double(), operator(x.double())
    error = program_error(operator, magnitudes(operator, x.double().abs()))
    assert error is not None
    assert bool(((y - exact).abs() <= error).all())
    assert bool((y != exact).any())


def test_affine_forms_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """They carry no error of a program, so that they are no part of what is said about one, however large the network."""
    monkeypatch.setattr("fathom.bounds.affine.HEAVY", 0.0)
    monkeypatch.setattr("fathom.bounds.affine.ROWS", 1e6)
    for name in ("deep", "pictures"):
        problem = problem_of(CONTENTS[name](), 0.01)
        assert problem.network is not None
        box = problem.region.box().take(torch.tensor([0]))
        box = Box(box.lower, torch.cat([box.upper[:, :3], box.lower[:, 3:]], 1))
        assert not pays(problem.network, box) and halvings(problem.network, box) == -torch.inf
        assert pays(unrounded(problem.network), box) and halvings(unrounded(problem.network), box) > 0


class Searched(Solver):
    """One kind of tree, for as many leaves as are told."""

    def __init__(self, kind: Callable[[Problem], Tree], passes: int = 40) -> None:  # type: ignore[type-arg]
        self.kind, self.passes = kind, passes

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        return search(problem, self.kind(problem), Budget(passes=self.passes, goal=budget.goal), hints, observe)


SOLVERS: dict[str, Solver] = {
    "interval": Interval(),
    "crown": Crown(),
    "alpha": AlphaCrown(),
    "alpha with an inside": AlphaCrown(inner_steps=3),
    "inputs": Searched(lambda p: InputTree(p, 1 << 28, clip=False)),
    "phases": Searched(lambda p: PhaseTree(p, 1 << 28, decide=False)),
    "shallow": Searched(lambda p: ShallowTree(p, 1 << 28, decide=False)),
    "branch and bound": BranchAndBound(),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", CONTENTS)
def test_margins_are_below_those_of_programs(name: str, solver: str) -> None:
    if solver == "shallow" and name != "shallow":
        pytest.skip("a network of one layer")
    problem = problem_of(CONTENTS[name](), 0.02 if solver != "branch and bound" else 0.01)
    assert problem.network is not None and problem.spec is not None
    answers = SOLVERS[solver].solve(problem, Budget(seconds=10, passes=60, goal=Goal.VALUE))
    lower = answers.lower[0].item()
    network, g = problem.network.freeze(torch.float64), torch.Generator().manual_seed(3)
    box = problem.region.box()
    share = torch.rand(300, network.input_size, generator=g, dtype=torch.float64).round()
    x = box.lower + share * (box.upper - box.lower)
    if answers.found.known[0]:
        x = torch.cat([x, answers.found.x.double().expand(100, -1)])
    y = perturbed(network, x, g)[-1]
    spec = problem.spec.take(torch.zeros(len(y), dtype=torch.int64))
    assert lower > -torch.inf
    assert lower <= spec.margin(y).min().item()
    assert lower <= answers.upper[0].item()


def test_a_point_region_is_bounded_by_the_error_model_alone() -> None:
    """With no relaxation left, the bound is as far below as errors reach together, and no further than their sum."""
    problem = problem_of(CONTENTS["deep"](), 0.0)
    assert problem.network is not None and problem.spec is not None
    real = Problem.make(problem.program, unrounded(problem.network), problem.region, problem.overseer)
    single, exact = (Crown().solve(p, Budget(seconds=5)).lower.item() for p in (problem, real))
    assert exact - 1e-3 < single < exact - 1e-8


def unrounded(network: Network) -> Network:
    return Network(tuple(replace(node, rounded=False) for node in network.nodes), network.inputs, network.outputs)


@pytest.mark.parametrize("case", [given for given in LINEAR_CASES if given.values[0].operator.terms is not None])
def test_operators_are_as_exact_in_float32_as_they_say(case: Case) -> None:
    """torch's own kernels, on numbers of very different size, against the same sums in float64."""
    g = torch.Generator().manual_seed(1)
    single = cast(case.operator, torch.float32)
    double = cast(single, torch.float64)
    x = [torch.randn(50, *shape, generator=g) * 10 ** (4 * torch.rand(50, *shape, generator=g) - 2) for shape in case.shapes]
    y, exact = single(*x).double(), double(*(v.double() for v in x))
    error = program_error(double, magnitudes(double, *(v.double().abs() for v in x)))
    if error is None:
        assert torch.equal(y, exact)
    else:
        assert bool(((y - exact).abs() <= error * (1 + 1e-9)).all())


def cast(operator: Linear, dtype: torch.dtype) -> Linear:
    from fathom.core.value import floats_to, map_tensors

    return map_tensors(operator, floats_to(dtype))


# Certificates.


@pytest.mark.parametrize(("sizes", "radius"), [((4, 10, 10, 3), 0.5), ((24, 12, 12, 3), 0.15), ((20, 30, 2), 0.3)])
def test_certificates_are_about_float32_and_accepted(tmp_path: Path, sizes: tuple[int, ...], radius: float) -> None:
    """Of input splits, of phase splits, and of one layer, for a bound that plain bounds do not reach."""
    content = dense(*sizes, seed=7, scale=1.5)
    network = tmp_path / "model.onnx"
    onnx.save(content, network)
    captured = read_onnx(network, "float32")
    box = BoxRegion(torch.full((1, sizes[0]), -radius).double(), torch.full((1, sizes[0]), radius).double())
    rules = LinearRules.make(torch.eye(sizes[-1])[:1], [0.0])
    problem = Problem.make(captured.program, captured.network, box, rules)
    crown = Crown().solve(problem, Budget(seconds=10)).lower.item()
    best = BranchAndBound().solve(problem, Budget(seconds=10, goal=Goal.VALUE, passes=200)).lower.item()
    assert crown < best
    bound = (crown + 9 * best) / 10
    prop = asked(
        tmp_path, sizes[0], float(np.float32(-radius)), float(np.float32(radius)), f"(<= Y_0 {bound!r})", outputs=sizes[-1]
    )
    result = verify(network, prop, seconds=60, certificate=tmp_path / "proof.npz", arithmetic="float32")
    assert result.verdict == "unsat"
    assert result.check is not None and result.check.accepted, result.check
    with np.load(tmp_path / "proof.npz") as file:
        assert json.loads(file["header"].tobytes())["arithmetic"] == "float32"


@pytest.mark.parametrize("bend", ["Relu", "LeakyRelu"])
def test_a_certificate_is_accepted_at_the_edge_of_the_error(tmp_path: Path, bend: str) -> None:
    """A hundredth of what float32 costs away from the least bound that is proved: the checker charges no more than the prover."""
    content, radius = dense(3, 6, 4, 1, seed=8, scale=3.0, bend=bend), float(np.float32(1e-5))
    onnx.save(content, tmp_path / "model.onnx")
    captured = read_onnx(tmp_path / "model.onnx", "float32")
    box = BoxRegion(torch.full((1, 3), -radius).double(), torch.full((1, 3), radius).double())
    networks = captured.network, unrounded(captured.network)
    problems = [Problem.make(captured.program, network, box, LinearRules.make([[1.0]], [0.0])) for network in networks]
    single, real = (Crown().solve(problem, Budget(seconds=10)).lower.item() for problem in problems)
    assert single < real
    bound = single - (real - single) / 100
    prop = asked(tmp_path, 3, -radius, radius, f"(<= Y_0 {bound!r})")
    result = verify(tmp_path / "model.onnx", prop, seconds=60, certificate=tmp_path / "proof.npz", arithmetic="float32")
    assert result.verdict == "unsat"
    assert result.check is not None and result.check.accepted, result.check


# What is refused, in words.

ONE_ROW = f(0.5, -1)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([op("Sigmoid", "x")], "computing 'y'.*expected one of Add, AveragePool"),
        ([op("MaxPool", "x", kernel_shape=[1])], "MaxPool"),
        ([op("BatchNormalization", "x", w(2), w(2), w(2), abs(w(2)))], "BatchNormalization"),
        ([op("Gemm", "x", w(2, 2), w(2), alpha=2.0)], "alpha and beta 1"),
        ([op("Gemm", "x", w(2, 2), w(2), beta=0.5)], "alpha and beta 1"),
        ([op("Gemm", "x", w(2, 2), "x")], "a Gemm of a value and constants"),
        ([op("Mul", "x", "x")], "its rounding in float32 is not known"),
        ([op("Div", "x", f(1e-39))], "its rounding in float32 is not known"),
        ([op("Mul", ONE_ROW, ONE_ROW).named("c"), op("Add", "x", "c")], "constants that are stored and not computed"),
        ([op("MatMul", "x", w(2, 2)).named("p"), op("Add", "p", f(1, 2)).named("q"), op("Add", "q", "p")], "no other node"),
        ([op("MatMul", "x", w(2, 2)).named("p"), op("Reshape", "p", i(2, 1)).named("q"), op("Add", "q", f(1))], "no other node"),
    ],
)
def test_what_has_no_known_rounding_is_refused(nodes: list[Node], message: str) -> None:
    shape = (1, 2, 1) if nodes[0].op == "MaxPool" else (1, 2)
    content = model(*nodes, x=shape).SerializeToString()
    read_onnx(content)  # the reals are not so particular
    with pytest.raises(NotUnderstood, match=message):
        read_onnx(content, "float32")


def test_models_in_float64_are_refused() -> None:
    content = model(op("Relu", "x"), kind=TensorProto.DOUBLE).SerializeToString()
    with pytest.raises(NotUnderstood, match="model of float32"):
        read_onnx(content, "float32")


def test_the_network_stays_what_the_file_computes() -> None:
    """A maximum spelt in two rectifiers is condensed over the reals; in float32 every operator stays."""
    first = np.array([[1, -1], [-1, 1]], np.float32)
    content = model(gemm("z", "x", first, f(0, 0)), op("Relu", "z").named("r"), gemm("y", "r", f(1, -3)[:, None], f(0)), x=(1, 2))
    real, single = (read_onnx(content.SerializeToString(), way).network for way in Arithmetic)
    assert [node.name for node in single.nodes[2:-1]] == ["z", "r", "y"]
    kinds = [[type(node.operator) for node in network.nodes] for network in (real, single)]
    assert kinds[0] != kinds[1]
    assert real.arithmetic is Arithmetic.REAL and not any(node.rounded for node in real.nodes)


def test_real_bounds_charge_no_program() -> None:
    network = read_onnx(CONTENTS["deep"]().SerializeToString()).network.freeze(torch.float64)
    box = BoxRegion(torch.zeros(1, 6).double(), torch.ones(1, 6).double())
    assert set(tighten(network, box)[1].program) == {None}
    assert set(Reach.of(network, enclose(network, box.box())).program) == {None}


# VNN-LIB 2 and the program's own word.


def query(kind: str) -> str:
    return (
        f"(vnnlib-version <2.0>)(declare-network N (declare-input X {kind} [1,1]) (declare-output Y {kind} [1,1]))"
        "(assert (and (>= X[0,0] 1.0) (<= X[0,0] 2.0)))(assert (<= Y[0,0] 0.5))"
    )


def test_a_query_of_float32_variables_is_about_the_program(tmp_path: Path) -> None:
    network = saved(tmp_path, op("Add", "x", f(HUGE)).named("a"), op("Sub", "a", f(HUGE)))
    for kind, verdict in (("real", "unsat"), ("float32", "sat")):
        (tmp_path / "query.vnnlib").write_text(query(kind))
        answer = verify(network, tmp_path / "query.vnnlib", seconds=20)
        assert (answer.verdict, answer.arithmetic) == (verdict, kind)
    with pytest.raises(NotUnderstood, match="expected variables of type real, got X of float32"):
        verify(network, tmp_path / "query.vnnlib", seconds=20, arithmetic="real")


def test_witnesses_are_judged_by_the_program_alone(tmp_path: Path) -> None:
    content = model(op("Add", "x", f(HUGE)).named("a"), op("Sub", "a", f(HUGE)), x=(1, 1)).SerializeToString()
    captured = read_onnx(content, "float32")
    region = BoxRegion(torch.ones(1, 1).double(), torch.full((1, 1), 2.0).double())
    problem = Problem.make(captured.program, captured.network, region, LinearRules.make([[1.0]], [-0.5]))
    found = confirm(problem, torch.tensor([[1.0]]))
    assert found.broken.all() and not found.judged_real.any() and found.upper.item() == -0.5


class Liar(Solver):
    """Claims a proof where there is a failure."""

    def solve(self, problem: Problem, budget: Budget, hints: Hints = Hints(), observe: Observer = ignore) -> Answers:
        none = Answers.none(len(problem), problem.region.size, 1, torch.float32)
        return replace(none, lower=torch.ones_like(none.lower), found=confirm(problem, problem.region.box().lower))


def test_a_proof_beside_a_failure_of_the_program_is_a_contradiction() -> None:
    content = model(op("Add", "x", f(HUGE)).named("a"), op("Sub", "a", f(HUGE)), x=(1, 1)).SerializeToString()
    captured = read_onnx(content, "float32")
    region = BoxRegion(torch.ones(1, 1).double(), torch.full((1, 1), 2.0).double())
    problem = Problem.make(captured.program, captured.network, region, LinearRules.make([[1.0]], [-0.5]))
    with pytest.raises(ContradictionError, match="float32 program"):
        Portfolio(bounds=(Liar(),), opening=Gradient(steps=0, restarts=0), longer=None).solve(problem, Budget(seconds=5))


# Audits.


def swallowed() -> bytes:
    """(x + 1e8) - 1e8 over the one output, and 0.5 over the other: over the reals the first is the greater for x >= 1."""
    weight, half = f(1, 0)[None], np.array([HUGE, 0.5], np.float32)
    return model(gemm("a", "x", weight, half), op("Sub", "a", f(HUGE, 0)), x=(1, 1)).SerializeToString()


def test_audits_of_both_arithmetics_share_a_casebook_and_no_bracket(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(swallowed())
    region = BoxRegion(torch.ones(1, 1).double(), torch.full((1, 1), 2.0).double())
    judge = Targeted(target=torch.tensor([1]), classes=2)
    results = [
        audit(tmp_path / "model.onnx", region, judge, budget=Budget(seconds=10), casebook=tmp_path / "cases.db", arithmetic=way)
        for way in ("real", "float32", "real", "float32")
    ]
    assert [r.answers.verdict(0).value for r in results] == ["proved", "broken", "proved", "broken"]
    assert [r.arithmetic for r in results] == ["real", "float32"] * 2
    assert [r.to_json()["arithmetic"] for r in results[:2]] == ["real", "float32"]
    assert results[0].digests == results[2].digests != results[1].digests == results[3].digests
    assert "float32 arithmetic" in results[1].lines()[0] and "arithmetic" not in results[0].lines()[0]
    assert "float32 program" in results[1].limits[0]
    with Casebook.open(tmp_path / "cases.db") as book:
        assert [(case.arithmetic, case.verdict) for case in book.cases()] == [
            ("real", Verdict.PROVED),
            ("float32", Verdict.BROKEN),
        ]


def test_audits_refuse_what_they_cannot_say_about_float32(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(swallowed())
    region, judge = BoxRegion(torch.ones(1, 1).double(), torch.ones(1, 1).double()), Targeted(target=torch.tensor([1]), classes=2)
    captured = read_onnx(tmp_path / "model.onnx", "float32")
    assert audit(captured, region, judge, budget=Budget(seconds=5)).arithmetic == "float32"
    for asked_of, more in (
        (captured, {"arithmetic": "real"}),
        (torch.nn.Linear(1, 2), {"arithmetic": "float32"}),
        (captured, {"certificates": tmp_path / "proofs"}),
    ):
        with pytest.raises(FathomError, match="float32"):
            audit(asked_of, region, judge, budget=Budget(seconds=5), **more)  # type: ignore[arg-type]
