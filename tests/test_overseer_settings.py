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
from fathom.audits.overseer_settings import KINDS, NEEDED, OPTIONAL
from fathom.audits.settings import read_settings
from fathom.audits.setup import make_parts, read_model, read_samples
from fathom.capture.onnx_file import read_onnx
from fathom.capture.torch_module import capture_module
from fathom.core.composed import AllOf, AnyOf, Not
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer, Severity
from fathom.core.value import fingerprint
from fathom.overseers.abstain import Abstain
from fathom.overseers.checker_network import CheckerNetwork
from fathom.overseers.confident import Confident
from fathom.overseers.confusions import Confusions
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.plausible import Plausible
from fathom.overseers.program import ProgramOverseer
from fathom.overseers.reference import OtherDecision, Reference
from fathom.overseers.rules import ordered
from fathom.overseers.targeted import Targeted
from fathom.overseers.top_k import TopK
from tests.onnx_models import model, op

PLAIN = 'model = "model.onnx"\n[data]\npath = "data.npz"\n[region]\nkind = "linf"\nradius = 0.1\n[overseer]\n'


def linear(inputs: int, outputs: int, seed: int) -> onnx.ModelProto:
    weight = np.random.default_rng(seed).normal(size=(inputs, outputs)).astype(np.float32)
    return model(op("MatMul", "x", weight), x=(1, inputs))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, inputs, outputs in (("model", 4, 3), ("slow", 4, 3), ("both", 7, 1), ("score", 3, 1), ("other", 4, 3)):
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
    "confusions": ('kind = "confusions"\ncosts = [[0, 1, 9], [1, 0, 1], [9, 1, 0]]\nthreshold = 5\n', Confusions),
    "ordered": ('kind = "ordered"\norder = [2, 0, 1]\n', LinearRules),
    "plausible": ('kind = "plausible"\n[[overseer.relations]]\ncoefficients = [1, -1, 0, 0]\nlimit = 0.5\n', Plausible),
    "decision": ('kind = "decision"\nreference = "slow.onnx"\n', OtherDecision),
    "several references": ('kind = "reference"\nreference = ["slow.onnx", "other.onnx"]\neps = 0.5\n', Reference),
    "several deciders": ('kind = "decision"\nreference = ["slow.onnx", "other.onnx", "slow.onnx"]\n', OtherDecision),
    "all": ('kind = "all"\nof = [{ kind = "misclassification" }, { kind = "confident", tau = 0.9 }]\n', AllOf),
    "any": ('kind = "any"\n[[overseer.of]]\nkind = "topk"\nk = 2\n[[overseer.of]]\nkind = "person"\n', AnyOf),
    "not": ('kind = "not"\nof = [{ kind = "targeted", target = 2 }]\n', Not),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_kinds_are_made_and_judge(folder: Path, kind: str) -> None:
    text, expected = WHOLE[kind]
    judge = overseer(folder, text)
    assert type(judge) is expected
    if kind != "program":
        x, y = torch.rand(6, 4), torch.randn(6, 3)
        assert judge.margin(x, y).shape == (6,)


def test_every_kind_is_made_here() -> None:
    written = {re.findall(r'^kind = "(\w+)"', text)[0] for text, _ in WHOLE.values()}
    assert written == set(KINDS) - {"misclassification", "targeted", "rules", "person"}  # which other tests make


