"""Three published attacks on Wasserstein balls, written plainly from their papers; `benchmarks.wasserstein` compares with them.

All move mass by *plans* [n, d, moves]: how much of each pixel's mass goes where. Rows of a plan sum to the image, its cost is at
most the radius, and its columns sum to the image that it makes. What a method's own step leaves over (none of the papers' methods
knows that a pixel holds at most 1) `Ball.fitted` mends, so that no peer loses a failure for want of care.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

FAR = 1e6  # what a move out of the image costs
Slopes = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From images [k, d] and which these are [k]: whether each is misread [k], and the gradient [k, d] of the loss."""


@dataclass(frozen=True, eq=False)
class Ball:
    """Images of one channel, flat, and where their mass may go."""

    mass: Tensor  # [n, d] float64
    radius: float
    target: Tensor  # [d, moves] the pixel that a move ends at; the first is to stay
    cost: Tensor  # [d, moves] its distance; FAR for a move out of the image

    @staticmethod
    def around(images: Tensor, radius: float, window: int) -> Ball:
        """Balls round images [n, height, width]."""
        height, width = images.shape[1:]
        near = range(-window, window + 1)
        moves = sorted(((y, x) for y in near for x in near), key=lambda move: math.hypot(*move))
        row, column = torch.arange(height)[:, None, None], torch.arange(width)[:, None]
        down, right = (torch.tensor(part) for part in zip(*moves))
        inside = (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
        stay = row * width + column
        target = torch.where(inside, stay + down * width + right, stay).flatten(0, 1)
        length = torch.tensor([math.hypot(*move) for move in moves], dtype=torch.float64)
        cost = torch.where(inside, length, FAR).flatten(0, 1)
        return Ball(images.flatten(1).double(), radius, target, cost)

    def take(self, index: Tensor) -> Ball:
        """The balls at `index`."""
        return Ball(self.mass[index], self.radius, self.target, self.cost)

    def idle(self) -> Tensor:
        """Plans that move nothing."""
        plan = torch.zeros(len(self.mass), *self.target.shape, dtype=torch.float64)
        plan[..., 0] = self.mass
        return plan

    def image(self, plan: Tensor) -> Tensor:
        """[n, d] what plans make."""
        return torch.zeros_like(self.mass).index_add(1, self.target.flatten(), plan.flatten(1))

    def price(self, plan: Tensor) -> Tensor:
        """[n] what plans cost."""
        return (plan * self.cost).sum((1, 2))

    def fitted(self, plan: Tensor) -> Tensor:
        """Plans with exact rows, of no more than the radius, that make no pixel exceed 1: what does not fit stays at home."""
        plan = plan.clamp(min=0) * (self.cost < FAR)
        plan = plan * (self.mass / plan.sum(2).clamp(min=1e-300))[..., None]
        share = (self.radius * (1 - 1e-9) / self.price(plan).clamp(min=1e-300)).clamp(max=1)
        moved = plan * share[:, None, None]
        for _ in range(100):
            moved[..., 0] = 0
            home = self.mass - moved.sum(2)
            come = self.image(moved)
            if not bool((home + come > 1 + 1e-12).any()):
                break
            fits = ((1 - home) / come.clamp(min=1e-300)).clamp(0, 1)
            moved = moved * fits[:, self.target]
        moved[..., 0] = self.mass - moved.sum(2)
        return moved


class Method(ABC):
    """One step of a published attack."""

    @abstractmethod
    def step(self, ball: Ball, plan: Tensor, slope: Tensor, k: int) -> Tensor:
        """The next plans of the method's own, not yet fitted, from plans and the loss's gradients [n, d] in step k."""


@final
@dataclass(frozen=True)
class ExactProjection(Method):
    """Gradient steps on plans, projected back: Wu, Wang and Yu, Stronger and faster Wasserstein adversarial attacks, ICML 2020.

    The Euclidean projection is exact up to a tolerance: rows are projected onto simplices, a price of moving is found by
    bisection and false position. That pixels hold at most 1 is a second set, met by Dykstra's alternation.
    """

    size: float  # of a step, for gradients whose largest entry is 1
    rounds: int = 4  # of Dykstra's alternation
    tolerance: float = 1e-3  # of the cost, relative

    def step(self, ball: Ball, plan: Tensor, slope: Tensor, k: int) -> Tensor:
        scale = slope.abs().amax(1, keepdim=True).clamp(min=1e-300)
        x = plan + self.size * (slope / scale)[:, ball.target]
        first, second = torch.zeros_like(plan), torch.zeros_like(plan)
        for _ in range(self.rounds):
            y = _within_range(ball, x + first)
            first, before = x + first - y, y + second
            x = _within_radius(ball, before, self.tolerance)
            second = before - x
        return x


def _within_range(ball: Ball, plan: Tensor) -> Tensor:
    """The nearest plans whose columns sum to at most 1."""
    allowed = ball.cost < FAR
    count = torch.zeros(len(ball.target), dtype=torch.float64).index_add(0, ball.target.flatten(), allowed.flatten().double())
    over = ((ball.image(plan * allowed) - 1).clamp(min=0) / count)[:, ball.target]
    return plan - over * allowed


def _within_radius(ball: Ball, plan: Tensor, tolerance: float) -> Tensor:
    """The nearest plans, without negative entries, whose rows sum to the images and whose cost is at most the radius."""

    def at(price: Tensor) -> Tensor:
        return _simplices(plan - price[:, None, None] * ball.cost, ball.mass)

    low = torch.zeros(len(plan), dtype=torch.float64)
    found = at(low)
    over = ball.price(found) - ball.radius
    high = 2 * plan.abs().amax((1, 2)) + ball.mass.amax(1)  # nothing moves: the nearest move costs 1
    under = torch.full_like(low, -ball.radius)
    inside = torch.where((over <= 0)[:, None, None], found, ball.idle())
    for k in range(40):
        open_ = (over > 0) & (under < -tolerance * ball.radius)
        if not bool(open_.any()):
            break
        share = 0.5 if k % 3 == 2 else (over / (over - under)).clamp(1e-3, 1 - 1e-3)
        middle = low + share * (high - low)
        found = at(middle)
        excess = ball.price(found) - ball.radius
        dear = open_ & (excess > 0)
        cheap = open_ & ~dear
        low, over = torch.where(dear, middle, low), torch.where(dear, excess, over)
        high, under = torch.where(cheap, middle, high), torch.where(cheap, excess, under)
        inside = torch.where(cheap[:, None, None], found, inside)
    return inside


def _simplices(rows: Tensor, mass: Tensor) -> Tensor:
    """The nearest rows [n, d, moves] >= 0 that sum to mass [n, d] (Held, Wolfe and Crowder 1974)."""
    full, found = mass > 0, torch.zeros_like(rows)
    falling = rows[full].sort(-1, descending=True).values
    level = (falling.cumsum(-1) - mass[full][:, None]) / torch.arange(1, rows.shape[-1] + 1)
    last = (falling > level).sum(-1, keepdim=True).clamp(min=1) - 1
    found[full] = (rows[full] - level.gather(-1, last)).clamp(min=0)
    return found


@final
@dataclass(frozen=True)
class FrankWolfe(Method):
    """Frank and Wolfe's steps towards an entropic linear oracle, its price found by bisection: the same paper."""

    smoothing: float  # of the oracle, for gradients whose largest entry is 1

    def step(self, ball: Ball, plan: Tensor, slope: Tensor, k: int) -> Tensor:
        gain = (slope / slope.abs().amax(1, keepdim=True).clamp(min=1e-300))[:, ball.target]

        def at(price: Tensor) -> Tensor:
            return ball.mass[..., None] * ((gain - price[:, None, None] * ball.cost) / self.smoothing).softmax(2)

        low = torch.zeros(len(plan), dtype=torch.float64)
        high = torch.full_like(low, 2 + self.smoothing * 40)
        for _ in range(25):
            middle = (low + high) / 2
            dear = ball.price(at(middle)) > ball.radius
            low, high = torch.where(dear, middle, low), torch.where(dear, high, middle)
        return plan + 2 / (k + 2) * (at(high) - plan)


@final
@dataclass(frozen=True)
class Sinkhorn(Method):
    """Gradient steps on images, projected back nearly, with entropy: Wong, Schmidt and Kolter, Wasserstein adversarial examples
    via projected Sinkhorn iterations, ICML 2019. Images are brought to a sum of 1 first, as there.

    min over z and plans of weight / 2 |w - z|^2 + sum plan log plan, by ascent in its dual, one block after the other.
    """

    size: float  # of a step, in pixel values, along the gradient's signs
    weight: float = 1000.0
    sweeps: int = 20

    def step(self, ball: Ball, plan: Tensor, slope: Tensor, k: int) -> Tensor:
        total = ball.mass.sum(1, keepdim=True)
        wanted = self.weight * (ball.image(plan) + self.size * slope.sign()) / total
        supply, limit = (ball.mass / total).clamp(min=1e-300).log(), ball.radius / total[:, 0]
        price, column = torch.ones_like(limit), torch.zeros_like(wanted)
        allowed = ball.cost < FAR
        cost = torch.where(allowed, ball.cost, 0.0)

        def joint(row: Tensor, column: Tensor, price: Tensor) -> Tensor:
            logs = row[..., None] + column[:, ball.target] - price[:, None, None] * cost - 1
            return torch.where(allowed, logs, -torch.inf)

        for _ in range(self.sweeps):
            row = supply - joint(torch.zeros_like(supply), column, price).logsumexp(2)
            inflow = _columns(ball, joint(row, torch.zeros_like(column), price))
            column = wanted - _lambert(math.log(self.weight) + wanted + inflow)
            now = joint(row, column, price).exp()
            slope_, bend = (now * cost).sum((1, 2)) - limit, (now * cost * cost).sum((1, 2))
            newton = slope_ / bend.clamp(min=1e-300)
            price = torch.where(price + newton < 0, price / 2, price + newton)
        row = supply - joint(torch.zeros_like(supply), column, price).logsumexp(2)
        return joint(row, column, price).exp() * total[..., None]


def _columns(ball: Ball, logs: Tensor) -> Tensor:
    """The logarithms [n, d] of column sums of plans given by theirs."""
    most = logs.amax((1, 2), keepdim=True)
    return ball.image((logs - most).exp()).clamp(min=1e-300).log() + most[:, 0]


def _lambert(v: Tensor) -> Tensor:
    """W(e^v) for Lambert's W, the root w of w + log w = v, by Newton's method."""
    w = torch.where(v > 1, v - v.clamp(min=1).log(), v.clamp(max=1).exp())
    for _ in range(6):
        w = (w * (1 + v - w.clamp(min=1e-300).log()) / (1 + w)).clamp(min=1e-300)
    return w


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method made of n images."""

    broken: Tensor  # [n] bool
    passes: Tensor  # [n] forward plus backward, until an image was broken or the steps were spent
    last: Tensor  # [n, d] its last image, fitted: the one that is misread, where `broken`
    alone: Tensor  # [n, d] the same by the method alone
    seconds: list[float]  # of processor time, up to each step


def attack(method: Method, ball: Ball, slopes: Slopes, steps: int) -> Outcome:
    """Runs a method from the images themselves; broken images leave at once."""
    count, start = len(ball.mass), time.process_time()
    broken, passes = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.int64)
    last, alone, going, plan = ball.mass.clone(), ball.mass.clone(), torch.arange(count), ball.idle()
    seconds: list[float] = []
    for k in range(steps):
        misread, slope = slopes(last[going], going)
        passes[going] += 2
        broken[going] = misread
        seconds.append(time.process_time() - start)
        going, plan, slope = going[~misread], plan[~misread], slope[~misread]
        part = ball.take(going)
        plan = method.step(part, plan, slope, k) if len(going) and k + 1 < steps else plan
        alone[going] = part.image(plan)
        plan = part.fitted(plan)
        last[going] = part.image(plan)
    return Outcome(broken, passes, last, alone, seconds)
