"""Reading `torch.export` archives (.pt2) without executing them.

`torch.export.load` (torch 2.13) is no safe reader: it unpickles the sample inputs (`torch.load`, falling back to
`weights_only=False`), custom objects and any weight that is marked so, passes size expressions through `sympy.sympify`,
which evaluates them as Python, and looks targets up by attribute path. The archive itself is plain: a zip file with the graph
as JSON and the weights as raw bytes. This reader takes those two and nothing else; the graph is interpreted, never turned
into source code.
"""

from __future__ import annotations

import json
import operator as python
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from fathom.capture.torch_graph import is_known
from fathom.core.errors import NotUnderstood

SCHEMA = 8
"""The major version of torch's archive schema that this reader knows (torch/_export/serde/schema.py)."""

DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
SIZES = {f"_operator.{name}": getattr(python, name) for name in ("add", "sub", "mul", "floordiv")}
PLAIN = {"as_int", "as_ints", "as_bool", "as_bools", "as_string", "as_int_lists"}


@dataclass(frozen=True)
class Reference:
    """The value of that name, as an argument of a step."""

    name: str


@dataclass(frozen=True)
class Step:
    """One call of the graph: an aten operator and its arguments; its value, or values, get `outputs` as names."""

    operator: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: tuple[str, ...]
    many: bool  # the operator returns a list or tuple


