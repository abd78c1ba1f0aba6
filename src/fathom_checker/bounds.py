"""Bounds over boxes, balls and branches: intervals forward, linear bounds backward (CROWN, beta-CROWN).

Arrays have a first axis n (nodes of the tree) or P (rows, each of the node `owner`). All statements hold for real numbers, and in
float32 arithmetic for the program's; what computing them may have lost is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from fathom_checker.errors import Rejected
from fathom_checker.model import Model
from fathom_checker.numbers import Array, Numbers
from fathom_checker.operators import Bend, Linear, Operator
from fathom_checker.region import Balls, on_ball, on_box

State = dict[str, Array]
"""Of n nodes: boxes `lower`, `upper` [n, d]; bounds `low`, `high` [n, N] of neurons' inputs; `open` clauses [n, C]; `node`,
`tree` [n]. And the rounding account: `loss i` [n, *], what a step back through operator i may lose for a coefficient of 1;
`size v` [n, *], how large values are that several read; `tiny` [n], for underflow."""

Lines = dict[int, tuple[Array, Array, Array, Array]]
"""By operator: slopes of the lower and upper line, offset of the upper one, loss; each [n, neurons]."""

SINGLE_MAX, SINGLE_TINY = 2.0**127, 2.0**-126


def take(state: State, index: Array) -> State:
    return {name: array[index] for name, array in state.items()}


def larger(low: Array, high: Array) -> Array:
    return np.maximum(np.abs(low), np.abs(high))


class Bounder:
    """Bounds of one model; `single`: for the float32 program."""

    def __init__(self, model: Model, numbers: Numbers, balls: Balls | None, memory: int, *, single: bool) -> None:
        self.model, self.numbers, self.balls, self.single = model, numbers, balls, single
        reads = [value for op in model.operators for value in op.inputs]
        self.last = len(model.operators)
        self.shared = {0, self.last} | {value for value, count in zip(*np.unique(reads, return_counts=True)) if count > 1}
        self.widths = [model.inputs, *(math.prod(op.shape) for op in model.operators)]
        self.memory = memory
        self.most_rows = max(2, memory // (64 * max(self.widths)))  # eight arrays of such rows are alive at once

    def lines(self, state: State, op: Bend, place: Array | None = None) -> tuple[Array, Array, Array, Array]:
        """Lines of one operator's neurons; `place` [n, neurons]: where unstable ones' lower lines stand, None: by default."""
        low, high, numbers, leak = state["low"][:, op.neurons], state["high"][:, op.neurons], self.numbers, op.leak
        unstable = (low < 0) & (high > 0)
        if place is None:
            place = (high > -low) * 1
        exact = np.where(low >= 0, 1, leak)
        below = np.where(unstable, np.clip(leak + place * (1 - leak), leak, 1), exact)
        chord = np.where(unstable, np.clip((high - leak * low) / np.where(unstable, high - low, 1), leak, 1), exact)
        # Whatever the chord's slope was rounded to, this offset lifts it over both ends; two roundings each.
        offset = np.where(unstable, numbers.up(numbers.up(np.maximum((leak - chord) * low, (1 - chord) * high))), 0)
        size = larger(low, high)
        loss = numbers.gamma(4) * size + numbers.gamma(math.prod(op.shape) + 4) * offset
        if self.single and leak:
            loss = loss + (numbers.single(1) * leak * size + SINGLE_TINY)
        return below, chord, offset, loss

    def all_lines(self, state: State, place: Array | None = None) -> Lines:
        bends = [(i, op) for i, op in enumerate(self.model.operators) if isinstance(op, Bend)]
        return {i: self.lines(state, op, None if place is None else place[:, op.neurons]) for i, op in bends}

    def tighten(self, state: State) -> None:
        """Bound every value anew, and with that `low` and `high`, and the rounding account."""
        boxes = [(state["lower"], state["upper"])]
        lines: Lines = {}
        state["tiny"] = self.numbers.zeros(len(state["node"]))
        for i, op in enumerate([None, *self.model.operators]):
            if isinstance(op, Bend):
                self._bend(state, lines, i - 1, op, *boxes[op.inputs[0]])
                boxes.append(self._bent(state, op))
            elif op is not None:
                boxes.append(self._interval(state, i - 1, op, [boxes[value] for value in op.inputs]))
            size = larger(*boxes[i])
            state["tiny"] = state["tiny"] + self.numbers.tiny * (1 + size.reshape(len(size), -1).sum(1))
            if i in self.shared:
                state[f"size {i}"] = size

    def _bent(self, state: State, op: Bend) -> tuple[Array, Array]:
        low, high, numbers = state["low"][:, op.neurons], state["high"][:, op.neurons], self.numbers
        if op.leak:
            error = numbers.single(1) * op.leak * larger(low, high) + SINGLE_TINY if self.single else 0
            low = np.where(low < 0, numbers.down(numbers.down(op.leak * low) - error), low)
            high = np.where(high < 0, numbers.up(numbers.up(op.leak * high) + error), high)
        else:
            low, high = np.maximum(low, 0), np.maximum(high, 0)
        return low.reshape(-1, *op.shape), high.reshape(-1, *op.shape)

    def _charged(self, op: Operator) -> bool:
        """Whether a step back through a linear operator can lose anything."""
        return isinstance(op, Linear) and bool(op.fan or op.bias is not None or (self.single and op.terms))

    def _interval(self, state: State, i: int, op: Linear, ends: list[tuple[Array, Array]]) -> tuple[Array, Array]:
        """From the boxes of what it reads: W middle -+ |W| radius, and what that and the step back may lose."""
        numbers = self.numbers
        middles = [(low + high) / 2 for low, high in ends]
        radii = [numbers.up(np.maximum(high - m, m - low)) for m, (low, high) in zip(middles, ends)]
        middle, reach = op.forward(middles, absolute=False), op.forward(radii, absolute=True)
        load = op.forward([larger(low, high) for low, high in ends], absolute=True)
        if op.bias is not None:
            middle, load = middle + op.bias, load + (np.abs(op.bias) if op.bias_size is None else op.bias_size)
        lost = numbers.gamma(op.fan + op.rough + 4) * load + numbers.tiny * (1 + op.fan)
        step = numbers.gamma(op.fan + op.rough + math.prod(op.shape) + 4) * load
        if self.single and op.terms:
            if not (load < SINGLE_MAX).all():
                raise Rejected(f"node {state['node'][0]} or one near it: float32 might overflow")
            program = numbers.up(numbers.single(op.terms) * load + op.terms * SINGLE_TINY)
            lost, step = lost + program, step + program
        if self._charged(op):
            state[f"loss {i}"] = step
        reach = numbers.up(reach * (1 + numbers.gamma(op.fan + op.rough + 4)) + lost)
        return numbers.floor(numbers.down(middle - reach)), numbers.ceil(numbers.up(middle + reach))

    def _bend(self, state: State, lines: Lines, i: int, op: Bend, low: Array, high: Array) -> None:
        """Bounds of the neurons of one operator: intervals, then linear bounds of those still unstable."""
        n, at = len(low), op.neurons
        low = np.maximum(state["low"][:, at], low.reshape(n, -1))
        high = np.minimum(state["high"][:, at], high.reshape(n, -1))
        owners, neurons = ((low < 0) & (high > 0)).nonzero()
        size = self.most_rows // 2
        for start in range(0, len(owners), size):
            owner, neuron = owners[start : start + size], neurons[start : start + size]
            twice, k = np.concatenate([owner, owner]), len(owner)
            rows = self.neuron_rows(state, lines, op, twice, np.tile(neuron, 2), np.repeat([1, -1], k))
            least = self.minimise(state, twice, *rows)
            low[owner, neuron] = np.maximum(low[owner, neuron], least[:k])
            high[owner, neuron] = np.minimum(high[owner, neuron], -least[k:])
        state["low"][:, at], state["high"][:, at] = low, high
        lines[i] = self.lines(state, op)

    def neuron_rows(self, state: State, lines: Lines, op: Bend, owner: Array, neuron: Array, sign: Array) -> tuple[Array, Array]:
        """Linear lower bounds, as from `backward`, of sign times the inputs of neurons, numbered within their operator."""
        value = op.inputs[0]
        before = self.model.operators[value - 1] if value else None
        if isinstance(before, Linear) and (rows := before.rows(neuron)) is not None:  # a first step that computes nothing
            rows = rows * sign.reshape(-1, *[1] * (rows.ndim - 1))
            bias = 0 if before.bias is None else before.bias.reshape(-1)[neuron] * sign
            lost = state[f"loss {value - 1}"].reshape(len(state["node"]), -1)[owner, neuron]
            a, constant = self.backward(state, owner, {before.inputs[0]: rows}, lines)
            return a, self.numbers.down(self.numbers.down(constant + bias) - lost)
        rows = self.numbers.zeros(len(owner), math.prod(op.shape))
        rows[np.arange(len(owner)), neuron] = sign
        return self.backward(state, owner, {value: rows.reshape(-1, *op.shape)}, lines)

    def backward(
        self, state: State, owner: Array, rows: Mapping[int, Array], lines: Lines, price: Array | None = None
    ) -> tuple[Array, Array]:
        """Rows [P, *shape] over values as rows [P, d] over the input, and constants [P]: sum rows . value >= row . x + constant.

        price: [n, N], what phase splits take from the coefficient at each neuron's input.
        """
        numbers, pending = self.numbers, dict(rows)
        constant, moved, lost = (numbers.zeros(len(owner)) for _ in range(3))
        for i in range(max(rows) - 1, -1, -1):
            a, op = pending.pop(i + 1, None), self.model.operators[i]
            if a is None:
                continue
            if isinstance(op, Linear):
                if op.bias is not None:
                    shift = np.matmul(a.reshape(len(a), -1), op.bias.reshape(-1))
                    constant, moved = constant + shift, moved + np.abs(shift)
                if self._charged(op):
                    lost = lost + numbers.dot(np.abs(a), state[f"loss {i}"][owner])
                parts = op.back(a)
            else:
                below, chord, offset, loss = (line[owner] for line in lines[i])
                a = a.reshape(len(a), -1)
                shift = numbers.dot(np.minimum(a, 0), offset)
                constant, moved, lost = constant + shift, moved - shift, lost + numbers.dot(np.abs(a), loss)
                a = a * np.where(a >= 0, below, chord)
                if price is not None:
                    a = a - price[owner, op.neurons]
                    size = larger(state["low"][:, op.neurons], state["high"][:, op.neurons])
                    lost = lost + numbers.gamma(4) * numbers.dot(np.abs(a), size[owner])
                parts = (a.reshape(-1, *op.shape),)
            for value, part in zip(op.inputs, parts):
                if value in pending:
                    part = pending[value] + part
                    lost = lost + numbers.gamma(4) * numbers.dot(np.abs(part), state[f"size {value}"][owner])
                pending[value] = part
        lost = lost + state["tiny"][owner]
        lost = lost + numbers.gamma(4 * self.last + 8) * (moved + lost)
        a = pending.get(0)
        a = numbers.zeros(len(owner), self.model.inputs) if a is None else a
        return a, numbers.down(numbers.down(constant - lost))

    def minimise(self, state: State, owner: Array, a: Array, constant: Array) -> Array:
        """[P] lower bounds on a x + constant over the nodes' sets."""
        box = a, constant, state["lower"][owner], state["upper"][owner]
        least = on_box(self.numbers, *box)
        return least if self.balls is None else np.maximum(least, on_ball(self.numbers, self.balls, state["tree"][owner], *box))
