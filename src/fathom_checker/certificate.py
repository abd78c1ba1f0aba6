"""Certificate files: read without running anything, with sizes known before memory is taken. See docs/certificate.md."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from fathom_checker.numbers import Array
from fathom_checker.reading import MOST_BYTES, Malformed

FORMAT = "fathom certificate, version 1"
LEAF, BOX, PHASE, CLAUSE = range(4)
TIGHTEN, CLIP = 1, 2
NEEDED = """header b1, tree_lower f2, tree_upper f2, tree_spec i1, tree_set i1, rows f2, row_constant f1, row_strict i1,
row_spec i1, row_clause i1, kind i1, flags i1, index i1, cut f1"""
OPTIONAL = """record_weights f2, record_slopes i1, slope_table s2, multiplier_start i1, multipliers f1,
inner_tree i1, inner_neuron i1, inner_slopes s2"""
FORMS = dict(each.split() for each in f"{NEEDED}, {OPTIONAL}".split(","))  # kind of numbers, and axes
KINDS = {"b": "u", "i": "iub", "f": "f", "s": "uf"}


@dataclass(frozen=True, eq=False)
class Certificate:
    """What a file says, checked for form only; arrays by their names in the file."""

    header: dict[str, Any]
    arrays: dict[str, Array]
    clauses: Array  # [specs] how many
    parent: Array  # [nodes], -1 for roots
    first: Array  # [nodes] first child
    tree: Array  # [nodes]
    phases: Array  # [nodes] phase splits above

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]


def read_certificate(content: bytes, inputs: int, outputs: int, neurons: int) -> Certificate:
    """Raises: Malformed: the file is not of the format, or not about a model of this size."""
    arrays = _unpacked(content)
    try:
        header = json.loads(arrays["header"].tobytes().decode())
        texts = [header[key] for key in ("format", "model", "property", "arithmetic")] + header["relus"]
        _require(all(isinstance(text, str) for text in texts), "text in the header")
    except (ValueError, KeyError, TypeError, RecursionError) as reason:
        raise Malformed("the certificate's header is no JSON object with format, model, property, arithmetic, relus") from reason
    _require(header["format"] == FORMAT and header["arithmetic"] in ("real", "float32"), f"{FORMAT}, of real or float32", texts)
    clauses = _specs(arrays, inputs, outputs)
    _records(arrays, neurons)
    return Certificate(header, arrays, clauses, *_linked(arrays, clauses, inputs, neurons))


def _require(holds: Any, expected: str, got: Any = "something else") -> None:
    if not holds:
        raise Malformed(f"the certificate: expected {expected}, got {str(got)[:200]}")


def _within(array: Array, least: int, end: int, name: str) -> None:
    _require(((array >= least) & (array < end)).all(), f"`{name}` from {least} to {end - 1}")


def _unpacked(content: bytes) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _require(sum(entry.file_size for entry in entries) <= MOST_BYTES, f"at most {MOST_BYTES} bytes", "more")
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                _require(name in FORMS and name not in arrays, "each array of the format once", name)
                arrays[name] = _array(name, archive.read(entry))
    except Malformed:
        raise
    except Exception as reason:  # damaged archives raise many kinds
        raise Malformed(f"the certificate is no archive of arrays ({type(reason).__name__}: {reason})") from reason
    missing = [name for name in FORMS if name not in arrays and f"{name} " in NEEDED]
    _require(not missing, "all arrays of the format", f"none called {missing[:1]}")
    return arrays


def _array(name: str, content: bytes) -> Array:
    """One `.npy` array; its shape is held against the bytes that are there before memory is taken."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    kind, axes = FORMS[name][0], int(FORMS[name][1])
    fits = dtype.kind in KINDS[kind] and dtype.itemsize <= 8 and len(shape) == axes
    _require(fits, f"`{name}` of {axes} axes and the format's type", (dtype, shape))
    _require(int(np.prod(shape, dtype=object)) * dtype.itemsize == len(content) - file.tell(), f"`{name}` whole", shape)
    array = np.frombuffer(content, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    _require(dtype.kind != "f" or np.isfinite(array).all(), f"finite numbers in `{name}`")
    if kind == "i":
        _within(array, -(2**40), 2**40, name)
    return array.astype({"i": np.int64, "f": np.float64}.get(kind, dtype))


def _specs(arrays: dict[str, Array], inputs: int, outputs: int) -> Array:
    """How many clauses each spec has."""
    trees, rows, spec, clause = len(arrays["tree_lower"]), len(arrays["rows"]), arrays["row_spec"], arrays["row_clause"]
    _require(arrays["tree_lower"].shape == arrays["tree_upper"].shape == (trees, inputs), f"boxes of {inputs} inputs")
    _require(arrays["rows"].shape[1] in (outputs, outputs + inputs), f"rows over {outputs} outputs (and {inputs} inputs)")
    lengths = {name: trees if name[0] == "t" else rows for name in FORMS if name.startswith(("tree", "row"))}
    _require(all(len(arrays[name]) == length for name, length in lengths.items()), "one entry a tree and a row")
    new = np.diff(spec, prepend=-1)
    _within(new, 0, 2, "steps of row_spec")
    _within(np.where(new == 1, 2 * clause, np.diff(clause, prepend=0)), 0, 2, "steps of row_clause")
    specs = int(spec[-1]) + 1 if rows else 0
    _within(arrays["tree_spec"], 0, specs, "tree_spec")
    clauses = np.zeros(specs, np.int64)
    np.maximum.at(clauses, spec, clause + 1)
    return clauses


def _records(arrays: dict[str, Array], neurons: int) -> None:
    """Puts in what is left out, and checks the choice records."""
    records = len(arrays.get("record_slopes", ()))
    arrays.setdefault("record_slopes", np.zeros(0, np.int64))
    arrays.setdefault("record_weights", np.zeros((records, 0)))
    arrays.setdefault("slope_table", np.zeros((0, neurons), np.uint8))
    arrays.setdefault("multiplier_start", np.zeros(records + 1, np.int64))
    multipliers = arrays.setdefault("multipliers", np.zeros(0))
    table, start, weights = arrays["slope_table"], arrays["multiplier_start"], arrays["record_weights"]
    widest = int(np.bincount(arrays["row_spec"]).max(initial=0))
    _require(len(weights) == records and len(start) == records + 1, "one entry a choice record")
    _require(not weights.shape[1] or weights.shape[1] >= widest, f"`record_weights` for {widest} rows", weights.shape)
    _require((weights >= 0).all() and (multipliers >= 0).all(), "weights and multipliers >= 0", "less")
    arrays.setdefault("inner_slopes", np.zeros((0, neurons), np.uint8))
    for name in ("slope_table", "inner_slopes"):
        slopes = arrays[name]
        _require(slopes.shape[1] == neurons and slopes.dtype in (np.uint8, np.float32), f"`{name}` of {neurons} neurons")
        _require(slopes.dtype == np.uint8 or ((slopes >= 0) & (slopes <= 1)).all(), "slopes from 0 to 1", "others")
    inner = [arrays.setdefault(name, np.zeros(0, np.int64)) for name in ("inner_tree", "inner_neuron")]
    _require(len(arrays["inner_slopes"]) == 2 * len(inner[0]) == 2 * len(inner[1]), "two rows of slopes for each inner bound")
    _within(inner[0], 0, len(arrays["tree_lower"]), "inner_tree")
    _within(inner[1], 0, neurons, "inner_neuron")
    _require((np.diff(inner[0] * (neurons + 1) + inner[1]) > 0).all(), "inner bounds in the order of trees and neurons")
    _within(arrays["record_slopes"], -1, len(table), "record_slopes")
    _require((np.diff(start, prepend=0, append=len(multipliers)) >= 0).all(), "`multiplier_start` ascending")


def _linked(arrays: dict[str, Array], clauses: Array, inputs: int, neurons: int) -> tuple[Array, Array, Array, Array]:
    """Parent, first child, tree, and number of phase splits above each node, from the level order."""
    kind, index, trees, nodes = arrays["kind"], arrays["index"], len(arrays["tree_lower"]), len(arrays["kind"])
    _require(all(len(arrays[name]) == nodes for name in ("flags", "index", "cut")) and nodes >= trees, "one entry a node")
    _within(kind, 0, 4, "kind")
    _within(arrays["flags"], 0, 4, "flags")
    for which, least, beyond in ((LEAF, -1, len(arrays["record_slopes"])), (BOX, 0, inputs), (PHASE, 0, neurons)):
        _within(index[kind == which], least, beyond, "index")
    first, tree, phases, parent = (np.full(nodes, fill, np.int64) for fill in (0, 0, 0, -1))
    tree[:trees] = np.arange(trees)
    begin, end = 0, trees
    while begin < end:  # a level
        level = np.arange(begin, end)
        children = np.choose(kind[level], [0, 2, 2, clauses[arrays["tree_spec"][tree[level]]]])
        begin, end = end, end + int(children.sum())
        _require(end <= nodes, f"{end} nodes or more", nodes)
        first[level] = begin + np.cumsum(children) - children
        parent[begin:end] = np.repeat(level, children)
        tree[begin:end] = tree[parent[begin:end]]
        phases[begin:end] = phases[parent[begin:end]] + (kind[parent[begin:end]] == PHASE)
    _require(end == nodes, f"{end} nodes", nodes)
    return parent, first, tree, phases
