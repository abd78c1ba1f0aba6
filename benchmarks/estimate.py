"""Estimates of rare failures beside probabilities that are known exactly: how close, and how often intervals hold them.

    python -m benchmarks.estimate --csv benchmarks/estimate.csv [--seeds 50] [--evaluations 100000] [--only NAME]
    python -m benchmarks.estimate --together 200 [--only NAME]

Prints, for every question and method, the share of seeds within a factor of two of the truth, the median ratio to it, the share
of intervals that hold it, and the evaluations and processor seconds of one run. Seeds are the outer loop, so that a run that is
cut short says the same of every question, of fewer seeds; with `--csv` it goes on from the rows that are there.

`--together G` asks splitting alone, G times: 10 G runs in step, and groups of ten as so many answers. A thousand particles cost
little more than ten where they move at once, so this is how coverage is measured. (Steps then adapt to all runs at once.)
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from fathom.capture.torch_module import capture_module
from fathom.core.budget import Budget
from fathom.core.network import Port
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.core.region import Region
from fathom.estimates.answer import Part
from fathom.estimates.distribution import Latent
from fathom.estimates.distributions import over
from fathom.estimates.distributions.normal_numbers import below
from fathom.estimates.estimator import unheard
from fathom.estimates.importance import Importance
from fathom.estimates.intervals import of_mean
from fathom.estimates.question import Question
from fathom.estimates.sampling import Sampling
from fathom.estimates.splitting import Splitting
from fathom.estimates.volume import Volume
from fathom.estimates.walk import Walk
from fathom.overseers.callable import PythonOverseer
from fathom.overseers.linear_rules import LinearRules
from fathom.regions.box import BoxRegion

FIELDS = (
    "question",
    "truth",
    "method",
    "seed",
    "evaluations_allowed",
    "value",
    "lower",
    "upper",
    "reliable",
    "forward",
    "boxes",
    "seconds",
)
CONFIDENCE = 0.95
RUNS = 10  # of splitting, that make one answer
T = TypeVar("T")


class Function(Program):
    """A margin in torch, judged a batch at once: exact, so that what is measured is the estimator."""

    dtype = torch.float64

    def __init__(self, function: Callable[[Tensor], Tensor], inputs: int) -> None:
        self.function = function
        self.inputs, self.outputs = (Port("x", (inputs,), 0, "float64"),), (Port("margin", (1,), 0, "float64"),)
        self.digest = hashlib.sha256(f"{function!r}".encode()).hexdigest()

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)[:, None]


@dataclass(frozen=True)
class Known:
    """A question whose answer is known."""

    name: str
    truth: float
    problem: Problem
    distribution: str = "uniform"
    deviation: float = 0.5

    def ask(self) -> Question:
        return Question(self.problem, over(self.problem.deployed, self.distribution, self.deviation))


def box(low: float, high: float, inputs: int) -> BoxRegion:
    """The same two ends for every input."""
    return BoxRegion(torch.full((1, inputs), low, dtype=torch.float64), torch.full((1, inputs), high, dtype=torch.float64))


def by_value(name: str, truth: float, margin: Callable[[Tensor], Tensor], region: Region, **how: float | str) -> Known:
    """A margin that can only be evaluated."""
    overseer = PythonOverseer(lambda x, y: y[:, 0], name=name)
    return Known(name, truth, Problem.make(Function(margin, region.size), None, region, overseer), **how)  # type: ignore[arg-type]


def diamond(name: str, radius: float) -> Known:
    """|x0| + |x1| <= radius in [-1, 1]^2, as a network of rectifiers: half the square of the radius."""
    module = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        module[2].weight.fill_(1.0)
        module[2].bias.fill_(-radius)
    captured = capture_module(module, (2,), dtype=torch.float64, live=False)
    rules = LinearRules.make([[1.0]], [0.0])
    return Known(name, radius**2 / 2, Problem.make(captured.program, captured.network, box(-1, 1, 2), rules))


def normal_half_space(name: str, inputs: int, distance: float) -> Known:
    """Standard normal numbers, cut off at 8: fails where one direction is `distance` out; the direction is the first axis."""
    truth = float(below(torch.tensor(-distance, dtype=torch.float64)))
    return by_value(name, truth, lambda x: distance - x[:, 0], box(-8, 8, inputs), distribution="normal", deviation=1 / 8)


def corners(x: Tensor) -> Tensor:
    """Outside a circle that leaves the corners of [-1, 1]^2: four regions, none of which leads to another."""
    return RADIUS - x.norm(dim=1)


RADIUS = 1.4
CORNERS = 1 - (math.pi * RADIUS**2 - 4 * (RADIUS**2 * math.acos(1 / RADIUS) - math.sqrt(RADIUS**2 - 1))) / 4


def two_ends(x: Tensor) -> Tensor:
    """Both ends of an interval, one three times as steep: from the middle, most draws lead to the other."""
    return torch.minimum(x[:, 0] - 1e-6, 3 * (1 - x[:, 0] - 1e-6))


def steps(x: Tensor) -> Tensor:
    """A margin in twenty steps of equal probability ratio: most draws tie."""
    return (x[:, 0].clamp(min=1e-300).log10() * 4).floor() / 4 + 5


def questions() -> list[Known]:
    """From one in a thousand to one in a hundred million, and what misleads."""
    return [
        by_value("half-space, 5 uniform, 1e-3", 1e-3, lambda x: x[:, 0] - 1e-3, box(0, 1, 5)),
        by_value("half-space, 5 uniform, 1e-5", 1e-5, lambda x: x[:, 0] - 1e-5, box(0, 1, 5)),
        by_value("half-space, 5 uniform, 1e-8", 1e-8, lambda x: x[:, 0] - 1e-8, box(0, 1, 5)),
        normal_half_space("half-space, 20 normal, 2.9e-7", 20, 5.0),
        diamond("diamond of rectifiers, 1e-4", math.sqrt(2e-4)),
        by_value(f"four corners, {CORNERS:.1e}", CORNERS, corners, box(-1, 1, 2)),
        by_value("two ends, 2e-6", 2e-6, two_ends, box(0, 1, 1)),
        by_value("in steps, 1.8e-5", 10**-4.75, steps, box(0, 1, 2)),
    ]


def answers(known: Known, seed: int, evaluations: int) -> Iterator[tuple[Part, float]]:
    """Every method's answer and processor seconds; branch and bound draws nothing, and is asked once."""

    def timed(work: Callable[[], T]) -> tuple[T, float]:
        began = time.process_time()
        return work(), time.process_time() - began

    # A network's program is run one draw at a time: what plain sampling sees is measured on the others.
    draws = 1000 if known.problem.provable else evaluations
    yield timed(lambda: Sampling(draws, CONFIDENCE, seed).estimate(known.ask(), Budget().start()))
    found, seconds = timed(lambda: Splitting(evaluations, CONFIDENCE, seed).search(known.ask(), Budget().start()))
    yield found.part, seconds
    yield timed(lambda: Importance(evaluations, CONFIDENCE, seed, found.failing).estimate(known.ask(), Budget().start()))
    if seed == 0 and known.problem.provable:
        yield timed(lambda: Volume(evaluations).estimate(known.ask(), Budget().start()))