def test_kinds_mean_what_they_mean_in_python(folder: Path) -> None:
    """Every number of the file reaches the overseer, in its place."""
    x, y = torch.rand(6, 4).double(), torch.randn(6, 3).double()
    label = torch.arange(6) % 3
    costs = torch.tensor([[0.0, 1.0, 9.0], [1.0, 0.0, 1.0], [9.0, 1.0, 0.0]])
    models = [read_onnx(folder / name) for name in ("slow.onnx", "other.onnx")]
    same = {
        "confusions": Confusions.make(label, costs, 5),
        "ordered": ordered([2, 0, 1], outputs=3, sets=6),
        "plausible": Plausible.make([[1.0, -1.0, 0.0, 0.0]], [-0.5], sets=6),
        "decision": OtherDecision.make(models[0], sets=6),
        "several references": Reference.make(models, 0.5, sets=6),
        "several deciders": OtherDecision.make([*models, models[0]], sets=6),
        "all": Misclassification(label, 3) & Confident(label, 3, 0.9),
        "not": ~Targeted(torch.full((6,), 2), 3),
    }
    for kind, judge in same.items():
        assert torch.equal(overseer(folder, WHOLE[kind][0]).margin(x, y), judge.margin(x, y)), kind


def test_compositions_nest(folder: Path) -> None:
    """Wrong on a plausible input, and not merely by the second place; with the tables written either way."""
    inline = (
        'kind = "all"\nof = [\n    { kind = "misclassification" },\n'
        '    { kind = "plausible", relations = [{ coefficients = [1, -1, 0, 0] }] },\n'
        '    { kind = "not", of = [{ kind = "any", of = [{ kind = "topk", k = 2 }, { kind = "targeted", target = 1 }] }] },\n]\n'
    )
    tables = (
        'kind = "all"\n[[overseer.of]]\nkind = "misclassification"\n'
        '[[overseer.of]]\nkind = "plausible"\n[[overseer.of.relations]]\ncoefficients = [1, -1, 0, 0]\n'
        '[[overseer.of]]\nkind = "not"\n[[overseer.of.of]]\nkind = "any"\n'
        '[[overseer.of.of.of]]\nkind = "topk"\nk = 2\n[[overseer.of.of.of]]\nkind = "targeted"\ntarget = 1\n'
    )
    label = torch.arange(6) % 3
    want = (
        Misclassification(label, 3)
        & Plausible.make([[1.0, -1.0, 0.0, 0.0]], [0.0], sets=6)
        & ~(TopK(label, 3, 2) | Targeted(torch.ones(6, dtype=torch.int64), 3))
    )
    x, y = torch.rand(6, 4).double(), torch.randn(6, 3).double()
    for text in (inline, tables):
        judge = overseer(folder, text)
        assert str(judge) == str(want) and torch.equal(judge.margin(x, y), want.margin(x, y))
        assert fingerprint(judge) == fingerprint(want)


def test_a_checker_may_see_less(folder: Path) -> None:
    judge = overseer(folder, 'kind = "checker"\nchecker = "score.onnx"\nsees = "y"\nthreshold = -0.5\n')
    assert isinstance(judge, CheckerNetwork) and judge.sees == "y" and judge.threshold.tolist() == [-0.5] * 6
    program = overseer(folder, COMMAND + "seconds = 2.5\n")
    assert isinstance(program, ProgramOverseer) and program.command.seconds == 2.5


