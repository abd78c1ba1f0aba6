"""Bounds over boxes, balls and branches: intervals forward, linear bounds backward (CROWN, beta-CROWN).

Arrays have a first axis n (nodes of the tree) or P (rows, each of the node `owner`). All statements hold for real numbers, and in
float32 arithmetic for the program's; what computing them may have lost is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from fathom_checker.model import Model
from fathom_checker.numbers import Array, Numbers
from fathom_checker.operators import Bend, Linear
from fathom_checker.reading import Rejected
from fathom_checker.region import Balls, on_ball, on_box

State = dict[str, Array]
"""Of n nodes: boxes `lower`, `upper` [n, d]; bounds `low`, `high` [n, N] of neurons' inputs; `open` clauses [n, C]; `node`;
`set`, the ball. And the rounding account: `loss i` [n, *], what a step back through operator i may lose for a coefficient of 1;
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
        self.shared = {0, self.last} | {value for value in reads if reads.count(value) > 1}
        self.widths = [model.inputs, *(math.prod(op.shape) for op in model.operators)]
        self.memory, self.most_rows = memory, max(2, memory // (64 * max(self.widths)))  # eight such arrays are alive at once

    def lines(self, state: State, op: Bend, place: Array | None = None) -> tuple[Array, Array, Array, Array]:
        """Lines of one operator's neurons; `place` [n, N]: where unstable ones' lower lines stand, None: by default."""
        low, high, numbers, leak = state["low"][:, op.neurons], state["high"][:, op.neurons], self.numbers, op.leak
        unstable, exact = (low < 0) & (high > 0), np.where(low >= 0, 1, leak)
        place = (high > -low) * 1 if place is None else place[:, op.neurons]
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
        return {i: self.lines(state, op, place) for i, op in enumerate(self.model.operators) if isinstance(op, Bend)}

    def tighten(self, state: State, inner: Mapping[tuple[int, int], Array] | None = None) -> None:
        """Bound every value anew, and with that `low` and `high`, and the rounding account.

        inner: by node of the tree and neuron, where the lower lines of earlier neurons stand for its bounds, [2, N].
        """
        boxes, lines = [(state["lower"], state["upper"])], Lines()
        state["tiny"] = self.numbers.zeros(len(state["node"]))
        for i, op in enumerate([None, *self.model.operators]):
            if isinstance(op, Bend):
                self._bend(state, lines, op, *boxes[op.inputs[0]], inner or {})
                lines[i - 1] = self.lines(state, op)
                boxes.append(self._bent(state, op))
            elif op is not None:
                boxes.append(self._interval(state, i - 1, op, [boxes[value] for value in op.inputs]))
            size = larger(*boxes[i])
            state["tiny"] = state["tiny"] + self.numbers.tiny * (1 + size.reshape(len(size), -1).sum(1))
            if i in self.shared:
                state[f"size {i}"] = size

    def _bent(self, state: State, op: Bend) -> tuple[Array, Array]:
        low, high, numbers = state["low"][:, op.neurons], state["high"][:, op.neurons], self.numbers
        error = numbers.single(1) * op.leak * larger(low, high) + SINGLE_TINY if self.single and op.leak else 0
        low = np.where(low < 0, numbers.down(numbers.down(op.leak * low) - error) if op.leak else 0, low)
        high = np.where(high < 0, numbers.up(numbers.up(op.leak * high) + error) if op.leak else 0, high)
        return low.reshape(-1, *op.shape), high.reshape(-1, *op.shape)

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
        if op.fan or op.bias is not None or (self.single and op.terms):
            state[f"loss {i}"] = step
        reach = numbers.up(reach * (1 + numbers.gamma(op.fan + op.rough + 4)) + lost)
        return numbers.floor(numbers.down(middle - reach)), -numbers.floor(-numbers.up(middle + reach))

    def _bend(
        self, state: State, lines: Lines, op: Bend, low: Array, high: Array, inner: Mapping[tuple[int, int], Array]
    ) -> None:
        """Bounds of the neurons of one operator: intervals, then linear bounds of those still unstable."""
        n, at = len(low), op.neurons
        low = np.maximum(state["low"][:, at], low.reshape(n, -1))
        high = np.minimum(state["high"][:, at], high.reshape(n, -1))
        owners, neurons = ((low < 0) & (high > 0)).nonzero()
        keys = list(zip(state["node"][owners].tolist(), np.arange(self.model.neurons)[at][neurons].tolist()))
        told = np.array([key in inner for key in keys], bool)
        for group in (np.flatnonzero(~told), np.flatnonzero(told)):
            for start in range(0, len(group), self.most_rows // 2):
                part = group[start : start + self.most_rows // 2]
                owner, neuron, place = owners[part], neurons[part], None
                if told[part[0]]:
                    place = np.concatenate([[inner[keys[k]][side] for k in part] for side in (0, 1)])
                signs = np.repeat([1, -1], len(owner))
                least = self._extremes(state, lines, op, np.tile(owner, 2), np.tile(neuron, 2), signs, place)
                low[owner, neuron] = np.maximum(low[owner, neuron], least[: len(owner)])
                high[owner, neuron] = np.minimum(high[owner, neuron], -least[len(owner) :])
        state["low"][:, at], state["high"][:, at] = low, high

    def _extremes(
        self, state: State, lines: Lines, op: Bend, owner: Array, neuron: Array, sign: Array, place: Array | None
    ) -> Array:
        """[P] lower bounds of sign times the inputs of neurons, numbered within their operator."""
        value, numbers = op.inputs[0], self.numbers
        before = self.model.operators[value - 1] if value else None
        stored = before.rows(neuron) if isinstance(before, Linear) else None
        if before is not None and isinstance(before, Linear) and stored is not None:  # a first step that computes nothing
            bias = 0 if before.bias is None else before.bias.reshape(-1)[neuron] * sign
            lost = state[f"loss {value - 1}"].reshape(len(state["node"]), -1)[owner, neuron]
            start = {before.inputs[0]: stored * sign.reshape(-1, *[1] * (stored.ndim - 1))}
            a, constant = self.backward(state, owner, start, lines, place=place)
            return self.minimise(state, owner, a, numbers.down(numbers.down(constant + bias) - lost))
        rows = numbers.zeros(len(owner), math.prod(op.shape))
        rows[np.arange(len(owner)), neuron] = sign
        a, constant = self.backward(state, owner, {value: rows.reshape(-1, *op.shape)}, lines, place=place)
        return self.minimise(state, owner, a, constant)

    def backward(
        self,
        state: State,
        owner: Array,
        rows: Mapping[int, Array],
        lines: Lines,
        price: Array | None = None,
        place: Array | None = None,
    ) -> tuple[Array, Array]:
        """Rows [P, *shape] over values as rows [P, d] over the input, and constants [P]: sum rows . value >= row . x + constant.

        price: [n, N], what phase splits take from the coefficient at each neuron's input.
        place: [P, N], where unstable neurons' lower lines stand for each row, instead of what `lines` says.
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
                if f"loss {i}" in state:
                    lost = lost + numbers.dot(np.abs(a), state[f"loss {i}"][owner])
                parts = op.back(a)
            else:
                below, chord, offset, loss = (line[owner] for line in lines[i])
                a = a.reshape(len(a), -1)
                if place is not None:
                    unstable = ((state["low"] < 0) & (state["high"] > 0))[:, op.neurons][owner]
                    below = np.where(unstable, np.clip(op.leak + place[:, op.neurons] * (1 - op.leak), op.leak, 1), below)
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
        a = pending[0] if 0 in pending else numbers.zeros(len(owner), self.model.inputs)
        return a, numbers.down(numbers.down(constant - lost))

    def minimise(self, state: State, owner: Array, a: Array, constant: Array) -> Array:
        """[P] lower bounds on a x + constant over the nodes' sets."""
        box = a, constant, state["lower"][owner], state["upper"][owner]
        least = on_box(self.numbers, *box)
        return least if self.balls is None else np.maximum(least, on_ball(self.numbers, self.balls, state["set"][owner], *box))
