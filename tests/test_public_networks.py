"""The public benchmarks: every network imports, and computes what onnxruntime computes to float32 accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fathom.capture.onnx_file import read_onnx
from fathom.capture.replay import probes

VNNCOMP = Path(__file__).parent.parent.parent / "shared" / "vnncomp"
FAMILIES = sorted(folder.name for folder in VNNCOMP.glob("*") if folder.is_dir()) or ["none"]


@pytest.mark.public
@pytest.mark.parametrize("family", FAMILIES)
def test_every_network_is_onnxruntimes(family: str) -> None:
    files = sorted((VNNCOMP / family / "onnx").rglob("*.onnx*"))
    assert files
    for file in files:
        captured = read_onnx(file)
        x = probes(captured.network.input_size, captured.program.dtype, seed=1)
        theirs = captured.program(x).double()
        values = captured.network.to(torch.float64).values(x.double())
        # Rounding is relative to the numbers computed on the way: an output may be a small difference of large ones.
        largest = torch.stack([value.flatten(1).abs().amax(1) for value in values[1:]]).amax(0)
        assert ((values[-1] - theirs).abs().amax(1) <= 2e-6 * largest).all(), file.name
        assert (theirs.std(0) > 0).any(), "a network that answers every input alike would show nothing"
