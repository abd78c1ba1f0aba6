"""A program: what is deployed, and what `confirm` runs. The last word on every failure."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fathom.core.network import Port


class Program(ABC):
    """The original module or ONNX file, run as its owner runs it, in its own precision."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dtype: torch.dtype  # of the inputs; its outputs are compared as they come
    digest: str  # SHA-256 of what runs

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Flat inputs [n, d] of `dtype` to flat outputs [n, m]."""
