"""From a model, a region and an overseer to the problem that they pose: captured, with the region's transformations in front."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fathom.capture.captured import Captured
from fathom.core.arithmetic import Arithmetic
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.transforms.program import TransformedProgram, in_front
from fathom.transforms.region import Transformed
from fathom.transforms.seen import Seen

Source = nn.Module | Captured | str | Path
"""What is captured: a module, the path of an ONNX file, or what was captured before."""


def pose(captured: Captured, region: Region, overseer: Overseer) -> Problem:
    """The problem about a model. Where the region transforms pictures, judges see what the model sees.

    Raises:
        FathomError: the parts do not fit together.
    """
    if not isinstance(region, Transformed):
        return Problem.make(captured.program, captured.network, region, overseer)
    front = in_front(region, captured)
    assert isinstance(front.program, TransformedProgram)
    return Problem.make(front.program, front.network, region, Seen.of(overseer, front.program, captured.network))


def capture(
    model: Source, region: Region, shape: tuple[int, ...] | None = None, arithmetic: Arithmetic | str | None = None
) -> Captured:
    """The model as a network, of the region's inputs, or of the pictures that it transforms.

    Args:
        shape: of one sample, where a module does not take flat vectors.
        arithmetic: None: what the model was captured for, and else `real`.

    Raises:
        FathomError: it is not understood.
    """
    shape = shape or (region.shape if isinstance(region, Transformed) else (region.size,))
    wanted = None if arithmetic is None else Arithmetic(arithmetic)
    if isinstance(model, Captured):
        if wanted not in (None, model.network.arithmetic):
            raise FathomError(f"expected a model captured for {wanted}, got one for {model.network.arithmetic}; read it again")
        return model
    if isinstance(model, nn.Module):
        if wanted is Arithmetic.FLOAT32:
            raise FathomError("expected an ONNX file for proofs about float32, got a module; export it first")
        from fathom.capture.torch_module import capture_module

        return capture_module(model, shape, live=False)
    from fathom.capture.onnx_file import read_onnx

    return read_onnx(model, wanted or Arithmetic.REAL)
