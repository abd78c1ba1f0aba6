"""The examples run, and are what they say: not made easy."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from examples.digits.model import trained


def run(root: Path, *arguments: str | Path, folder: Path | None = None) -> str:
    """What `python ...` prints, started in the repository, or else in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder or root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def digits(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example was trained."""
    folder = tmp_path_factory.mktemp("digits")
    run(root, "-m", "examples.digits.train", "--folder", folder)
    return folder


@pytest.fixture(scope="module")
def held_back(digits: Path) -> tuple[Tensor, Tensor]:
    with np.load(digits / "digits.npz", allow_pickle=False) as data:
        return torch.from_numpy(data["x"]), torch.from_numpy(data["y"])


def test_the_data_are_200_images_between_0_and_1(held_back: tuple[Tensor, Tensor]) -> None:
    x, y = held_back
    assert x.shape == (200, 1, 8, 8) and x.dtype == torch.float32
    assert x.min() == 0 and x.max() == 1
    assert y.shape == (200,) and y.dtype == torch.int64
    assert y.bincount().min() >= 17  # ten classes in nearly equal shares


def test_the_network_reads_at_least_97_percent_of_what_it_never_saw(digits: Path, held_back: tuple[Tensor, Tensor]) -> None:
    x, y = held_back
    with torch.no_grad():
        right = trained(digits / "digits.safetensors")(x).argmax(1) == y
    assert right.float().mean() >= 0.97


def test_the_network_is_not_a_toy(digits: Path) -> None:
    model = trained(digits / "digits.safetensors")
    sizes: list[int] = []
    for layer in model:
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda _layer, _inputs, output: sizes.append(output[0].numel()))
    model(torch.zeros(1, 1, 8, 8))
    assert sum(isinstance(layer, nn.Conv2d) for layer in model) >= 2
    assert sum(sizes) >= 1500


def test_the_onnx_file_is_the_same_network(digits: Path, held_back: tuple[Tensor, Tensor]) -> None:
    x, _ = held_back
    session = onnxruntime.InferenceSession(digits / "digits.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        expected = trained(digits / "digits.safetensors")(x)
    assert torch.allclose(torch.from_numpy(scores), expected, atol=1e-4)


def test_the_same_seed_gives_the_same_files(root: Path, digits: Path, tmp_path: Path) -> None:
    run(root, "-m", "examples.digits.train", "--folder", tmp_path)
    for file in ("digits.safetensors", "digits.npz", "digits.onnx"):
        assert (digits / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_without_weights_the_factory_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"examples\.digits\.train"):
        trained(tmp_path / "digits.safetensors")


def test_a_module_of_ones_own_is_bracketed(root: Path) -> None:
    question, counts, *_ = run(root, "-m", "examples.own_model").splitlines()
    assert "20 cases" in question and "Linf 0.2" in question
    numbers = [int(word) for word in counts.split() if word.isdigit()]
    assert numbers and sum(numbers[:3]) <= 20


def test_the_python_of_the_readme_runs(root: Path, digits: Path, tmp_path: Path) -> None:
    """As it stands there, for the first five of the digits."""
    (block,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    script = tmp_path / "readme.py"
    script.write_text(
        f"""
import numpy, torch
from examples.digits.model import trained
data = numpy.load({str(digits / "digits.npz")!r}, allow_pickle=False)
x, y = torch.from_numpy(data["x"][:5]), torch.from_numpy(data["y"][:5])
module = trained({str(digits / "digits.safetensors")!r})
{block}
assert result.counts.cases == 5 and result.counts.proved + result.counts.broken >= 1
"""
    )
    assert "5 cases" in run(root, script)


def test_the_command_audits_the_trained_module(root: Path, digits: Path) -> None:
    words = ["examples.digits.model:trained", "digits.npz", "--linf", "0.06", "--range", "0", "1", "--limit", "5", "--json"]
    result = json.loads(run(root, "-m", "fathom", "audit", *words, "--seconds", "20", folder=digits))
    assert result["cases"] == 5 and result["proved"] + result["broken"] >= 1
    assert (digits / "report.html").exists() and (digits / "casebook.db").exists()
    for answer in result["answers"]:
        assert answer["lower"] is None or answer["upper"] is None or answer["lower"] <= answer["upper"]


def test_the_documented_settings_run(root: Path, digits: Path, tmp_path: Path) -> None:
    whole, *_ = re.findall(r"```toml\n(.*?)```", (root / "docs" / "command-line.md").read_text(), re.DOTALL)
    (tmp_path / "audit.toml").write_text(whole)
    shutil.copy(digits / "digits.onnx", tmp_path / "model.onnx")
    shutil.copy(digits / "digits.npz", tmp_path / "test.npz")
    printed = run(root, "-m", "fathom", "audit", "audit.toml", "--limit", "3", "--seconds", "20", folder=tmp_path)
    assert "model.onnx, 3 cases" in printed and "Linf 0.03 in [0, 1]" in printed
