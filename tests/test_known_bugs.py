"""The known classes of verifiers' bugs, one test each: every question here has been answered wrongly by some verifier, somewhere.

Each test asks a broken question, which must never be called `unsat`, beside a nearby one that holds, which shows that the first
was not refused for another reason.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import pytest

from fathom.audits.verify import verify
from tests.onnx_models import Array, Node, f, model, op


def ask(
    folder: Path, network: onnx.ModelProto, box: tuple[float, float], failure: str, outputs: int = 1, seconds: float = 20
) -> str:
    """The verdict on a failure, a VNN-LIB formula over Y, for inputs that are all in the box."""
    inputs = network.graph.input[0].type.tensor_type.shape.dim[-1].dim_value
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)] + [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    lines += [f"(assert (>= X_{i} {box[0]!r}))\n(assert (<= X_{i} {box[1]!r}))" for i in range(inputs)]
    (folder / "p.vnnlib").write_text("\n".join([*lines, f"(assert {failure})"]))
    onnx.save(network, folder / "m.onnx")
    return verify(folder / "m.onnx", folder / "p.vnnlib", seconds=seconds).verdict


def dense(*rows: list[float]) -> Array:
    return np.array(rows, dtype=np.float32).T


def gemm(x: str, name: str, rows: list[list[float]], shift: list[float]) -> Node:
    return op("Gemm", x, dense(*rows), f(*shift)).named(name)


@pytest.mark.parametrize(("shift", "verdict"), [(-0.5, "sat"), (0.5, "unsat")])
def test_the_bias_of_a_separate_add_is_not_dropped(tmp_path: Path, shift: float, verdict: str) -> None:
    network = model(op("MatMul", "x", dense([1.0])).named("a"), op("Relu", "a").named("b"), op("Add", "b", f(shift)), x=(1, 1))
    assert ask(tmp_path, network, (0.0, 1.0), "(<= Y_0 0)") == verdict


@pytest.mark.parametrize(("filling", "verdict"), [(-3.0, "sat"), (3.0, "unsat")])
def test_padding_is_not_ignored(tmp_path: Path, filling: float, verdict: str) -> None:
    pads = np.array([0, 0, 0, 1], dtype=np.int64)
    network = model(
        op("Unsqueeze", "x", np.array([1], dtype=np.int64)).named("a"),
        op("Pad", "a", np.array([0, *pads[:2], 0, 0, pads[3]], dtype=np.int64), f(filling)).named("b"),
        op("Conv", "b", np.ones((1, 1, 3), dtype=np.float32)).named("c"),
        op("Flatten", "c"),
        x=(1, 2),
    )
    assert ask(tmp_path, network, (0.5, 1.0), "(<= Y_0 0)") == verdict


@pytest.mark.parametrize(("connective", "verdict"), [("or", "sat"), ("and", "unsat")])
def test_and_is_not_or(tmp_path: Path, connective: str, verdict: str) -> None:
    network = model(
        gemm("x", "a", [[1.0], [-1.0]], [0.0, 0.1]), op("Relu", "a").named("b"), gemm("b", "y", [[1, 0], [0, 1]], [-0.2, -0.2])
    )
    network.graph.input[0].type.tensor_type.shape.dim[-1].dim_value = 1
    # relu(x) <= 0.2 or relu(0.1 - x) <= 0.2: both, anywhere near 0; with the senses turned round, never both.
    failure = f"({connective} (>= Y_0 0.1) (>= Y_1 0.1))"
    assert ask(tmp_path, network, (-1.0, 1.0), failure, outputs=2) == verdict


def test_strict_is_not_non_strict(tmp_path: Path) -> None:
    """A rectifier reaches 0 and nothing below. That it never falls below is too close to call; it must not be called broken."""
    network = model(gemm("x", "a", [[1.0]], [0.0]), op("Relu", "a"), x=(1, 1))
    assert ask(tmp_path, network, (-1.0, 1.0), "(<= Y_0 0)") == "sat"
    assert ask(tmp_path, network, (-1.0, 1.0), "(< Y_0 0)", seconds=1) != "sat"


def test_a_stale_file_beside_the_zipped_one_is_not_read(tmp_path: Path) -> None:
    safe, broken = (model(gemm("x", "y", [[1.0]], [shift]), x=(1, 1)) for shift in (5.0, -5.0))
    assert ask(tmp_path, safe, (0.0, 1.0), "(<= Y_0 0)") == "unsat"
    (tmp_path / "m.onnx.gz").write_bytes(gzip.compress(broken.SerializeToString()))
    assert verify(tmp_path / "m.onnx.gz", tmp_path / "p.vnnlib", seconds=20).verdict == "sat"
    (tmp_path / "m.onnx.gz").unlink()
    onnx.save(broken, tmp_path / "m.onnx")
    assert verify(tmp_path / "m.onnx", tmp_path / "p.vnnlib", seconds=20).verdict == "sat"


@pytest.mark.parametrize("scale", [1e100, 1e152])
def test_an_overflow_clamped_to_nothing_is_no_proof(tmp_path: Path, scale: float) -> None:
    """Infinity minus infinity in the middle of a bound must not come out as a comfortable number."""
    wide = np.array([[scale, -scale]])
    network = model(
        op("Gemm", "x", wide, np.zeros(2)).named("a"),
        op("Relu", "a").named("b"),
        op("Gemm", "b", wide.T.copy(), np.ones(1)).named("c"),
        op("Clip", "c", np.array(-1.0), np.array(1.0)),
        x=(1, 1),
        kind=onnx.TensorProto.DOUBLE,
    )
    assert ask(tmp_path, network, (-1.0, 1.0), "(<= Y_0 0)", seconds=5) != "unsat"


@pytest.mark.parametrize(("shift", "verdict"), [(-0.1, "sat"), (0.1, "unsat")])
def test_conjuncts_are_minimised_together(tmp_path: Path, shift: float, verdict: str) -> None:
    """x + s <= 0 and s - x <= 0: each alone is reached for either s, both at once only for the first."""
    network = model(gemm("x", "y", [[1.0], [-1.0]], [shift, shift]), x=(1, 1))
    assert ask(tmp_path, network, (-1.0, 1.0), "(and (<= Y_0 0) (<= Y_1 0))", outputs=2) == verdict


@pytest.mark.parametrize("depth", [1e-6, 1e-9, 1e-12])
def test_no_solvers_tolerance_decides(tmp_path: Path, depth: float) -> None:
    """The worst margin is -depth, attained on a diagonal: below what a linear program's tolerances see.

    The second and the third rectifier make |z|, which capture spells 2 relu(z) - z. On boxes round the diagonal, however small,
    only the line of slope 1/2 below relu(z) shows that this is no less than 0: with others the search never ends.
    """
    rows = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
    weights = np.array([[1.0, 0.5, 0.5, 1.0]], dtype=np.float64)
    network = model(
        op("Gemm", "x", np.array(rows, dtype=np.float64).T.copy(), np.array([-2.0, 0.0, 0.0, 0.0])).named("a"),
        op("Relu", "a").named("b"),
        op("Gemm", "b", weights.T.copy(), np.array([-depth])),
        x=(1, 2),
        kind=onnx.TensorProto.DOUBLE,
    )
    # Where x_0 = x_1 every rectifier is at 0 or cut off, and y = -depth.
    assert ask(tmp_path, network, (0.5, 1.0), "(<= Y_0 0)") != "unsat"
    assert ask(tmp_path, network, (0.5, 1.0), f"(<= Y_0 {-2 * depth!r})", seconds=20) == "unsat"
    proof = verify(tmp_path / "m.onnx", tmp_path / "p.vnnlib", seconds=60, certificate=tmp_path / "proof.npz")
    assert proof.check is not None
    assert proof.check.accepted, proof.check.words


def test_a_spike_between_samples_is_not_overlooked(tmp_path: Path) -> None:
    """A failure as wide as a hundred-thousandth of the box, where no gradient leads: only a bound can see it."""
    at, steep = 0.12345, 2.0**17
    hat = [[steep], [steep], [steep]]
    network = model(
        gemm("x", "a", hat, [1 - steep * at, -steep * at, -1 - steep * at]),
        op("Relu", "a").named("b"),
        gemm("b", "y", [[-1.0, 2.0, -1.0]], [0.5]),
        x=(1, 1),
    )
    assert ask(tmp_path, network, (-1.0, 1.0), "(<= Y_0 0)") == "sat"
    assert ask(tmp_path, network, (-1.0, 0.12), "(<= Y_0 0)") == "unsat"


@pytest.mark.parametrize("large", [2.0**30, 2.0**60])
def test_a_term_hidden_below_rounding_is_not_lost(tmp_path: Path, large: float) -> None:
    """y = (x + large) - large + 0.25: the float program sees no x, and fails nowhere; the real network fails at x = -1."""
    network = model(
        gemm("x", "a", [[1.0]], [large]), op("Relu", "a").named("b"), gemm("b", "y", [[1.0]], [0.25 - large]), x=(1, 1)
    )
    assert ask(tmp_path, network, (-1.0, 1.0), "(<= Y_0 0)", seconds=1) != "unsat"


def test_cancellation_that_depends_on_the_order_of_summation_is_not_trusted(tmp_path: Path) -> None:
    """large x - large x + tiny terms: summed in one order they survive, in another they are gone."""
    large, count = 2.0**60, 16
    rows = [[large] + [2.0**-4] * count + [-large]]
    network = model(gemm("x", "a", [[1.0]] * (count + 2), [0.0] + [-1.0] * count + [0.0]), gemm("a", "y", rows, [0.5]), x=(1, 1))
    # The tiny terms add up to x - 1, so y = x - 0.5, which fails for x in [0.25, 0.5]; the float program may say anything.
    assert ask(tmp_path, network, (0.25, 1.0), "(<= Y_0 0)", seconds=1) != "unsat"


def test_weights_of_very_different_magnitude(tmp_path: Path) -> None:
    """A narrow failure behind a gain of 2^80 after a loss of as much: exact in real arithmetic, and in float."""
    up, lost = 2.0**40, 2.0**-40
    layers = [gemm("x", "a", [[lost], [-lost]], [0.0, 0.0]), op("Relu", "a").named("b"), gemm("b", "c", [[lost, lost]], [0.0])]
    layers += [op("Relu", "c").named("d"), gemm("d", "e", [[up]], [0.0]), gemm("e", "y", [[up]], [-0.125])]
    network = model(*layers, x=(1, 1))
    assert ask(tmp_path, network, (-1.0, 1.0), "(<= Y_0 0)") == "sat"  # |x| <= 1 / 8
    assert ask(tmp_path, network, (0.25, 1.0), "(<= Y_0 0)") == "unsat"
