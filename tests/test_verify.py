"""What `verify` does with a witness beside the decimals: it moves in where the network fails there too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from fathom.audits.portfolio import quick
from fathom.audits.verify import verify
from fathom.bounds.alpha import AlphaCrown
from fathom.bounds.crown import Crown
from fathom.capture.graph import Graph
from fathom.capture.onnx_file import read_onnx
from fathom.capture.vnnlib import read_property, to_problem
from fathom.core.answer import Answers
from fathom.core.budget import Budget
from fathom.core.problem import Problem
from fathom.ops.dense import Dense
from fathom.ops.relu import Relu
from fathom.ops.sigmoid import Sigmoid
from fathom.overseers.linear_rules import LinearRules
from fathom.prove.work import suited_threads
from fathom.regions.box import BoxRegion
from tests.contracts.test_bounds import Deployed


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    """y = 2 x, in float32."""
    weight = numpy_helper.from_array(np.array([[2.0]], dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "doubled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [weight],
    )
    path = tmp_path / "doubled.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def asked(folder: Path, lower: str, upper: str, output: str) -> Path:
    path = folder / "property.vnnlib"
    path.write_text(
        f"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 {lower}))(assert (<= X_0 {upper}))(assert {output})"
    )
    return path


def test_a_witness_beyond_the_decimals_moves_inside(doubled: Path, tmp_path: Path) -> None:
    # 0.7 is 0.699999988 in float32, but 0.6 is 0.600000024: the upper end of [0.1, 0.6] rounds to a number outside.
    answer = verify(doubled, asked(tmp_path, "0.1", "0.6", "(>= Y_0 1.0)"), seconds=20)
    assert answer.verdict == "sat"
    assert answer.witness is not None
    assert answer.answers is not None
    assert bool(answer.answers.found.in_written[0])
    assert 0.5 <= answer.witness[0].item() <= 0.6
    assert not any("decimals" in note for note in answer.notes())


def test_a_witness_that_only_rounding_allows_is_said_to_be_one(doubled: Path, tmp_path: Path) -> None:
    # No float32 equals 0.6, so the only input of the program is beside the decimals.
    answer = verify(doubled, asked(tmp_path, "0.6", "0.6", "(>= Y_0 1.0)"), seconds=20)
    assert answer.verdict == "sat"
    assert any("outside the decimals" in note for note in answer.notes())


def test_what_fails_only_beyond_the_decimals_stays_where_it_fails(doubled: Path, tmp_path: Path) -> None:
    # y >= 1.20000002 holds at float32(0.6) alone, which is 0.60000002384.
    answer = verify(doubled, asked(tmp_path, "0.1", "0.6", "(>= Y_0 1.20000002)"), seconds=20)
    assert answer.verdict == "sat"
    assert answer.witness is not None
    assert answer.witness[0].item() == pytest.approx(0.6000000238418579, abs=0)
    assert any("outside the decimals" in note for note in answer.notes())


def test_a_broken_property_is_not_bounded_any_more(doubled: Path, tmp_path: Path) -> None:
    stages, bounded = [], []

    class Watched(Crown):
        def solve(self, problem: Problem, *rest: Any, **more: Any) -> Answers:
            bounded.append(len(problem))
            return super().solve(problem, *rest, **more)

    problem = to_problem(read_property(asked(tmp_path, "0.1", "0.6", "(>= Y_0 1.0)")), read_onnx(doubled))
    answers = replace(quick(problem), bounds=(Watched(),), stage=stages.append).solve(problem, Budget(seconds=20))
    assert answers.broken.all()
    assert "bounds" in stages
    assert not bounded


def test_an_easy_proof_waits_for_no_long_attack(doubled: Path, tmp_path: Path) -> None:
    problem = to_problem(read_property(asked(tmp_path, "0.1", "0.6", "(>= Y_0 1.3)")), read_onnx(doubled))
    answers = quick(problem).solve(problem, Budget(seconds=20))
    assert answers.proved.all()
    assert answers.cost.forward.max() < 50  # a long attack takes thousands


def test_a_small_network_takes_one_thread_and_gives_the_others_back(doubled: Path, tmp_path: Path) -> None:
    network = read_onnx(doubled).network
    assert network is not None
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with suited_threads(network):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("inputs", "smooth", "optimised"), [(20, True, True), (20, False, False), (3, True, False)])
def test_relaxations_are_optimised_first_where_splits_help_little(inputs: int, *, smooth: bool, optimised: bool) -> None:
    graph = Graph([("x", (inputs,))])
    hidden = graph.add("hidden", Dense(torch.eye(inputs)), graph.input("x"))
    bent = graph.add("bent", Sigmoid() if smooth else Relu(), hidden)
    network = graph.finish([("y", graph.add("out", Dense(torch.ones(1, inputs)), bent))])
    zero = torch.zeros(1, inputs, dtype=torch.float64)
    problem = Problem.make(Deployed(network), network, BoxRegion(zero - 1, zero + 1), LinearRules.make([[1.0]], [0.0]))
    assert any(isinstance(bound, AlphaCrown) for bound in quick(problem).bounds) == optimised
