"""Bounds over boxes, balls and branches: intervals forward, linear bounds backward (CROWN, beta-CROWN), and their minima.

Arrays have a first axis n (nodes of the tree) or P (rows, each of the node `owner`). All statements hold for real numbers, and in
float32 arithmetic for the program's; what computing them may have lost is subtracted.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fathom_checker.certificate import Rejected
from fathom_checker.model import Model
from fathom_checker.numbers import TINY, UNIT, Array, Numbers
from fathom_checker.operators import Bend, Linear
from fathom_checker.question import Balls

State = dict[str, Array]
"""Of n nodes: boxes `lower`, `upper` [n, d]; bounds `low`, `high` [n, N] of neurons' inputs; `open` clauses [n, C]; `node`;
`tree`; `set`, the ball. And the rounding account: `loss i` [n, *], what a step back through operator i may lose for a coefficient
of 1; `size v` [n, *], how large value v is; `tiny` [n], for underflow."""

Rows = Sequence[tuple[int, Array]]  # rows [P, *] over values, by the number of the value; they are added up

MEMORY = 1 << 26  # bytes of working arrays, about
SINGLE_MAX, SINGLE_TINY = 2.0**127, 2.0**-126


def take(state: State, index: Array) -> State:
    return {name: array[index] for name, array in state.items()}


def larger(low: Array, high: Array) -> Array:
    return np.maximum(np.abs(low), np.abs(high))


def on_box(numbers: Numbers, a: Array, constant: Array, lower: Array, upper: Array) -> Array:
    """[P] lower bounds on a x + constant over boxes [P, d]."""
    size = numbers.dot(np.abs(a), larger(lower, upper))
    value = numbers.dot(a, np.where(a > 0, lower, upper)) - (numbers.gamma(a.shape[1] + 4) * size + numbers.tiny)
    return numbers.down(numbers.down(value) + constant)


def on_ball(numbers: Numbers, balls: Balls, number: Array, a: Array, constant: Array, lower: Array, upper: Array) -> Array:
    """The same over box and ball: a x >= min over the ball of part x + min over the box of (a - part) x, for any part of a."""
    p, centre, radius = balls[0], balls[1][number], balls[2][number]
    plain, low, high = (np.asarray(x, np.float64) for x in (a, lower - centre, upper - centre))
    share = _share(p, plain, low, high, radius)
    squares = (share**2).sum(1) * (1 + 4 * (share.shape[1] + 8) * UNIT) + TINY  # rounded up, and so is their root
    norm = numbers.array(np.abs(share).max(1) if p == 1 else np.sqrt(squares))
    part, middle, rest = numbers.array(share), numbers.array(centre), a - numbers.array(share)
    rounded = numbers.gamma(4) * numbers.dot(np.abs(rest), larger(lower, upper)) + numbers.tiny
    rounded = rounded + numbers.gamma(a.shape[1] + 4) * numbers.dot(np.abs(part), np.abs(middle))
    in_ball = numbers.down(numbers.dot(part, middle) - numbers.up(numbers.array(radius) * norm))
    return numbers.down(on_box(numbers, rest, numbers.down(constant - numbers.up(rounded)), lower, upper) + in_ball)


def _share(p: int, a: Array, low: Array, high: Array, radius: Array) -> Array:
    """The part of a that the ball is to bound, for walls low <= x - centre <= high; the best one, but for rounding.

    At the minimum the ball has a price t: a step from the centre goes to its wall where |a| > t (p = 1), or is -a / t up to its
    wall (p = 2); and t is the greatest at which these steps leave the ball, which bisection of its logarithm finds.
    """
    walls = np.maximum(np.where(a > 0, -low, high), 0)

    def leave(t: Array) -> Array:
        steps = np.where(np.abs(a) > t, walls, 0) if p == 1 else np.clip(-a / t, low, high) ** 2
        return steps.sum(1) >= radius**p

    least, most = np.log([[1e-300], [1e300]]) + np.zeros(len(a))
    for _ in range(56):
        middle = (least + most) / 2
        left = leave(np.exp(middle)[:, None])
        least, most = np.where(left, middle, least), np.where(left, most, middle)
    t = np.exp(least)[:, None]
    part = np.clip(a, -t, t) if p == 1 else np.clip(a, -high * t, -low * t)
    return np.nan_to_num(np.where(leave(t)[:, None], part, 0))


class Bounder:
    """Bounds of one model."""

    def __init__(self, model: Model, balls: Balls | None) -> None:
        self.model, self.numbers, self.balls = model, model.numbers, balls
        self.last = len(model.operators)
        widths = [model.inputs, *(op.size for op in model.operators if op)]
        self.most_nodes = max(1, MEMORY // (128 * sum(widths)))
        self.most_rows = max(2, MEMORY // (64 * max(widths)))  # eight such arrays are alive at once

    def tighten(self, state: State, inner: Mapping[tuple[int, int], Array]) -> None:
        """Bound every value anew, and with that `low` and `high`, and the rounding account. `inner`: by tree and neuron, where
        the lower lines of earlier neurons stand for its lower and upper bound, [2, N]."""
        boxes = {0: (state["lower"], state["upper"])}
        state["tiny"] = self.numbers.zeros(len(state["node"]))
        for value in range(self.last + 1):
            op = self.model.operators[value - 1] if value else None
            if isinstance(op, Linear):
                boxes[value] = self._interval(state, value - 1, op, [boxes[i] for i in op.inputs])
            elif isinstance(op, Bend):
                self._bend(state, op, *boxes[op.inputs[0]], inner)
                boxes[value] = np.maximum(state["low"][:, op.neurons], 0), np.maximum(state["high"][:, op.neurons], 0)
            if value in boxes:
                size = larger(*boxes[value])
                state["tiny"] = state["tiny"] + self.numbers.tiny * (1 + size.sum(1))
                state[f"size {value}"] = size

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
        if self.model.single and op.terms:
            if not (load < SINGLE_MAX).all():
                raise Rejected(f"node {state['node'][0]} or one near it: float32 might overflow")
            program = numbers.up(numbers.single(op.terms) * load + op.terms * numbers.array(SINGLE_TINY)[()])
            lost, step = lost + program, step + program
        if op.fan:
            state[f"loss {i}"] = step
        reach = numbers.up(reach * (1 + numbers.gamma(count)) + lost)
        return numbers.down(middle - reach), numbers.up(middle + reach)

    def _bend(self, state: State, op: Bend, low: Array, high: Array, inner: Mapping[tuple[int, int], Array]) -> None:
        """Bounds of the neurons of one operator: intervals, then linear bounds of those still unstable."""
        low, high = np.maximum(state["low"][:, op.neurons], low), np.minimum(state["high"][:, op.neurons], high)
        owners, elements = ((low < 0) & (high > 0)).nonzero()
        for start in range(0, len(owners), self.most_rows // 2):
            at = owners[start : start + self.most_rows // 2], elements[start : start + self.most_rows // 2]
            owner, place = np.repeat(at[0], 2), None  # a row for the lower bound, then one for the upper
            if inner:
                place = self.numbers.zeros(len(owner), self.model.neurons) - 1
                for j, key in enumerate(zip(state["tree"][at[0]].tolist(), op.neurons[at[1]].tolist())):
                    if key in inner:
                        place[2 * j : 2 * j + 2] = self.numbers.array(inner[key] / 255)
            rows = self.numbers.zeros(len(owner), op.size)
            rows[np.arange(len(owner)), np.repeat(at[1], 2)] = np.tile([1, -1], len(at[0]))
            least = self.minimise(state, owner, *self.backward(state, owner, [(op.inputs[0], rows)], place))
            low[at], high[at] = np.maximum(low[at], least[::2]), np.minimum(high[at], -least[1::2])
        state["low"][:, op.neurons], state["high"][:, op.neurons] = low, high

    def backward(self, state: State, owner: Array, rows: Rows, place: Array | None = None) -> tuple[Array, Array]:
        """Rows over values as rows [P, d] over the input, and constants [P]: sum rows . value >= row . x + constant. `place`:
        [P, N], where unstable neurons' lower lines stand; None, or -1: by default."""
        numbers, pending, constant = self.numbers, dict[int, Array](), self.numbers.zeros(len(owner))

        def lose(a: Array, each: Array) -> None:
            """A rounding: so much for each coefficient of 1."""
            constant[:] = numbers.down(constant - numbers.up(numbers.dot(np.abs(a), (each + numbers.tiny)[owner])))

        def meet(value: int, a: Array) -> None:
            if value in pending:
                a = pending[value] + a
                lose(a, numbers.gamma(4) * state[f"size {value}"])
            pending[value] = a

        for value, a in rows:
            meet(value, a)
        for i in range(self.last - 1, -1, -1):
            a, op = pending.pop(i + 1, None), self.model.operators[i]
            if isinstance(op, Linear) and a is not None:
                if op.bias is not None:
                    constant[:] = numbers.down(constant + np.matmul(a, op.bias))
                if op.fan:
                    lose(a, state[f"loss {i}"])
                for value, part in zip(op.inputs, op.backward(a)):
                    meet(value, part)
            elif isinstance(op, Bend) and a is not None:
                low, high = state["low"][:, op.neurons], state["high"][:, op.neurons]
                below, chord, offset = (line[owner] for line in self._lines(low, high))
                if place is not None:
                    mine = place[:, op.neurons]
                    below = np.where((offset > 0) & (mine >= 0), mine, below)
                constant[:] = numbers.down(constant + numbers.dot(np.minimum(a, 0), offset))
                lose(a, numbers.gamma(op.size + 12) * larger(low, high))
                meet(op.inputs[0], a * np.where(a >= 0, below, chord))
        a = pending.get(0, self.numbers.zeros(len(owner), self.model.inputs))
        return a, numbers.down(constant - state["tiny"][owner])

    def _lines(self, low: Array, high: Array) -> tuple[Array, Array, Array]:
        """Of neurons with these bounds: slopes of the default lower and of the upper line, and offset of the upper one."""
        numbers, unstable, stable = self.numbers, (low < 0) & (high > 0), (low >= 0) * 1
        below = np.where(unstable, numbers.array((high > -low) * 1 + (high >= -low)) / 2, stable)
        chord = np.where(unstable, np.clip(high / np.where(unstable, high - low, 1), 0, 1), stable)
        # Whatever the chord's slope was rounded to, this offset lifts it over both ends; two roundings each.
        return below, chord, np.where(unstable, numbers.up(numbers.up(np.maximum(-chord * low, (1 - chord) * high))), 0)

    def minimise(self, state: State, owner: Array, a: Array, constant: Array) -> Array:
        """[P] lower bounds on a x + constant over the nodes' sets."""
        box = a, constant, state["lower"][owner], state["upper"][owner]
        least = on_box(self.numbers, *box)
        return least if self.balls is None else np.maximum(least, on_ball(self.numbers, self.balls, state["set"][owner], *box))
