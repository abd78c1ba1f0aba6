"""The walk over the trees: thousands of nodes at once, each from its parent's state to proved, or to its children."""

from __future__ import annotations

import numpy as np

from fathom_checker.bounds import Bounder, State, take
from fathom_checker.certificate import BOX, CLAUSE, CLIP, LEAF, PHASE, TIGHTEN, Certificate
from fathom_checker.numbers import Array
from fathom_checker.reading import Rejected
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
        names = ("rows", "row_constant", "record_weights", "multipliers")
        self.rows, self.constant, self.weights, self.multipliers = (self.numbers.array(certificate[name]) for name in names)
        self.kind, self.index, self.spec = certificate["kind"], certificate["index"], certificate["tree_spec"][certificate.tree]
        self.strict, self.clause = certificate["row_strict"] != 0, certificate["row_clause"]
        self.row_start = np.searchsorted(certificate["row_spec"], np.arange(len(certificate.clauses) + 1))
        self.clauses = int(certificate.clauses.max(initial=0))
        self.batch = max(1, min(MOST_NODES, bounder.memory // (128 * sum(bounder.widths))))

    def run(self) -> None:
        trees = len(self.file["tree_lower"])
        for start in range(0, trees, self.batch):
            pool = [self._roots(np.arange(start, min(start + self.batch, trees)))]
            while pool:
                pool.extend(self._step(self._last(pool)))

    def _roots(self, tree: Array) -> State:
        low = np.full((len(tree), self.bounder.model.neurons), -np.inf, object if self.numbers.exact else np.float64)
        known = np.arange(self.clauses) < self.file.clauses[self.file["tree_spec"][tree]][:, None]
        boxes = {name: self.numbers.array(self.file[f"tree_{name}"][tree]) for name in ("lower", "upper")}
        return {**boxes, "low": low, "high": -low, "open": known, "node": tree, "set": self.file["tree_set"][tree]}

    def _last(self, pool: list[State]) -> State:
        """A batch from the end of the pool: depth first, so that few states are alive at once."""
        taken = [pool.pop()]
        while pool and sum(len(part["node"]) for part in taken) < self.batch:
            taken.append(pool.pop())
        state = {name: np.concatenate([part[name] for part in taken]) for name in taken[0]} if len(taken) > 1 else taken[0]
        if len(state["node"]) > self.batch:
            pool.append(take(state, np.arange(self.batch, len(state["node"]))))
            state = take(state, np.arange(self.batch))
        return state

    def _step(self, state: State) -> list[State]:
        """Prove some nodes, and return the children of the others.

        Raises:
            Rejected: one of the others is a leaf.
        """
        for flag, work in ((TIGHTEN, self._tighten), (CLIP, self._clip)):
            state = take(state, self._living(state))
            node = state["node"]
            which = (self.file["flags"][node] & flag != 0) | ((self.file.parent[node] < 0) & (flag == TIGHTEN))
            part = state if which.all() else take(state, np.flatnonzero(which))
            if which.any():
                work(part)
            if part is not state and which.any():
                for name, array in part.items():
                    state[name][which] = array
        state = take(state, self._living(state))
        leaf = self.kind[state["node"]] == LEAF
        for part in self._parts(take(state, np.flatnonzero(leaf))):
            self._leaf(part)
        return self._children(take(state, np.flatnonzero(~leaf)))

    def _tighten(self, state: State) -> None:
        """At roots with the slopes that the file has for inner bounds; elsewhere by default ones."""
        table, inner = self.file["inner_slopes"], {}
        for root in state["node"][self.file.parent[state["node"]] < 0].tolist():
            first, end = np.searchsorted(self.file["inner_tree"], [root, root + 1])
            for j in range(first, end):
                slopes = self.numbers.array(table[2 * j : 2 * j + 2]) / (255 if table.dtype == np.uint8 else 1)
                inner[root, int(self.file["inner_neuron"][j])] = slopes
        self.bounder.tighten(state, inner)

    def _living(self, state: State) -> Array:
        """The nodes that are not proved: some input may get there, and some clause is open."""
        crossed = (state["lower"] > state["upper"]).any(1) | (state["low"] > state["high"]).any(1)
        return np.flatnonzero(state["open"].any(1) & ~crossed)

    def _parts(self, state: State) -> list[State]:
        """The nodes, so many at once as their rows fit into memory."""
        size = max(1, self.bounder.most_rows // int(np.diff(self.row_start).max(initial=1)))
        return [take(state, np.arange(at, min(at + size, len(state["node"])))) for at in range(0, len(state["node"]), size)]

    def _pairs(self, state: State) -> tuple[Array, Array]:
        """Every row of every open clause: the node's place in the state, and the row; clause after clause."""
        spec = self.spec[state["node"]]
        counts = self.row_start[spec + 1] - self.row_start[spec]
        owner = np.repeat(np.arange(len(spec)), counts)
        row = self.row_start[spec][owner] + np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        still = state["open"][owner, self.clause[row]]
        return owner[still], row[still]

    def _over(self, rows: Array) -> dict[int, Array]:
        """Rows over outputs (and inputs) by value."""
        model, last = self.bounder.model, self.bounder.last
        over = {last: rows[:, : model.outputs].reshape(-1, *model.operators[-1].shape)}
        return over | {0: rows[:, model.outputs :]} if rows.shape[1] > model.outputs else over

    def _clip(self, state: State) -> None:
        """Close clauses that a row's linear bound shows to be safe, and cut the boxes down to where none does."""
        parts = self._parts(state)
        for part in parts:
            self._clip_part(part)
        for name in ("lower", "upper", "open"):
            state[name] = np.concatenate([part[name] for part in parts])

    def _clip_part(self, state: State) -> None:
        numbers, (owner, row) = self.numbers, self._pairs(state)
        a, constant = self.bounder.backward(state, owner, self._over(self.rows[row]), self.bounder.all_lines(state))
        constant = numbers.down(constant + self.constant[row])
        value = self.bounder.minimise(state, owner, a, constant)
        proved = (value > 0) | (self.strict[row] & (value >= 0))
        low, high = state["lower"][owner], state["upper"][owner]
        room = np.maximum(-on_box(numbers, a, constant, low, high), 0)
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
        """Close the open clauses of leaves by their choices.

        Raises:
            Rejected: one stays open.
        """
        numbers, record = self.numbers, self.index[state["node"]]
        owner, row = self._pairs(state)
        weight = numbers.zeros(len(owner))
        if self.weights.size:
            column = row - self.row_start[self.spec[state["node"]]][owner]
            weight = np.where(record[owner] >= 0, self.weights[record[owner], column], 0)
        begins = starts(owner, self.clause[row])
        sizes = np.diff(begins, append=len(owner))
        summed = np.repeat(np.logical_or.reduceat(weight > 0, begins), sizes)  # rows of clauses that are bounded as one sum
        keep = ~summed | (weight > 0)
        group, owner, row, summed = np.repeat(begins, sizes)[keep], owner[keep], row[keep], summed[keep]
        factor = np.where(summed, weight[keep], 1)
        begins = starts(group, np.where(summed, 0, np.arange(len(group))))
        terms, constants = factor[:, None] * self.rows[row], factor * self.constant[row]
        strict, rows = np.logical_or.reduceat(self.strict[row], begins), np.add.reduceat(terms, begins)
        owner, clause = owner[begins], self.clause[row][begins]
        lines, price = self.bounder.all_lines(state, self._places(state, record)), self._prices(state, record)
        a, bound = self.bounder.backward(state, owner, self._over(rows), lines, price)
        bound = numbers.down(bound + np.add.reduceat(constants, begins))
        if summed.any():  # what computing the sums may lose
            outputs = [state[f"size {self.bounder.last}"].reshape(len(state["node"]), -1), state["size 0"]]
            reach = np.concatenate(outputs, 1)[owner, : rows.shape[1]]
            size = np.add.reduceat(np.abs(constants), begins) + numbers.dot(np.add.reduceat(np.abs(terms), begins), reach)
            bound = numbers.down(bound - (numbers.gamma(len(self.rows) + 8) * size + numbers.tiny))
        value = self.bounder.minimise(state, owner, a, bound)
        proved = (value > 0) | (strict & (value >= 0))
        state["open"][owner[proved], clause[proved]] = False
        left = np.flatnonzero(state["open"].any(1))
        if len(left):
            which = int(np.argmax(state["open"][left[0]]))
            best = max(float(v) for v in value[(owner == left[0]) & (clause == which)])
            self.reject(state, left, f"clause {which} is only known to be at least {best:.6g}")

    def reject(self, state: State, at: Array, words: str) -> None:
        node = state["node"][at[0]]
        raise Rejected(f"node {node} (leaf of tree {self.file.tree[node]}): {words}")

    def _places(self, state: State, record: Array) -> Array | None:
        """Where lower lines stand, for every neuron; None: by default everywhere."""
        table = self.file["slope_table"]
        which = np.append(self.file["record_slopes"], -1)[record]
        if (which < 0).all():
            return None
        values = self.numbers.array(table[which]) / (255 if table.dtype == np.uint8 else 1)
        return np.where(which[:, None] >= 0, values, (state["high"] > -state["low"]) * 1)

    def _prices(self, state: State, record: Array) -> Array | None:
        """What the phase splits above each leaf take from the coefficients of neurons' inputs."""
        start, node = self.file["multiplier_start"], state["node"]
        count = np.append(np.diff(start), 0)[record]
        wrong = np.flatnonzero((count > 0) & (count != self.file.phases[node]))
        if len(wrong):
            self.reject(state, wrong, f"{count[wrong[0]]} multipliers for {self.file.phases[node[wrong[0]]]} phase splits")
        if not count.any():
            return None
        price, leaf = self.numbers.zeros(len(node), self.bounder.model.neurons), np.flatnonzero(count)
        place, child = start[record[leaf] + 1], node[leaf]
        while len(leaf):  # up towards the roots
            parent = self.file.parent[child]
            split = (parent >= 0) & (self.kind[parent] == PHASE)
            place = place - split
            sign = np.where(child == self.file.first[parent], -1, 1)[split]
            price[leaf[split], self.index[parent[split]]] += sign * self.multipliers[place[split]]
            leaf, place, child = leaf[parent >= 0], place[parent >= 0], parent[parent >= 0]
        return price

    def _children(self, state: State) -> list[State]:
        node, made = state["node"], []
        for kind, names in ((BOX, ("lower", "upper")), (PHASE, ("low", "high")), (CLAUSE, ())):
            parents = np.flatnonzero(self.kind[node] == kind)
            for number in range(2 if names else self.clauses):
                at = parents if names else parents[number < self.file.clauses[self.spec[node[parents]]]]
                child = take(state, at)
                child["node"] = self.file.first[node[at]] + number
                if names:  # the first child ends where the second begins
                    name, where = names[1 - number], (np.arange(len(at)), self.index[node[at]])
                    limit = self.numbers.array(self.file["cut"][node[at]]) if kind == BOX else 0
                    child[name][where] = (np.maximum if number else np.minimum)(child[name][where], limit)
                else:
                    child["open"] &= np.arange(self.clauses) == number
                made.append(take(child, self._living(child)))
        return [child for child in made if len(child["node"])]
