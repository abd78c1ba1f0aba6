"""`fathom radius` as its users meet it: brackets that hold the truth, what is refused, and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.command import fathom

WEIGHTS = np.array([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]], np.float32)  # class 0 where x0 > x2; L-infinity distance (x0 - x2) / 2
X = np.array([[0.9, 0.5, 0.1], [0.6, 0.5, 0.5], [0.2, 0.5, 0.6], [0.55, 0.0, 0.45]], np.float32)
Y = np.array([0, 0, 0, 0])  # the third is wrong as it is
DISTANCES = (0.4, 0.05, 0.0, 0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("radius")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx")
    np.savez(folder / "data.npz", x=X, y=Y)
    return folder


ASKED = ("radius", "model.onnx", "data.npz", "--linf", 0.3, "--range", 0, 1, "--anyway")


def test_brackets_hold_the_distance_to_the_decision(folder: Path) -> None:
    result = fathom(*ASKED, "--json", folder=folder)
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["format"] == "fathom-radius/1" and answer["most"] == 0.3 and not answer["interrupted"]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    for case, x, distance in zip(answer["cases"], X, DISTANCES, strict=True):
        if distance > 0.3:
            assert case["proved"] == 0.3 and case["fails"] is None and case["failure"] is None
            continue
        assert case["proved"] is None if distance == 0 else 0.97 * distance <= case["proved"] < distance
        assert distance <= case["fails"] <= 1.03 * distance + 1e-6
        failure = np.array(case["failure"]["x"], np.float32)
        assert np.abs(failure.astype(float) - x).max() <= case["fails"] + 1e-7
        y = session.run(None, {"x": failure[None]})[0][0]
        assert y[0] <= y[1] and case["failure"]["margin"] <= 0


def test_people_read_the_soonest_failures_first(folder: Path) -> None:
    result = fathom(*ASKED, folder=folder)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[1] == "4 cases: 1 fail as they are, 2 when they are moved, and in 1 nothing was found up to 0.3"
    assert lines[3] == "case 2: fails as it is"
    assert lines[-1] == "case 0: nothing found up to 0.3, proved up to 0.3"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--linf", 0), "above 0"),
        (("--linf", 0.1, "--l2", 0.1), "expected one of --linf, --l2 and --l1"),
        ((), "such as --linf"),
        (("--linf", 0.1, "--tolerance", 0), "between 0 and 1"),
        (("--linf", 0.1, "--seconds", 0), "seconds > 0"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, words: tuple[object, ...], said: str) -> None:
    result = fathom("radius", "model.onnx", "data.npz", "--range", 0, 1, *words, folder=folder)
    assert result.code in (1, 2)
    assert said in " ".join(result.err.replace("│", " ").split())
