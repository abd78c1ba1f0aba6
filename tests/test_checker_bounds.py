"""The checker's own account of operators and of sets, held against onnxruntime and against samples."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest

from fathom_checker import Malformed
from fathom_checker.bounds import Bounder, on_ball
from fathom_checker.model import Model
from fathom_checker.numbers import Array, Numbers
from tests.onnx_models import CASES

WORDS = """Identity Relu LeakyRelu Add Sub Mul Div Gemm MatMul Conv BatchNormalization ReduceMean ReduceSum Flatten Reshape
Transpose Squeeze Unsqueeze Concat Slice Gather Pad Dropout"""
UNDERSTOOD = set(WORDS.split())


def is_read(model: onnx.ModelProto) -> bool:
    """Whether the checker reads a model."""
    try:
        Model(model.SerializeToString(), Numbers(exact=False))
    except Malformed:
        return False
    return True


READ = {name: model for name, model in CASES.items() if is_read(model)}


def test_every_operator_of_the_list_is_read_somewhere() -> None:
    seen = {node.op_type for model in READ.values() for node in model.graph.node}
    assert seen >= UNDERSTOOD


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("name", READ)
def test_the_boxes_of_points_hold_what_onnxruntime_computes(name: str, single: bool) -> None:  # noqa: FBT001
    model = READ[name]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    numbers = Numbers(exact=False)
    network = Model(model.SerializeToString(), numbers, single=single)
    if single and network.dtype != np.float32:
        pytest.skip("not of float32")
    x = np.random.default_rng(0).uniform(-1, 1, (5, network.inputs)).astype(np.float32)
    wide = np.full((5, network.neurons), np.inf)
    state = {"lower": x.astype(float) - 1e-9, "upper": x.astype(float) + 1e-9, "low": -wide, "high": wide, "node": np.arange(5)}
    state["tree"] = state["node"]
    bounder = Bounder(network, None)
    bounder.tighten(state, {})
    rows = np.repeat(np.concatenate([np.eye(network.sizes[1]), -np.eye(network.sizes[1])]), 5, 0)
    owner = np.tile(np.arange(5), 2 * network.sizes[1])
    a, constant = bounder.backward(state, owner, [(len(network.operators), rows)])
    least = bounder.minimise(state, owner, a, constant).reshape(2, network.sizes[1], 5)
    for k in range(5):
        y = run(session, x[k])
        slack = 1e-5 * (1 + np.abs(y))
        assert (least[0, :, k] <= y + slack).all()
        assert (-least[1, :, k] >= y - slack).all()
        assert (-least[1, :, k] - least[0, :, k] <= 1e-3 * (1 + np.abs(y))).all()  # and tightly


def run(session: onnxruntime.InferenceSession, x: Array) -> Array:
    """Flat outputs at one flat input, in the order of the ports."""
    feeds, start = {}, 0
    for port in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in port.shape]
        kind = np.float64 if "double" in port.type else np.float32
        feeds[port.name] = x[start : start + math.prod(shape)].reshape(shape).astype(kind)
        start += math.prod(shape)
    return np.concatenate([np.ravel(y) for y in session.run(None, feeds)])


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("p", [1, 2])
def test_minima_over_balls_in_boxes_are_below_all_samples_and_near_the_least(p: int, exact: bool) -> None:  # noqa: FBT001
    random, numbers, count, d = np.random.default_rng(p), Numbers(exact=exact), 20 if exact else 60, 3
    centre, radius = random.normal(size=(count, d)), random.uniform(0.1, 1, count)
    lower = centre - random.uniform(0, 0.6, (count, d))
    upper = centre + random.uniform(0, 0.6, (count, d))
    lower[::7], upper[::5] = centre[::7] - 9, centre[::5] + 9
    a = random.normal(size=(count, d)) * 10.0 ** random.integers(-3, 3, (count, 1))
    a[::4, 0] = 0
    parts = [numbers.array(part) for part in (a, np.zeros(count), lower, upper)]
    with np.errstate(all="ignore"):
        bound = np.asarray(on_ball(numbers, (p, centre, radius), np.arange(count), *parts), float)
    for k in range(count):
        x = centre[k] + random.uniform(-1, 1, (60000, d)) * radius[k]
        x = np.clip(x, lower[k], upper[k])
        x = x[np.linalg.norm(x - centre[k], p, axis=1) <= radius[k]]
        least = (x @ a[k]).min()
        assert bound[k] <= least + 1e-12
        assert bound[k] >= least - 0.15 * np.abs(a[k]).max() * radius[k] - 1e-9
