"""Bounds over boxes, balls and branches: intervals forward, linear bounds backward (CROWN, beta-CROWN).

Arrays have a first axis n (nodes of the tree) or P (rows, each of the node `owner`). All statements hold for real numbers, and in
float32 arithmetic for the program's; what computing them may have lost is subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fathom_checker.model import Model
from fathom_checker.numbers import Array, Numbers
from fathom_checker.operators import Bend, Linear
from fathom_checker.reading import Rejected
from fathom_checker.region import Balls, on_ball, on_box

State = dict[str, Array]
"""Of n nodes: boxes `lower`, `upper` [n, d]; bounds `low`, `high` [n, N] of neurons' inputs; `open` clauses [n, C]; `node`;
`tree`; `set`, the ball. And the rounding account: `loss i` [n, *], what a step back through operator i may lose for a coefficient
of 1; `size v` [n, *], how large values are that several read; `tiny` [n], for underflow."""

Lines = tuple[Array, Array, Array, Array]
"""Of one operator's neurons: slopes of the lower and upper line, offset of the upper one, loss; each [n, neurons]."""

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
        widths = [model.inputs, *(op.size for op in model.operators)]
        self.most_nodes = max(1, memory // (128 * sum(widths)))
        self.most_rows = max(1, memory // (64 * max(widths)))  # eight such arrays are alive at once

    def lines(self, state: State, op: Bend, place: Array | None = None) -> Lines:
        """Lines of one operator's neurons; `place` [n, N]: where unstable ones' lower lines stand, None: by default."""
        low, high, numbers = state["low"][:, op.neurons], state["high"][:, op.neurons], self.numbers
        unstable, stable = (low < 0) & (high > 0), (low >= 0) * 1
        below = np.where(unstable, default_place(numbers, low, high) if place is None else place[:, op.neurons], stable)
        chord = np.where(unstable, np.clip(high / np.where(unstable, high - low, 1), 0, 1), stable)
        # Whatever the chord's slope was rounded to, this offset lifts it over both ends; two roundings each.
        offset = np.where(unstable, numbers.up(numbers.up(np.maximum(-chord * low, (1 - chord) * high))), 0)
        return below, chord, offset, numbers.gamma(4) * larger(low, high) + numbers.gamma(op.size + 4) * offset

    def all_lines(self, state: State, place: Array | None = None) -> dict[int, Lines]:
        return {i: self.lines(state, op, place) for i, op in enumerate(self.model.operators) if isinstance(op, Bend)}

    def tighten(self, state: State, inner: Mapping[tuple[int, int], Array]) -> None:
        """Bound every value anew, and with that `low` and `high`, and the rounding account.

        inner: by tree and neuron, where the lower lines of earlier neurons stand for its lower and upper bound, [2, N].
        """
        boxes, lines = [(state["lower"], state["upper"])], dict[int, Lines]()
        state["tiny"] = self.numbers.zeros(len(state["node"]))
        for i, op in enumerate([None, *self.model.operators]):
            if isinstance(op, Bend):
                self._bend(state, lines, op, *boxes[op.inputs[0]], inner)
                lines[i - 1] = self.lines(state, op)
                boxes.append((np.maximum(state["low"][:, op.neurons], 0), np.maximum(state["high"][:, op.neurons], 0)))
            elif op is not None:
                boxes.append(self._interval(state, i - 1, op, [boxes[value] for value in op.inputs]))
            size = larger(*boxes[i])
            state["tiny"] = state["tiny"] + self.numbers.tiny * (1 + size.sum(1))
            if i in self.shared:
                state[f"size {i}"] = size

    def _interval(self, state: State, i: int, op: Linear, ends: list[tuple[Array, Array]]) -> tuple[Array, Array]:
        """From the boxes of what it reads: W middle -+ |W| radius, and what that and the step back may lose."""
        numbers, half = self.numbers, self.numbers.array(0.5)[()]
        middles = [(low + high) * half for low, high in ends]
        radii = [numbers.up(np.maximum(high - m, m - low)) for m, (low, high) in zip(middles, ends)]
        middle, reach = op.forward(middles, absolute=False), op.forward(radii, absolute=True)
        load = op.forward([larger(low, high) for low, high in ends], absolute=True)
        if op.bias is not None:
            middle, load = middle + op.bias, load + np.abs(op.bias)
        count = op.fan + op.rough + 4
        lost, step = numbers.gamma(count) * load + numbers.tiny * (1 + op.fan), numbers.gamma(count + op.size) * load
        if self.single and op.terms:
            if not (load < SINGLE_MAX).all():
                raise Rejected(f"node {state['node'][0]} or one near it: float32 might overflow")
            program = numbers.up(numbers.single(op.terms) * load + op.terms * numbers.array(SINGLE_TINY)[()])
            lost, step = lost + program, step + program
        if op.fan or (self.single and op.terms):
            state[f"loss {i}"] = step
        reach = numbers.up(reach * (1 + numbers.gamma(count)) + lost)
        return numbers.floor(numbers.down(middle - reach)), -numbers.floor(-numbers.up(middle + reach))

    def _bend(
        self, state: State, lines: dict[int, Lines], op: Bend, low: Array, high: Array, inner: Mapping[tuple[int, int], Array]
    ) -> None:
        """Bounds of the neurons of one operator: intervals, then linear bounds of those still unstable."""
        low, high = np.maximum(state["low"][:, op.neurons], low), np.minimum(state["high"][:, op.neurons], high)
        owners, elements = ((low < 0) & (high > 0)).nonzero()
        for start in range(0, len(owners), self.most_rows):
            owner, element = owners[start : start + self.most_rows], elements[start : start + self.most_rows]
            slopes = [inner.get(key) for key in zip(state["tree"][owner].tolist(), op.neurons[element].tolist())]
            for side, end, sign in ((0, low, 1), (1, high, -1)):
                place = None
                if inner:
                    default = (state["high"] > -state["low"])[owner] * 1
                    place = np.stack([usual if slope is None else slope[side] for usual, slope in zip(default, slopes)])
                rows = self.numbers.zeros(len(owner), op.size)
                rows[np.arange(len(owner)), element] = sign
                least = self.minimise(state, owner, *self.backward(state, owner, {op.inputs[0]: rows}, lines, place=place))
                end[owner, element] = sign * np.maximum(sign * end[owner, element], least)
        state["low"][:, op.neurons], state["high"][:, op.neurons] = low, high

    def backward(
        self,
        state: State,
        owner: Array,
        rows: Mapping[int, Array],
        lines: Mapping[int, Lines],
        price: Array | None = None,
        place: Array | None = None,
    ) -> tuple[Array, Array]:
        """Rows [P, *] over values as rows [P, d] over the input, and constants [P]: sum rows . value >= row . x + constant.

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
                    shift = np.matmul(a, op.bias)
                    constant, moved = constant + shift, moved + np.abs(shift)
                if f"loss {i}" in state:
                    lost = lost + numbers.dot(np.abs(a), state[f"loss {i}"][owner])
                parts = op.backward(a)
            else:
                below, chord, offset, loss = (line[owner] for line in lines[i])
                if place is not None:
                    below = np.where(offset > 0, place[:, op.neurons], below)
                shift = numbers.dot(np.minimum(a, 0), offset)
                constant, moved, lost = constant + shift, moved - shift, lost + numbers.dot(np.abs(a), loss)
                a = a * np.where(a >= 0, below, chord)
                if price is not None:
                    a = a - price[:, op.neurons][owner]
                    size = larger(state["low"][:, op.neurons], state["high"][:, op.neurons])
                    lost = lost + numbers.gamma(4) * numbers.dot(np.abs(a), size[owner])
                parts = [a]
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


def default_place(numbers: Numbers, low: Array, high: Array) -> Array:
    """Where the lower line of an unstable neuron stands if the file does not say."""
    return numbers.array((high > -low) * 1 + (high >= -low)) / 2
