"""Certificate files: read without running anything, with sizes known before memory is taken. See docs/certificate.md."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from fathom_checker.errors import Malformed
from fathom_checker.numbers import Array
from fathom_checker.reading import MOST_BYTES

FORMAT = "fathom certificate, version 1"
LEAF, BOX, PHASE, CLAUSE = range(4)
TIGHTEN, CLIP, NARROW = 1, 2, 4

NEEDED = """header u1, tree_lower f2, tree_upper f2, tree_spec i1, tree_set i1, rows f2, row_constant f1, row_strict i1,
row_spec i1, row_clause i1, kind i1, flags i1, index i1, cut f1"""
OPTIONAL = "record_weights f2, record_slopes i1, slope_table t2, multiplier_start i1, multipliers f1"
ARRAYS = {name: (form[0], int(form[1])) for name, form in (each.split() for each in f"{NEEDED}, {OPTIONAL}".split(","))}
KINDS = {"u": "u", "i": "iub", "f": "f", "t": "uf"}


@dataclass(frozen=True, eq=False)
class Certificate:
    """What a file says, checked for form only; arrays by their names in the file."""

    header: dict[str, Any]
    arrays: dict[str, Array]
    parent: Array  # [nodes], -1 for roots
    first: Array  # [nodes] first child
    tree: Array  # [nodes]
    phases: Array  # [nodes] phase splits above
    clauses: Array  # [specs] how many

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]


def read_certificate(content: bytes, inputs: int, outputs: int, neurons: int) -> Certificate:
    """Raises: Malformed: the file is not of the format, or not about a model of this size."""
    arrays = _unpacked(content)
    try:
        header = json.loads(arrays.pop("header").astype(np.uint8).tobytes().decode())
        assert isinstance(header, dict) and isinstance(header["relus"], list) and all(isinstance(n, str) for n in header["relus"])
        assert all(isinstance(header[key], str) for key in ("format", "model", "property", "arithmetic"))
    except (ValueError, KeyError, AssertionError, RecursionError) as reason:
        raise Malformed("the header is not a JSON object with format, model, property, arithmetic, and relus") from reason
    _require(header["format"] == FORMAT, f"the format {FORMAT!r}", header["format"])
    _require(header["arithmetic"] in ("real", "float32"), "an arithmetic of real or float32", header["arithmetic"])
    clauses = _check_specs(arrays, inputs, outputs)
    _check_records(arrays, neurons)
    return Certificate(header, arrays, *_linked(arrays, clauses, inputs, neurons), clauses)


def _require(holds: Any, expected: str, got: Any = "something else") -> None:
    if not holds:
        raise Malformed(f"the certificate: expected {expected}, got {str(got)[:200]}")


def _unpacked(content: bytes) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _require(sum(entry.file_size for entry in entries) <= MOST_BYTES, f"at most {MOST_BYTES} bytes", "more")
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                _require(name in ARRAYS and name not in arrays, "each array of the format once", name)
                arrays[name] = _array(name, archive.read(entry))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, OSError) as reason:
        raise Malformed(f"the certificate is no archive of arrays ({reason})") from reason
    except Exception as reason:  # zlib.error and others of a damaged archive
        if isinstance(reason, Malformed):
            raise
        raise Malformed(f"the certificate is a damaged archive ({reason})") from reason
    missing = [name for name in ARRAYS if name in NEEDED and name not in arrays]
    _require(not missing, f"an array {missing[:1]}", "none")
    return arrays


def _array(name: str, content: bytes) -> Array:
    """One `.npy` array; its shape is held against the bytes that are there before memory is taken."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    kind, axes = ARRAYS[name]
    _require(dtype.kind in KINDS[kind] and dtype.itemsize <= 8, f"`{name}` of another type", dtype)
    _require(len(shape) == axes and not fortran, f"`{name}` of {axes} axes in C order", shape)
    _require(int(np.prod(shape, dtype=object)) * dtype.itemsize == len(content) - file.tell(), f"`{name}` whole", shape)
    array = np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)
    if kind in "ft" and dtype.kind == "f":
        _require(np.isfinite(array).all(), f"finite numbers in `{name}`", "others")
        return array if kind == "t" else array.astype(np.float64)
    if kind == "i":
        _require(array.size == 0 or int(array.max()) < 2**62, f"`{name}` below 2^62", "more")
        return array.astype(np.int64)
    return array


