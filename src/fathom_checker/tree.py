"""The walk over the trees: thousands of nodes at once, each from its parent's state to proved, or to its children."""

from typing import Any

import numpy as np

from fathom_checker.bounds import Bounder, Rows, State, on_box, take
from fathom_checker.certificate import BOX, CLAUSE, CLIP, LEAF, PHASE, TIGHTEN, Certificate, Rejected, require
from fathom_checker.numbers import Array
from fathom_checker.operators import Bend

MOST_NODES = 4096  # at once


def starts(*keys: Array) -> Array:
    """Where any of the keys differs from the one before."""
    return np.flatnonzero(np.any([np.diff(key, prepend=-1) != 0 for key in keys], axis=0))


def spread(counts: Array) -> tuple[Array, Array]:
    """For all that come in such numbers: which of the numbers it belongs to, and its place among those, from 0."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


class Walk:
    """Over all trees of a certificate; raises `Rejected` at the first leaf that its choices do not prove."""

    def __init__(self, certificate: Certificate, bounder: Bounder) -> None:
        self.file, self.bounder, self.numbers = certificate, bounder, bounder.numbers
        self.rows, self.constant = (self.numbers.array(certificate[name]) for name in ("rows", "row_constant"))
        self.kind, self.index, self.spec = (certificate[name] for name in ("kind", "index", "tree_spec"))
        self.strict, self.clause = certificate["row_strict"] != 0, certificate["row_clause"]
        self.row_start = np.searchsorted(certificate["row_spec"], np.arange(len(certificate.clauses) + 1))
        self.most_clauses, most_rows = int(certificate.clauses.max(initial=0)), int(np.diff(self.row_start).max(initial=1))
        keys = zip(certificate["inner_tree"].tolist(), certificate["inner_neuron"].tolist())
        self.inner = dict(zip(keys, certificate["inner_slopes"]))
        self.batch = max(1, min(MOST_NODES, bounder.most_nodes, bounder.most_rows // most_rows))

    def run(self) -> None:
        for start in range(0, len(self.spec), self.batch):
            pool = self._alike(self._roots(np.arange(len(self.spec))[start : start + self.batch]))
            while pool:  # depth first, so that few states are alive at once
                pool += self._step(pool.pop())

    def _roots(self, tree: Array) -> State:
        low = np.full((len(tree), self.bounder.model.neurons), -np.inf, object if self.numbers.exact else np.float64)
        known = np.arange(self.most_clauses) < self.file.clauses[self.spec[tree]][:, None]
        boxes = {name: self.numbers.array(self.file[f"tree_{name}"][tree]) for name in ("lower", "upper")}
        return {**boxes, "low": low, "high": -low, "open": known, "node": tree, "tree": tree, "set": self.file["tree_set"][tree]}

    def _alike(self, state: State) -> list[State]:
        """The nodes in batches of the same flags."""
        flags = self.file["flags"][state["node"]]
        groups = [np.flatnonzero(flags == each) for each in np.unique(flags)]
        return [take(state, group[i : i + self.batch]) for group in groups for i in range(0, len(group), self.batch)]

    def _step(self, state: State) -> list[State]:
        """Prove some nodes, all of the same flags, and return the children of the others; or `Rejected`: one is a leaf."""
        flags, root = self.file["flags"][state["node"][0]], state["node"][0] < len(self.spec)  # then all of them are
        state = self._living(state)
        if (flags & TIGHTEN or root) and len(state["node"]):
            self.bounder.tighten(state, self.inner if root else {})
            state = self._living(state)
        if flags & CLIP and len(state["node"]):
            self._clip(state)
            state = self._living(state)
        leaf, recorded = self.kind[state["node"]] == LEAF, self.index[state["node"]] >= 0
        for which, close in ((leaf & ~recorded, self._clip), (leaf & recorded, self._close)):
            if which.any():
                left = take(state, which)
                owner, clause, value = close(left)
                at = np.flatnonzero(left["open"].any(1))
                if len(at):
                    first = left["open"][at[0]].argmax()
                    best = float(value[(owner == at[0]) & (clause == first)].max())
                    self.reject(state, np.flatnonzero(which)[at], f"clause {first} is only known to be at least {best:.6g}")
        return self._children(take(state, ~leaf))

    def reject(self, state: State, at: Array, words: str) -> None:
        raise Rejected(f"node {state['node'][at[0]]} (leaf of tree {state['tree'][at[0]]}): {words}")

    def _living(self, state: State) -> State:
        """The nodes that are not proved: some input may get there, and some clause is open."""
        crossed = (state["lower"] > state["upper"]).any(1) | (state["low"] > state["high"]).any(1)
        living = state["open"].any(1) & ~crossed
        return state if living.all() else take(state, living)

    def _pairs(self, state: State) -> tuple[Array, Array]:
        """Every row of every open clause: the node's place in the state, and the row; clause after clause."""
        spec = self.spec[state["tree"]]
        owner, number = spread(self.row_start[spec + 1] - self.row_start[spec])
        row = self.row_start[spec][owner] + number
        still = state["open"][owner, self.clause[row]]
        return owner[still], row[still]

    def _bound(self, state: State, owner: Array, rows: Array, constant: Array, prices: Rows = (), place: Array = None) -> Any:
        """Rows [P, *] over outputs (and inputs) as bounds a x + b: a [P, d], b [P], and the least that these are [P]."""
        outputs, last = self.bounder.model.sizes[1], self.bounder.last
        over = [(last, rows[:, :outputs]), *([(0, rows[:, outputs:])] if rows.shape[1] > outputs else []), *prices]
        a, bound = self.bounder.backward(state, owner, over, place)
        bound = self.numbers.down(bound + constant)
        return a, bound, self.bounder.minimise(state, owner, a, bound)

    def _clip(self, state: State) -> tuple[Array, Array, Array]:
        """Close clauses that a row's linear bound shows to be safe, and cut the boxes down to where none does. Returns: of every
        row that was open the node's place, clause and bound, [P]."""
        numbers, (owner, row) = self.numbers, self._pairs(state)
        low, high, clause = state["lower"][owner], state["upper"][owner], self.clause[row]
        a, constant, value = self._bound(state, owner, self.rows[row], self.constant[row])
        room = np.maximum(-on_box(numbers, a, constant, low, high), numbers.zeros(1))
        reach = numbers.up(numbers.up(room[:, None] / np.where(a == 0, 1, np.abs(a))))
        lower = np.where(a < 0, np.maximum(low, numbers.down(high - reach)), low)
        upper = np.where(a > 0, np.minimum(high, numbers.up(low + reach)), high)
        begins = starts(owner, clause)
        lower, upper = np.maximum.reduceat(lower, begins), np.minimum.reduceat(upper, begins)
        proved = np.logical_or.reduceat((value > 0) | (self.strict[row] & (value >= 0)), begins) | (lower > upper).any(1)
        state["open"][owner[begins][proved], clause[begins][proved]] = False
        node, lower, upper = owner[begins][~proved], lower[~proved], upper[~proved]
        begins = starts(node)
        state["lower"][node[begins]] = np.minimum.reduceat(lower, begins)
        state["upper"][node[begins]] = np.maximum.reduceat(upper, begins)
        return owner, clause, value

    def _close(self, state: State) -> tuple[Array, Array, Array]:
        """Close the open clauses of leaves by their records: each by the weighted sum of its rows. Returns: as `_clip`."""
        numbers, record, (owner, row) = self.numbers, self.index[state["node"]], self._pairs(state)
        column = row - self.row_start[self.spec[state["tree"]]][owner]
        weight = numbers.array(self.file["record_weights"][record[owner], column])
        begins = starts(owner, self.clause[row])
        terms, constants = weight[:, None] * self.rows[row], weight * self.constant[row]
        rows, constant = np.add.reduceat(terms, begins), np.add.reduceat(constants, begins)
        strict = np.logical_or.reduceat(self.strict[row] & (weight > 0), begins)
        owner, clause = owner[begins], self.clause[row][begins]
        reach = np.concatenate([state[f"size {self.bounder.last}"], state["size 0"]], 1)[owner, : rows.shape[1]]
        sizes = np.add.reduceat(np.abs(constants), begins) + numbers.dot(np.add.reduceat(np.abs(terms), begins), reach)
        lost = numbers.gamma(len(self.rows) + 8) * sizes + numbers.tiny  # computing the sums
        place = numbers.array(self.file["record_slopes"][record] / 255)[owner]
        *_, value = self._bound(state, owner, rows, numbers.down(constant - lost), self._prices(state, record, owner), place)
        proved = (value > 0) | (strict & (value >= 0))
        state["open"][owner[proved], clause[proved]] = False
        return owner, clause, value

    def _prices(self, state: State, record: Array, owner: Array) -> Rows:
        """Rows -s m z of the neurons that have a multiplier m, where s z >= 0."""
        low, high, price = state["low"], state["high"], self.numbers.zeros(*state["low"].shape)
        ends = np.searchsorted(self.file["multiplier_record"], [record, record + 1])
        for i, mine in enumerate(map(slice, *ends)):
            price[i, self.file["multiplier_neuron"][mine]] = self.numbers.array(self.file["multipliers"][mine])
        price = price * np.where(low >= 0, -1, np.where(high <= 0, 1, 0))
        bends = (op for op in self.bounder.model.operators if isinstance(op, Bend))
        return [(op.inputs[0], price[:, op.neurons][owner]) for op in bends if price[:, op.neurons].any()]

    def _children(self, state: State) -> list[State]:
        kind, index = self.kind[state["node"]], self.index[state["node"]]
        fits = (kind != CLAUSE) | (index == self.file.clauses[self.spec[state["tree"]]])
        require(fits.all(), "a child for each clause of the spec", index)
        parent, number = spread(np.where(kind == CLAUSE, index, 2))
        cut, child = self.numbers.array(self.file["cut"][state["node"]]), take(state, parent)
        child["node"] = self.file.first[state["node"]][parent] + number
        for which, ends in ((BOX, ("upper", "lower")), (PHASE, ("high", "low"))):
            for side, name in enumerate(ends):  # the first child ends where the second begins
                at = np.flatnonzero((kind[parent] == which) & (number == side))
                where, limit = (at, index[parent[at]]), cut[parent[at]] if which == BOX else self.numbers.zeros(1)
                child[name][where] = (np.maximum if side else np.minimum)(child[name][where], limit)
        at = np.flatnonzero(kind[parent] == CLAUSE)
        child["open"][at] &= np.arange(self.most_clauses) == number[at, None]
        return self._alike(child)
