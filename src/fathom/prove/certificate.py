"""From the record of a search to a certificate: the file that docs/certificate.md describes."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fathom.bounds.affine import pays
from fathom.core.errors import NotUnderstood
from fathom.core.network import Network
from fathom.core.operator import Nonlinear
from fathom.core.problem import Problem
from fathom.core.rounding import down
from fathom.core.spec import Spec
from fathom.prove.record import CLAUSE, LEAF, PHASE, TIGHTEN, Closings, Record
from fathom.regions.box import BoxRegion
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall

FORMAT = "fathom certificate, version 1"
RELUS = ("Relu", "LeakyRelu")

Array = NDArray[Any]


def certificate(
    problem: Problem, sets: Tensor, records: Sequence[tuple[Tensor, Record]], model: bytes, prop: bytes, *, numbered: bool
) -> bytes:
    """The bytes of a certificate that every set at `sets` [t] is safe.

    Args:
        records: what searches recorded, each with the indices of the sets that it searched; the last one about a set counts, and
            a set that none is about was proved by default bounds.
        model: uncompressed bytes of the ONNX file.
        prop: uncompressed bytes of the VNN-LIB file or of `problem.json`.
        numbered: whether trees say which set they are about, as those for `problem.json` do.

    Raises:
        NotUnderstood: the proof rests on something that a certificate cannot name; the text says what.
    """
    assert problem.network is not None and problem.spec is not None
    if not isinstance(problem.region, BoxRegion | LinfBall | L2Ball | L1Ball):
        kind = type(problem.region).__name__
        raise NotUnderstood(f"the proof is about sets of the kind {kind}, which certificates have no words for")
    box = problem.region.take(sets).box()
    if pays(problem.network, box):
        raise NotUnderstood("the proof rests on affine forms, which certificates have no words for")
    trees = _Trees.grow(sets, records)
    relus = (
        _relus(problem.network, model)
        if (trees.kind == PHASE).any() or len(trees.closed) or any(r.inner for _, r in records)
        else []
    )
    header = {
        "format": FORMAT,
        "model": hashlib.sha256(model).hexdigest(),
        "property": hashlib.sha256(prop).hexdigest(),
        "arithmetic": problem.arithmetic.value,
        "relus": relus,
    }
    arrays: dict[str, Any] = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "tree_lower": box.lower.numpy(),
        "tree_upper": box.upper.numpy(),
        "tree_set": sets.numpy() if numbered else np.full(len(sets), -1),
        "kind": trees.kind,
        "flags": trees.flags,
        "index": trees.index.astype(np.int32),
        "cut": trees.cut,
        **_rows(problem.spec.take(sets)),
        **trees.choices(problem.spec.take(sets)),
        **_inner(sets, records),
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _inner(sets: Tensor, records: Sequence[tuple[Tensor, Record]]) -> dict[str, Array]:
    """The slopes that bounds of the inside rest on at the roots, in the order of trees and neurons."""
    last = {int(about[place]): (record, node) for about, record in records for place, node in record.roots}
    tree, neuron, slopes = [], [], []
    for t, s in enumerate(sets.tolist()):
        record, root = last.get(s, (None, -1))
        for part in [] if record is None else record.inner:
            mine = np.flatnonzero(part.node == root)
            tree.append(np.full(len(mine), t))
            neuron.append(part.neuron[mine])
            slopes.append(part.slopes[mine])
    if not tree:
        return {}
    trees, neurons, table = np.concatenate(tree), np.concatenate(neuron), np.concatenate(slopes)
    order = np.lexsort((neurons, trees))
    return {"inner_tree": trees[order], "inner_neuron": neurons[order], "inner_slopes": table[order]}


def _relus(network: Network, model: bytes) -> list[str]:
    """The tensors in the file whose elements are the network's neurons, in its order.

    Raises:
        NotUnderstood: a neuron is none of the file's own.
    """
    from onnx import ModelProto

    outputs = {name for node in ModelProto.FromString(model).graph.node if node.op_type in RELUS for name in node.output}
    names = []
    for node in network.nodes:
        if isinstance(node.operator, Nonlinear):
            found = [name for name in _aliases(node.name) if name in outputs]
            if not found:
                raise NotUnderstood(
                    f"the proof splits neurons of {node.name!r}, which the model's file does not have as a Relu or LeakyRelu"
                )
            names.append(found[0])
    return names


def _aliases(name: str) -> tuple[str, ...]:
    """What a node may be called in the file: by its own name, without a fork's mark, or as `fathom.export` writes it."""
    plain = name.removeprefix("0/")
    return (name, plain, name.replace("/", "."))


def _columns(spec: Spec) -> list[Array]:
    """For each of the specs [k], the places of its rows in the order of its clauses."""
    clause = spec.clause.numpy()
    return [np.flatnonzero(c >= 0)[np.argsort(c[c >= 0], kind="stable")] for c in clause]


def _rows(spec: Spec) -> dict[str, Array]:
    """The specs of the trees as the file has them; constants are rounded down, and less their blur."""
    used, of = torch.unique(spec.of, return_inverse=True)
    columns = _columns(spec)
    k, r = np.array([(k, r) for k in used.tolist() for r in columns[k]], np.int64).reshape(-1, 2).T
    constant = torch.where(spec.blur == 0, spec.offsets, down(spec.offsets - spec.blur)).numpy()
    clause = [np.unique(spec.clause.numpy()[k][columns[k]], return_inverse=True)[1] for k in used.tolist()]
    return {
        "tree_spec": of.numpy(),
        "rows": spec.rows.numpy()[k, r],
        "row_constant": constant[k, r],
        "row_strict": spec.strict.numpy()[k, r].astype(np.uint8),
        "row_spec": np.searchsorted(used.numpy(), k),
        "row_clause": np.concatenate([np.zeros(0, np.int64), *clause]),
    }


