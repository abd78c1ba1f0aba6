"""Every kind of overseer of an `audit.toml`, from the file to the verdicts; and the page that says which one to use."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fathom.audits.keys import SettingsError
from fathom.audits.settings import KINDS, NEEDED, OPTIONAL, read_settings
from fathom.audits.setup import make_parts, read_model, read_samples
from fathom.capture.torch_module import capture_module
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer
from fathom.overseers.abstain import Abstain
from fathom.overseers.checker_network import CheckerNetwork
from fathom.overseers.confident import Confident
from fathom.overseers.program import ProgramOverseer
from fathom.overseers.reference import Reference
from fathom.overseers.top_k import TopK
from tests.onnx_models import model, op

PLAIN = 'model = "model.onnx"\n[data]\npath = "data.npz"\n[region]\nkind = "linf"\nradius = 0.1\n[overseer]\n'


def linear(inputs: int, outputs: int, seed: int) -> onnx.ModelProto:
    weight = np.random.default_rng(seed).normal(size=(inputs, outputs)).astype(np.float32)
    return model(op("MatMul", "x", weight), x=(1, inputs))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, inputs, outputs in (("model", 4, 3), ("slow", 4, 3), ("both", 7, 1), ("score", 3, 1)):
        onnx.save(linear(inputs, outputs, len(name)), str(tmp_path / f"{name}.onnx"))
    (tmp_path / "weights.pt").touch()
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((6, 4), dtype=np.float32), y=np.arange(6) % 3)
    return tmp_path


def overseer(folder: Path, text: str) -> Overseer:
    (folder / "audit.toml").write_text(PLAIN + text)
    settings = read_settings(folder / "audit.toml")
    data = read_samples(settings)
    return make_parts(settings, read_model(settings, data), data).overseer


COMMAND = f'kind = "program"\ncommand = ["{sys.executable}", "-c", "pass"]\n'
WHOLE = {
    "confident": ('kind = "confident"\ntau = 0.9\n', Confident),
    "abstain": ('kind = "abstain"\nabstain = 0\n', Abstain),
    "topk": ('kind = "topk"\nk = 2\n', TopK),
    "reference": ('kind = "reference"\nreference = "slow.onnx"\neps = 0.5\n', Reference),
    "checker": ('kind = "checker"\nchecker = "both.onnx"\n', CheckerNetwork),
    "program": (COMMAND, ProgramOverseer),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_kinds_are_made_and_judge(folder: Path, kind: str) -> None:
    text, expected = WHOLE[kind]
    judge = overseer(folder, text)
    assert type(judge) is expected
    if kind != "program":
        x, y = torch.rand(6, 4), torch.randn(6, 3)
        assert judge.margin(x, y).shape == (6,)


def test_a_checker_may_see_less(folder: Path) -> None:
    judge = overseer(folder, 'kind = "checker"\nchecker = "score.onnx"\nsees = "y"\nthreshold = -0.5\n')
    assert isinstance(judge, CheckerNetwork) and judge.sees == "y" and judge.threshold.tolist() == [-0.5] * 6
    program = overseer(folder, COMMAND + "seconds = 2.5\n")
    assert isinstance(program, ProgramOverseer) and program.command.seconds == 2.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "confidant"\n', r"overseer.kind: expected one of misclassification, .*did you mean confident\?"),
        ('kind = "confident"\n', r"overseer.tau: expected tau, .*where the kind is confident, and only there, got none"),
        ('kind = "confident"\ntau = 0\n', r"line 9, overseer.tau: expected a number above 0, got 0"),
        ('kind = "confident"\ntau = 1.0\n', r"line 9, overseer.tau: expected tau, a confidence, below 1, got 1"),
        ("tau = 0.5\n", r"line 8, overseer.tau: expected tau.*got 0.5 for the kind misclassification"),
        ('kind = "abstain"\nabstain = -1\n', r"line 9, overseer.abstain: expected a whole number of at least 0, got -1"),
        ('kind = "abstain"\nabstain = 3\n', r"expected `abstain` in 0 \.\. 2, the model's outputs, got 3"),
        ('kind = "topk"\nk = 0\n', r"line 9, overseer.k: expected a whole number of at least 1, got 0"),
        ('kind = "topk"\nk = 3\n', r"expected k in 1 \.\. 2 for 3 classes, got 3"),
        ('kind = "reference"\nreference = "slow.onnx"\n', r"overseer.eps: expected eps, .*got none"),
        ('kind = "reference"\neps = 0.5\n', r"overseer.reference: expected a reference model .*got none"),
        ('kind = "reference"\nreference = "slow.onnx"\neps = -1\n', r"line 10, overseer.eps: expected a number of at least 0"),
        (
            'kind = "reference"\nreference = "slwo.onnx"\neps = 1\n',
            r"overseer.reference: expected a file.*did you mean slow.onnx\?",
        ),
        (
            'kind = "reference"\nreference = "weights.pt"\neps = 1\n',
            r"overseer.reference: expected an ONNX file.*may be a pickle",
        ),
        ('kind = "checker"\nchecker = "both.onnx"\nsees = "z"\n', r"line 10, overseer.sees: expected one of y, x, xy, got"),
        (
            'kind = "topk"\nk = 1\nthreshold = 1\n',
            r"line 10, overseer.threshold: expected threshold only where the kind is checker",
        ),
        ('kind = "program"\n', r"overseer.command: expected a command where the kind is program, and only there, got none"),
        ('kind = "program"\ncommand = "python judge.py"\n', r"line 9, overseer.command: expected a list, got the text"),
        ('kind = "program"\ncommand = []\n', r"line 9, overseer.command: expected a list, got an empty one"),
        ('kind = "program"\ncommand = ["python", 3]\n', r"overseer.command\[1\]: expected a text, got 3"),
        ('kind = "program"\ncommand = ["/no/such/judge"]\n', r"expected a program that can be run, got '/no/such/judge'"),
        (COMMAND + "seconds = 0\n", r"overseer.seconds: expected a number above 0, got 0"),
    ],
)
def test_mistakes(folder: Path, text: str, message: str) -> None:
    with pytest.raises(FathomError, match=message):
        overseer(folder, text)


def test_a_checker_of_another_size_is_refused(folder: Path) -> None:
    judge = overseer(folder, 'kind = "checker"\nchecker = "both.onnx"\nsees = "y"\n')
    with pytest.raises(FathomError, match=r"to take 3 numbers, got one that takes 7"):
        judge.margin(torch.rand(6, 4), torch.randn(6, 3))


def test_other_models_are_not_overwritten(folder: Path) -> None:
    (folder / "audit.toml").write_text('report = "slow.onnx"\n' + PLAIN + WHOLE["reference"][0])
    with pytest.raises(SettingsError, match=r"line 1, report: expected another file than that of overseer.reference"):
        read_settings(folder / "audit.toml")


@pytest.mark.parametrize("kind", ["confident", "abstain", "topk"])
def test_a_box_has_no_labels(folder: Path, kind: str) -> None:
    box = 'model = "model.onnx"\n[region]\nkind = "box"\nlower = 0\nupper = 1\n[overseer]\n'
    (folder / "audit.toml").write_text(box + WHOLE[kind][0])
    with pytest.raises(SettingsError, match=f"expected an overseer without labels for a box, got {kind}"):
        read_settings(folder / "audit.toml")
    (folder / "audit.toml").write_text(box + WHOLE["reference"][0])
    assert read_settings(folder / "audit.toml").overseer.kind == "reference"


def test_the_reference_has_every_kind_and_key(root: Path) -> None:
    text = (root / "docs" / "command-line.md").read_text(encoding="utf-8")
    for word in (*KINDS, *NEEDED, *OPTIONAL):
        assert f"`{word}`" in text or f'"{word}"' in text or f"`{word} =" in text, word


def test_the_page_of_overseers_runs(root: Path) -> None:
    """All its Python, in order; and every overseer that it makes fits the model that it is about."""
    text = (root / "docs" / "overseers.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    judged = 0
    for statement in ast.parse("".join(blocks)).body:
        exec(compile(ast.Module([statement], []), "docs/overseers.md", "exec"), names)  # noqa: S102 (our own page)
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "judge":
            captured = names.get("captured") or capture_module(names["model"], (4,))
            judge, x = names["judge"], names["x"]
            assert judge.margin(x.double(), captured.program(x).double()).shape == (5,), ast.unparse(statement)
            assert not judge.compilable or len(judge.compile(captured.network).spec) == 5, ast.unparse(statement)
            judged += 1
    assert judged == 21
