"""Minima of linear bounds over a box, or over a ball and a box."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fathom_checker.numbers import Array, Numbers, above


@dataclass(frozen=True, eq=False)
class Balls:
    """|x - centre|_p <= radius, p 1 or 2; centre [sets, d] and radius [sets] in float64."""

    p: int
    centre: Array
    radius: Array


def on_box(numbers: Numbers, a: Array, constant: Array, lower: Array, upper: Array) -> Array:
    """[P] lower bounds on a x + constant over boxes [P, d]."""
    size = numbers.dot(np.abs(a), np.maximum(np.abs(lower), np.abs(upper)))
    value = numbers.dot(a, np.where(a > 0, lower, upper)) - (numbers.gamma(a.shape[1] + 4) * size + numbers.tiny)
    return numbers.floor(numbers.down(numbers.down(value) + constant))


def on_ball(numbers: Numbers, balls: Balls, number: Array, a: Array, constant: Array, lower: Array, upper: Array) -> Array:
    """The same over box and ball: a x >= min over the ball of part x + min over the box of (a - part) x, for any part of a."""
    centre, radius = balls.centre[number], balls.radius[number]
    plain = [np.asarray(x, np.float64) for x in (a, lower, upper)]
    part = (_share_1 if balls.p == 1 else _share_2)(plain[0], plain[1] - centre, plain[2] - centre, radius)
    part = numbers.array(np.nan_to_num(part))
    rest = a - part
    rounded = numbers.gamma(4) * numbers.dot(np.abs(rest), np.maximum(np.abs(lower), np.abs(upper))) + numbers.tiny
    in_box = on_box(numbers, rest, numbers.down(constant - rounded), lower, upper)
    middle, norm = numbers.array(centre), np.abs(part).max(1) if balls.p == 1 else _length(numbers, part)
    lost = numbers.gamma(a.shape[1] + 4) * numbers.dot(np.abs(part), np.abs(middle)) + numbers.tiny
    in_ball = numbers.down(numbers.down(numbers.dot(part, middle) - numbers.up(numbers.array(radius) * norm)) - lost)
    return numbers.floor(numbers.down(in_box + in_ball))


def _length(numbers: Numbers, part: Array) -> Array:
    """[P] at least the Euclidean lengths."""
    squares = numbers.dot(part, part)
    if numbers.exact:
        return numbers.array([math.nextafter(math.sqrt(above(square)), math.inf) for square in squares])
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

    def beyond(s: Array) -> Array:
        return (np.clip(-np.exp(s)[:, None] * a, low, high) ** 2).sum(1) > radius**2

    walls = np.where(a == 0, 0, np.where(a > 0, -low, high) / np.abs(a)).max(1)
    least = start = np.log(np.clip(radius / np.sqrt((a * a).sum(1)), 1e-300, 1e300))
    most = np.maximum(least, np.log(np.clip(walls, 1e-300, 1e300)))
    ends = beyond(most + 1)  # else no step leaves the ball, and the box alone bounds
    for _ in range(60):
        middle = (least + most) / 2
        far = beyond(middle)
        least, most = np.where(far, least, middle), np.where(far, middle, most)
    scale = np.exp(np.where(least < start + 1e-12, start, least))[:, None]
    return np.where(ends[:, None], np.clip(a, -high / scale, -low / scale), 0)
