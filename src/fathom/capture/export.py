"""Writing a captured problem as files that others can check: `model.onnx` and `problem.json`.

The model is the captured network with the overseer's part, over one flat output; the problem holds every number that the
question is made of. Nothing is rounded on the way: weights that are all float32 numbers make a float32 model, any other makes
the whole model float64, and `problem.json` says which. Its numbers are the shortest decimals that read back as the same
float64; infinities are the strings "inf" and "-inf".
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fathom.capture.export_onnx import dtype_of, write_network
from fathom.core.box import Box
from fathom.core.errors import NotUnderstood
from fathom.core.network import Port
from fathom.core.problem import Problem
from fathom.core.region import Region

FORMAT = "fathom problem, version 1"
NUMBERS = 'shortest decimals that read back as the same float64; infinities are "inf" and "-inf"'
QUESTION = (
    "y = model(x), both flat and in the order of the ports. A row of the spec has the value rows . y + offset; it holds where "
    "that is <= 0, or < 0 if strict. margin = least over clauses of the greatest value in the clause; <= 0 is a catastrophe, "
    "and no clause at all is +inf. Set i has spec number of[i]; clause -1 is padding; blur is at most how far an offset is from "
    "what was written. A case is every set of one owner, and its worst margin is the least over them."
)
ARITHMETIC = (
    "real: the model is a function over the real numbers, with exactly the weights in the file. Points are judged in `deployed`, "
    "the region rounded to the program's dtype; proofs cover `region`, which holds `written` and `deployed`."
)


def export(problem: Problem, folder: str | Path) -> None:
    """Write `model.onnx` and `problem.json` into `folder`, which is made if need be; each file appears whole or not at all.

    Live parameters are written as they are now.

    Raises:
        NotUnderstood: no network was captured, or one of its operators cannot be written.
    """
    if problem.network is None:
        raise NotUnderstood(f"expected a captured network to export, got none ({problem.obstacle}); capture the model first")
    model = write_network(problem.network.freeze(torch.float64)).SerializeToString(deterministic=True)
    text = _json(_described(problem, model))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.onnx", model)
    write_whole(folder / "problem.json", text.encode())


def _json(parts: dict[str, Any]) -> str:
    """One line a part: short enough to look at, and no line a number."""
    lines = (f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in parts.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_whole(path: Path, content: bytes) -> None:
    """A file that appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _described(problem: Problem, model: bytes) -> dict[str, Any]:
    """Everything that `problem.json` says."""
    assert problem.network is not None
    single = dtype_of(problem.network.freeze(torch.float64)) == torch.float32
    return {
        "format": FORMAT,
        "numbers": NUMBERS,
        "question": QUESTION,
        "arithmetic": ARITHMETIC,
        "model": {
            "file": "model.onnx",
            "sha256": hashlib.sha256(model).hexdigest(),
            "dtype": "float32" if single else "float64",
            "inputs": _ports(problem.network.inputs),
            "outputs": _ports(problem.network.outputs),
        },
        "program": {
            "kind": type(problem.program).__name__,
            "digest": problem.program.digest,
            "dtype": str(problem.program.dtype).removeprefix("torch."),
            "inputs": _ports(problem.program.inputs),
            "outputs": _ports(problem.program.outputs),
        },
        "sets": {
            name: {**_plain(region), "exact": region.exact, "box": {"lower": _plain(box.lower), "upper": _plain(box.upper)}}
            for name, region, box in _regions(problem)
        },
        "overseer": _plain(problem.overseer),
        "spec": _plain(problem.spec),
        "exact": problem.exact,
        "obstacle": problem.obstacle,
        "owner": _plain(problem.owner),
        "digests": problem.digests(),
    }


def _regions(problem: Problem) -> list[tuple[str, Region, Box]]:
    named = (("written", problem.written), ("deployed", problem.deployed), ("region", problem.region))
    return [(name, region, region.box()) for name, region in named]


def _ports(ports: tuple[Port, ...]) -> list[dict[str, Any]]:
    return [{"name": p.name, "shape": list(p.shape), "start": p.start, "dtype": p.dtype} for p in ports]


def _plain(value: Any) -> Any:
    """A value as JSON: a dataclass as its class and fields, tensors as nested lists of exact numbers."""
    if isinstance(value, Tensor):
        return _finite(value.detach().cpu().tolist())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = (field for field in dataclasses.fields(value) if field.metadata.get("export", True))
        fields = {field.name: _plain(getattr(value, field.name)) for field in kept}
        return {"class": type(value).__name__, "fields": fields}
    if callable(value):
        return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', type(value).__name__)}"
    raise NotUnderstood(f"expected numbers, text and tensors in a problem, got {type(value).__name__}, which JSON cannot hold")


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
