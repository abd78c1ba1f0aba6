"""`fathom estimate` as its users meet it: what is asked, what is refused, what is printed, and Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fathom as package
from fathom.cli import progress
from fathom.core.answer import Claim
from tests.command import fathom, write_data, write_model, write_property

SMALL = ("--draws", 300, "--evaluations", 2000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimate")
    model = write_model(folder / "model.onnx", [4, 8, 3])
    write_data(folder / "data.npz", model, 12, wrong=1)
    write_property(folder / "some.vnnlib", 0, 1, 4, 3, "(<= Y_0 Y_1)")
    write_property(folder / "either.vnnlib", 0, 1, 4, 3, "(or (and (<= X_0 0.5) (<= Y_0 Y_1)) (and (>= X_0 0.5) (<= Y_1 Y_2)))")
    (folder / "box.toml").write_text(
        'model = "model.onnx"\nseed = 5\n[region]\nkind = "box"\nlower = [0, 0, 0, 0]\nupper = [1, 1, 1, 1]\n'
        '[overseer]\nkind = "rules"\nrules = [{ coefficients = [1, -1, 0] }]\n'
    )
    return folder


def test_every_method_answers_with_its_own_claim(folder: Path) -> None:
    result = fathom("estimate", "model.onnx", "--property", "some.vnnlib", "--json", *SMALL, folder=folder)
    assert result.code == 0
    answer = json.loads(result.out)
    assert answer["format"] == "fathom-estimate/1" and answer["interrupted"] is False
    parts = {part["method"]: part for part in answer["parts"]}
    assert list(parts) == ["sampling", "splitting", "importance", "volume", "unseen"]
    assert parts["sampling"]["claim"] == Claim.CONFIDENCE.value
    assert parts["splitting"]["claim"] == parts["importance"]["claim"] == Claim.ESTIMATE.value
    assert parts["volume"]["claim"] == Claim.CERTIFICATE.value
    low, high = parts["volume"]["lower"], parts["volume"]["upper"]
    assert low <= parts["sampling"]["upper"] and parts["sampling"]["lower"] <= high
    assert all(part["cost"]["seconds"] >= 0 and part["sentence"] for part in answer["parts"])


def test_the_same_seed_gives_the_same_answer(folder: Path) -> None:
    def ask(seed: int) -> list[object]:
        out = fathom("estimate", "model.onnx", "--property", "some.vnnlib", "--json", "--seed", seed, *SMALL, folder=folder).out
        return [(part["value"], part["lower"], part["upper"]) for part in json.loads(out)["parts"]]

    assert ask(1) == ask(1) != ask(2)


def test_words_for_people(folder: Path) -> None:
    result = fathom("estimate", "model.onnx", "data.npz", "--linf", 0.2, "--range", 0, 1, "--anyway", *SMALL, folder=folder)
    assert result.code == 0
    assert "12 cases, each as likely, Linf 0.2 in [0, 1], misclassified" in result.out
    assert "bound with confidence: P(failure) is between" in result.out
    assert "not to be averaged" in result.out


def test_the_data_as_they_are(folder: Path) -> None:
    result = fathom("estimate", "model.onnx", "data.npz", "--distribution", "data", "--anyway", "--json", folder=folder)
    assert result.code == 0
    sampling, unseen = json.loads(result.out)["parts"]
    assert sampling["facts"]["draws"] == 12 and sampling["facts"]["failures"] == 1
    assert unseen["method"] == "unseen"


def test_settings_from_a_file(folder: Path) -> None:
    result = fathom("estimate", "box.toml", "--distribution", "normal", "--json", *SMALL, folder=folder)
    assert result.code == 0
    answer = json.loads(result.out)
    assert answer["seed"] == 5 and "normal" in answer["distribution"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "Missing argument"),
        (["none.onnx", "data.npz", "--linf", 0.1], 1, "nothing there"),
        (["data.npz", "model.onnx", "--linf", 0.1], 1, "the order is fathom estimate MODEL DATA"),
        (["model.onnx"], 2, "expected DATA behind MODEL"),
        (["model.onnx", "data.npz"], 2, "expected how much inputs may change"),
        (["model.onnx", "data.npz", "--linf", 0.1, "--l2", 0.1], 2, "expected one of --linf, --l2 and --l1, got 2"),
        (["model.onnx", "data.npz", "--linf", -0.1], 1, "--linf"),
        (["model.onnx", "data.npz", "--linf", 0.1, "--draws", 0], 1, "expected draws of 1 or more, got 0"),
        (["model.onnx", "data.npz", "--linf", 0.1, "--evaluations", -1], 1, "expected evaluations of 1 or more, got -1"),
        (["model.onnx", "data.npz", "--linf", 0.1, "--confidence", 1], 1, "expected a confidence between 0 and 1"),
        (["model.onnx", "data.npz", "--linf", 0.1, "--seconds", 0], 2, "expected seconds > 0"),
        (["model.onnx", "data.npz", "--linf", 0.1, "--distribution", "cauchy"], 2, "got 'cauchy'"),
        (["model.onnx", "data.npz", "--l2", 0.1, "--distribution", "normal", "--anyway"], 1, "boxes or L-infinity balls"),
        (["model.onnx", "data.npz", "--property", "some.vnnlib"], 2, "--property alone"),
        (["model.onnx", "--property", "none.vnnlib"], 1, "none.vnnlib"),
        (["model.onnx", "--property", "either.vnnlib"], 1, "a property of one box of inputs, got 2"),
        (["model.onnx", "wide.npz", "--linf", 0.1], 1, "expected"),
        (["box.toml", "--distribution", "data"], 1, "got a box without any"),
    ],
)
def test_wrong_words_are_explained(folder: Path, words: list[object], code: int, said: str) -> None:
    np.savez(folder / "wide.npz", x=np.zeros((3, 7), dtype=np.float32), y=np.zeros(3, dtype=np.int64))
    result = fathom("estimate", *words, folder=folder)
    assert result.code == code, result.err
    assert said in " ".join(result.err.replace("│", " ").split())
    assert "Traceback" not in result.err and result.out == ""


def test_an_interrupt_prints_what_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after the first draws: the other methods are not begun, and the interval is that of the draws made."""

    @contextlib.contextmanager
    def impatient(text: str) -> Iterator[Callable[[str], None]]:
        yield lambda words: signal.raise_signal(signal.SIGINT) if words.startswith("sampling: 1,000 of") else None

    monkeypatch.setattr(progress, "spinning", impatient)
    result = fathom("estimate", "model.onnx", "--property", "some.vnnlib", "--draws", 10**8, "--json", folder=folder)
    assert result.code == 130
    assert "interrupted; above is what was known by then" in result.err and "Traceback" not in result.err
    answer = json.loads(result.out)
    assert answer["interrupted"] and answer["parts"][0]["facts"]["draws"] == 1000
    assert answer["parts"][1]["value"] is None and answer["parts"][2]["value"] is None


def test_the_function_answers_as_the_command_does() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    region = package.regions.LinfBall.around(torch.zeros(1, 2), radius=1.0)
    overseer = package.Misclassification(label=torch.tensor([0]), classes=2)
    told: list[str] = []
    answer = package.estimate(
        module,
        region,
        overseer,
        effort=package.Effort(draws=500, evaluations=3000),
        tell=lambda method, text: told.append(method),
    )
    assert isinstance(answer, package.Estimation)
    sampling, volume = answer.part("sampling"), answer.part("volume")
    assert sampling is not None and volume is not None and volume.lower is not None and volume.upper is not None
    assert sampling.value is not None and volume.lower - 0.1 < sampling.value < volume.upper + 0.1
    assert {"sampling", "splitting", "volume"} <= set(told)
    assert json.loads(json.dumps(answer.to_json(), allow_nan=False))["parts"]
