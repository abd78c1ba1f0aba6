"""The known classes of verifiers' bugs, asked of the checker: a broken claim has no certificate, and a nearby one that holds has.

Certificates are grown by the checker's own bounds, so that what it would believe, it is given the chance to.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import pytest

from fathom_checker import Malformed, Rejected, check
from tests.certificates.make import vnnlib
from tests.certifier import certify, packed
from tests.onnx_models import f, i, model, number, op


def provable(
    folder: Path, network: onnx.ModelProto, rule: bytes, rounds: int = 8, *, exact: bool = False, way: str = "real"
) -> bool:
    """Whether splitting inputs gives a certificate that the checker accepts."""
    content = network.SerializeToString()
    made = certify(content, rule, rounds=rounds, exact=exact, arithmetic=way)
    if made is None:
        return False
    for name, part in (("m.onnx", content), ("p.vnnlib", rule), ("c.npz", packed(*made))):
        (folder / name).write_bytes(part)
    check(folder / "m.onnx", folder / "p.vnnlib", folder / "c.npz", exact=exact)
    return True


@pytest.mark.parametrize(("shift", "holds"), [(-0.5, False), (0.5, True)])
def test_the_bias_of_a_separate_add_is_not_dropped(tmp_path: Path, shift: float, *, holds: bool) -> None:
    for behind in ("a", "r"):  # right behind the product, and behind the rectifier
        product = op("MatMul", "x", np.ones((1, 1), np.float32)).named("a")
        network = model(product, op("Relu", "a").named("r"), op("Add", behind, f(shift)), x=(1, 1))
        assert provable(tmp_path, network, vnnlib(1, 1, "(<= Y_0 0)", low="0")) == holds


@pytest.mark.parametrize(("filling", "holds"), [(-3.0, False), (3.0, True)])
def test_padding_is_not_ignored(tmp_path: Path, filling: float, *, holds: bool) -> None:
    padded = op("Pad", "x", i(0, 0, 0, 0, 0, 1), number(filling)).named("a")
    network = model(padded, op("Conv", "a", np.ones((1, 1, 3), np.float32)), x=(1, 1, 2))
    assert provable(tmp_path, network, vnnlib(2, 1, "(<= Y_0 0)", low="0.5")) == holds


def test_the_padding_of_a_convolution_is_not_ignored(tmp_path: Path) -> None:
    """Sums of two neighbours, the rim's with a zero."""
    network = model(op("Conv", "x", np.ones((1, 1, 2), np.float32), pads=[1, 0]), x=(1, 1, 2))
    assert not provable(tmp_path, network, vnnlib(2, 2, "(<= Y_0 0.9)", low="0.5"))
    assert provable(tmp_path, network, vnnlib(2, 2, "(<= Y_1 0.9)", low="0.5"))


@pytest.mark.parametrize(("rule", "holds"), [("or", False), ("and", True)])
def test_and_is_not_or(tmp_path: Path, rule: str, *, holds: bool) -> None:
    network = model(op("MatMul", "x", np.array([[1, -1]], np.float32)), x=(1, 1))
    assert provable(tmp_path, network, vnnlib(1, 2, f"({rule} (<= Y_0 -0.1) (<= Y_1 -0.1))")) == holds


@pytest.mark.parametrize(("rule", "holds"), [("(>= Y_0 1)", False), ("(> Y_0 1)", True)])
def test_strict_is_not_loose(tmp_path: Path, rule: str, *, holds: bool) -> None:
    """Where rounding is in the way, rational numbers decide."""
    network = model(op("Relu", "x"), x=(1, 1))
    assert provable(tmp_path, network, vnnlib(1, 1, rule), rounds=3, exact=True) == holds
    assert not provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 1)"), rounds=3)