@dataclass(frozen=True, eq=False)
class _Store:
    """All records as one: nodes numbered through, and closings laid end to end."""

    root: dict[int, int]  # of a set
    kind: Array  # [nodes]
    flags: Array
    index: Array
    cut: Array
    first: Array
    count: Array
    closing: Array  # place of the node's closing, or -1
    closings: Closings | None

    @staticmethod
    def of(sets: Tensor, records: Sequence[tuple[Tensor, Record]]) -> _Store:
        starts = np.cumsum([0, *(record.nodes for _, record in records)])
        root = {s: int(starts[-1]) + i for i, s in enumerate(sets.tolist())}
        total = int(starts[-1]) + len(root)
        kind, flags, index, first, count = np.zeros((5, total), np.int64)
        cut, closing = np.zeros(total), np.full(total, -1)
        flags[starts[-1] :] = TIGHTEN
        found: list[Closings] = []
        for start, (about, record) in zip(starts[:-1].tolist(), records):
            for place, node in record.roots:
                root[int(about[place])] = start + node
                flags[start + node] = record.flags | TIGHTEN
            for splits in record.splits:
                at = start + splits.node
                kind[at], cut[at] = splits.kind, splits.cut
                index[at] = splits.count if splits.kind == CLAUSE else splits.index
                first[at], count[at] = start + splits.first, splits.count
                children = np.repeat(start + splits.first - (np.cumsum(splits.count) - splits.count), splits.count)
                flags[children + np.arange(len(children))] = splits.flags
            found += [replace(closings, node=start + closings.node) for closings in record.closings]
        joined = _joined(found)
        if joined is not None:
            closing[joined.node] = np.arange(len(joined.node))
        return _Store(root, kind, flags, index, cut, first, count, closing, joined)


def _joined(parts: Sequence[Closings]) -> Closings | None:
    if not parts:
        return None
    starts = np.cumsum([0, *(len(part.node) for part in parts)])[:-1]
    shifted = [replace(part, row=part.row + start) for part, start in zip(parts, starts, strict=True)]
    return Closings(*(np.concatenate([getattr(part, f.name) for part in shifted]) for f in fields(Closings)))


@dataclass(frozen=True, eq=False)
class _Trees:
    """Nodes in level order, roots first."""

    kind: Array  # [nodes]
    flags: Array
    index: Array
    cut: Array
    tree: Array
    closed: Array  # [records] the leaves with choices
    closing: Array  # [records] where their choices stand in ...
    closings: Closings | None

    @staticmethod
    def grow(sets: Tensor, records: Sequence[tuple[Tensor, Record]]) -> _Trees:
        """Trees for the sets, from what is on record of them."""
        store = _Store.of(sets, records)
        level = np.array([store.root[s] for s in sets.tolist()], np.int64)
        tree = np.arange(len(level))
        parts: list[tuple[Array, ...]] = []
        while not parts or len(level):
            leaf = (store.closing[level] >= 0) | (store.count[level] == 0)
            count = np.where(leaf, 0, store.count[level])
            parts.append((level, leaf, tree))
            start = np.repeat(store.first[level] - (np.cumsum(count) - count), count)
            tree = np.repeat(tree, count)
            level = start + np.arange(len(start))
        node, leaf, tree = (np.concatenate(column) for column in zip(*parts, strict=True))
        closed = np.flatnonzero(leaf & (store.closing[node] >= 0))
        index = np.where(leaf, -1, store.index[node])
        index[closed] = np.arange(len(closed))
        kind, cut = np.where(leaf, LEAF, store.kind[node]), np.where(leaf, 0.0, store.cut[node])
        closing = store.closing[node[closed]]
        return _Trees(
            kind.astype(np.uint8), store.flags[node].astype(np.uint8), index, cut, tree, closed, closing, store.closings
        )

    def choices(self, spec: Spec) -> dict[str, Array]:
        """The choice records; none where no leaf has one. `spec`: of the trees."""
        if not len(self.closed) or self.closings is None:
            return {}
        columns, which = _columns(spec), spec.of.numpy()[self.tree[self.closed]]
        given = self.closings.weight[self.closing]
        weights = np.zeros_like(given)
        for k in np.unique(which).tolist():
            mine = np.flatnonzero(which == k)
            weights[mine, : len(columns[k])] = given[mine][:, columns[k]]
        mine, place = self._kept()
        prices = self.closings.multiplier[place]
        single = prices.astype(np.float32)  # where that holds all of them
        return {
            "record_weights": weights,
            "record_slopes": self.closings.slopes[self.closing],
            "multiplier_record": mine,
            "multiplier_neuron": self.closings.neuron[place],
            "multipliers": single if (single == prices).all() else prices,
        }

    def _kept(self) -> tuple[Array, Array]:
        """[M] the records that have multipliers other than 0, ascending, and [M] where these stand."""
        assert self.closings is not None
        first = np.searchsorted(self.closings.row, self.closing)
        count = np.searchsorted(self.closings.row, self.closing, "right") - first
        mine = np.repeat(np.arange(len(self.closing)), count)
        place = np.arange(len(mine)) + np.repeat(first - (np.cumsum(count) - count), count)
        kept = self.closings.multiplier[place] > 0
        return mine[kept], place[kept]
