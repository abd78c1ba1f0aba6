"""A small maker of certificates for the tests of the checker: splits whatever leaf the checker does not accept."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fathom_checker.bounds import Bounder
from fathom_checker.certificate import BOX, LEAF, PHASE, Certificate, unpack
from fathom_checker.model import Model
from fathom_checker.numbers import Numbers, below
from fathom_checker.question import read_vnnlib
from fathom_checker.tree import Walk

FORMAT = "fathom certificate, version 1"


@dataclass
class Node:
    """A node while its tree grows."""

    kind: int = LEAF
    flags: int = 1
    index: int = -1
    cut: float = 0.0
    children: list[Node] = field(default_factory=list)


@dataclass
class Spec:
    """Clauses of rows (coefficients, constant, strict)."""

    clauses: list[list[tuple[list[float], float, bool]]]


def arrays(
    boxes: list[tuple[Any, Any]], specs: list[Spec], of: list[int], roots: list[Node], sets: list[int] | None = None
) -> dict[str, Any]:
    """The arrays of a certificate without choice records."""
    rows = [(s, c, row) for s, spec in enumerate(specs) for c, clause in enumerate(spec.clauses) for row in clause]
    nodes, level = [], roots
    while level:
        nodes += level
        level = [child for node in level for child in node.children]
    return {
        "tree_lower": np.array([low for low, _ in boxes], float),
        "tree_upper": np.array([high for _, high in boxes], float),
        "tree_spec": np.array(of),
        "tree_set": np.array(sets or [-1] * len(boxes)),
        "rows": np.array([row[0] for _, _, row in rows], float),
        "row_constant": np.array([row[1] for _, _, row in rows], float),
        "row_strict": np.array([row[2] for _, _, row in rows], np.uint8),
        "row_spec": np.array([s for s, _, _ in rows]),
        "row_clause": np.array([c for _, c, _ in rows]),
        "kind": np.array([node.kind for node in nodes], np.uint8),
        "flags": np.array([node.flags for node in nodes], np.uint8),
        "index": np.array([node.index for node in nodes], np.int32),
        "cut": np.array([node.cut for node in nodes], float),
    }


def header(model: bytes, property: bytes, relus: list[str], arithmetic: str = "real") -> dict[str, Any]:
    digests = {"model": hashlib.sha256(model).hexdigest(), "property": hashlib.sha256(property).hexdigest()}
    return {"format": FORMAT, **digests, "arithmetic": arithmetic, "relus": relus}


def packed(head: dict[str, Any], parts: dict[str, Any]) -> bytes:
    """The bytes of a certificate; the same for the same parts."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in {"header": np.frombuffer(json.dumps(head).encode(), np.uint8), **parts}.items():
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), inner.getvalue(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


class _Tried(Walk):
    """Notes what is not proved, instead of rejecting."""

    open: list[tuple[int, Any, Any, Any, Any]]

    def reject(self, state: Any, at: Any, words: str) -> None:
        for i in at:
            self.open.append((int(state["node"][i]), *(state[name][i].copy() for name in ("lower", "upper", "low", "high"))))


def grow(
    model: bytes,
    property: bytes,
    boxes: list[tuple[Any, Any]],
    specs: list[Spec],
    of: list[int],
    *,
    split: Callable[..., Node] | None = None,
    flags: int = 3,
    arithmetic: str = "real",
    rounds: int = 60,
    exact: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Header and arrays of a certificate of these trees, by splitting open leaves; None where the rounds do not suffice."""
    roots = [Node(flags=flags) for _ in boxes]
    numbers = Numbers(exact=exact)
    real = arithmetic == "real"
    relus = list(Model(model, numbers, single=not real).bends)
    head, network = header(model, property, relus, arithmetic), Model(model, numbers, relus, single=not real)
    for _ in range(rounds):
        parts = arrays(boxes, specs, of, roots)
        file = Certificate(unpack(packed(head, parts))[1], *network.sizes, network.neurons)
        bounder = Bounder(network, None)
        walk = _Tried(file, bounder)
        walk.open = []
        with np.errstate(all="ignore"):
            walk.run()
        if not walk.open:
            return head, parts
        nodes, level = [], roots
        while level:
            nodes += level
            level = [child for node in level for child in node.children]
        for number, *state in walk.open:
            (split or halve)(nodes[number], *state)
            for child in nodes[number].children:
                child.flags = flags
    return None


def trees(model: bytes, property: bytes) -> tuple[list[tuple[Any, Any]], list[Spec], list[int]]:
    """Boxes, specs and which box has which for a property of rows whose coefficients are float64: a tree for each box."""
    network = Model(model, Numbers(exact=False))
    grouped: dict[bytes, tuple[tuple[Any, Any], list[Any]]] = {}
    for _, _, *box, literals in read_vnnlib(property, network.sizes, network.dtype)[0]:
        rows = []
        for key, constant, strict in literals:
            if len(key) > 1 or key[0][0] < network.sizes[1]:
                coefficients = np.zeros(sum(network.sizes))
                coefficients[[place for place, _ in key]] = [float(value) for _, value in key]
                rows.append((coefficients.tolist(), below(constant), strict))
        grouped.setdefault(box[0].tobytes() + box[1].tobytes(), ((box[0], box[1]), []))[1].append(rows)
    return [box for box, _ in grouped.values()], [Spec(rows) for _, rows in grouped.values()], [*range(len(grouped))]


def certify(model: bytes, property: bytes, **more: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A certificate of a VNN-LIB property."""
    return grow(model, property, *trees(model, property), **more)


def halve(node: Node, lower: Any, upper: Any, low: Any, high: Any) -> None:
    """Split a leaf at the middle of its widest input."""
    node.kind, node.index = BOX, int((upper - lower).argmax())
    node.cut = float((lower[node.index] + upper[node.index]) / 2)
    node.children = [Node(), Node()]


def branch(node: Node, lower: Any, upper: Any, low: Any, high: Any) -> None:
    """Split a leaf at the neuron that may go furthest to both sides; at an input where there is none."""
    reach = np.minimum(-low, high)
    if reach.max(initial=0) <= 0:
        halve(node, lower, upper, low, high)
        return
    node.kind, node.index, node.cut, node.children = PHASE, int(reach.argmax()), 0.0, [Node(), Node()]