DEEP = 'kind = "not"\nof = ' + '[{ kind = "not", of = ' * 9 + '[{ kind = "topk", k = 1 }]' + " }]" * 9 + "\n"


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
        ('kind = "confusions"\nthreshold = 1\n', r"overseer.costs: expected costs, .*where the kind is confusions, .*got none"),
        ('kind = "confusions"\ncosts = [[0, 1], [1, 0]]\n', r"overseer.threshold: expected a threshold, .*got none"),
        (
            'kind = "confusions"\ncosts = [[0, 1], [1]]\nthreshold = 1\n',
            r"line 9, overseer.costs: expected costs as a square.*got rows of \[2, 1\]",
        ),
        (
            'kind = "confusions"\ncosts = [[0, 1], [1, nan]]\nthreshold = 1\n',
            r"line 9, overseer.costs\[1\]\[1\]: expected a number, got nan",
        ),
        ('kind = "confusions"\ncosts = [[0, 1], [1, 0]]\nthreshold = 1\n', r"expected `label` in 0 \.\. 1, got 2"),
        ('kind = "ordered"\norder = [0, 3]\n', r"expected an output in 0 \.\. 2, got 3"),
        ('kind = "decision"\nreference = "slow.onnx"\neps = 1\n', r"line 10, overseer.eps: expected eps, .*got 1"),
        ('kind = "decision"\nreference = []\n', r"line 9, overseer.reference: expected a list, got an empty one"),
        (
            'kind = "decision"\nreference = ["slow.onnx", "slwo.onnx"]\n',
            r"line 9, overseer.reference\[1\]: expected a file.*did you mean slow.onnx\?",
        ),
        ('kind = "all"\n', r"overseer.of: expected of, .*where the kind is all, any or not, and only there, got none"),
        ('of = [{ kind = "person" }]\n', r"line 8, overseer.of: expected of, .*got a list of 1 for the kind misclassification"),
        ('kind = "any"\nof = []\n', r"line 9, overseer.of: expected a list, got an empty one"),
        (
            'kind = "not"\nof = [{ kind = "topk", k = 1 }, { kind = "topk", k = 2 }]\n',
            r"line 9, overseer.of: expected one overseer to negate, got 2",
        ),
        (
            'kind = "all"\nof = [{ kind = "topk", k = 1 }, { kind = "confident", tau = 2 }]\n',
            r"line 9, overseer.of\[1\].tau: expected tau, a confidence, below 1, got 2",
        ),
        (
            'kind = "all"\n[[overseer.of]]\nkind = "topk"\nk = 1\n[[overseer.of]]\nkind = "topk"\nkk = 1\n',
            r"line 14, overseer.of\[1\].kk: expected a key that is known",
        ),
        (
            DEEP,
            r"line 9, overseer.of.*: expected compositions of at most 8 levels, got one more",
        ),
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


def test_models_deep_in_compositions_are_not_overwritten(folder: Path) -> None:
    text = 'kind = "not"\nof = [{ kind = "decision", reference = ["slow.onnx", "other.onnx"] }]\n'
    (folder / "audit.toml").write_text('report = "other.onnx"\n' + PLAIN + text)
    with pytest.raises(SettingsError, match=r"report: expected another file than that of overseer\.of\[0\]\.reference\[1\]"):
        read_settings(folder / "audit.toml")


def test_each_part_says_how_bad_its_failures_are(folder: Path) -> None:
    text = 'kind = "any"\nof = [{ kind = "topk", k = 2, severity = "malign" }, { kind = "misclassification" }]\n'
    judge = overseer(folder, text)
    assert isinstance(judge, AnyOf) and [part.severity for part in judge.parts] == [Severity.MALIGN, Severity.SERIOUS]
    with pytest.raises(SettingsError, match=r"severity: expected no severity for the kind any, got benign: that of the parts"):
        overseer(folder, text.replace('kind = "any"', 'kind = "any"\nseverity = "benign"'))
    with pytest.raises(SettingsError, match=r"severity: expected one of benign, serious, malign"):
        overseer(folder, text.replace('"malign"', '"awful"'))


def test_people_may_be_part_of_a_composition(folder: Path) -> None:
    (folder / "audit.toml").write_text(
        PLAIN + 'kind = "any"\nof = [{ kind = "topk", k = 2 }, { kind = "person", questions = 3 }]\n'
    )
    settings = read_settings(folder / "audit.toml")
    assert [leaf.questions for leaf in settings.overseer.leaves()] == [None, 3]


@pytest.mark.parametrize("kind", ["confident", "abstain", "topk", "confusions", "all"])
def test_a_box_has_no_labels(folder: Path, kind: str) -> None:
    box = 'model = "model.onnx"\n[region]\nkind = "box"\nlower = 0\nupper = 1\n[overseer]\n'
    (folder / "audit.toml").write_text(box + WHOLE[kind][0])
    with pytest.raises(SettingsError, match=f"without labels for a box, got {'misclass' if kind == 'all' else kind}"):
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
