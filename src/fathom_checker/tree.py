"""The walk over the trees: thousands of nodes at once, each from its parent's state to proved, or to its children."""

from __future__ import annotations

import numpy as np

from fathom_checker.bounds import Bounder, Lines, State, default_place, take
from fathom_checker.certificate import BOX, CLAUSE, CLIP, LEAF, PHASE, TIGHTEN, Certificate
from fathom_checker.numbers import Array
from fathom_checker.reading import Malformed, Rejected
from fathom_checker.region import on_box

MOST_NODES = 4096  # at once


def starts(*keys: Array) -> Array:
    """Where any of the keys differs from the one before."""
    new = np.ones(len(keys[0]), bool)
    new[1:] = np.any([np.diff(key) != 0 for key in keys], axis=0)
    return np.flatnonzero(new)


class Walk:
    """Over all trees of a certificate; raises `Rejected` at the first leaf that its choices do not prove."""

    def __init__(self, certificate: Certificate, bounder: Bounder) -> None:
        self.file, self.bounder, self.numbers = certificate, bounder, bounder.numbers
        self.rows, self.constant = (self.numbers.array(certificate[name]) for name in ("rows", "row_constant"))
        self.multipliers = self.numbers.array(certificate["multipliers"])
        self.kind, self.index, self.spec = (certificate[name] for name in ("kind", "index", "tree_spec"))
        self.strict, self.clause = certificate["row_strict"] != 0, certificate["row_clause"]
        self.row_start = np.searchsorted(certificate["row_spec"], np.arange(len(certificate.clauses) + 1))
        self.most_clauses, most_rows = int(certificate.clauses.max(initial=0)), int(np.diff(self.row_start).max(initial=1))
        self.batch = max(1, min(MOST_NODES, bounder.most_nodes, bounder.most_rows // most_rows))

    def run(self) -> None:
        trees = np.arange(len(self.file["tree_lower"]))
        for start in range(0, len(trees), self.batch):
            pool = self._alike(self._roots(trees[start : start + self.batch]))
            while pool:  # depth first, so that few states are alive at once
                state = pool.pop()
                if len(state["node"]) > self.batch:
                    pool.append(take(state, np.arange(self.batch, len(state["node"]))))
                    state = take(state, np.arange(self.batch))
                pool += self._step(state)

    def _roots(self, tree: Array) -> State:
        low = np.full((len(tree), self.bounder.model.neurons), -np.inf, object if self.numbers.exact else np.float64)
        known = np.arange(self.most_clauses) < self.file.clauses[self.spec[tree]][:, None]
        boxes = {name: self.numbers.array(self.file[f"tree_{name}"][tree]) for name in ("lower", "upper")}
        more = {"node": tree, "tree": tree, "set": self.file["tree_set"][tree]}
        return {**boxes, "low": low, "high": -low, "open": known, **more}

    def _step(self, state: State) -> list[State]:
        """Prove some nodes, all of the same flags, and return the children of the others.

        Raises:
            Rejected: one of the others is a leaf.
        """
        state = self._living(state)
        flags = self.file["flags"][state["node"][:1]]
        root = state["node"][:1] < len(self.spec)
        if ((flags & TIGHTEN != 0) | root).any():
            self.bounder.tighten(state, self._inner(state["tree"]) if root.any() else {})
            state = self._living(state)
        if (flags & CLIP).any() and len(state["node"]):
            self._clip(state)
            state = self._living(state)
        leaf = self.kind[state["node"]] == LEAF
        if leaf.any():
            self._leaf(take(state, np.flatnonzero(leaf)))
        return self._children(take(state, np.flatnonzero(~leaf)))

    def _living(self, state: State) -> State:
        """The nodes that are not proved: some input may get there, and some clause is open."""
        crossed = (state["lower"] > state["upper"]).any(1) | (state["low"] > state["high"]).any(1)
        living = state["open"].any(1) & ~crossed
        return state if living.all() else take(state, np.flatnonzero(living))

    def _inner(self, trees: Array) -> dict[tuple[int, int], Array]:
        """By tree and neuron, the slopes that the file has for the bounds of its input."""
        chosen = np.flatnonzero(np.isin(self.file["inner_tree"], trees))
        slopes = self.numbers.array(self.file.slopes("inner_slopes", chosen))
        return dict(zip(zip(self.file["inner_tree"][chosen].tolist(), self.file["inner_neuron"][chosen].tolist()), slopes))

    def _pairs(self, state: State) -> tuple[Array, Array]:
        """Every row of every open clause: the node's place in the state, and the row; clause after clause."""
        spec = self.spec[state["tree"]]
        counts = self.row_start[spec + 1] - self.row_start[spec]
        owner = np.repeat(np.arange(len(spec)), counts)
        row = self.row_start[spec][owner] + np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        still = state["open"][owner, self.clause[row]]
        return owner[still], row[still]

    def _over(self, rows: Array) -> dict[int, Array]:
        """Rows over outputs (and inputs) by value."""
        outputs, last = self.bounder.model.outputs, self.bounder.last
        return {last: rows[:, :outputs], **({0: rows[:, outputs:]} if rows.shape[1] > outputs else {})}

    def _clip(self, state: State) -> None:
        """Close clauses that a row's linear bound shows to be safe, and cut the boxes down to where none does."""
        numbers, (owner, row) = self.numbers, self._pairs(state)
        a, constant = self.bounder.backward(state, owner, self._over(self.rows[row]), self.bounder.all_lines(state))
        constant = numbers.down(constant + self.constant[row])
        value = self.bounder.minimise(state, owner, a, constant)
        proved = (value > 0) | (self.strict[row] & (value >= 0))
        low, high = state["lower"][owner], state["upper"][owner]
        room = np.maximum(-on_box(numbers, a, constant, low, high), numbers.zeros(1))
        reach = numbers.up(numbers.up(room[:, None] / np.where(a == 0, 1, np.abs(a))))
        reach = reach if numbers.exact else np.where(np.isnan(reach), np.inf, reach)
        lower = np.where(a < 0, np.maximum(low, numbers.down(high - reach)), low)
        upper = np.where(a > 0, np.minimum(high, numbers.up(low + reach)), high)
        begins = starts(owner, self.clause[row])
        lower, upper = np.maximum.reduceat(lower, begins), np.minimum.reduceat(upper, begins)
        closed = np.logical_or.reduceat(proved, begins) | (lower > upper).any(1)
        owner, clause = owner[begins], self.clause[row][begins]
        state["open"][owner[closed], clause[closed]] = False
        owner, lower, upper = owner[~closed], lower[~closed], upper[~closed]
        if len(owner):
            begins = starts(owner)
            state["lower"][owner[begins]] = np.minimum.reduceat(lower, begins)
            state["upper"][owner[begins]] = np.maximum.reduceat(upper, begins)

    def _leaf(self, state: State) -> None:
        """Close the open clauses of leaves: by the record's weighted sum of the clause's rows, or by one of its rows.

        Raises:
            Rejected: one stays open.
        """
        numbers, record, (owner, row) = self.numbers, self.index[state["node"]], self._pairs(state)
        weight, summed = numbers.zeros(len(owner)) + 1, (record >= 0)[owner]
        column = row - self.row_start[self.spec[state["tree"]]][owner]
        weight[summed] = numbers.array(self.file["record_weights"][record[owner[summed]], column[summed]])
        begins = starts(owner, self.clause[row], np.where(summed, 0, np.arange(len(row))))
        terms, constants = weight[:, None] * self.rows[row], weight * self.constant[row]
        rows, strict = np.add.reduceat(terms, begins), np.logical_or.reduceat(self.strict[row] & (weight > 0), begins)
        sizes = np.add.reduceat(np.abs(terms), begins), np.add.reduceat(np.abs(constants), begins)
        owner, clause = owner[begins], self.clause[row][begins]
        lines, price = self._choices(state, record)
        a, bound = self.bounder.backward(state, owner, self._over(rows), lines, price)
        bound = numbers.down(bound + np.add.reduceat(constants, begins))
        reach = np.concatenate([state[f"size {self.bounder.last}"], state["size 0"]], 1)[owner, : rows.shape[1]]
        lost = numbers.gamma(len(self.rows) + 8) * (sizes[1] + numbers.dot(sizes[0], reach)) + numbers.tiny  # computing the sums
        value = self.bounder.minimise(state, owner, a, numbers.down(bound - lost))
        proved = (value > 0) | (strict & (value >= 0))
        state["open"][owner[proved], clause[proved]] = False
        left = np.flatnonzero(state["open"].any(1))
        if len(left):
            which = int(np.argmax(state["open"][left[0]]))
            best = max(float(v) for v in value[(owner == left[0]) & (clause == which)])
            self.reject(state, left, f"clause {which} is only known to be at least {best:.6g}")

    def reject(self, state: State, at: Array, words: str) -> None:
        raise Rejected(f"node {state['node'][at[0]]} (leaf of tree {state['tree'][at[0]]}): {words}")

    def _choices(self, state: State, record: Array) -> tuple[dict[int, Lines], Array | None]:
        """Of leaves: lines by their slopes, and what multipliers take from the coefficients of neurons' inputs [n, N]."""
        has, low, high = record >= 0, state["low"], state["high"]
        if not has.any():
            return self.bounder.all_lines(state), None
        slopes = self.numbers.array(self.file.slopes("record_slopes", record))
        lines = self.bounder.all_lines(state, np.where(has[:, None], slopes, default_place(self.numbers, low, high)))
        price = self.numbers.zeros(*low.shape)
        ends = np.searchsorted(self.file["multiplier_record"], [record, record + 1])
        for i in np.flatnonzero(has):
            mine = slice(ends[0, i], ends[1, i])
            price[i, self.file["multiplier_neuron"][mine]] = self.multipliers[mine]
        return lines, price * np.where(low >= 0, 1, np.where(high <= 0, -1, 0))

    def _children(self, state: State) -> list[State]:
        kind, index = self.kind[state["node"]], self.index[state["node"]]
        if ((kind == CLAUSE) & (index != self.file.clauses[self.spec[state["tree"]]])).any():
            raise Malformed("the certificate: expected a child for each clause of the spec")
        count = np.where(kind == CLAUSE, index, 2)
        parent = np.repeat(np.arange(len(kind)), count)
        number = np.arange(len(parent)) - np.repeat(np.cumsum(count) - count, count)
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

    def _alike(self, state: State) -> list[State]:
        """The nodes in groups of the same flags."""
        flags = self.file["flags"][state["node"]]
        return [take(state, np.flatnonzero(flags == each)) for each in np.unique(flags)]
