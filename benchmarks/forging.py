"""Certificates for a property that is known to be broken, made to be believed: what forgeries.py hands to the checker.

The best liar is the prover itself. It searches the broken property, its slopes, multipliers and weights ascended as ever, and
then claims that the leaves it could not close are closed; or it proves a near-by property, and its proof is handed in for the
broken one. These are the bases. All other kinds change a base.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fathom.bounds.crown import crown
from fathom.capture.export import export
from fathom.core.budget import Budget, Goal
from fathom.core.enclosure import enclose_point
from fathom.core.problem import Problem
from fathom.core.solver import Hints, ignore
from fathom.overseers.linear_rules import LinearRules
from fathom.prove.branch import BranchAndBound, splits_inputs
from fathom.prove.certificate import certificate
from fathom.prove.input_split import InputTree
from fathom.prove.phase_split import PhaseTree
from fathom.prove.record import BOX, LEAF, PHASE, Record
from fathom.prove.search import search
from fathom.regions.box import BoxRegion

Parts = dict[str, Any]
"""Arrays of a certificate by name; `header` is the JSON object."""

MEMORY = 1 << 28
STEPS = 24  # of ascent on a leaf
FARTHEST = 20  # times that a constant is moved four times as far
CHOICES = ("record_slopes", "inner_slopes", "multipliers", "record_weights", "cut", "flags")
STATEMENT = ("tree_lower", "tree_upper", "tree_spec", "tree_set", "rows", "row_constant", "row_strict", "row_spec", "row_clause")


@dataclass(frozen=True, eq=False)
class Broken:
    """A property that has a witness, and its files."""

    problem: Problem  # of one set
    files: tuple[Path, Path]  # the model, and the VNN-LIB file or `problem.json`
    witness: Tensor  # [d] float64
    margin: float  # of the real network at the witness, at most: <= 0

    def written(self, record: Record | None, problem: Problem | None = None) -> Parts:
        """What the product would write of this record."""
        every, (model, prop) = torch.arange(1), self.files
        records = [] if record is None else [(every, record)]
        numbered = prop.suffix == ".json"
        content = certificate(problem or self.problem, every, records, model.read_bytes(), prop.read_bytes(), numbered=numbered)
        return unpacked(content)

    def moved(self, by: float) -> Problem:
        """The same question with every row's constant greater, so that its worst margin is."""
        return moved(self.problem, by)


def moved(problem: Problem, by: float) -> Problem:
    assert problem.spec is not None
    spec = replace(problem.spec, offsets=problem.spec.offsets + by)
    return replace(problem, spec=spec, overseer=LinearRules(spec))


def by_a_hair(broken: Broken, share: float, folder: Path) -> Broken | None:
    """A question of our own that is only just broken: about a small box round the witness, a share of each input's width, in
    which the network is nearly affine and bounds are nearly exact; with constants such that the worst input found has a margin of
    hardly less than 0. None where no such constant is found."""
    box, centre = broken.problem.region.box(), broken.witness[None]
    reach = share * (box.upper - box.lower)
    near = BoxRegion(torch.maximum(box.lower, centre - reach), torch.minimum(box.upper, centre + reach))
    here = replace(broken.problem, written=near, deployed=near, region=near)
    assert here.network is not None
    found = BranchAndBound().solve(here, Budget(goal=Goal.VALUE, passes=200, seconds=5.0)).found.x.to(torch.float64)
    points = torch.cat([centre, found, crown(here, here.network.freeze(torch.float64)).minimisers[0]])
    points = points[near.contains(points)]
    worst = min(points.split(1), key=lambda x: _real_margin(here, x))
    least = _real_margin(here, worst)
    for hair in (0.0, 1e-15, 1e-14, 1e-13, 1e-12, 1e-10):
        problem = moved(here, -least - hair * max(1.0, abs(least)))
        margin = _real_margin(problem, worst)
        if margin <= 0:
            export(problem, folder)
            return Broken(problem, (folder / "model.onnx", folder / "problem.json"), worst[0], margin)
    return None


