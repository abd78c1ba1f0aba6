"""A model in settings: an ONNX file, or a Python function that makes one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fathom.audits import keys
from fathom.audits.keys import Place


@dataclass(frozen=True)
class Factory:
    """A Python function without arguments that makes a torch model, by the import path that the user typed."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def model(place: Place, value: object) -> Path | Factory:
    """A file that is there, and that may be read without running it; or package.module:factory."""
    parts = re.fullmatch(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", str(value))
    if parts and isinstance(value, str):
        return Factory(parts[1], parts[2])
    path = keys.existing(place, value)
    if path.suffix in (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".bin"):
        place.refuse(
            "an ONNX file, or the Python path of a function that makes the model (package.module:factory)",
            f"{path.name}, which may be a pickle, and so could run any code",
            "export it by torch.onnx.export, or give a factory that loads it",
        )
    return path
