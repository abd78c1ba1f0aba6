"""The walk over the trees: thousands of nodes at once, each from its parent's state to proved, or to its children."""

from __future__ import annotations

from typing import Any

import numpy as np

from fathom_checker.bounds import Bounder, Lines, State, take
from fathom_checker.certificate import BOX, CLAUSE, CLIP, LEAF, NARROW, PHASE, TIGHTEN, Certificate
from fathom_checker.errors import Rejected
from fathom_checker.numbers import Array
from fathom_checker.operators import Bend
from fathom_checker.region import on_box

MOST_NODES = 4096  # at once


class Walk:
    """Raises `Rejected` at the first leaf that its choices do not prove."""

    def __init__(self, certificate: Certificate, bounder: Bounder) -> None:
        self.file, self.bounder, self.numbers = certificate, bounder, bounder.numbers
        arrays = {name: certificate[name] for name in ("rows", "row_constant", "record_weights", "multipliers")}
        self.rows, self.constant, self.weights, self.multipliers = (self.numbers.array(a) for a in arrays.values())
        self.strict, self.clause = certificate["row_strict"] != 0, certificate["row_clause"]
        self.row_start = np.searchsorted(certificate["row_spec"], np.arange(len(certificate.clauses) + 1))
        self.clauses = int(certificate.clauses.max(initial=0))
        model = bounder.model
        each = 8 * (2 * model.inputs + 4 * sum(int(np.prod(op.shape)) for op in model.operators))
        self.batch = max(1, min(MOST_NODES, bounder.memory // (4 * each)))

    def run(self) -> None:
        trees = len(self.file["tree_lower"])
        for start in range(0, trees, self.batch):
            pool = [self._roots(np.arange(start, min(start + self.batch, trees)))]
            while pool:
                pool.extend(self._step(self._last(pool)))

    def _roots(self, tree: Array) -> State:
        n, neurons = len(tree), self.bounder.model.neurons
        low = np.full((n, neurons), -np.inf, object if self.numbers.exact else np.float64)
        known = np.arange(self.clauses) < self.file.clauses[self.file["tree_spec"][tree]][:, None]
        boxes = {name: self.numbers.array(self.file[f"tree_{name}"][tree]) for name in ("lower", "upper")}
        return {**boxes, "low": low, "high": -low, "open": known, "node": tree, "tree": tree}

    def _last(self, pool: list[State]) -> State:
        """A batch from the end of the pool: depth first, so that few states are alive at once."""
        taken, count = [], 0
        while pool and count < self.batch:
            taken.append(pool.pop())
            count += len(taken[-1]["node"])
        if count > self.batch:
            most = len(taken[-1]["node"]) - (count - self.batch)
            pool.append(take(taken[-1], np.arange(most, len(taken[-1]["node"]))))
            taken[-1] = take(taken[-1], np.arange(most))
        return taken[0] if len(taken) == 1 else {name: np.concatenate([part[name] for part in taken]) for name in taken[0]}

    def _step(self, state: State) -> list[State]:
        flags: Array = self.file["flags"]
        root = self.file.parent[state["node"]] < 0
        tighten = ((flags[state["node"]] & TIGHTEN) != 0) | root
        for flag, work in ((NARROW, self._narrow), (TIGHTEN, self.bounder.tighten), (CLIP, self._clip)):
            which: Array = tighten if flag == TIGHTEN else (flags[state["node"]] & flag) != 0
            if which.all() and len(which):
                work(state)
            elif which.any():
                part = take(state, which.nonzero()[0])
                work(part)
                for name, array in part.items():
                    state[name][which] = array
            keep = self._living(state)
            state, tighten = take(state, keep), tighten[keep]
        leaf = self.file["kind"][state["node"]] == LEAF
        if leaf.any():
            self._leaves(take(state, leaf.nonzero()[0]))
        return self._children(take(state, (~leaf).nonzero()[0]))

    def _living(self, state: State) -> Array:
        """The nodes that are not proved: some input may get there, and some clause is open."""
        crossed: Array = (state["lower"] > state["upper"]).any(1) | (state["low"] > state["high"]).any(1)
        return np.flatnonzero(state["open"].any(1) & ~crossed)

    def _pairs(self, state: State) -> tuple[Array, Array]:
        """Every row of every open clause: the node's place in the state, and the row; clause after clause."""
        spec = self.file["tree_spec"][state["tree"]]
        counts = self.row_start[spec + 1] - self.row_start[spec]
        owner = np.repeat(np.arange(len(spec)), counts)
        row = self.row_start[spec][owner] + np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        open_rows = state["open"][owner, self.clause[row]]
        return owner[open_rows], row[open_rows]

    def _over(self, rows: Array) -> dict[int, Array]:
        """Rows over outputs (and inputs) by value."""
        model, last = self.bounder.model, len(self.bounder.model.operators)
        over = {last: rows[:, : model.outputs].reshape(-1, *model.operators[-1].shape)}
        return over | {0: rows[:, model.outputs :]} if rows.shape[1] > model.outputs else over

    def _clip(self, state: State) -> None:
        """Close clauses that a row's linear bound shows to be safe, and cut the boxes down to where none does."""
        lines = self.bounder.all_lines(state)
        for part in self._parts(state):
            owner, row = self._pairs(take(state, part))
            if not len(owner):
                continue
            owner = part[owner]
            a, constant = self.bounder.backward(state, owner, self._over(self.rows[row]), lines)
            constant = self.numbers.down(constant + self.constant[row])
            proved, lower, upper = self._cut(state, owner, a, constant, self.strict[row])
            clause = self.clause[row]
            begins = np.flatnonzero(np.r_[True, (np.diff(owner) != 0) | (np.diff(clause) != 0)])
            lower, upper = np.maximum.reduceat(lower, begins), np.minimum.reduceat(upper, begins)
            closed = np.logical_or.reduceat(proved, begins) | (lower > upper).any(1)
            owner, clause = owner[begins], clause[begins]
            state["open"][owner[closed], clause[closed]] = False
            owner, lower, upper = owner[~closed], lower[~closed], upper[~closed]
            if len(owner):
                begins = np.flatnonzero(np.r_[True, np.diff(owner) != 0])
                state["lower"][owner[begins]] = np.minimum.reduceat(lower, begins)
                state["upper"][owner[begins]] = np.maximum.reduceat(upper, begins)

    def _narrow(self, state: State) -> None:
        """Cut the boxes of children of phase splits by the split's own half-space."""
        up = self.file.parent[state["node"]]
        child = self.file["kind"][up] == PHASE
        sign, neuron = np.where(state["node"] == self.file.first[up], 1, -1), self.file["index"][up]
        lines = self.bounder.all_lines(state)
        for op in self.bounder.model.operators:
            if isinstance(op, Bend):
                owner = (child & (neuron >= op.neurons.start) & (neuron < op.neurons.stop)).nonzero()[0]
                self._narrow_by(state, lines, op, owner, neuron[owner] - op.start, sign[owner])

    def _narrow_by(self, state: State, lines: Lines, op: Bend, owner: Array, neuron: Array, sign: Array) -> None:
        if not len(owner):
            return
        rows = self.numbers.zeros(len(owner), int(np.prod(op.shape)))
        rows[np.arange(len(owner)), neuron] = sign
        a, constant = self.bounder.backward(state, owner, {op.inputs[0]: rows.reshape(-1, *op.shape)}, lines)
        proved, lower, upper = self._cut(state, owner, a, constant, np.zeros(len(owner), bool))
        state["open"][owner[proved]] = False
        state["lower"][owner], state["upper"][owner] = lower, upper

    def _cut(self, state: State, owner: Array, a: Array, constant: Array, strict: Array) -> tuple[Array, Array, Array]:
        """Whether a x + constant > 0 (>= 0 if strict) all over the set; and boxes outside which it is, in the set's box."""
        numbers, lower, upper = self.numbers, state["lower"][owner], state["upper"][owner]
        least = on_box(numbers, a, constant, lower, upper)
        value = self.bounder.minimise(state, owner, a, constant)
        slope = np.where(a == 0, 1, np.abs(a))
        reach = numbers.ceil(numbers.up(numbers.up(np.maximum(-least, 0)[:, None] / slope)))
        high = np.where(a > 0, np.minimum(upper, numbers.up(lower + reach)), upper)
        low = np.where(a < 0, np.maximum(lower, numbers.down(upper - reach)), lower)
        return (value > 0) | (strict & (value >= 0)), low, high

    def _parts(self, state: State) -> list[Array]:
        """The places of the nodes, so many at once as their rows fit into memory."""
        most = int(np.diff(self.row_start).max(initial=1))
        size = max(1, self.bounder.most_rows // most)
        return [np.arange(start, min(start + size, len(state["node"]))) for start in range(0, len(state["node"]), size)]

    def _leaves(self, state: State) -> None:
        for part in self._parts(state):
            self._leaf(take(state, part))

    def _leaf(self, state: State) -> None:
        """Close the open clauses of leaves by their choices.

        Raises:
            Rejected: one stays open.
        """
        record = self.file["index"][state["node"]]
        lines = self.bounder.all_lines(state, self._places(state, record))
        price = self._prices(state, record)
        owner, row = self._pairs(state)
        clause = self.clause[row]
        weight = self.numbers.zeros(len(owner))
        if self.weights.shape[1]:
            column = row - self.row_start[self.file["tree_spec"][state["tree"]]][owner]
            weight = np.where(record[owner] >= 0, self.weights[record[owner], column] if len(self.weights) else 0, 0)
        starts = np.r_[True, (np.diff(owner) != 0) | (np.diff(clause) != 0)][: len(owner)]
        group = np.cumsum(starts) - 1
        summed = (np.bincount(group, weight > 0) > 0)[group]  # rows of clauses that are bounded as one sum
        keep = ~summed | (weight > 0)
        owner, row, clause, group, summed = owner[keep], row[keep], clause[keep], group[keep], summed[keep]
        factor = np.where(summed, weight[keep], 1)
        begins = np.flatnonzero(np.r_[True, np.diff(group) != 0][: len(owner)] | ~summed)
        terms = factor[:, None] * self.rows[row]
        rows, constant = np.add.reduceat(terms, begins), np.add.reduceat(factor * self.constant[row], begins)
        strict = np.logical_or.reduceat(self.strict[row], begins)
        lost = self.numbers.zeros(len(begins))
        if summed.any():
            size = np.add.reduceat(np.abs(factor * self.constant[row]), begins) + self.numbers.dot(
                np.add.reduceat(np.abs(terms), begins), self._output_size(state)[owner[begins]]
            )
            lost = self.numbers.gamma(self.rows.shape[0] + 8) * size + self.numbers.tiny
        owner, clause = owner[begins], clause[begins]
        a, bound = self.bounder.backward(state, owner, self._over(rows), lines, price)
        value = self.bounder.minimise(state, owner, a, self.numbers.down(self.numbers.down(bound + constant) - lost))
        proved = (value > 0) | (strict & (value >= 0))
        state["open"][owner[proved], clause[proved]] = False
        left = state["open"].any(1).nonzero()[0]
        if len(left):
            clause_left = int(np.argmax(state["open"][left[0]]))
            best = max((float(v) for v in value[(owner == left[0]) & (clause == clause_left)]), default=-np.inf)
            self._reject(state, left, f"clause {clause_left} is only known to be at least {best:.6g}")

    def _reject(self, state: State, at: Array, words: str) -> None:
        node, tree = state["node"][at[0]], state["tree"][at[0]]
        raise Rejected(f"node {node} (leaf of tree {tree}): {words}")

    def _output_size(self, state: State) -> Array:
        """[n, columns of rows] how large outputs (and inputs) can be."""
        sizes = [state[f"size {self.bounder.last}"].reshape(len(state["node"]), -1), state["size 0"]]
        return np.concatenate(sizes if self.rows.shape[1] > self.bounder.model.outputs else sizes[:1], 1)

    def _places(self, state: State, record: Array) -> Array | None:
        """Where lower lines stand, for every neuron; None: by default everywhere."""
        which = np.where(record >= 0, self.file["record_slopes"][record] if len(self.file["record_slopes"]) else -1, -1)
        if (which < 0).all():
            return None
        table = self.file["slope_table"][which]
        values = self.numbers.array(table) / (255 if table.dtype == np.uint8 else 1)
        return np.where(which[:, None] >= 0, values, (state["high"] > -state["low"]) * 1)

    def _prices(self, state: State, record: Array) -> Array | None:
        """What the phase splits above each leaf take from the coefficients of neurons' inputs."""
        file, node = self.file, state["node"]
        start = file["multiplier_start"]
        count = np.where(record >= 0, start[np.minimum(record + 1, len(start) - 1)] - start[np.maximum(record, 0)], 0)
        wrong = (count > 0) & (count != file.phases[node])
        for i in wrong.nonzero()[0]:
            self._reject(state, [i], f"{count[i]} multipliers for {file.phases[node[i]]} phase splits")
        if not count.any():
            return None
        price = self.numbers.zeros(len(node), self.bounder.model.neurons)
        leaf = (count > 0).nonzero()[0]
        place, child = (start[np.maximum(record, 0)] + count)[leaf], node[leaf]
        while len(leaf):  # up towards the roots
            parent = file.parent[child]
            split = (parent >= 0) & (file["kind"][parent] == PHASE)
            place = place - split
            sign = np.where(child == file.first[parent], -1, 1)[split]
            price[leaf[split], file["index"][parent[split]]] += sign * self.multipliers[place[split]]
            inner = parent >= 0
            leaf, place, child = leaf[inner], place[inner], parent[inner]
        return price

    def _children(self, state: State) -> list[State]:
        kind, index = self.file["kind"][state["node"]], self.file["index"][state["node"]]
        made = []
        for number in range(max(2, self.clauses) if len(kind) else 0):
            for which in (BOX, PHASE, CLAUSE):
                mine = kind == which
                if which == CLAUSE:
                    mine &= number < self.file.clauses[self.file["tree_spec"][state["tree"]]]
                elif number > 1:
                    continue
                at = mine.nonzero()[0]
                if len(at):
                    child = take(state, at)
                    child["node"] = self.file.first[child["node"]] + number
                    self._apply(child, which, number, index[at], self.numbers.array(self.file["cut"][state["node"][at]]))
                    made.append(take(child, self._living(child)))
        return [child for child in made if len(child["node"])]

    def _apply(self, child: State, kind: int, number: int, index: Array, cut: Any) -> None:
        """What a split says of its child with a number."""
        if kind == CLAUSE:
            child["open"] &= np.arange(self.clauses) == number
            return
        names, limit = (("lower", "upper"), cut) if kind == BOX else (("low", "high"), 0)
        k = np.arange(len(index))
        if number == 0:
            child[names[1]][k, index] = np.minimum(child[names[1]][k, index], limit)
        else:
            child[names[0]][k, index] = np.maximum(child[names[0]][k, index], limit)
