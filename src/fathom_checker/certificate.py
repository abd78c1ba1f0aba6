"""Certificate files: read without running anything, and checked for form. See docs/certificate.md."""

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
ARRAYS = """tree_lower f T d, tree_upper f T d, tree_spec i T, tree_set i T, rows f K w, row_constant f K, row_strict i K,
row_spec i K, row_clause i K, kind i nodes, flags i nodes, index i nodes, cut f nodes, record_weights f records R,
record_slopes s records N, multiplier_record i M, multiplier_neuron i M, multipliers f M, inner_tree i J, inner_neuron i J,
inner_slopes s J 2 N"""
FORMS = {name: form for name, *form in (each.split() for each in ARRAYS.split(","))}  # kind of numbers, and axes
OPTIONAL = ("record_", "multiplier", "inner_")
KINDS = {"i": "iub", "f": "f", "s": "uf"}


@dataclass(frozen=True, eq=False)
class Certificate:
    """What a file says, checked for form only; arrays by their names in the file."""

    arrays: dict[str, Array]
    clauses: Array  # [specs] how many
    first: Array  # [nodes] first child

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def slopes(self, name: str, rows: Array) -> Array:
        """Rows of a table of slopes, as numbers in [0, 1]."""
        table = self.arrays[name]
        return table[rows] / (255 if table.dtype == np.uint8 else 1)


def _require(holds: Any, expected: str, got: Any = "something else") -> None:
    if not holds:
        raise Malformed(f"the certificate: expected {expected}, got {str(got)[:200]}")


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header of a certificate, and its other arrays.

    Raises:
        Malformed: it is no archive of arrays with a header of the format.
    """
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _require(sum(entry.file_size for entry in archive.infolist()) <= MOST_BYTES, f"at most {MOST_BYTES} bytes", "more")
            for name in archive.namelist():
                part = io.BytesIO(archive.read(name))
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(part, allow_pickle=False)
        header = json.loads(arrays.pop("header").tobytes().decode())
        texts = [header[key] for key in ("format", "model", "property", "arithmetic")] + header["relus"]
    except Malformed:
        raise
    except Exception as reason:  # damaged archives raise many kinds
        raise Malformed(f"the certificate is no archive of arrays with a header ({type(reason).__name__}: {reason})") from reason
    _require(all(isinstance(text, str) for text in texts), "text in the header", texts)
    _require(header["format"] == FORMAT and header["arithmetic"] in ("real", "float32"), f"{FORMAT}, of real or float32", texts)
    return header, arrays


def read_certificate(given: dict[str, Array], inputs: int, outputs: int, neurons: int) -> Certificate:
    """Raises: Malformed: the arrays are not of the format, or not about a model of this size."""
    sizes = {"d": inputs, "N": neurons, "2": 2}  # the others are as arrays first have them
    _require(set(given) <= set(FORMS), "arrays of the format", sorted(set(given) - set(FORMS)))
    arrays = dict[str, Array]()
    for name, (kind, *axes) in FORMS.items():
        _require(name in given or name.startswith(OPTIONAL), f"an array `{name}`", "none")
        array = given.get(name, np.zeros([sizes.get(axis, 0) for axis in axes], "u1" if kind == "s" else kind))
        fits = array.dtype.kind in KINDS[kind] and array.dtype.itemsize <= 8 and array.ndim == len(axes)
        fits = fits and all(sizes.setdefault(axis, size) == size for axis, size in zip(axes, array.shape))
        _require(
            fits and (array.dtype.kind != "f" or np.isfinite(array).all()), f"finite `{name}` {axes} of its type", array.shape
        )
        arrays[name] = array.astype({"i": np.int64, "f": np.float64}.get(kind, array.dtype))
        least = 0 if kind == "s" or name in ("record_weights", "multipliers") else -np.inf
        _require((arrays[name] >= least).all(), f"`{name}` of 0 or more", "less")
        _require(kind != "s" or array.dtype == np.uint8 or (array <= 1).all(), f"`{name}` of 1 or less", "more")
    _require(sizes["w"] in (outputs, outputs + inputs), f"rows over {outputs} outputs (and {inputs} inputs)", sizes["w"])
    spec, clause, kind, index = (arrays[name] for name in ("row_spec", "row_clause", "kind", "index"))
    new = np.diff(spec, prepend=-1)
    steps = np.where(new == 1, 2 * clause, np.diff(clause, prepend=0))  # a new spec begins with clause 0
    _require(np.isin([new, steps], (0, 1)).all(), "`row_spec` and `row_clause` ascending by 1", "others")
    clauses = np.zeros(int(new.sum()), np.int64)
    np.maximum.at(clauses, spec, clause + 1)
    _require(
        np.isin(arrays["tree_spec"], spec).all() and np.isin(kind, (LEAF, BOX, PHASE, CLAUSE)).all(), "known specs and kinds"
    )
    # In level order, a node's children are behind the roots and the children of all nodes before it.
    ends = sizes["T"] + np.cumsum(np.select([kind == LEAF, kind == CLAUSE], [0, np.maximum(index, 0)], 2))
    _require(len(kind) == (ends[-1] if len(kind) else sizes["T"]), f"{ends[-1:]} nodes", len(kind))
    return Certificate(arrays, clauses, np.append(sizes["T"], ends)[:-1])
