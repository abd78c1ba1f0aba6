"""`fathom latent` as its users meet it: what is asked, what is refused, what is printed, and Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fathom as package
from fathom.core.answer import Claim
from tests.command import fathom, write_data, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latent")
    model = write_model(folder / "model.onnx", [4, 8, 3])
    write_data(folder / "data.npz", model, 6, wrong=1)
    write_data(folder / "natural.npz", model, 600, seed=2)
    np.savez(folder / "bare.npz", x=np.load(folder / "natural.npz")["x"])
    (folder / "audit.toml").write_text(
        'model = "model.onnx"\nseed = 5\n[data]\npath = "data.npz"\n[region]\nkind = "linf"\nradius = 0.01\nrange = [0, 1]\n'
    )
    return folder


ASKED = ("latent", "model.onnx", "data.npz", "--linf", 0.01, "--range", 0, 1)


def test_it_is_asked_and_says_what_it_found(folder: Path) -> None:
    result = fathom(*ASKED, "--layer", "v1", folder=folder)
    assert result.code == 0, result.err
    assert "asked: whether it fails for any activation at v1 [8]" in result.out
    assert "containment: " in result.out and "certificate (unchecked): of " in result.out
    assert "counterexample: of " in result.out, "one is labelled wrong"


@pytest.mark.parametrize("within", ["reach", "box", "ellipsoid", "ball", "l2-ball"])
def test_json_has_every_case_whatever_the_region(folder: Path, within: str) -> None:
    radius = ("--radius", 0.05) if "ball" in within else ()
    words = (*ASKED, "--layer", "v1", "--within", within, "--natural", "natural.npz", "--json", *radius)
    result = fathom(*words, folder=folder)
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["format"] == "fathom-latent/1" and answer["within"] == within and answer["interrupted"] is False
    assert len(answer["cases"]) == 6 and answer["cases"][0]["claim"] == Claim.COUNTEREXAMPLE.value
    assert len(answer["cases"][0]["input"]) == 4 and answer["cases"][0]["margin"] <= 0
    assert (answer["containment"]["stated"] is not None) == (within in ("box", "ellipsoid"))
    assert answer["containment"]["held"] == (600 if answer["containment"]["stated"] is None else answer["containment"]["held"])
    assert answer["recipe"].startswith("fathom latent model.onnx data.npz")


def test_the_same_seed_gives_the_same_answer_from_flags_and_from_a_file(folder: Path) -> None:
    one = fathom(*ASKED, "--layer", "v1", "--seed", 5, "--json", folder=folder)
    two = fathom("latent", "audit.toml", "--layer", "v1", "--json", folder=folder)
    first, second = (json.loads(result.out) for result in (one, two))
    assert first["cases"] == second["cases"] and first["rounds"] == second["rounds"]


def test_what_cannot_be_meant_is_refused(folder: Path) -> None:
    for words, text in (
        ((), "v1 [8]"),
        (("--layer", "relu"), "there are "),
        (("--layer", "v1", "--within", "cube"), "reach, box"),
        (("--layer", "v1", "--within", "ball"), "radius > 0"),
        (("--layer", "v1", "--natural", "bare.npz"), "expected labels in bare.npz"),
        (("--layer", "v1", "--natural", "none.npz"), "none.npz"),
        (("--layer", "v1", "--within", "box", "--coverage", 1.5), "coverage between 0 and 1"),
    ):
        result = fathom(*ASKED, *words, folder=folder)
        assert result.code == 1 and text in result.err, (words, result.err)
    assert fathom(*ASKED, "--layer", "v1", "--rounds", -1, folder=folder).code == 2
    assert fathom("latent", "model.onnx", "data.npz", "--layer", "v1", folder=folder).code == 2, "no region"


def test_ctrl_c_prints_what_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fathom.hunt.latent import LatentHunt

    real = LatentHunt._judge

    def judge(self, *others):  # type: ignore[no-untyped-def]
        import signal

        signal.raise_signal(signal.SIGINT)
        return real(self, *others)

    monkeypatch.setattr(LatentHunt, "_judge", judge)
    result = fathom(*ASKED, "--layer", "v1", folder=folder)
    assert result.code == 130 and "found: for " in result.out and "interrupted" in result.err


def test_the_names_are_public() -> None:
    assert callable(package.latent) and package.LatentResult.__name__ == "LatentResult"
    assert package.NaturalInputs.__name__ == "NaturalInputs"
