"""The checker under attack: no certificate, however it lies, may be accepted for a claim that is false.

True worst margins come from `tests/exact.py`, in rational numbers and by enumeration.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fathom.capture.onnx_file import read_onnx
from fathom.capture.vnnlib import read_property, to_problem
from fathom_checker import Malformed, Rejected, check
from tests.certifier import Node, arrays, branch, certify, halve, packed, trees
from tests.command import write_model, write_property
from tests.exact import truths

Parts = dict[str, Any]


def truth(model: Path, rule: Path) -> tuple[Fraction | None, bool]:
    """The exact worst margin over the region that proofs cover, and whether the property can be met."""
    captured = read_onnx(model)
    problem = to_problem(read_property(rule), captured)
    assert problem.network is not None and problem.spec is not None
    found = truths(problem.network, problem.region, problem.spec)
    return min((t.worst for t in found if t.worst is not None), default=None), any(t.fails for t in found)


def accepted(model: Path, rule: Path, head: Parts, parts: Parts) -> bool:
    """The verdict on a certificate, which is re-addressed to these files."""
    file = rule.parent / "certificate.npz"
    digests = {"model": hashlib.sha256(model.read_bytes()).hexdigest(), "property": hashlib.sha256(rule.read_bytes()).hexdigest()}
    file.write_bytes(packed({**head, **digests}, parts))
    try:
        check(model, rule, file)
    except (Rejected, Malformed):
        return False
    return True


def worst_of(folder: Path, model: Path, wide: float, outputs: int) -> float:
    """The least that output 0 can be, about: rounded to 6 decimals."""
    rule = write_property(folder / "least.vnnlib", -wide, wide, 2, outputs, "(<= Y_0 0)")
    least, _ = truth(model, rule)
    assert least is not None
    return float(least)


def claims(folder: Path, seed: int) -> tuple[Path, Path, Path]:
    """A model, a property that just holds, and one that just does not."""
    model = write_model(folder / "model.onnx", (2, 6, 5, 2), seed)
    least = worst_of(folder, model, 0.5, 2)
    right = write_property(folder / "right.vnnlib", -0.5, 0.5, 2, 2, f"(<= Y_0 {least - 0.02:.6f})")
    wrong = write_property(folder / "wrong.vnnlib", -0.5, 0.5, 2, 2, f"(<= Y_0 {least + 1e-6:.9f})")
    assert not truth(model, right)[1]
    assert truth(model, wrong)[1]
    return model, right, wrong


def mutated(random: np.random.Generator, parts: Parts) -> Parts:
    """The same certificate with one lie or a few."""
    made = {name: array.copy() for name, array in parts.items()}
    nodes, boxes = len(made["kind"]), made["tree_lower"]
    for _ in range(random.integers(1, 4)):
        i = int(random.integers(nodes))
        match random.integers(12):
            case 0:
                made["cut"][i] += random.normal() * 10.0 ** random.integers(-6, 2)
            case 1:
                made["index"][i] = random.integers(-1, 12)
            case 2:
                made["flags"][i] = random.integers(0, 8)
            case 3:
                made["kind"][i] = random.integers(0, 4)
            case 4:  # a leaf or a subtree is missing
                keep = np.ones(nodes, bool)
                keep[i] = False
                for name in ("kind", "flags", "index", "cut"):
                    made[name] = made[name][keep]
                nodes -= 1
                if not nodes:
                    return made
            case 5:
                made["tree_lower"] = boxes + np.abs(random.normal(size=boxes.shape)) * 10.0 ** random.integers(-16, 0)
            case 6:
                made["tree_upper"] = made["tree_lower"] - random.integers(0, 2)
            case 7:
                made["rows"] = made["rows"] * random.choice([-1, 0, 2, 1e-300, 1e200])
            case 8:
                made["row_constant"] = made["row_constant"] + random.normal() * 10.0 ** random.integers(-9, 2)
            case 9:
                made["row_strict"] = 1 - made["row_strict"]
            case 10 if "multipliers" in made:
                made["multipliers"] = random.normal(size=made["multipliers"].shape) * 10.0 ** random.integers(0, 300)
            case _:
                if "record_slopes" in made:
                    made["record_slopes"] = random.normal(size=made["record_slopes"].shape).astype(np.float32)
    return made


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("way", [halve, branch])
@pytest.mark.parametrize("seed", range(5))
def test_of_a_thousand_mutations_none_proves_what_is_false(tmp_path: Path, seed: int, way: Any) -> None:
    model, right, wrong = claims(tmp_path, seed)
    made = certify(model.read_bytes(), right.read_bytes(), split=way)
    assert made is not None
    head, parts = made
    assert accepted(model, right, head, parts)
    random = np.random.default_rng(seed)
    other = write_model(tmp_path / "other.onnx", (2, 6, 5, 2), seed + 100)
    broken = truth(other, right)[1]
    for _ in range(100):
        lie = mutated(random, with_choices(random, parts))
        assert not accepted(model, wrong, head, with_rows_of(lie, model, wrong, random))
        if broken:
            assert not accepted(other, right, head, lie)


def with_rows_of(parts: Parts, model: Path, rule: Path, random: np.random.Generator) -> Parts:
    """Half of the time, made to be about this property, so that only its proof is a lie."""
    made = certify_nothing(model, rule)
    names = ("tree_lower", "tree_upper", "tree_spec", "rows", "row_constant", "row_strict", "row_spec", "row_clause")
    return {**parts, **{name: made[name] for name in names}} if random.random() < 0.7 else parts


def certify_nothing(model: Path, rule: Path) -> Parts:
    """The arrays of a certificate about this property that is a single leaf."""
    boxes, specs, of = trees(model.read_bytes(), rule.read_bytes())
    return arrays(boxes, specs, of, [Node() for _ in boxes])


def with_choices(random: np.random.Generator, parts: Parts) -> Parts:
    """Random choices at every leaf of a certificate that has none."""
    made = dict(parts)
    leaves = np.flatnonzero(parts["kind"] == 0)
    records = len(leaves)
    made["index"] = parts["index"].copy()
    made["index"][leaves] = np.where(random.random(records) < 0.9, random.integers(0, records, records), -1)
    made["record_weights"] = random.random((records, len(parts["rows"]))) * (random.random((records, 1)) < 0.8)
    made["record_slopes"] = random.integers(0, 256, (records, 11)).astype(np.uint8)
    made["multiplier_record"], made["multiplier_neuron"] = (random.random((records, 11)) < 0.3).nonzero()
    size = len(made["multiplier_record"])
    made["multipliers"] = np.abs(random.normal(size=size)) * 10.0 ** random.integers(-2, 3, size)
    made["inner_tree"], made["inner_neuron"] = np.zeros(11, np.int64), np.arange(11)
    made["inner_slopes"] = random.integers(0, 256, (11, 2, 11)).astype(np.uint8)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_optimised_forgeries_of_what_is_false_are_refused(tmp_path: Path, seed: int) -> None:
    """A climb in slopes, multipliers, weights and cuts towards the greatest bound: it may near the truth, and never pass it."""
    model, right, wrong = claims(tmp_path, seed)
    made = certify(model.read_bytes(), right.read_bytes(), split=branch, flags=1)
    assert made is not None
    head, parts = made
    random = np.random.default_rng(seed)
    best: Parts = {**with_choices(random, parts), **{n: v for n, v in certify_nothing(model, wrong).items() if "row" in n}}
    score = -np.inf
    for _ in range(340):
        tried = {name: array.copy() for name, array in best.items()}
        name = random.choice(["record_slopes", "inner_slopes", "multipliers", "record_weights", "cut"])
        if tried[name].size:
            at = random.integers(tried[name].size)
            flat = tried[name].reshape(-1)
            moved = abs(float(flat[at]) + random.normal() * 10.0 ** random.integers(-3, 3))
            flat[at] = moved % (256 if "slope" in name else 1e9)
        assert not accepted(model, wrong, head, tried)
        bound = reported(model, wrong, head, tried)
        if bound >= score:
            best, score = tried, bound
    assert score <= 0


def reported(model: Path, rule: Path, head: Parts, parts: Parts) -> float:
    """The bound that the rejection names."""
    try:
        check(model, rule, rule.parent / "certificate.npz")
    except Rejected as reason:
        return float(str(reason).rsplit(" ", 1)[1])
    except Malformed:
        return -np.inf
    raise AssertionError("accepted")


@pytest.mark.parametrize("seed", range(4))
def test_bounds_in_rational_numbers_confirm_those_in_floats(tmp_path: Path, seed: int) -> None:
    model = write_model(tmp_path / "model.onnx", (2, 4, 3, 2), seed)
    least = worst_of(tmp_path, model, 0.5, 2)
    right = write_property(tmp_path / "right.vnnlib", -0.5, 0.5, 2, 2, f"(and (<= Y_0 {least - 0.1:.6f}) (<= Y_1 0.5))")
    made = certify(model.read_bytes(), right.read_bytes(), split=branch)
    assert made is not None
    slopes = np.random.default_rng(seed).integers(0, 256, (7, 2, 7)).astype(np.uint8)
    inner = {"inner_tree": np.zeros(7, np.int64), "inner_neuron": np.arange(7), "inner_slopes": slopes}
    head, parts = made
    for more in (inner, {}):
        made = head, {**parts, **more}
        if accepted(model, right, *made):
            check(model, right, tmp_path / "certificate.npz", exact=True)
    assert accepted(model, right, *made)
    wrong = write_property(tmp_path / "wrong.vnnlib", -0.5, 0.5, 2, 2, f"(<= Y_0 {least + 1e-6:.9f})")
    head, parts = made
    assert not accepted(model, wrong, head, {**parts, **{n: v for n, v in certify_nothing(model, wrong).items() if "row" in n}})
    with pytest.raises(Rejected):
        check(model, wrong, tmp_path / "certificate.npz", exact=True)


@pytest.mark.parametrize("arithmetic", ["real", "float32"])
@pytest.mark.parametrize("seed", range(4))
def test_bounds_close_in_on_the_truth(tmp_path: Path, seed: int, arithmetic: str) -> None:
    model = write_model(tmp_path / "model.onnx", (2, 6, 5, 2), seed)
    rule = write_property(tmp_path / "rule.vnnlib", -0.5, 0.5, 2, 2, f"(<= Y_0 {worst_of(tmp_path, model, 0.5, 2) - 1e-3:.9f})")
    made = certify(model.read_bytes(), rule.read_bytes(), split=branch, arithmetic=arithmetic)
    assert made is not None
    assert accepted(model, rule, *made)