def _real_margin(problem: Problem, x: Tensor) -> float:
    """The real network's margin at exactly x [1, d], at most."""
    assert problem.network is not None and problem.spec is not None
    return float(problem.spec.enclose(enclose_point(problem.network.freeze(torch.float64), x)).upper)


def unpacked(content: bytes) -> Parts:
    with np.load(io.BytesIO(content)) as file:
        parts = dict(file)
    return {**parts, "header": json.loads(parts["header"].tobytes())}


def packed(parts: Parts) -> bytes:
    """A certificate's file, not deflated: forgeries are many, and short-lived."""
    file = io.BytesIO()
    np.savez(file, **{**parts, "header": np.frombuffer(json.dumps(parts["header"]).encode(), np.uint8)})
    return file.getvalue()


# Bases ------------------------------------------------------------------------------------------------------------------


def claimed(broken: Broken, most: int) -> Iterator[Parts]:
    """The prover's own search of the broken property, again and again, with all leaves that are still open claimed closed."""
    phases = [(PhaseTree(broken.problem, MEMORY, steps=STEPS, root_steps=steps, decide=False), 1) for steps in (0, 10, 40, 200)]
    phases.append((PhaseTree(broken.problem, MEMORY, steps=STEPS, decide=False), most))
    for tree, leaves in phases:
        yield from _stages(broken, tree, leaves)
    if splits_inputs(broken.problem):
        for clip in (False, True):
            yield from _stages(broken, InputTree(broken.problem, MEMORY, clip=clip), most)