def test_a_stale_file_beside_the_gz_is_not_read(tmp_path: Path) -> None:
    good = model(op("Add", "x", f(2.0)), x=(1, 1))
    stale = model(op("Add", "x", f(0.0)), x=(1, 1))
    rule = vnnlib(1, 1, "(<= Y_0 0.5)")
    assert provable(tmp_path, good, rule)
    (tmp_path / "m.onnx.gz").write_bytes(gzip.compress(good.SerializeToString()))
    (tmp_path / "m.onnx").write_bytes(stale.SerializeToString())
    check(tmp_path / "m.onnx.gz", tmp_path / "p.vnnlib", tmp_path / "c.npz")
    (tmp_path / "m.onnx.gz").write_bytes(gzip.compress(stale.SerializeToString()))
    (tmp_path / "m.onnx").write_bytes(good.SerializeToString())
    with pytest.raises(Rejected, match="another model file"):
        check(tmp_path / "m.onnx.gz", tmp_path / "p.vnnlib", tmp_path / "c.npz")


@pytest.mark.filterwarnings("ignore")
def test_nan_from_clamps_proves_nothing(tmp_path: Path) -> None:
    """Weights whose products overflow: bounds become infinite, differences NaN."""
    big = np.full((1, 2), 1e200)
    network = model(
        op("MatMul", "x", big).named("a"),
        op("Relu", "a").named("r"),
        op("MatMul", "r", np.array([[1e200], [-1e200]])),
        x=(1, 1),
        kind=onnx.TensorProto.DOUBLE,
    )
    assert not provable(tmp_path, network, vnnlib(1, 1, "(<= Y_0 1)"), rounds=4)
    assert not provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 0)"), rounds=4)


def test_the_minimum_is_not_taken_conjunct_by_conjunct(tmp_path: Path) -> None:
    """Each row alone can be met, but at other inputs: both at once nowhere."""
    network = model(op("MatMul", "x", np.array([[1, -1]], np.float32)), x=(1, 1))
    assert provable(tmp_path, network, vnnlib(1, 2, "(and (>= Y_0 0.5) (>= Y_1 0.5))"))
    assert not provable(tmp_path, network, vnnlib(1, 2, "(and (>= Y_0 0.5) (<= Y_1 -0.5))"))


def test_there_is_no_tolerance(tmp_path: Path) -> None:
    """Broken by 1e-12, which solvers with tolerances of 1e-6 or 1e-9 call infeasible."""
    network = model(op("Relu", "x"), x=(1, 1))
    assert not provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 0.999999999999)"), rounds=6)
    assert provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 1.000000000001)"), rounds=6)


def test_bounds_are_no_samples(tmp_path: Path) -> None:
    """A spike 2e-6 wide at 0.123456 that no grid meets."""
    at, wide = 0.123456, 1e-6
    shift = f(*(-(at + side * wide) / wide for side in (-1, 0, 1)))
    spread = op("MatMul", "x", np.full((1, 3), 1 / wide, np.float32)).named("a")
    network = model(
        spread, op("Add", "a", shift).named("b"), op("Relu", "b").named("r"), op("MatMul", "r", f(1, -2, 1)[:, None]), x=(1, 1)
    )
    assert not provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 0.5)"), rounds=12)
    assert provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 1.5)"), rounds=26)


@pytest.mark.parametrize("size", [1e8, 1e16, 1e30])
def test_magnitudes_far_apart_hide_nothing(tmp_path: Path, size: float) -> None:
    """(size + x) - size is x over the reals, and 0 in floating point once size is large."""
    shift = np.array([[1.0, 0.0]]), np.array([size, size])
    network = model(
        op("MatMul", "x", shift[0]).named("a"),
        op("Add", "a", shift[1]).named("b"),
        op("Relu", "b").named("r"),
        op("MatMul", "r", np.array([[1.0], [-1.0]])),
        x=(1, 1),
        kind=onnx.TensorProto.DOUBLE,
    )
    assert not provable(tmp_path, network, vnnlib(1, 1, "(<= Y_0 -0.5)"), rounds=4)
    assert not provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 0.5)"), rounds=4)
    assert provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 1.5)"), rounds=4, exact=True)
    assert provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 1.5)"), rounds=4) == (size < 1e15)


