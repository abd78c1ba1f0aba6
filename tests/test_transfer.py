"""Failures tried on other models: counted as they are, and refused where they cannot be tried."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fathom
from fathom.capture.onnx_file import read_onnx
from fathom.regions.linf import LinfBall
from fathom.report.page import render
from tests.command import fathom as command
from tests.command import write_data, write_model

WEIGHTS = [[4.0, 0.0], [0.0, 4.0]]


def linear(weights: list[list[float]], shift: float = 0.0) -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.tensor(weights), torch.tensor([shift, 0.0])
    return layer


def audited(also: dict[str, nn.Module]) -> fathom.AuditResult:
    """Inputs whose first or second number is the larger; the last one can be made to fail by no change of 0.1."""
    x = torch.tensor([[0.5, 0.45], [0.5, 0.4], [0.2, 0.25], [0.9, 0.1]])
    judge = fathom.Misclassification(torch.tensor([0, 0, 1, 0]), 2)
    return fathom.audit(linear(WEIGHTS), LinfBall.around(x, 0.1, (0, 1)), judge, also=also)


def test_failures_are_tried_on_other_models() -> None:
    others = {
        "the same": linear(WEIGHTS),
        "says 0": linear([[0.0, 0.0], [0.0, 0.0]], 1.0),
        "the reverse": linear([[0.0, 4.0], [4.0, 0.0]]),
    }
    result = audited(others)
    same, zero, reverse = result.transfer
    assert result.counts.broken == 3
    assert same.tried == same.broken == (0, 1, 2) and same.already_wrong == ()
    assert zero.broken == zero.already_wrong == (2,)  # the one that is not of class 0
    assert set(reverse.broken).isdisjoint(set(same.broken) - set(reverse.already_wrong))
    lines = result.lines()
    assert "transfer: 3 of 3 failures also break the same" in lines
    assert "transfer: 1 of 3 failures also breaks says 0, 1 of them already wrong there when clean" in lines
    told = json.loads(json.dumps(result.to_json()))["transfer"]
    assert told[1] == {
        "model": "says 0",
        "program": zero.program,
        "tried": [0, 1, 2],
        "broken": [2],
        "already_wrong": [2],
        "unjudged": [],
    }
    assert "0, 1, 2" in render(result)


def test_what_cannot_be_judged_in_another_model_is_counted_apart() -> None:
    """Earlier it was counted among the failures that do not break the other model."""
    only_zero = fathom.PythonOverseer(
        lambda x, y: torch.where(y[:, 0] < 1, torch.nan, y[:, 0] - 1.9), name="speaks of few outputs"
    )
    x = torch.tensor([[0.5, 0.45], [0.9, 0.1]])
    region = LinfBall.around(x, 0.1, (0, 1))
    result = fathom.audit(linear(WEIGHTS), region, only_zero, also={"silent": linear([[0.0, 0.0], [0.0, 0.0]])})
    (transfer,) = result.transfer
    assert transfer.tried == transfer.unjudged == (0,) and transfer.broken == ()
    assert transfer.line() == "transfer: 0 of 1 failure also break silent; 1 cannot be judged there"
    assert "cannot be judged" in render(result)


def test_what_was_counted_is_what_the_other_model_does() -> None:
    torch.manual_seed(3)
    model, other = (nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)) for _ in range(2))
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        mine.data = theirs.data + 0.15 * mine.data
    x = torch.rand(20, 6)
    label = model(x).argmax(1)
    result = fathom.audit(model, LinfBall.around(x, 0.2, (0, 1)), fathom.Misclassification(label, 3), also={"other": other})
    (transfer,) = result.transfer
    witness = result.answers.found.x
    wrong = [i for i in result.broken.nonzero()[:, 0].tolist() if int(other(witness[i]).argmax()) != int(label[i])]
    clean = [i for i in wrong if int(other(x[i]).argmax()) != int(label[i])]
    assert list(transfer.tried) == result.broken.nonzero()[:, 0].tolist()
    assert (list(transfer.broken), list(transfer.already_wrong)) == (wrong, clean)
    assert 0 < len(clean) < len(wrong)


def test_models_that_do_not_fit_are_refused_before_the_work() -> None:
    with pytest.raises(fathom.FathomError, match=r"with the 2 inputs of the audited one.*got odd with 3 "):
        audited({"odd": fathom.capture_module(nn.Linear(3, 2), (3,), live=False)})  # type: ignore[dict-item]
    with pytest.raises(fathom.FathomError, match=r"with the 2 outputs of the audited one.*got many with 5 "):
        audited({"many": nn.Linear(2, 5)})


def test_no_failure_is_tried_where_none_was_found() -> None:
    x = torch.tensor([[0.9, 0.1]])
    judge = fathom.Misclassification(torch.tensor([0]), 2)
    result = fathom.audit(linear(WEIGHTS), LinfBall.around(x, 0.1, (0, 1)), judge, also={"other": linear(WEIGHTS)})
    assert result.transfer[0].tried == ()
    assert "transfer: 0 of 0 failures" in result.transfer[0].line()
    assert "No failure was found that could be tried" in render(result)


def test_other_models_on_the_command_line(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx", [4, 8, 3], seed=0)
    for name, seed in (("second.onnx", 1), ("third.onnx", 2)):
        write_model(tmp_path / name, [4, 8, 3], seed=seed)
    write_data(tmp_path / "data.npz", model, 6)
    words = ["audit", "model.onnx", "data.npz", "--linf", 0.3, "--range", 0, 1, "--seconds", 20, "--planted", 0]
    told = command(*words, "--also", "second.onnx", "--also", "third.onnx", "--json", folder=tmp_path)
    assert told.code == 0, told.err
    result = json.loads(told.out)
    assert [entry["model"] for entry in result["transfer"]] == ["second.onnx", "third.onnx"]
    second = read_onnx(tmp_path / "second.onnx").program
    y = np.load(tmp_path / "data.npz")["y"]
    broken = [
        entry["case"]
        for entry in result["answers"]
        if entry["verdict"] == "broken"
        and not entry["already_wrong"]
        and int(second(torch.tensor([entry["witness"]["x"]])).argmax()) != y[entry["case"]]
    ]
    assert broken == result["transfer"][0]["broken"]
    (tmp_path / "audit.toml").write_text(
        'model = "model.onnx"\nalso = ["second.onnx"]\n[data]\npath = "data.npz"\n[region]\nkind = "linf"\nradius = 0.3\n'
        "range = [0, 1]\n[budget]\nplanted = 0\ntotal_seconds = 20\n"
    )
    again = command("audit", "audit.toml", folder=tmp_path)
    assert "failures also break" in again.out and "second.onnx" in again.out
    wrong = command(*words, "--also", "none.onnx", folder=tmp_path)
    assert wrong.code == 1 and "--also" in wrong.err and "none.onnx" in wrong.err
    write_model(tmp_path / "wide.onnx", [5, 8, 3])
    wide = command(*words, "--also", "wide.onnx", folder=tmp_path)
    assert wide.code == 1 and "with the 4 inputs" in wide.err
    lost = command(*words, "--also", "second.onnx", "--casebook", "second.onnx", folder=tmp_path)
    assert lost.code == 1 and "also[0]" in lost.err and "overwritten" in lost.err
