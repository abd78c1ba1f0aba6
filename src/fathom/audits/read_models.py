"""Models that settings name, read: an ONNX file, a file of torch.export, or what a factory makes."""

from __future__ import annotations

from pathlib import Path

from fathom.audits.model_keys import Factory
from fathom.capture.captured import Captured
from fathom.core.arithmetic import Arithmetic
from fathom.core.errors import FathomError
from fathom.overseers.models import Model


def read_asked(model: Path | Factory, shape: tuple[int, ...] | None) -> Captured | Model:
    """A model that an overseer asks: captured, but for tree ensembles, which are only run.

    Raises:
        FathomError: it is not understood.
    """
    if isinstance(model, Path) and model.suffix != ".pt2":
        from fathom.capture.trees import holds_trees, read_trees

        if holds_trees(model):
            return read_trees(model)
    return read_captured(model, shape)


def read_captured(model: Path | Factory, shape: tuple[int, ...] | None, arithmetic: str = Arithmetic.REAL) -> Captured:
    """A model, captured; `shape` is that of one input, which a torch model needs.

    Raises:
        FathomError: it is not understood.
    """
    if isinstance(model, Factory) or model.suffix == ".pt2":
        from fathom.capture.torch_module import capture_module
        from fathom.capture.torch_source import load_torch

        if shape is None:
            raise FathomError("expected the shape of one input for a torch model without data, got none; set input_shape")
        try:
            module = load_torch(str(model))
        except SystemExit as end:  # raised by the user's code
            raise FathomError(f"expected {model} to make a module, but it ends the process: {end!r}") from end
        if arithmetic != Arithmetic.REAL:
            raise FathomError(f"expected an ONNX file for {arithmetic} arithmetic, got {model}; export it first")
        return capture_module(module, shape, live=False)
    from fathom.capture.onnx_file import read_onnx

    return read_onnx(model, arithmetic)
