"""Instances of the public benchmarks, as plain numbers that a peer's process can read."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from fathom.capture.onnx_file import read_onnx
from fathom.capture.vnnlib import read_property, to_problem
from fathom.core.problem import Problem


@dataclass(frozen=True)
class Instance:
    """One instance of a family, its files unpacked."""

    family: str
    model: Path
    prop: Path
    expected: str


def instances(root: Path, family: str, every: int, into: Path) -> list[Instance]:
    """Each `every`-th instance of a family, with plain files in `into`."""
    folder = root / family
    with (folder / "expected.csv").open() as file:
        expected = {(row[0], row[1]): row[2] for row in csv.reader(file)}
    with (folder / "instances.csv").open() as file:
        pairs = [(row[0], row[1]) for row in csv.reader(file)]
    return [
        Instance(family, _plain(folder / onnx, into), _plain(folder / prop, into), expected.get((onnx, prop), ""))
        for onnx, prop in pairs[::every]
    ]


def problem(instance: Instance) -> Problem:
    """The instance as Fathom reads it."""
    return to_problem(read_property(instance.prop), read_onnx(instance.model))


def write_query(asked: Problem, path: Path) -> None:
    """The problem as a list of boxes with conjunctions of affine rows; see peer_marabou.py."""
    assert asked.spec is not None
    box, spec = asked.region.box(), asked.spec
    parts = []
    for i in range(len(asked)):
        k = int(spec.of[i])
        for clause in sorted(set(spec.clause[k].tolist()) - {-1}):
            mine = spec.clause[k] == clause
            rows, offsets = spec.rows[k][mine].tolist(), spec.offsets[k][mine].tolist()
            parts.append({"lower": box.lower[i].tolist(), "upper": box.upper[i].tolist(), "rows": rows, "offsets": offsets})
    path.write_text(json.dumps(parts))


def _plain(path: Path, into: Path) -> Path:
    if path.exists():
        return path
    plain = into / f"{path.parent.parent.name}-{path.name}"
    if not plain.exists():
        plain.write_bytes(gzip.decompress(path.with_name(path.name + ".gz").read_bytes()))
    return plain
