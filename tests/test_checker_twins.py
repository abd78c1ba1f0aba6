"""Neurons whose inputs are equal or opposite are one neuron, relu(-z) = relu(z) - z: to the bit, or not at all."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fathom_checker.model import Model
from fathom_checker.numbers import Numbers
from fathom_checker.operators import Bend
from tests.certificates.make import vnnlib
from tests.onnx_models import Array, model, op
from tests.test_checker_known_bugs import provable

DOUBLE = onnx.TensorProto.DOUBLE


def pair(weights: Array, bias: Array, scale: float = 1.0, kind: int = DOUBLE, behind: float = -1.0) -> onnx.ModelProto:
    """scale (relu(z) - relu(z') - z) for (z, z') = x weights + bias."""
    number = np.float32 if kind == onnx.TensorProto.FLOAT else np.float64
    first = op("Gemm", "x", weights.astype(number), bias.astype(number)).named("a")
    last = np.array([[1.0], [behind]], number)
    straight = op("Gemm", "x", weights[:, :1].astype(number), bias[:1].astype(number)).named("c")
    total = op("MatMul", "r", last).named("b"), straight, op("Sub", "b", "c").named("d")
    return model(
        first, op("Relu", "a").named("r"), *total, op("Mul", "d", np.array([scale], number)), x=(1, len(weights)), kind=kind
    )


def neurons_of(network: onnx.ModelProto, *, single: bool = False, exact: bool = False) -> int:
    """How many neurons the checker bends."""
    read = Model(network.SerializeToString(), Numbers(exact=exact), single=single)
    return sum(op.size for op in read.operators if isinstance(op, Bend))


OPPOSITE = np.array([[1.0, -1.0], [0.3, -0.3]]), np.array([0.125, -0.125])


@pytest.mark.parametrize("exact", [False, True])
def test_a_pair_of_opposites_is_the_identity(tmp_path: Path, exact: bool) -> None:  # noqa: FBT001
    network = pair(*OPPOSITE)
    assert neurons_of(network, exact=exact) == 1
    assert provable(tmp_path, network, vnnlib(2, 1, "(or (<= Y_0 -0.0001) (>= Y_0 0.0001))"), rounds=1, exact=exact)


def test_equal_neurons_are_one(tmp_path: Path) -> None:
    """relu(z) - relu(z) is 0; bounded one by one, it is not."""
    network = pair(np.array([[1.0, 1.0]]), np.array([0.125, 0.125]))
    assert neurons_of(network) == 1
    assert provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 0.8751)"), rounds=1)  # -z alone is left
    assert not provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 0.8749)"), rounds=6)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("way", [0.0, 9.0])
def test_twins_but_for_the_last_bit_are_none(tmp_path: Path, part: str, way: float, exact: bool) -> None:  # noqa: FBT001
    """Broken by one unit in the last place of one number, which the scale behind makes visible."""
    weights, bias = np.array([[1.0, -1.0]]), np.array([0.25, -0.25])
    whole = weights if part == "weight" else bias[None]
    whole[0, 1] = np.nextafter(whole[0, 1], -way)
    network = pair(weights, bias, scale=2.0**56)
    assert neurons_of(network, exact=exact) == 2
    twin = -Fraction(weights[0, 1]) + Fraction(bias[1])  # of x = -1, where the first of them is 0
    worst = float(2**56 * (-twin + 1 - Fraction(1, 4)))
    assert abs(worst) >= 1
    rule = f"(<= Y_0 {worst / 2})" if worst < 0 else f"(>= Y_0 {worst / 2})"
    assert not provable(tmp_path, network, vnnlib(1, 1, rule), rounds=3, exact=exact)


def test_a_bias_that_is_not_negated_makes_no_twins(tmp_path: Path) -> None:
    """relu(x + 1) - relu(-x + 1) - (x + 1) is -1 - min(x, ...) and the like: no identity."""
    network = pair(np.array([[1.0, -1.0]]), np.array([0.5, 0.5]))
    assert neurons_of(network) == 2
    assert not provable(tmp_path, network, vnnlib(1, 1, "(<= Y_0 -0.5)"), rounds=5)
    assert provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 0.001)"), rounds=8)


def test_twins_are_none_in_float32(tmp_path: Path) -> None:
    """A program may round z and -z differently, as it may sum in any order."""
    network, rule = pair(*OPPOSITE, kind=onnx.TensorProto.FLOAT), vnnlib(2, 1, "(>= Y_0 0.001)")
    assert neurons_of(network, single=True) == 2
    assert provable(tmp_path, network, rule, rounds=1)
    assert not provable(tmp_path, network, rule, rounds=1, way="float32")


def test_numbers_that_were_rounded_make_no_twins() -> None:
    """1 / 3 is no float: two divisions that look opposite need not be, and are left alone."""
    spread = op("Concat", "x", "x", axis=1).named("s")
    network = model(spread, op("Div", "s", np.array([3.0, -3.0])).named("d"), op("Relu", "d"), x=(1, 1), kind=DOUBLE)
    assert neurons_of(network) == 2
    same = model(spread, op("Mul", "s", np.array([3.0, -3.0])).named("d"), op("Relu", "d"), x=(1, 1), kind=DOUBLE)
    assert neurons_of(same) == 1


@pytest.mark.parametrize("seed", range(5))
def test_splits_of_twins_prove_nothing_false(tmp_path: Path, seed: int) -> None:
    """Bounds of networks full of twins close in on samples from below, and never pass them."""
    random = np.random.default_rng(seed)
    half, bias = random.normal(size=(2, 3)), random.normal(size=3)
    first = np.concatenate([half, -half, half[:, :1]], 1), np.concatenate([bias, -bias, bias[:1]])
    order = random.permutation(7)
    second = random.normal(size=(7, 1))
    network = model(
        op("Gemm", "x", first[0][:, order], first[1][order]).named("a"),
        op("Relu", "a").named("r"),
        op("MatMul", "r", second),
        x=(1, 2),
        kind=DOUBLE,
    )
    assert neurons_of(network) == 3
    x = random.uniform(-1, 1, (20000, 2))
    y: Any = np.maximum(x @ first[0][:, order] + first[1][order], 0) @ second
    span = float(y.max() - y.min())
    assert not provable(tmp_path, network, vnnlib(2, 1, f"(<= Y_0 {y.min() + 1e-6:.9f})"), rounds=5)
    assert provable(tmp_path, network, vnnlib(2, 1, f"(<= Y_0 {y.min() - 0.05 * span:.9f})"), rounds=20)