class Archive(nn.Module):
    """The graph of an archive as a module: interprets its steps on parameters and buffers of the archive's own names."""

    def __init__(self, steps: Sequence[Step], tensors: dict[str, str], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self._steps, self._tensors, self._inputs, self._outputs = tuple(steps), tensors, tuple(inputs), tuple(outputs)

    def forward(self, *x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs in the archive's order; one alone comes bare."""
        if len(x) != len(self._inputs):
            raise NotUnderstood(f"expected {len(self._inputs)} inputs ({', '.join(self._inputs)}), got {len(x)}")
        values: dict[str, Any] = dict(zip(self._inputs, x, strict=True))
        for name, path in self._tensors.items():
            owner, _, leaf = path.rpartition(".")
            values[name] = getattr(self.get_submodule(owner), leaf)
        for step in self._steps:
            result = step.operator(*_resolve(step.arguments, values), **_resolve(step.keywords, values))
            values.update(zip(step.outputs, result if step.many else (result,), strict=True))
        outputs = tuple(values[name] for name in self._outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def _resolve(value: Any, values: dict[str, Any]) -> Any:
    """Arguments with every reference replaced by what it names."""
    if isinstance(value, Reference):
        return values[value.name]
    if isinstance(value, tuple | list):
        return type(value)(_resolve(item, values) for item in value)
    if isinstance(value, dict):
        return {key: _resolve(item, values) for key, item in value.items()}
    return value


def read_archive(path: Path) -> Archive:
    """The module in a .pt2 archive.

    Raises:
        NotUnderstood: no such archive, one of another version, or one that needs pickle, custom objects, control flow or an
            operator that this reader does not know.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(_Files(path, archive))
    except (OSError, zipfile.BadZipFile, ValueError, LookupError, TypeError, AttributeError, NotImplementedError) as error:
        raise NotUnderstood(
            f"{path}: expected an archive written by torch.export.save, got {type(error).__name__}: {error}; write it again with "
            f"torch.export.save(torch.export.export(...), path), or give the model as package.module:factory"
        ) from error


class _Files:
    """The files of one archive, by their path under its root folder."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        self.names = {"/".join(PurePosixPath(name).parts[1:]): name for name in archive.namelist()}

    def read(self, name: str) -> bytes:
        if name not in self.names:
            raise self.refuse(f"expected a file {name!r} inside")
        return self.archive.read(self.names[name])

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def refuse(self, message: str) -> NotUnderstood:
        return NotUnderstood(
            f"{self.path}: {message}; write the archive with this version of torch by torch.export.save, or give the model as "
            f"package.module:factory"
        )


def _read(files: _Files) -> Archive:
    model = files.json("models/model.json")
    major = model["schema_version"]["major"]
    if major != SCHEMA:
        raise files.refuse(f"expected version {SCHEMA} of the archive's schema, got {major}")
    if files.read("byteorder").strip() != b"little":
        raise files.refuse("expected weights in little-endian order")
    graph, signature = model["graph_module"]["graph"], model["graph_module"]["signature"]
    stored = {**_tensors(files, "weights"), **_tensors(files, "constants")}
    tensors, inputs = {}, []
    for spec in signature["input_specs"]:
        kind, body = next(iter(spec.items()))
        if kind == "user_input":
            inputs.append(_only(files, body["arg"], "as_tensor")["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            tensors[body["arg"]["name"]] = body.get("parameter_name") or body.get("buffer_name") or body["tensor_constant_name"]
        else:
            raise files.refuse(f"the graph takes an input of kind {kind!r}, which is not a tensor")
    outputs = []
    for spec in signature["output_specs"]:
        kind, body = next(iter(spec.items()))
        if kind != "user_output":
            raise files.refuse(f"the graph has an output of kind {kind!r}: it changes its own state")
        outputs.append(_only(files, body["arg"], "as_tensor")["name"])
    steps = [step for node in graph["nodes"] if (step := _step(files, node)) is not None]
    module = Archive(steps, tensors, inputs, outputs)
    for target in dict.fromkeys(tensors.values()):
        if target not in stored:
            raise files.refuse(f"the weight {target!r} is missing")
        _place(module, target, stored[target])
    return module.eval()


def _tensors(files: _Files, kind: str) -> dict[str, Tensor]:
    """The tensors stored as raw bytes under data/weights or data/constants, by name; shared storage stays shared."""
    flat: dict[str, Tensor] = {}
    found = {}
    for name, entry in files.json(f"data/{kind}/model_{kind}_config.json")["config"].items():
        meta, path = entry["tensor_meta"], entry["path_name"]
        if entry["use_pickle"] or meta is None:
            raise files.refuse(f"{name!r} is stored as a pickle, which could run anything")
        if meta["dtype"] not in DTYPES or meta["layout"] != 7:
            raise files.refuse(
                f"{name!r} has a dtype or layout that is not supported (dtype {meta['dtype']}, layout {meta['layout']})"
            )
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        if path not in flat:
            raw = files.read(f"data/{kind}/{path}")
            flat[path] = torch.frombuffer(bytearray(raw), dtype=DTYPES[meta["dtype"]]) if raw else torch.empty(0)
        if min(sizes, default=1) == 0:
            tensor = torch.empty(sizes, dtype=DTYPES[meta["dtype"]])
        else:
            tensor = _strided(files, name, flat[path], sizes, strides, meta["storage_offset"]["as_int"])
        found[name] = nn.Parameter(tensor, requires_grad=meta["requires_grad"]) if entry["is_param"] else tensor
    return found


def _strided(files: _Files, name: str, flat: Tensor, sizes: list[int], strides: list[int], offset: int) -> Tensor:
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if min([offset, *strides]) < 0 or last >= len(flat):
        raise files.refuse(f"{name!r} reaches past the {len(flat)} numbers that are stored for it")
    return torch.as_strided(flat, sizes, strides, offset)


def _place(module: nn.Module, path: str, tensor: Tensor) -> None:
    """Registers a tensor under a dotted path, making the modules on the way."""
    *owners, leaf = path.split(".")
    for name in owners:
        if name not in dict(module.named_children()):
            module.add_module(name, nn.Module())
        module = module.get_submodule(name)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(leaf, tensor)
    else:
        module.register_buffer(leaf, tensor)


def _step(files: _Files, node: dict[str, Any]) -> Step | None:
    """One node of the graph; None for an assertion, which computes nothing."""
    target = node["target"]
    parts = target.split(".")
    if target.startswith("torch.ops.aten._assert"):
        return None
    if target in SIZES:
        operator = SIZES[target]
    elif parts[:3] == ["torch", "ops", "aten"] and len(parts) == 5 and is_known(parts[3]):
        operator = getattr(getattr(torch.ops.aten, parts[3]), parts[4])
    else:
        raise files.refuse(f"node {node.get('name')!r} uses the operator {target!r}, which is not understood")
    positional, keywords = [], {}
    for argument in node["inputs"]:
        value = _argument(files, argument["arg"])
        if argument.get("kind") == 2:
            keywords[argument["name"]] = value
        else:
            positional.append(value)
    outputs, many = [], len(node["outputs"]) > 1
    for output in node["outputs"]:
        kind, body = next(iter(output.items()))
        if kind == "as_tensors":
            outputs, many = [item["name"] for item in body], True
        elif kind in ("as_tensor", "as_sym_int"):
            outputs.append(body.get("name") or body["as_name"])
        else:
            raise files.refuse(f"node {node.get('name')!r} ({target}) gives an output of kind {kind!r}")
    return Step(operator, tuple(positional), keywords, tuple(outputs), many)


def _argument(files: _Files, argument: dict[str, Any]) -> Any:
    """An argument of the JSON graph as a Python value, tensors as references."""
    kind, body = next(iter(argument.items()))
    if kind in PLAIN:
        return body
    if kind in ("as_float", "as_floats"):
        return float(body) if kind == "as_float" else [float(item) for item in body]
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return Reference(body["name"])
        case "as_tensors":
            return [Reference(item["name"]) for item in body]
        case "as_sym_int" | "as_optional_tensor":
            return _argument(files, body) if "as_name" not in body else Reference(body["as_name"])
        case "as_sym_ints" | "as_optional_tensors":
            return [Reference(item["as_name"]) if "as_name" in item else _argument(files, item) for item in body]
        case "as_scalar_type":
            return DTYPES[body]
        case "as_device":
            return torch.device("cpu")
        case "as_layout":
            return torch.strided
        case "as_memory_format":
            return {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}[body]
    raise files.refuse(f"the graph holds an argument of kind {kind!r}, which is not understood")


def _only(files: _Files, argument: dict[str, Any], kind: str) -> dict[str, Any]:
    if set(argument) != {kind}:
        raise files.refuse(f"expected inputs and outputs that are tensors, got {next(iter(argument))!r}")
    body: dict[str, Any] = argument[kind]
    return body
