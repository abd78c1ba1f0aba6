"""Fathom's gradient attack on Wasserstein balls of digits beside three published attacks, all with as many passes an image.

    python -m benchmarks.wasserstein --csv FILE [--networks NAME...] [--radii RADIUS...]

All move the same mass over the same distances within the same window, in the same range, and spend as many forward plus backward
passes on an image. Peers run from the image itself, as published; each has the better of two settings in every row. A
failure of any tool counts only if the linear program over all plans says that the image is within the radius. Rows of networks
and radii that are not asked for stay in the file.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import optimize, sparse
from torch import Tensor, nn

from benchmarks.attack_networks import RADII, Subject, digits
from benchmarks.attacks import FATHOM, Counted
from benchmarks.rows import read_rows, tell_losses_first, write_rows
from benchmarks.wasserstein_peers import FAR, Ball, ExactProjection, FrankWolfe, Method, Sinkhorn, Slopes, attack
from fathom.attacks.gradient import Gradient
from fathom.capture.onnx_file import read_onnx
from fathom.core.budget import Budget
from fathom.core.problem import Problem
from fathom.overseers.misclassification import Misclassification
from fathom.regions.wasserstein import WassersteinBall

BUDGETS = (40, 100)  # passes an image, forward plus backward
WINDOW = 2
PEERS: dict[str, tuple[Method, Method]] = {
    "exact projection": (ExactProjection(0.03), ExactProjection(0.1)),
    "Frank-Wolfe": (FrankWolfe(0.001), FrankWolfe(0.01)),
    "Sinkhorn": (Sinkhorn(0.1), Sinkhorn(0.3)),
}
TOLERANCE = 1e-4  # of the radius, relative: what counts as within
OFF = 2e-6  # of a pixel


@dataclass(frozen=True)
class Row:
    """One network, radius, budget and tool."""

    network: str
    radius: float
    budget: int
    tool: str
    clean_correct: int
    standing: int
    passes: float  # an image
    seconds: float  # of processor time
    outside: float  # share of the tool's last images, by its method alone, that are not numbers or not in the ball
    setting: str


def compare(subject: Subject, radius: float) -> Iterator[Row]:
    """All tools on one network."""
    captured = read_onnx(subject.model)
    right = (captured.program(subject.images.flatten(1)).argmax(1) == subject.labels).nonzero()[:, 0]
    images, labels = subject.images[right], subject.labels[right]
    ball = Ball.around(images[:, 0], radius, WINDOW)
    region = WassersteinBall.around(images, radius, (0, 1), window=WINDOW)
    for budget in BUDGETS:
        program, start = Counted(captured.program), time.process_time()
        problem = Problem.make(program, captured.network, region, Misclassification(labels, 10))
        answers = Gradient().solve(problem, Budget(passes=budget))
        seconds = time.process_time() - start
        inside = within(ball, answers.found.x.double())
        broken = answers.broken & inside
        passes = int((answers.cost.forward + answers.cost.backward).sum()) + program.given
        outside = int((answers.broken & ~inside).sum()) / max(1, int(answers.broken.sum()))
        standing = len(right) - int(broken.sum())
        yield Row(subject.name, radius, budget, FATHOM, len(right), standing, passes / len(right), seconds, outside, "")

    network = captured.network.freeze(torch.float32)

    def slopes(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        given = x.float().requires_grad_()
        scores = network(given)
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(scores, labels[which], reduction="sum"), given)
        return scores.argmax(1) != labels[which], slope.double()

    for tool, methods in PEERS.items():
        tried = [list(run(subject.name, radius, tool, method, ball, slopes)) for method in methods]
        for rows in zip(*tried, strict=True):
            yield min(rows, key=lambda row: row.standing)


def run(network: str, radius: float, tool: str, method: Method, ball: Ball, slopes: Slopes) -> Iterator[Row]:
    """One peer with one setting: one run, looked at after each budget."""
    outcome = attack(method, ball, slopes, BUDGETS[-1] // 2)
    broken = outcome.broken & within(ball, outcome.last.float().double())
    outside = float((~within(ball, outcome.alone.float().double())).double().mean())
    for budget in BUDGETS:
        standing = int((~(broken & (outcome.passes <= budget))).sum())
        passes = float(outcome.passes.clamp(max=budget).double().mean())
        seconds = outcome.seconds[budget // 2 - 1]
        yield Row(network, radius, budget, tool, len(broken), standing, passes, seconds, outside, repr(method))


def within(ball: Ball, x: Tensor) -> Tensor:
    """[n] whether images [n, d] are in range and within the radius, by the exact distance."""
    pairs = [distance(ball, i, x[i]) for i in range(len(x))]
    return torch.tensor([cost <= ball.radius * (1 + TOLERANCE) for cost in pairs])


def distance(ball: Ball, i: int, x: Tensor) -> float:
    """The cost of the cheapest plan from image i to within OFF of x, a linear program; inf where there is none."""
    if not bool(((x >= 0) & (x <= 1)).all()):
        return math.inf
    source, move = (ball.cost < FAR).nonzero(as_tuple=True)
    column = np.arange(len(source))
    leave, come = (sparse.csr_array((np.ones(len(column)), (end.numpy(), column))) for end in (source, ball.target[source, move]))
    room = np.concatenate([x.numpy() + OFF, OFF - x.numpy()])
    found = optimize.linprog(
        ball.cost[source, move].numpy(),
        A_ub=sparse.vstack([come, -come]),
        b_ub=room,
        A_eq=leave,
        b_eq=ball.mass[i].numpy(),
        bounds=(0, None),
    )
    return float(found.fun) if found.status == 0 else math.inf


def tell(rows: list[Row]) -> None:
    """A line a network, radius and budget, the losses first."""
    lines = []
    for key in dict.fromkeys((row.network, row.radius, row.budget) for row in rows):
        mine = {row.tool: row for row in rows if (row.network, row.radius, row.budget) == key}
        standing = {tool: row.standing for tool, row in mine.items()}
        best = min(count for tool, count in standing.items() if tool != FATHOM)
        lost = standing[FATHOM] > best
        counts = ", ".join(f"{tool} {count}" for tool, count in standing.items())
        outside = ", ".join(f"{tool} {row.outside:.0%}" for tool, row in mine.items())
        text = (
            f"{key[0]:16} {key[1]:<4g} {key[2]:4} passes, of {mine[FATHOM].clean_correct} standing: {counts}; outside: {outside}"
        )
        lines.append((lost, text))
    tell_losses_first(lines)


def main() -> None:
    names = [name for name in RADII if "/" not in name]
    parser = argparse.ArgumentParser(description="Wasserstein balls of digits: Fathom's attack beside three published ones.")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", choices=names, default=names)
    parser.add_argument("--radii", nargs="*", type=float, default=[1.5, 1.0], help="mass times pixels")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(Row, options.csv)
    with tempfile.TemporaryDirectory() as folder:
        subjects = list(digits(Path(folder), options.networks))
        for radius in options.radii:
            for subject in subjects:
                rows = [row for row in rows if (row.network, row.radius) != (subject.name, radius)]
                rows += compare(subject, radius)
                write_rows(Row, options.csv, rows, digits=4)
    tell(rows)


if __name__ == "__main__":
    main()
