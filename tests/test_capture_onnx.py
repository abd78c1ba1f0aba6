"""ONNX import: every table entry against onnxruntime, the quirks of files in the wild, and what must be refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fathom.capture.onnx_file import read_onnx
from fathom.capture.onnx_table import table
from fathom.capture.replay import probes
from tests.onnx_models import CASES, Array


def original(proto: onnx.ModelProto, x: Array) -> Array:
    """What onnxruntime makes of one flat sample, all outputs end to end; without any of Fathom's code."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feed, start = {}, 0
    for port in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in port.shape]
        feed[port.name] = x[start : start + int(np.prod(shape))].reshape(shape)
        start += int(np.prod(shape))
    assert start == len(x)
    return np.concatenate([value.reshape(-1) for value in session.run(None, feed)])


def check(proto: onnx.ModelProto, tolerance: float = 2e-5) -> None:
    """Network and program against onnxruntime, on inputs that the replay has not seen."""
    captured = read_onnx(proto.SerializeToString())
    network, program = captured.network, captured.program
    x = probes(network.input_size, program.dtype, seed=1)[[0, 2, 4, 6]]
    theirs = torch.from_numpy(np.stack([original(proto, row) for row in x.numpy()]))
    assert torch.equal(program(x), theirs)
    scale = theirs.abs().amax(1, keepdim=True).clamp(min=1e-6)
    assert ((network.to(torch.float64)(x.double()) - theirs).abs() <= tolerance * scale).all()
    assert network.outputs == program.outputs and network.inputs == program.inputs


@pytest.mark.parametrize("name", CASES)
def test_operator_computes_what_onnxruntime_computes(name: str) -> None:
    check(CASES[name])


def test_every_table_entry_has_a_case() -> None:
    covered = {node.op_type for proto in CASES.values() for node in proto.graph.node}
    assert table().keys() <= covered