def together(known: Known, groups: int) -> None:
    """A line: how close the means of groups of ten runs of splitting are, and how often their intervals hold the truth."""
    began, question = time.process_time(), known.ask()
    splitting = Splitting(evaluations=10**12, confidence=CONFIDENCE)
    assert isinstance(question.distribution, Latent)
    walk = Walk(question, question.distribution, torch.Generator().manual_seed(7))
    shares = splitting.run(RUNS * groups, walk, Budget().start(), unheard).log_share.exp().reshape(groups, RUNS)
    ends = [of_mean(group, CONFIDENCE) if all(group) else (0.0, 0.0) for group in shares.tolist()]
    ratio = shares.mean(1) / known.truth
    within = ((ratio >= 0.5) & (ratio <= 2)).double().mean().item()
    covers = sum(low <= known.truth <= high for low, high in ends) / groups
    bias, spread = ratio.mean().item(), ratio.std().item() / math.sqrt(groups)
    passes = question.meter.forward / groups
    words = f"{groups:5} {within:6.1%} {ratio.median().item():7.3f} {covers:7.1%} {bias:7.3f} +- {spread:5.3f} {passes:9,.0f}"
    print(f"{known.name:34} splitting   {words} {time.process_time() - began:7.1f} s", flush=True)


def rows(path: Path | None) -> list[dict[str, str]]:
    if path is None or not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summarise(found: list[dict[str, str]]) -> None:
    """A line a question and method."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in found:
        groups.setdefault((row["question"], row["method"]), []).append(row)
    heads = f"{'seeds':>5} {'x2':>6} {'median':>7} {'covers':>7} {'flagged':>7} {'passes':>9} {'s':>6}"
    print(f"{'question':34} {'method':11} {heads}")
    for (name, method), mine in groups.items():
        truth = float(mine[0]["truth"])
        ratios = [float(row["value"]) / truth for row in mine if row["value"]]
        within = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(mine)
        ends = [(float(row["lower"]), float(row["upper"])) for row in mine if row["upper"]]
        covers = sum(low <= truth <= high for low, high in ends) / len(mine)
        flagged = sum(row["reliable"] == "False" for row in mine) / len(mine)
        median = f"{statistics.median(ratios):7.3f}" if ratios else "      -"
        passes = statistics.mean(int(row["forward"]) + int(row["boxes"]) for row in mine)
        seconds = statistics.mean(float(row["seconds"]) for row in mine)
        figures = f"{len(mine):5} {within:6.0%} {median} {covers:7.0%} {flagged:7.0%} {passes:9,.0f} {seconds:6.2f}"
        print(f"{name:34} {method:11} {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--only", default="")
    parser.add_argument("--together", type=int, default=0, metavar="G")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = [each for each in questions() if arguments.only in each.name]
    if arguments.together:
        print(f"{'question':34} method      groups     x2  median  covers    mean             passes")
        for each in known:
            together(each, arguments.together)
        return
    found = rows(arguments.csv)
    done = {(row["question"], int(row["seed"])) for row in found}
    for seed in range(arguments.seeds):
        for each in known:
            if (each.name, seed) in done:
                continue
            fresh = []
            for part, seconds in answers(each, seed, arguments.evaluations):
                values = (each.name, each.truth, part.method, seed, arguments.evaluations, part.value, part.lower, part.upper)
                counts = (part.reliable, part.forward, part.boxes, round(seconds, 3))
                fresh.append({field: "" if value is None else str(value) for field, value in zip(FIELDS, (*values, *counts))})
            found += fresh
            if arguments.csv is not None:
                new = not arguments.csv.exists()
                with arguments.csv.open("a", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                    if new:
                        writer.writeheader()
                    writer.writerows(fresh)
    summarise(found)
    made = f"{os.cpu_count()} cores, one thread, torch {torch.__version__}"
    print(f"{made}; {arguments.evaluations:,} evaluations, intervals at {CONFIDENCE:.0%}")


if __name__ == "__main__":
    main()
