"""Proofs written down: every split and choice of a search arrives in the certificate, as docs/certificate.md has it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fathom.audits.engine import audit
from fathom.audits.verify import Verification, solve_one, verify
from fathom.bounds import affine
from fathom.bounds.intermediate import tighten
from fathom.capture.export import write_whole
from fathom.capture.onnx_file import read_onnx
from fathom.core.budget import Budget
from fathom.overseers.misclassification import Misclassification
from fathom.prove import branch
from fathom.prove.record import CLAUSE, PHASE, Record, off
from fathom.regions.box import BoxRegion
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from tests.command import fathom, write_model, write_property

SIX = "(or (and (<= Y_0 {0}) (<= Y_1 {0})) (<= Y_2 {1}))"


@pytest.fixture(params=["inputs", "phases"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of splitting."""
    if request.param == "phases":
        monkeypatch.setattr(branch, "FEW_INPUTS", 0)
    return str(request.param)


def proved(folder: Path, seed: int, widths: tuple[int, ...] = (3, 12, 12, 3), wide: float = 0.6) -> tuple[Verification, Path]:
    """A random network, and a property that is as tight as it can be and still be proved with some splits."""
    model = write_model(folder / "model.onnx", widths, seed)
    import onnxruntime

    x = np.random.default_rng(seed).uniform(-wide, wide, (4000, widths[0])).astype(np.float32)
    session = onnxruntime.InferenceSession(model.read_bytes())
    y = np.concatenate([session.run(None, {"x": one[None]})[0] for one in x])
    least = y.min(0) - 0.02 * (y.max(0) - y.min(0)) - 0.01
    rule = SIX.format(np.maximum(y[:, 0], y[:, 1]).min() - 0.03, least[2])
    prop = write_property(folder / "rule.vnnlib", -wide, wide, widths[0], 3, rule)
    out = folder / "proof.npz"
    return verify(model, prop, seconds=60, certificate=out), out


def load(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("seed", range(3))
def test_a_proof_is_written_with_every_split(tmp_path: Path, way: str, seed: int) -> None:
    answer, out = proved(tmp_path, seed)
    assert answer.verdict == "unsat"
    assert answer.check is not None
    assert answer.check.accepted, answer.check.words
    parts = load(out)
    header = json.loads(bytes(parts["header"]))
    assert header["format"] == "fathom certificate, version 1"
    assert header["relus"] == ([] if way == "inputs" else ["v1", "v2"])
    clauses = int(parts["row_clause"].max()) + 1
    children = np.choose(parts["kind"], [0, 2, 2, clauses])
    assert len(parts["tree_lower"]) + children.sum() == len(parts["kind"])  # every child is there
    if way == "phases":
        assert parts["kind"][0] == CLAUSE
        records = parts["index"][parts["kind"] == 0]
        assert sorted(records[records >= 0]) == [*range(len(parts["record_slopes"]))]
        assert parts["record_slopes"].shape[1] == 24
        assert len(parts["multipliers"]) == len(parts["multiplier_record"]) == len(parts["multiplier_neuron"])
        assert (parts["multipliers"] >= 0).all()


def test_multipliers_belong_to_neurons_that_are_split_above_their_leaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branch, "FEW_INPUTS", 0)
    for seed in range(8):
        _, out = proved(tmp_path, seed)
        parts = load(out)
        if (parts["kind"] == PHASE).sum() > 2:
            break
    kind, index = parts["kind"], parts["index"]
    parent = np.repeat(np.arange(len(kind)), np.select([kind == 0, kind == CLAUSE], [0, index], 2))
    split: dict[int, set[int]] = {0: set()}
    for child, mother in enumerate(parent.tolist(), 1):
        split[child] = split[mother] | ({int(index[mother])} if kind[mother] == PHASE else set())
    assert len(parts["multipliers"])
    leaf = {int(index[i]): i for i in np.flatnonzero((kind == 0) & (index >= 0))}
    for record, neuron in zip(parts["multiplier_record"].tolist(), parts["multiplier_neuron"].tolist(), strict=True):
        assert neuron in split[leaf[record]]


