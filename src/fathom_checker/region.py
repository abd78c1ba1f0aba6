"""Minima of linear bounds over a box, or over a ball and a box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fathom_checker.numbers import Array, Numbers, above


@dataclass(frozen=True, eq=False)
class Balls:
    """|x - centre|_p <= radius, p 1 or 2; one for each tree; float64."""

    p: int
    centre: Array  # [trees, d]
    radius: Array  # [trees]


def on_box(numbers: Numbers, a: Array, constant: Array, lower: Array, upper: Array) -> Array:
    """[P] lower bounds on a x + constant over boxes [P, d]."""
    value = numbers.dot(a, np.where(a > 0, lower, upper))
    size = numbers.dot(np.abs(a), np.maximum(np.abs(lower), np.abs(upper)))
    value = numbers.down(value - (numbers.gamma(a.shape[1] + 4) * size + numbers.tiny))
    return numbers.floor(numbers.down(value + constant))


def on_ball(numbers: Numbers, balls: Balls, tree: Array, a: Array, constant: Array, lower: Array, upper: Array) -> Array:
    """The same over boxes and balls: a x >= min over the ball of part x + min over the box of (a - part) x, for any part of a."""
    centre, radius = balls.centre[tree], balls.radius[tree]
    plain = [np.asarray(x, np.float64) for x in (a, lower, upper)]
    share = _share_1 if balls.p == 1 else _share_2
    part = numbers.array(np.nan_to_num(share(plain[0], plain[1] - centre, plain[2] - centre, radius)))
    rest = a - part
    size = numbers.dot(np.abs(rest), np.maximum(np.abs(lower), np.abs(upper)))
    in_box = on_box(numbers, rest, numbers.down(constant - (numbers.gamma(4) * size + numbers.tiny)), lower, upper)
    middle, norm = numbers.array(centre), np.abs(part).max(1) if balls.p == 1 else _length(numbers, part)
    lost = numbers.gamma(a.shape[1] + 4) * numbers.dot(np.abs(part), np.abs(middle)) + numbers.tiny
    in_ball = numbers.down(numbers.down(numbers.dot(part, middle) - numbers.up(numbers.array(radius) * norm)) - lost)
    return numbers.floor(numbers.down(in_box + in_ball))


def _length(numbers: Numbers, part: Array) -> Array:
    """[P] at least the Euclidean lengths."""
    squares = numbers.dot(part, part)
    if numbers.exact:
        return numbers.array([math.nextafter(math.sqrt(above(Fraction(s))), math.inf) for s in squares])
    return numbers.up(np.sqrt(numbers.up(squares * (1 + numbers.gamma(part.shape[1] + 4)))))


def _share_1(a: Array, low: Array, high: Array, radius: Array) -> Array:
    """Steps go where |a| is largest, each up to its wall; the |a| at which the radius is spent is the ball's price."""
    room = np.maximum(np.where(a > 0, -low, high), 0)
    order = np.argsort(-np.abs(a), axis=1, kind="stable")
    spent = np.take_along_axis(room, order, 1).cumsum(1) >= radius[:, None]
    last = np.take_along_axis(np.abs(a), np.take_along_axis(order, spent.argmax(1)[:, None], 1), 1)
    price = np.where(spent.any(1)[:, None], last, 0)
    return np.clip(a, -price, price)


def _share_2(a: Array, low: Array, high: Array, radius: Array) -> Array:
    """The minimiser is clip(-s a) for the s at which it leaves the ball, found by bisection of its logarithm."""
    with np.errstate(all="ignore"):
        length = np.sqrt((a * a).sum(1))
        least = np.log(np.clip(radius / length, 1e-300, 1e300))
        walls = np.where(a == 0, 0, np.where(a > 0, -low, high) / np.abs(a)).max(1)
        most = np.maximum(least, np.log(np.clip(walls, 1e-300, 1e300)))

        def step(s: Array) -> Array:
            return np.asarray(np.clip(-np.exp(s)[:, None] * a, low, high))

        outside: Array = (step(most) ** 2).sum(1) > radius**2
        for _ in range(60 if bool((np.abs(step(least) + np.exp(least)[:, None] * a) > 0).any()) else 0):
            middle = (least + most) / 2
            beyond = (step(middle) ** 2).sum(1) > radius**2
            least, most = np.where(beyond, least, middle), np.where(beyond, middle, most)
        scale = np.exp(least)[:, None]
        return np.where(outside[:, None], np.clip(a, -high / scale, -low / scale), 0)