def _stages(broken: Broken, tree: PhaseTree | InputTree, most: int) -> Iterator[Parts]:
    """Certificates of 1, 2, 4, ... leaves, the worst ones split at each stage."""
    record = tree.record = Record()
    leaves: Any = tree.root(torch.arange(1))
    done: list[Any] = []
    while len(leaves):
        kept, tree.record = record, copy.deepcopy(record)
        if isinstance(tree, PhaseTree):
            for part in (leaves, *done):
                tree._close(part)
        yield broken.written(tree.record)
        tree.record = kept
        if record.nodes >= 2 * most:
            return
        order = leaves.promise.argsort()
        half = -(-len(leaves) // 2)
        children, last = tree.split(leaves.take(order[:half]))
        done.append(last)
        leaves = leaves.take(order[half:]).join(children)
        leaves = leaves.take((leaves.margin <= 0).nonzero()[:, 0])


def nearby(broken: Broken, most: int) -> Iterator[tuple[Problem, Record]]:
    """Proofs of properties like the broken one but for their constants, by each kind of split: the nearest that few leaves prove,
    and two further ones."""
    kinds = [False, True] if splits_inputs(broken.problem) else [False]
    for inputs in kinds:
        found, step = 0, max(abs(broken.margin), 1e-9) / 16
        for far in range(FARTHEST):
            problem, record = broken.moved(-broken.margin + step * 4.0**far), Record()
            tree = InputTree(problem, MEMORY, clip=True, record=record) if inputs else PhaseTree(problem, MEMORY, record=record)
            if search(problem, tree, Budget(passes=most, seconds=1.0), Hints(), ignore).proved[0]:
                yield problem, record
                found += 1
            if found == 3:
                break


# Kinds ------------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Forger:
    """Makes forgeries of one broken property out of bases, all of them about that property."""

    broken: Broken
    searched: list[Parts]
    neighbours: list[Parts]
    random: np.random.Generator
    best: Parts | None = None  # where the climb is
    score: float = -np.inf
    tried: Parts | None = None
    stuck: int = 0

    def make(self, kind: str) -> Parts:
        parts: Parts = getattr(self, kind)()
        return parts

    def heard(self, bound: float) -> None:
        """What the checker said to the last step of the climb: the bound of the leaf at which it stopped."""
        if bound >= self.score:
            self.best, self.score = self.tried, bound

    def base(self) -> Parts:
        """A copy of any base."""
        every = [*self.searched, *self.neighbours]
        return copy.deepcopy(every[self.random.integers(len(every))])

    def search(self) -> Parts:
        """The prover's search with open leaves claimed closed; its choices a little off, now and then."""
        return self._shaken(self.searched)

    def nearby(self) -> Parts:
        """The proof of a near-by property for this one."""
        return self._shaken(self.neighbours or self.searched)

    def _shaken(self, bases: list[Parts]) -> Parts:
        parts = copy.deepcopy(bases[self.random.integers(len(bases))])
        if self.random.random() < 0.5:
            self._nudge(parts, int(10 ** self.random.integers(1, 4)))
        return parts

    def climb(self) -> Parts:
        """A step up from the best forgery so far, judged by what the checker says; from another base every 50 steps."""
        if self.best is None or self.stuck >= 50:
            self.best, self.score, self.stuck = self.base(), -np.inf, 0
        self.stuck += 1
        self.tried = copy.deepcopy(self.best)
        self._nudge(self.tried, int(2 ** self.random.integers(0, 8)))
        return self.tried

    def _nudge(self, parts: Parts, count: int) -> None:
        """Some of the choices changed, all within what the format allows."""
        names = [name for name in CHOICES if name in parts and parts[name].size]
        name = str(self.random.choice(names))
        flat = parts[name].reshape(-1)
        at = self.random.integers(flat.size, size=min(count, flat.size))
        if name == "flags":
            flat[at] = self.random.integers(0, 4, len(at))
        elif name.endswith(("slopes", "table")):
            flat[at] = np.clip(flat[at] + self.random.normal(size=len(at)) * 64, 0, 255).astype(flat.dtype)
        elif name == "cut":
            flat[at] += np.where(flat[at] != 0, self.random.normal(size=len(at)) * 10.0 ** self.random.integers(-6, 0), 0)
        else:
            flat[at] = np.abs(flat[at] + 1e-6) * np.exp(self.random.normal(size=len(at)))
        if name == "record_weights":  # their scale is that of the bound, so that it stays what it was
            parts[name] /= np.maximum(parts[name].sum(1, keepdims=True), 1e-300)

    def boxes(self) -> Parts:
        """Boxes without the witness: cut off beside it, in two trees with a gap where it is, or an ulp less at the ends."""
        parts = self.base()
        low, high = parts["tree_lower"], parts["tree_upper"]
        axis = int(self.random.choice(np.flatnonzero((low < high).all(0))))
        at = float(self.broken.witness[axis])
        gap = (high - low)[0, axis] * 10.0 ** self.random.integers(-17, 0)
        match self.random.integers(4):
            case 0:
                high[:, axis] = min(np.nextafter(at, -np.inf), at - gap)
            case 1:
                low[:, axis] = max(np.nextafter(at, np.inf), at + gap)
            case 2:
                parts = _twice(parts)
                parts["tree_upper"][0, axis] = min(np.nextafter(at, -np.inf), at - gap)
                parts["tree_lower"][1, axis] = max(np.nextafter(at, np.inf), at + gap)
            case _:
                high[:, axis], low[:, axis] = np.nextafter(high[:, axis], -np.inf), np.nextafter(low[:, axis], np.inf)
        return parts

    def phases(self) -> Parts:
        """Phase splits that mean something else: other neurons, neurons renumbered, prices of one split put on another."""
        parts = self.base()
        neurons = len(parts["record_slopes"][0]) if len(parts.get("record_slopes", ())) else 0
        split = np.flatnonzero(parts["kind"] == PHASE)
        match self.random.integers(4):
            case 0 if len(split):
                some = self.random.choice(split, size=self.random.integers(1, len(split) + 1))
                parts["index"][some] = self.random.integers(0, neurons or 1, len(some))
            case 1 if len(parts["header"]["relus"]) > 1:
                self.random.shuffle(parts["header"]["relus"])
            case 2 if len(parts["header"]["relus"]):
                del parts["header"]["relus"][int(self.random.integers(len(parts["header"]["relus"])))]
            case _ if len(parts.get("multipliers", ())):
                self.random.shuffle(parts["multipliers"])
                parts["multipliers"] = parts["multipliers"].astype(np.float64) * 10.0 ** self.random.integers(0, 40)
            case _:
                parts["kind"][parts["kind"] == BOX] = PHASE
        return parts

    def magnitudes(self) -> Parts:
        """Multipliers, weights, cuts and constants at the ends of what floats can hold."""
        parts = self.base()
        ends = np.array([0.0, 5e-324, 2.0**-1022, 1e-300, 1e-30, 1e30, 2.0**127, 1e200, 2.0**1022, np.finfo(np.float64).max])
        names = [name for name in ("multipliers", "record_weights", "cut") if name in parts and parts[name].size]
        name = str(self.random.choice(names))
        flat = parts[name] = parts[name].astype(np.float64)
        some = self.random.random(flat.shape) < self.random.choice([0.05, 0.5, 1.0])
        alike = self.random.random() < 0.5
        parts[name] = np.where(some, self.random.choice(ends) if alike else self.random.choice(ends, flat.shape), flat)
        return parts

    def rows(self) -> Parts:
        """About a little less than was asked: rows more or scaled, constants greater, clauses dropped or merged, strict."""
        parts = self.base()
        r = int(self.random.integers(len(parts["rows"])))
        match self.random.integers(7):
            case 0:
                parts["row_constant"][r] = np.nextafter(parts["row_constant"][r], np.inf)
            case 1:
                parts["row_constant"] += abs(self.broken.margin) * 10.0 ** self.random.integers(-12, 3)
            case 2:
                parts["row_strict"] = np.ones_like(parts["row_strict"])
            case 3:
                parts["rows"] = parts["rows"] * self.random.choice([-1.0, 0.0, 1e-300, 1e300, 1 + 2.0**-52])
            case 4:
                column = int(self.random.integers(parts["rows"].shape[1]))
                parts["rows"][r, column] = np.nextafter(parts["rows"][r, column], self.random.choice([-np.inf, np.inf]))
            case 5:  # one more row, so that the conjunction is harder to meet
                for name in ("rows", "row_constant", "row_strict", "row_spec", "row_clause"):
                    parts[name] = np.insert(parts[name], r, parts[name][r], 0)
                parts["rows"][r] = -parts["rows"][r]
                parts["row_constant"][r] = 1 - parts["row_constant"][r]
            case _:
                self._without_a_clause(parts)
        return parts

    def _without_a_clause(self, parts: Parts) -> None:
        """The rows of one clause left out; or, where there is one alone, of the spec: a tree about nothing."""
        keep = parts["row_clause"] != self.random.integers(parts["row_clause"].max() + 1)
        for name in ("rows", "row_constant", "row_strict", "row_spec", "row_clause"):
            parts[name] = parts[name][keep]
        parts["row_clause"] -= (np.diff(parts["row_clause"], prepend=0) > 1).cumsum() + (parts["row_clause"][:1].sum() > 0)

    def trees(self) -> Parts:
        """Nodes left out, turned into others, or claimed to be leaves."""
        parts = self.base()
        nodes = len(parts["kind"])
        some = self.random.integers(nodes, size=self.random.integers(1, 4))
        match self.random.integers(5):
            case 0:
                for name in ("kind", "flags", "index", "cut"):
                    parts[name] = np.delete(parts[name], some)
            case 1:
                parts["kind"][some] = self.random.integers(0, 4, len(some))
            case 2:
                parts = _pruned(parts, int(self.random.integers(nodes)))
            case 3:
                parts["index"][some] = self.random.integers(-1, nodes, len(some))
            case _:
                parts["flags"] = np.full(nodes, self.random.integers(0, 4), np.uint8)
                parts["cut"] = self.random.permutation(parts["cut"])
        return parts

    def forms(self) -> Parts:
        """NaN and infinity, other types, shapes and orders, another arithmetic or file in the header."""
        parts = self.base()
        floats = [name for name, array in parts.items() if name != "header" and array.dtype.kind == "f" and array.size]
        name = str(self.random.choice(floats))
        match self.random.integers(6):
            case 0:
                parts[name].reshape(-1)[self.random.integers(parts[name].size)] = self.random.choice([np.nan, np.inf, -np.inf])
            case 1:
                kind = str(self.random.choice(["f2", "f4", "f8", ">f8", "g", "i8", "c16", "?"]))
                parts[name] = parts[name].real.astype(kind)
            case 2:
                parts[name] = np.asfortranarray(parts[name][..., None] if self.random.random() < 0.5 else parts[name][::-1])
            case 3:
                parts["header"]["arithmetic"] = "float32"
            case 4:
                parts["header"][str(self.random.choice(["model", "property", "format"]))] = "0" * 64
            case _:
                for absent in ("inner_slopes", "inner_tree", "inner_neuron", "record_slopes"):
                    parts.pop(absent, None)
                parts[name] = -parts[name]
        return parts


KINDS: dict[str, float] = {
    "search": 0.15,
    "nearby": 0.15,
    "climb": 0.25,
    "phases": 0.1,
    "magnitudes": 0.1,
    "boxes": 0.05,
    "rows": 0.08,
    "trees": 0.08,
    "forms": 0.04,
}
"""Kinds of forgery, each a method of `Forger`, and the share of each."""


def about(statement: Parts, proof: Parts) -> Parts:
    """A proof with the statement of another certificate."""
    return {**proof, **{name: statement[name] for name in STATEMENT}, "header": {**proof["header"], **_digests(statement)}}


def _digests(parts: Parts) -> dict[str, str]:
    return {name: parts["header"][name] for name in ("model", "property")}


def _twice(parts: Parts) -> Parts:
    """The same tree again, beside the first; the level order keeps roots before all else."""
    made = dict(parts)
    for name in ("tree_lower", "tree_upper", "tree_spec", "tree_set"):
        made[name] = np.concatenate([parts[name]] * 2)
    order = _levels(parts)
    twice = np.concatenate([np.tile(np.flatnonzero(order == level), 2) for level in range(int(order.max()) + 1)])
    for name in ("kind", "flags", "index", "cut"):
        made[name] = parts[name][twice]
    for name in ("inner_tree", "inner_neuron", "inner_slopes"):
        if name in parts:
            made[name] = np.concatenate([parts[name], parts[name] + 1 if name == "inner_tree" else parts[name]])
    return made


def _parents(parts: Parts) -> np.ndarray[Any, Any]:
    """[nodes] the parent of each, -1 of a root; for a tree whose spec has as many clauses as `row_clause` says."""
    clauses = int(parts["row_clause"].max(initial=-1)) + 1
    count = np.choose(parts["kind"], [0, 2, 2, clauses])
    parents = np.repeat(np.arange(len(count)), count)
    roots = len(parts["tree_lower"])
    return np.concatenate([np.full(roots, -1), parents])[: len(count)]


def _levels(parts: Parts) -> np.ndarray[Any, Any]:
    parents = _parents(parts)
    level = np.zeros(len(parents), np.int64)
    for node in range(len(parents)):
        level[node] = 0 if parents[node] < 0 else level[parents[node]] + 1
    return level


def _pruned(parts: Parts, at: int) -> Parts:
    """A node claimed to be a leaf, and nothing below it."""
    parents, below = _parents(parts), np.zeros(len(parts["kind"]), bool)
    for node in range(len(parents)):
        below[node] = parents[node] >= 0 and (below[parents[node]] or parents[node] == at)
    made = {**parts, "kind": parts["kind"].copy(), "index": parts["index"].copy()}
    made["kind"][at], made["index"][at] = LEAF, -1
    for name in ("kind", "flags", "index", "cut"):
        made[name] = made[name][~below]
    return made
