"""Certificate files: read without running anything, and checked for form; and what can come of checking."""

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fathom_checker.numbers import Array

MOST_BYTES = 1 << 31
FORMAT = "fathom certificate, version 1"
LEAF, BOX, PHASE, CLAUSE = range(4)
TIGHTEN, CLIP = 1, 2
ARRAYS = """tree_lower f T d, tree_upper f T d, tree_spec i T, tree_set i T, rows f K w, row_constant f K, row_strict i K,
row_spec i K, row_clause i K, kind i nodes, flags i nodes, index i nodes, cut f nodes, record_weights p records R,
record_slopes s records N, multiplier_record i M, multiplier_neuron i M, multipliers p M, inner_tree i J, inner_neuron i J,
inner_slopes s J 2 N"""  # the kind of numbers, p for floats of 0 or more, and the axes
KINDS = {"i": ("iub", np.int64), "f": ("f", np.float64), "p": ("f", np.float64), "s": ("u", np.uint8)}  # in the file, and here


class Malformed(Exception):
    """A file is not what it should be, or uses what the checker does not understand."""


class Rejected(Exception):
    """The certificate is well formed, and does not prove what it should."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever goes wrong within is a fault of the file that is read; damaged ones raise errors of many kinds."""
    try:
        yield
    except (Malformed, Rejected):
        raise
    except Exception as reason:
        raise Malformed(f"{what}: {type(reason).__name__}: {' '.join(str(reason).split())[:200]}") from reason


def require(holds: Any, expected: str, got: Any = "something else") -> None:
    if not holds:
        raise Malformed(f"expected {expected}, got {str(got)[:200]}")


def read_bytes(path: Path) -> bytes:
    """The file of just this name, never one beside it; unzipped where it starts as gzip."""
    with reading(f"{path} cannot be read"), path.open("rb") as plain, gzip.open(plain) as unzipped:
        content = (unzipped if plain.peek(2)[:2] == b"\x1f\x8b" else plain).read(MOST_BYTES + 1)
    require(len(content) <= MOST_BYTES, f"at most {MOST_BYTES} bytes in {path}", "more")
    return content


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header of a certificate, and its other arrays."""
    with reading("the certificate is no archive of arrays with a header"), zipfile.ZipFile(io.BytesIO(content)) as archive:
        require(sum(entry.file_size for entry in archive.infolist()) <= MOST_BYTES, f"at most {MOST_BYTES} bytes", "more")
        files = {name.removesuffix(".npy"): io.BytesIO(archive.read(name)) for name in archive.namelist()}
        arrays = {name: np.lib.format.read_array(file, allow_pickle=False) for name, file in files.items()}
        header = json.loads(arrays.pop("header").tobytes().decode())
        texts = [header[key] for key in ("format", "arithmetic", "model", "property")] + header["relus"]
        require(all(isinstance(text, str) for text in texts), "text in the header", texts)
        require(texts[0] == FORMAT and texts[1] in ("real", "float32"), f"{FORMAT}, of real or float32", texts)
    return header, arrays


class Certificate(dict[str, Array]):
    """What a file says, checked for form only: arrays by their names, all of them; `clauses` [specs], how many each has; `first`
    [nodes], the first child."""

    def __init__(self, given: dict[str, Array], inputs: int, outputs: int, neurons: int) -> None:
        sizes = {"d": inputs, "N": neurons, "2": 2}  # the others are as arrays first have them
        forms = {name: form for name, *form in (each.split() for each in ARRAYS.split(","))}
        require(given.keys() <= forms.keys(), "arrays of the format", given.keys() - forms.keys())
        for name, (letter, *axes) in forms.items():
            kinds, kind = KINDS[letter]
            require(name in given or name.startswith(("record_", "multiplier", "inner_")), f"an array `{name}`", "none")
            array = given.get(name, np.zeros([sizes.get(axis, 0) for axis in axes], kind))
            fits = array.dtype.kind in kinds and array.dtype.itemsize <= np.dtype(kind).itemsize and array.ndim == len(axes)
            fits = fits and all(sizes.setdefault(axis, size) == size for axis, size in zip(axes, array.shape))
            finite = fits and np.isfinite(array).all() and (letter != "p" or (array >= 0).all())
            require(finite, f"finite `{name}` {axes} of their type and sign", (array.dtype, array.shape))
            self[name] = array.astype(kind)
        require(sizes["w"] in (outputs, outputs + inputs), f"rows over {outputs} outputs (and {inputs} inputs)", sizes["w"])
        spec, clause, kind, index = (self[name] for name in ("row_spec", "row_clause", "kind", "index"))
        new = np.diff(spec, prepend=-1)
        steps = np.where(new == 1, 2 * clause, np.diff(clause, prepend=0))  # a new spec begins with clause 0
        require(np.isin([new, steps], (0, 1)).all(), "`row_spec` and `row_clause` ascending by 1", "others")
        require(np.isin(self["tree_spec"], spec).all() and np.isin(kind, range(4)).all(), "known specs and kinds")
        self.clauses = np.zeros(int(new.sum()), np.int64)
        np.maximum.at(self.clauses, spec, clause + 1)
        # In level order, a node's children are behind the roots and the children of all nodes before it.
        children = np.select([kind == LEAF, kind == CLAUSE], [0, np.maximum(index, 0)], 2)
        self.first = sizes["T"] + np.cumsum(children) - children
        require(len(kind) == sizes["T"] + children.sum(), f"{sizes['T'] + children.sum()} nodes", len(kind))
