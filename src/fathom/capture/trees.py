"""Tree ensembles in ONNX files: run by onnxruntime as judges of another model, and not captured as networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnxruntime import GraphOptimizationLevel

from fathom.capture.onnx_file import LIMIT
from fathom.capture.onnx_model import TREES, is_trees, parse_model
from fathom.capture.onnx_model import Model as Parsed
from fathom.capture.onnx_program import Feeds, OnnxProgram, open_session
from fathom.capture.unpack import unpack
from fathom.core.errors import NotUnderstood
from fathom.core.network import Port
from fathom.overseers.models import Model

WHY = "a tree ensemble is run, and not captured as a network"


def holds_trees(source: str | Path | bytes) -> bool:
    """Whether an ONNX file has a node of a tree ensemble.

    Raises:
        NotUnderstood: it is no ONNX model, or has a feature that is not supported.
    """
    return _holds_trees(parse_model(unpack(source, LIMIT)))


def read_trees(source: str | Path | bytes) -> Model:
    """A tree ensemble that overseers can ask, from an ONNX file (`.onnx`, or gzipped) or from its bytes.

    Its outputs are those that are tensors of floats, end to end: the values of a regressor, the scores of a classifier, and not
    the label beside them. It can be evaluated and never proved about: what it judges is searched by value.

    Raises:
        FathomError: there is no such file.
        NotUnderstood: it is no ONNX model with a tree ensemble, onnxruntime does not run it, or it gives no floats.
    """
    parsed = parse_model(unpack(source, LIMIT))
    if not _holds_trees(parsed):
        raise NotUnderstood(f"expected one of {', '.join(TREES)} in the model, got none; read it by fathom.read_onnx")
    level = GraphOptimizationLevel.ORT_ENABLE_ALL
    session = open_session(parsed.raw, level)
    names = [output.name for output in session.get_outputs() if output.type in ("tensor(float)", "tensor(double)")]
    if not names:
        got = ", ".join(f"{output.name} of {output.type}" for output in session.get_outputs())
        raise NotUnderstood(f"expected an output that is a tensor of floats, got {got}; export the model without ZipMap")
    sample = np.zeros(sum(port.size for port in parsed.inputs), dtype=parsed.inputs[0].dtype)
    values = Feeds(session, parsed.inputs).run(names, sample)
    outputs, start = [], 0
    for name, value in zip(names, values, strict=True):
        outputs.append(Port(name, value.shape[1:] if value.ndim > 1 else value.shape, start, parsed.inputs[0].dtype))
        start = outputs[-1].stop
    program = OnnxProgram(parsed.raw, parsed.inputs, outputs, parsed.dtype, level)
    return Model(Model.of(program).run, None, program.digest, WHY)


def _holds_trees(parsed: Parsed) -> bool:
    return any(is_trees(node) for node in parsed.nodes)