@pytest.mark.parametrize("seed", range(5))
def test_boxes_are_the_same_alone_and_in_company(tmp_path: Path, seed: int) -> None:
    """Stable elements that pad a batch once came back tighter than a checker can know, who bounds only unstable ones."""
    network = read_onnx(write_model(tmp_path / "model.onnx", (3, 12, 12, 3), seed)).network.freeze(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    lower = torch.rand(24, 3, generator=generator, dtype=torch.float64) * 2 - 1
    region = BoxRegion(lower, lower + torch.rand(24, 1, generator=generator, dtype=torch.float64))
    together, _ = tighten(network, region)
    for i in range(24):
        alone, _ = tighten(network, region.take(torch.tensor([i])))
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one.lower[0], all_.lower[i], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(one.upper[0], all_.upper[i], rtol=1e-9, atol=1e-12)


def test_a_proof_is_one_of_its_model_and_property_alone(tmp_path: Path) -> None:
    _, out = proved(tmp_path, 0)
    model, prop = tmp_path / "model.onnx", tmp_path / "rule.vnnlib"
    assert fathom("check", model, prop, out).code == 0
    other = write_model(tmp_path / "other.onnx", (3, 12, 12, 3), 1)
    assert fathom("check", other, prop, out).code == 1
    prop.write_text(prop.read_text() + "; the same, in other bytes")
    refused = fathom("check", model, prop, out)
    assert refused.code == 1
    assert refused.out.startswith("rejected: ")


HEAD = "".join(f"(declare-const X_{i} Real)" for i in range(3)) + "".join(f"(declare-const Y_{i} Real)" for i in range(3))
BOX = "".join(f"(assert (>= X_{i} -0.5))(assert (<= X_{i} 0.5))" for i in range(3))
RULES = {
    "boxes apart": "(assert (or (and (<= X_0 -0.2) (<= Y_0 {0})) (and (>= X_0 0.1) (<= Y_1 {1}) (<= Y_0 Y_2))"
    " (and (>= X_1 0.3) (<= Y_2 {2}))))",
    "strict ends and rows": "(assert (or (and (< X_0 0.25) (< Y_0 {0})) (and (< X_1 X_2) (< Y_1 {1}))))",
    "inputs in rows": "(assert (<= (+ Y_0 (* 0.125 X_1)) (- {0} 0.0625)))",
    "no input": "(assert (>= X_0 0.75))(assert (<= Y_0 0.0))",
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(2))
def test_properties_of_any_shape_are_certified(rule: str, seed: int, way: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx", (3, 10, 10, 3), seed)
    network = read_onnx(model).network.freeze(torch.float64)
    x = torch.rand(4000, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    least = (network(x).amin(0) - 0.03).tolist()
    prop = tmp_path / "rule.vnnlib"
    prop.write_text(HEAD + BOX + RULES[rule].format(*(f"{value:.6f}" for value in least)))
    answer = verify(model, prop, seconds=60, certificate=tmp_path / "proof.npz")
    assert answer.verdict == "unsat"
    assert answer.check is not None
    assert answer.check.accepted, answer.check.words


def test_a_certificate_costs_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a search that is recorded forgoes means, the verdict comes from one that does not."""
    monkeypatch.setattr(branch, "FEW_INPUTS", 0)
    _, out = proved(tmp_path, 0)
    out.unlink()
    asked = []

    def solve(problem: Any, budget: Any, seed: int, records: Any = None) -> Any:
        asked.append(records is not None)
        answers = solve_one(problem, budget, seed, None)
        return answers if records is None else replace(answers, lower=answers.lower - 1e6)  # the recorded one ran out of time

    monkeypatch.setattr("fathom.audits.verify.solve_one", solve)
    monkeypatch.setattr("fathom.audits.verify.recorded_at_no_cost", lambda problem: False)
    answer = verify(tmp_path / "model.onnx", tmp_path / "rule.vnnlib", seconds=60, certificate=out)
    assert asked == [False, True]
    assert answer.verdict == "unsat"
    assert answer.check is not None
    assert "could not be repeated" in answer.check.words
    assert not out.exists()


def test_nothing_is_recorded_unasked() -> None:
    record = off()
    nodes = record.split(record.plant(torch.arange(3)), PHASE, torch.arange(3))
    assert nodes.shape == (6,)
    assert not record.on
    assert record.splits == [] == record.roots


def test_a_record_beyond_its_limit_forgets_all() -> None:
    record = Record(limit=100)
    nodes = record.plant(torch.arange(4))
    record.split(nodes, PHASE, torch.arange(4))
    assert not record.on
    assert record.splits == [] == record.closings


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    write_whole(tmp_path / "proof.npz", b"whole")
    assert [*tmp_path.iterdir()] == [tmp_path / "proof.npz"]
    assert (tmp_path / "proof.npz").read_bytes() == b"whole"


def convolutional(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 4, 4)),
        torch.nn.Conv2d(1, 3, 3, padding=1),
        torch.nn.LeakyReLU(0.125),
        torch.nn.Flatten(),
        torch.nn.Linear(48, 10),
        torch.nn.ReLU(),
        torch.nn.Linear(10, 3),
    ).eval()


@pytest.mark.parametrize(("kind", "radius"), [(LinfBall, 0.05), (L2Ball, 0.15), (L1Ball, 0.3)], ids=["linf", "l2", "l1"])
def test_the_proved_cases_of_an_audit_are_checked(
    kind: Any, radius: float, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "inputs":
        monkeypatch.setattr(branch, "FEW_INPUTS", 16)
    module = convolutional(3)
    x = torch.rand(12, 16, generator=torch.Generator().manual_seed(3))
    labels = module(x).argmax(1)
    labels[0] = (labels[0] + 1) % 3  # one that is broken, and no part of the certificate
    region = kind.around(x, radius, clip=(0, 1))
    result = audit(
        module, region, Misclassification(label=labels, classes=3), budget=Budget(seconds=20), certificates=tmp_path / "proofs"
    )
    assert 0 < result.counts.proved < 12
    assert result.check is not None
    assert result.check.accepted, result.check.words
    assert result.claim(0).value == "counterexample"
    claims = {result.to_json()["answers"][i]["claim"] for i in result.proved.nonzero()[:, 0].tolist()}
    assert claims == {"certificate (checked)"}
    files = [tmp_path / "proofs" / name for name in ("model.onnx", "problem.json", "certificate.npz")]
    assert fathom("check", *files).code == 0
    assert "recomputed" in " ".join(result.limits)


def test_what_was_proved_before_is_proved_again_for_a_certificate(tmp_path: Path) -> None:
    module = convolutional(5)
    x = torch.rand(4, 16, generator=torch.Generator().manual_seed(5))
    asked = LinfBall.around(x, 0.02), Misclassification(label=module(x).argmax(1), classes=3)
    book = tmp_path / "book.db"
    first = audit(module, *asked, budget=Budget(seconds=20), casebook=book)
    second = audit(module, *asked, budget=Budget(seconds=20), casebook=book, certificates=tmp_path)
    assert second.counts.proved == first.counts.proved > 0
    assert second.check is not None
    assert second.check.accepted, second.check.words


def test_a_network_that_the_checker_does_not_know_stays_unchecked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sigmoid(), torch.nn.Linear(4, 2)).eval()
    x = torch.rand(2, 3)
    asked = LinfBall.around(x, 0.001), Misclassification(label=module(x).argmax(1), classes=2)
    result = audit(module, *asked, budget=Budget(seconds=20), certificates=tmp_path)
    assert result.counts.proved == 2
    assert result.check is not None
    assert not result.check.accepted
    assert "Sigmoid" in result.check.words
    assert result.claim(0).value == "certificate (unchecked)"


def test_a_proof_by_affine_forms_stays_unchecked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affine, "HEAVY", -1.0)
    answer, out = proved(tmp_path, 0)
    assert answer.verdict == "unsat"
    assert answer.check is not None
    assert not answer.check.accepted
    assert "affine forms" in answer.check.words
    assert not out.exists()


def test_slopes_of_inner_bounds_are_written_and_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By them the checker comes to the prover's bounds; others may weaken a proof; and their places are held to the form."""
    monkeypatch.setattr(branch, "FEW_INPUTS", 0)
    answer, out = proved(tmp_path, 0)
    assert answer.verdict == "unsat" and answer.check is not None and answer.check.accepted, answer.check
    parts = load(out)
    count = len(parts["inner_neuron"])
    assert count and parts["inner_slopes"].shape == (count, 2, 24) and (parts["inner_neuron"] >= 12).all()
    model, prop = tmp_path / "model.onnx", tmp_path / "rule.vnnlib"

    def again(**changed: np.ndarray) -> int:
        other = tmp_path / "other.npz"
        np.savez_compressed(other, **{**parts, **changed})
        return fathom("check", model, prop, other).code

    none = {name: parts[name][:0] for name in ("inner_neuron", "inner_slopes")}
    assert again() == 0
    assert again(inner_slopes=parts["inner_slopes"][::-1]) in (0, 1)
    assert again(inner_neuron=parts["inner_neuron"][::-1]) in (0, 1)
    assert again(inner_tree=parts["inner_tree"] + 1) == again(inner_tree=parts["inner_tree"][:0], **none) == 1
    assert again(inner_slopes=parts["inner_slopes"][1:]) == 2
    assert again(inner_slopes=parts["inner_slopes"].astype(np.float32)) == (0 if parts["inner_slopes"].max() <= 1 else 2)