def _check_specs(arrays: dict[str, Array], inputs: int, outputs: int) -> Array:
    """How many clauses each spec has."""
    trees, rows = len(arrays["tree_lower"]), len(arrays["rows"])
    _require(arrays["tree_lower"].shape == arrays["tree_upper"].shape == (trees, inputs), f"boxes of {inputs} inputs")
    _require(arrays["rows"].shape[1] in (outputs, outputs + inputs), f"rows over {outputs} outputs (and {inputs} inputs)")
    _require(all(len(arrays[f"tree_{name}"]) == trees for name in ("spec", "set")), "one spec and set a tree")
    _require(all(len(arrays[f"row_{name}"]) == rows for name in ("constant", "strict", "spec", "clause")), "one entry a row")
    spec, clause = arrays["row_spec"], arrays["row_clause"]
    begins = np.diff(spec, prepend=-1)
    _require(((begins == 0) | (begins == 1)).all(), "`row_spec` from 0, ascending")
    steps = np.where(begins == 1, clause, np.diff(clause, prepend=0))
    _require(((steps == 0) | ((begins == 0) & (steps == 1))).all(), "`row_clause` from 0 in each spec, ascending")
    specs = int(spec[-1]) + 1 if rows else 0
    _require(((arrays["tree_spec"] >= 0) & (arrays["tree_spec"] < specs)).all(), f"`tree_spec` of {specs} specs")
    clauses = np.zeros(specs, np.int64)
    np.maximum.at(clauses, spec, clause + 1)
    return clauses


def _check_records(arrays: dict[str, Array], neurons: int) -> None:
    records = len(arrays.get("record_slopes", ()))
    empty: dict[str, Array] = {
        "record_weights": np.zeros((records, 0)),
        "record_slopes": np.zeros(0, np.int64),
        "slope_table": np.zeros((0, neurons), np.uint8),
        "multiplier_start": np.zeros(records + 1, np.int64),
        "multipliers": np.zeros(0),
    }
    arrays.update({name: array for name, array in empty.items() if name not in arrays})
    table, start = arrays["slope_table"], arrays["multiplier_start"]
    _require(len(arrays["record_weights"]) == records and len(start) == records + 1, "one entry a choice record")
    widest = int(np.bincount(arrays["row_spec"]).max(initial=0))
    columns = arrays["record_weights"].shape[1]
    _require(columns == 0 or columns >= widest, f"`record_weights` for {widest} rows", columns)
    _require((arrays["record_weights"] >= 0).all() and (arrays["multipliers"] >= 0).all(), "weights and multipliers >= 0", "less")
    _require(table.shape[1] == neurons and table.dtype in (np.uint8, np.float32), f"`slope_table` of {neurons} neurons")
    _require(table.dtype == np.uint8 or ((table >= 0) & (table <= 1)).all(), "slopes from 0 to 1", "others")
    _require(((arrays["record_slopes"] >= -1) & (arrays["record_slopes"] < len(table))).all(), "`record_slopes` of the table")
    whole = start[0] == 0 and start[-1] == len(arrays["multipliers"]) and (np.diff(start) >= 0).all()
    _require(whole, "`multiplier_start` from 0 to the number of multipliers, ascending")


def _linked(arrays: dict[str, Array], clauses: Array, inputs: int, neurons: int) -> tuple[Array, Array, Array, Array]:
    """Parent, first child, tree, and number of phase splits above each node, from the level order."""
    kind, index, trees = arrays["kind"], arrays["index"], len(arrays["tree_lower"])
    nodes = len(kind)
    _require(all(len(arrays[name]) == nodes for name in ("flags", "index", "cut")), "one entry a node")
    _require(((kind >= LEAF) & (kind <= CLAUSE)).all(), "`kind` from 0 to 3", "others")
    _require(((arrays["flags"] >= 0) & (arrays["flags"] < 8)).all(), "`flags` from 0 to 7", "others")
    for name, which, low, high in (
        ("a choice record", kind == LEAF, -1, len(arrays["record_slopes"])),
        ("an input", kind == BOX, 0, inputs),
        ("a neuron", kind == PHASE, 0, neurons),
    ):
        _require(((index[which] >= low) & (index[which] < high)).all(), f"`index` to be the number of {name}", "another")
    parent = np.full(nodes, -1)
    first, tree, phases = (np.zeros(nodes, np.int64) for _ in range(3))
    _require(nodes >= trees, "a root for each tree", f"{nodes} nodes")
    tree[:trees] = np.arange(trees)
    begin, end = 0, trees
    while begin < end:  # a level
        level = np.arange(begin, end)
        children = np.choose(kind[level], [0, 2, 2, clauses[arrays["tree_spec"][tree[level]]]])
        total = int(children.sum())
        _require(end + total <= nodes, f"{end + total} nodes or more", nodes)
        first[level] = end + np.cumsum(children) - children
        below = slice(end, end + total)
        parent[below] = np.repeat(level, children)
        tree[below] = tree[parent[below]]
        phases[below] = phases[parent[below]] + (kind[parent[below]] == PHASE)
        begin, end = end, end + total
    _require(end == nodes, f"{end} nodes", nodes)
    return parent, first, tree, phases
