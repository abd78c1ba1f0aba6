"""ONNX models as they are deployed: run by onnxruntime, from the original bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from fathom.core.errors import NotUnderstood
from fathom.core.network import Port
from fathom.core.program import Program

FATAL = 4
"""onnxruntime's log level at which it writes nothing to standard error that it does not also raise."""


class OnnxProgram(Program):
    """onnxruntime on the CPU, with its default graph optimisations, or those asked for, and one thread.

    Samples run one at a time, whatever batch the model would take: matrix kernels round differently at different batch sizes,
    and a witness must fail in whatever company it is run again.
    """

    def __init__(
        self,
        model: bytes,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        dtype: torch.dtype,
        level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ) -> None:
        """`model` is the uncompressed file; its SHA-256 is the digest."""
        self.model = model
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.dtype = dtype
        self.level = level
        self.digest = hashlib.sha256(model).hexdigest()

    def __repr__(self) -> str:
        return f"OnnxProgram({', '.join(p.name for p in self.inputs)} -> {', '.join(p.name for p in self.outputs)})"

    def __call__(self, x: Tensor) -> Tensor:
        """[n, d] -> [n, m], in the dtype of the model's outputs.

        Raises:
            NotUnderstood: onnxruntime fails on a sample, or an output has not the size that it had at capture.
        """
        names = [port.name for port in self.outputs]
        feeds = Feeds(self._session, self.inputs)
        y = np.empty((len(x), sum(port.size for port in self.outputs)), dtype=str(self.dtype).removeprefix("torch."))
        for row, sample in zip(y, x.detach().cpu().numpy(), strict=True):
            values = feeds.run(names, sample)
            for port, value in zip(self.outputs, values, strict=True):
                if value.size != port.size:
                    raise NotUnderstood(f"expected output {port.name!r} to have {port.size} elements, got shape {value.shape}")
                row[port.start : port.stop] = value.reshape(-1)
        return torch.from_numpy(y)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_session(self.model, self.level)


class Feeds:
    """A session with the places of its inputs in one flat sample; a symbolic batch is one of 1."""

    def __init__(self, session: onnxruntime.InferenceSession, ports: Sequence[Port]) -> None:
        shapes = {i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()}
        self.session = session
        self.places = [(port.name, slice(port.start, port.stop), shapes[port.name]) for port in ports]

    def run(self, names: Sequence[str], sample: np.ndarray) -> list[np.ndarray]:
        """The values called `names` at a flat sample [d].

        Raises:
            NotUnderstood: onnxruntime fails; its own text says why.
        """
        try:
            values: list[np.ndarray] = self.session.run(
                names, {name: sample[place].reshape(shape) for name, place, shape in self.places}
            )
        except Exception as problem:  # onnxruntime's exceptions have no common base but this
            raise NotUnderstood(f"onnxruntime could not run the model on one sample: {_plain(problem)}") from problem
        return values


def open_session(model: bytes, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.InferenceSession:
    """A quiet, single-threaded session.

    Raises:
        NotUnderstood: onnxruntime does not take the model; its own text says why.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as problem:  # onnxruntime's exceptions have no common base but this
        raise NotUnderstood(f"onnxruntime does not load the model: {_plain(problem)}") from problem


def _plain(problem: Exception) -> str:
    """onnxruntime's text without its own error codes and line breaks."""
    text = " ".join(str(problem).split())
    return text.rsplit("[ONNXRuntimeError] : ", 1)[-1].split(" : ", 2)[-1]
