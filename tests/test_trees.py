"""Tree ensembles as references: run by onnxruntime, searched by value, and said to be beyond proof."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import fathom
from fathom.audits.judges import Case, make_overseer
from fathom.audits.overseer_settings import OverseerSettings
from fathom.capture.torch_module import capture_module
from fathom.capture.trees import holds_trees, read_trees
from fathom.core.budget import Budget
from fathom.core.errors import NotCompilable, NotUnderstood
from fathom.overseers.checker_network import CheckerNetwork
from fathom.overseers.person import Person
from fathom.overseers.reference import OtherDecision, Reference
from fathom.report.page import render
from tests.onnx_models import model as plain_model
from tests.onnx_models import op

FLOAT, WHOLE = TensorProto.FLOAT, TensorProto.INT64

STUMP = {
    "nodes_featureids": [0, 0, 0],
    "nodes_values": [0.5, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
}
"""x[0] <= 0.5 leads to the first leaf, else to the second."""

NEWER = {
    "aggregate_function": 1,
    "post_transform": 0,
    "tree_roots": [0],
    "nodes_modes": helper.make_tensor("modes", TensorProto.UINT8, (1,), [0]),
    "nodes_featureids": [0],
    "nodes_splits": helper.make_tensor("splits", FLOAT, (1,), [0.5]),
    "nodes_truenodeids": [0],
    "nodes_trueleafs": [1],
    "nodes_falsenodeids": [1],
    "nodes_falseleafs": [1],
    "leaf_targetids": [0, 0],
    "leaf_weights": helper.make_tensor("weights", FLOAT, (2,), [1.0, 3.0]),
}


def trees(kind: str, outputs: dict[str, int], **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(kind, ["x"], list(outputs), domain="ai.onnx.ml", **attributes)
    x = helper.make_tensor_value_info("x", FLOAT, [None, 2])
    graph = helper.make_graph([node], "trees", [x], [helper.make_tensor_value_info(k, v, None) for k, v in outputs.items()])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5 if kind == "TreeEnsemble" else 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def regressor() -> onnx.ModelProto:
    leaves = {"target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, 3.0]}
    return trees("TreeEnsembleRegressor", {"y": FLOAT}, n_targets=1, **STUMP, **leaves)


def classifier() -> onnx.ModelProto:
    """Class 0 on the left and class 2 on the right, of three."""
    leaves = {"class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [0, 2], "class_weights": [1.0, 1.0]}
    return trees("TreeEnsembleClassifier", {"label": WHOLE, "scores": FLOAT}, classlabels_int64s=[0, 1, 2], **STUMP, **leaves)


MADE = {"regressor": regressor(), "newer": trees("TreeEnsemble", {"y": FLOAT}, n_targets=1, **NEWER)}
X = torch.tensor([[0.4, 9.0], [0.5, -9.0], [0.6, 0.0]])


@pytest.mark.parametrize("name", MADE)
def test_regressors_give_the_values_of_their_leaves(name: str) -> None:
    judge = read_trees(MADE[name].SerializeToString())
    assert judge(X).tolist() == [[1.0], [1.0], [3.0]] and judge.network is None


def test_classifiers_give_their_scores_and_no_labels() -> None:
    assert read_trees(classifier().SerializeToString())(X).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_what_is_no_tree_ensemble_is_refused() -> None:
    network = plain_model(op("MatMul", "x", np.eye(2, dtype=np.float32)), x=(1, 2)).SerializeToString()
    assert not holds_trees(network) and holds_trees(regressor().SerializeToString())
    with pytest.raises(NotUnderstood, match=r"expected one of TreeEnsemble, .*got none; read it by fathom.read_onnx"):
        read_trees(network)
    with pytest.raises(NotUnderstood, match=r"got a tree ensemble, which can be run and not proved about.*read_trees"):
        fathom.read_onnx(regressor().SerializeToString())
    labels = classifier()
    del labels.graph.output[1]
    with pytest.raises(NotUnderstood, match=r"expected an output that is a tensor of floats, got label of tensor\(int64\)"):
        read_trees(labels.SerializeToString())


def test_a_reference_of_trees_is_searched_and_says_that_it_cannot_be_proved_about() -> None:
    """A constant 1 departs by 2 where the first input passes 0.5, which lies in the second set alone."""
    constant = nn.Linear(2, 1)
    with torch.no_grad():
        constant.weight.zero_()
        constant.bias.fill_(1.0)
    judge = Reference.make(read_trees(regressor().SerializeToString()), 0.5, sets=2)
    assert not judge.compilable and not judge.differentiable
    with pytest.raises(NotCompilable, match="a tree ensemble is run, and not captured as a network"):
        judge.compile(capture_module(constant, (2,)).network)
    region = fathom.regions.LinfBall.around(torch.tensor([[0.2, 0.0], [0.45, 0.0]]), 0.1)
    result = fathom.audit(constant, region, judge, budget=Budget(seconds=20, passes=400), planted=0)
    assert result.broken.tolist() == [False, True] and result.counts.proved == 0
    assert "a tree ensemble is run, and not captured as a network" in result.obstacle and result.obstacle in render(result)
    assert judge.take(torch.tensor([1])).margin(result.answers.found.x[1:].double(), torch.ones(1, 1)).item() == -1.5


@pytest.mark.parametrize("kind", ["reference", "decision", "checker"])
def test_trees_are_read_from_settings(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "trees.onnx"
    onnx.save(classifier() if kind == "decision" else regressor(), str(path))
    captured = capture_module(nn.Linear(2, 3 if kind == "decision" else 1), (2,))
    case = Case(captured, None, 3, lambda: Person.of([]))
    settings = {
        "reference": OverseerSettings("reference", reference=(path,), eps=0.5),
        "decision": OverseerSettings("decision", reference=(path,)),
        "checker": OverseerSettings("checker", checker=path, sees="x", threshold=2.0),
    }[kind]
    judge = make_overseer(settings, case)
    assert type(judge) is {"reference": Reference, "decision": OtherDecision, "checker": CheckerNetwork}[kind]
    y = torch.tensor([[1.0, 0.0, 0.5]] * 3) if kind == "decision" else torch.full((3, 1), 1.0)
    assert (judge.margin(X, y) <= 0).tolist() == ([True, True, False] if kind == "checker" else [False, False, True])
