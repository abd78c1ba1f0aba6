"""`fathom radius` as its users meet it: brackets that hold the truth, what is refused, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def radius_of(folder: Path, region: str, *flags: object) -> dict[str, Any]:
    (folder / "audit.toml").write_text(
        f'model = "model.onnx"\n[data]\npath = "data.npz"\n[region]\n{region}\n[overseer]\nkind = "misclassification"\n'
    )
    result = fathom("radius", "audit.toml", "--anyway", "--json", *flags, folder=folder)
    assert result.code == 0, result.err
    answer: dict[str, Any] = json.loads(result.out)
    return answer


def test_how_many_inputs_have_to_change(folder: Path) -> None:
    """One, for the two near the border; for the first one does too: x0 down to 0, or x2 up to 1."""
    answer = radius_of(folder, 'kind = "l0"\ncount = 2\nrange = [0, 1]')
    assert answer["measure"] == "count" and answer["most"] == 2
    assert [case["fails"] for case in answer["cases"]] == [1, 1, 0, 1]
    assert [case["proved"] for case in answer["cases"]] == [0, 0, None, 0]


def test_what_budget_of_changes_in_the_users_units_does_it(folder: Path) -> None:
    """A unit of x0 is 0.2, and of x2 0.1: x0 is the cheaper one."""
    answer = radius_of(folder, 'kind = "tabular"\nrange = [0, 1]\nunit = [0.2, 1.0, 0.1]\nbudget = 10\nimmutable = [1]')
    assert answer["measure"] == "budget"
    for case, gap in zip(answer["cases"], (0.8, 0.1, 0.0, 0.1), strict=True):
        least = gap / 0.2
        assert least <= case["fails"] <= 1.05 * least + 1e-5
        assert case["proved"] is None if gap == 0 else 0.95 * least <= case["proved"] < least


def test_what_share_of_the_ranges_of_a_transformation_does_it(tmp_path: Path) -> None:
    """The mean brightness against a threshold: 0.1 above it, of at most 0.4 that may be taken away."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1)],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [
            numpy_helper.from_array(np.array([[0.25] * 4, [0.0] * 4], np.float32), "w"),
            numpy_helper.from_array(np.array([0.0, 0.5], np.float32), "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.full((1, 1, 2, 2), 0.6, np.float32), y=np.array([0]))
    region = 'kind = "transformation"\nrange = [0, 1]\ntransform = [{ kind = "brightness", added = [-0.4, 0.4] }]'
    answer = radius_of(tmp_path, region)
    (case,) = answer["cases"]
    assert answer["measure"] == "share" and answer["most"] == 1
    assert 0.25 - 1e-5 <= case["fails"] <= 0.26 and 0.24 <= case["proved"] <= 0.25
    picture = np.array(case["failure"]["x"]).reshape(4)
    assert picture.min() >= 0.49 and picture.max() <= 0.5 and "brightness" in case["failure"]["applied"]["words"]
    text = fathom("radius", "audit.toml", "--anyway", folder=tmp_path).out
    assert "of the ranges (brightness changed by -0.1" in text


def test_a_region_that_no_number_makes_larger_is_refused(folder: Path) -> None:
    (folder / "box.toml").write_text(
        'model = "model.onnx"\n[region]\nkind = "box"\nlower = [0, 0, 0]\nupper = [1, 1, 1]\n'
        '[overseer]\nkind = "rules"\nrules = [{ coefficients = [1, -1] }]\n'
    )
    result = fathom("radius", "box.toml", folder=folder)
    assert result.code == 1 and "expected a region that one number makes larger" in result.err