def test_a_neuron_hidden_below_rounding_is_seen(tmp_path: Path) -> None:
    """A neuron of 2^-60 beside a bias of 1, enlarged again behind."""
    network = model(
        op("Mul", "x", np.array([[2.0**-60]])).named("a"),
        op("Add", "a", np.array([[1.0]])).named("b"),
        op("Relu", "b").named("r"),
        op("Sub", "r", np.array([[1.0]])).named("s"),
        op("Mul", "s", np.array([[2.0**60]])),
        x=(1, 1),
        kind=onnx.TensorProto.DOUBLE,
    )
    assert not provable(tmp_path, network, vnnlib(1, 1, "(<= Y_0 -0.5)"), rounds=4)
    assert not provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 0.5)"), rounds=4)


def test_cancellation_that_depends_on_the_order_of_summation_is_charged(tmp_path: Path) -> None:
    """Terms that cancel exactly over the reals, and in any order but the file's leave 1e-3 or so in float32."""
    random = np.random.default_rng(0)
    half = random.normal(size=256).astype(np.float32) * 1e4
    weights = np.concatenate([half, -half])[:, None]
    network = model(op("MatMul", "x", np.ones((1, 512), np.float32)).named("a"), op("MatMul", "a", weights), x=(1, 1))
    assert provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 0.0001)"), rounds=2)
    assert not provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 0.0001)"), rounds=2, way="float32")
    assert provable(tmp_path, network, vnnlib(1, 1, "(>= Y_0 1000)"), rounds=2, way="float32")


@pytest.mark.parametrize("way", ["real", "float32"])
def test_no_float_slips_into_rational_numbers(tmp_path: Path, way: str) -> None:
    """Once 0 / 2, of a neuron that is off, and the smallest float32 were floats, and all that they were added to was rounded."""
    first, last = np.array([[-1, 1]], np.float32), np.array([[0.1], [0.3]], np.float32)
    off = op("Gemm", "x", first, f(-2, 3)).named("a"), op("Relu", "a").named("r")
    network = model(*off, op("MatMul", "r", last), x=(1, 1))
    assert provable(tmp_path, network, vnnlib(1, 1, "(<= Y_0 0.5)", low="0.1", high="0.7"), rounds=1, exact=True, way=way)


@pytest.mark.parametrize("power", [125, 127, -125, -127])
def test_float32_divides_by_no_constant_whose_reciprocal_it_may_lose(tmp_path: Path, power: int) -> None:
    """x / 2^127 2^127 is x; but 0 in a program that multiplies by 2^-127, which may be flushed. 1 / 2^-127 nearly overflows."""
    network = model(op("Div", "x", f(2.0**power)).named("a"), op("Mul", "a", f(2.0**power)), x=(1, 1))
    rule = vnnlib(1, 1, "(<= Y_0 0)", low=str(2**30), high=str(2**31)) if power > 0 else vnnlib(1, 1, "(<= Y_0 -3)")
    assert provable(tmp_path, network, rule, rounds=1)
    if abs(power) == 125:
        assert provable(tmp_path, network, rule, rounds=1, way="float32")
    else:
        with pytest.raises(Malformed, match="divisor"):
            provable(tmp_path, network, rule, rounds=1, way="float32")


def test_a_word_that_begins_like_a_comparison_is_none(tmp_path: Path) -> None:
    """Letter by letter, `>12` would be a 1 that has to be greater than 2, which no input meets."""
    network = model(op("Relu", "x"), x=(1, 1))
    with pytest.raises(Malformed, match="comparisons"):
        provable(tmp_path, network, vnnlib(1, 1, "(and (>= Y_0 0) >12)"))
