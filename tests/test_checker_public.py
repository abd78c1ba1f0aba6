"""Forged certificates for public properties known to be `sat`: a thousand each, climbing towards acceptance, all refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fathom_checker.bounds import Bounder
from fathom_checker.certificate import Certificate, Malformed, Rejected, read_bytes, unpack
from fathom_checker.model import Model
from fathom_checker.numbers import Numbers
from fathom_checker.question import Obligation, read_vnnlib, require_answered
from fathom_checker.tree import Walk
from tests.certifier import Node, arrays, branch, header, packed, trees
from tests.conftest import VNNCOMP

FORGERIES, EACH = 1000, 1  # certificates an instance, instances a family

pytestmark = pytest.mark.public


def broken(family: str, count: int) -> list[tuple[Path, Path]]:
    """Some instances that tools agree are `sat`."""
    if not (VNNCOMP / family).is_dir():
        return []
    with (VNNCOMP / family / "expected.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["verdict"] == "sat"]
    picked = rows[:: max(1, len(rows) // count)][:count]
    return [tuple(VNNCOMP / family / f"{row[name]}.gz" for name in ("onnx", "vnnlib")) for row in picked]  # type: ignore[misc]


INSTANCES = [pair for family in ("acasxu", "rl_benchmarks", "safenlp") for pair in broken(family, EACH)]


def judged(network: Model, obligations: list[Obligation], head: dict[str, Any], parts: dict[str, Any]) -> float:
    """The bound that a rejection names, or -inf; inf for an accepted certificate."""
    try:
        file = Certificate(unpack(packed(head, parts))[1], *network.sizes, network.neurons)
        require_answered(obligations, file)
        with np.errstate(all="ignore"):
            Walk(file, Bounder(network, None)).run()
    except Rejected as reason:
        last = str(reason).rsplit(" ", 1)[1]
        return float(last) if "at least" in str(reason) else -np.inf
    except Malformed:
        return -np.inf
    return np.inf


@pytest.mark.skipif(not INSTANCES, reason="no public benchmarks here")
@pytest.mark.parametrize(("model", "rule"), INSTANCES, ids=lambda path: path.name)
def test_a_thousand_forgeries_for_a_broken_property_are_refused(model: Path, rule: Path) -> None:
    contents = read_bytes(model), read_bytes(rule)
    relus = list(Model(contents[0], Numbers(exact=False)).bends)
    head, network = header(*contents, relus), Model(contents[0], Numbers(exact=False), relus)
    obligations, _ = read_vnnlib(contents[1], network.sizes, network.dtype)
    boxes, specs, of = trees(*contents)
    random, best, score = np.random.default_rng(0), None, -np.inf
    for attempt in range(FORGERIES):
        if best is None or attempt % 50 == 0:  # another tree
            roots = [grown(random, np.array(low), np.array(high), network.neurons, 4) for low, high in boxes]
            parts = choices(random, arrays(boxes, specs, of, roots), network.neurons, roots)
        else:
            parts = nudged(random, best)
        bound = judged(network, obligations, head, parts)
        assert bound < np.inf
        if bound >= score or attempt % 50 == 0:
            best, score = parts, bound


def grown(random: np.random.Generator, low: Any, high: Any, neurons: int, depth: int) -> Node:
    """A random tree over a box, with cuts inside it and outside."""
    node = Node(flags=int(random.integers(4)))
    if depth and random.random() < 0.8:
        wide = np.full(neurons, random.random() < 0.7, float)
        branch(node, low, high, -wide * random.random(neurons), wide * random.random(neurons))
        if node.kind == 1:
            node.cut += float(random.normal() * (high - low)[node.index])
        node.children = [grown(random, low, high, neurons, depth - 1) for _ in range(2)]
    return node


def choices(random: np.random.Generator, parts: dict[str, Any], neurons: int, roots: list[Node]) -> dict[str, Any]:
    """A random record for every leaf."""
    leaves = np.flatnonzero(parts["kind"] == 0)
    records, widest = len(leaves), int(np.bincount(parts["row_spec"]).max())
    index = parts["index"].copy()
    index[leaves] = np.arange(records)
    record, neuron = (random.random((records, neurons)) < 0.1).nonzero()
    return {
        **parts,
        "index": index,
        "record_weights": random.random((records, widest)),
        "record_slopes": random.integers(0, 256, (records, neurons)).astype(np.uint8),
        "multiplier_record": record,
        "multiplier_neuron": neuron,
        "multipliers": np.abs(random.normal(size=len(record))) * 10.0 ** random.integers(-3, 4, len(record)),
    }


def nudged(random: np.random.Generator, parts: dict[str, Any]) -> dict[str, Any]:
    """A few choices changed; now and then what is claimed, too."""
    made = {name: array.copy() for name, array in parts.items()}
    names = ["record_slopes", "multipliers", "record_weights", "cut", "flags"]
    name = str(random.choice([*names, "rows", "row_constant", "tree_upper"] if random.random() < 0.1 else names))
    flat = made[name].reshape(-1)
    for at in random.integers(flat.size, size=min(flat.size, 8)):
        moved = float(flat[at]) + random.normal() * 10.0 ** random.integers(-4, 3)
        flat[at] = {"record_slopes": abs(moved) % 256, "flags": abs(int(moved)) % 4}.get(
            name, moved if name[0] == "r" else abs(moved)
        )
    return made
