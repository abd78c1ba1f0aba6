"""Where to start: failures found by the gradient attack from random points, from the minimisers of CROWN, and from moments.

    python -m benchmarks.moments ../shared/vnncomp --csv benchmarks/moments.csv

Questions of few variables, all of which have a failure: boxes that are flat but for one place; random rectifier networks whose
margin is lowered until the least value that a long attack has found is just below zero, of which those are kept that one short
attack misses; and those `sat` instances of the public benchmarks whose moment matrix is small enough. Every attack has the
same passes, and goes on from random points when the starts that it was given are used up. Passes are those of the attack alone;
seconds are processor time, with what the starts took.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.amplify import planted
from benchmarks.found import instances
from fathom.attacks.gradient import Gradient
from fathom.bounds.crown import Crown
from fathom.capture.onnx_file import read_onnx
from fathom.capture.torch_module import capture_module
from fathom.capture.vnnlib import read_property, to_problem
from fathom.core.budget import Budget, Goal
from fathom.core.errors import FathomError
from fathom.core.problem import Problem
from fathom.core.solver import Hints
from fathom.hunt.moments import Moments
from fathom.overseers.linear_rules import LinearRules
from fathom.regions.box import BoxRegion

NETWORKS = ((3, 12), (8, 12))  # inputs, and neurons in each of two layers
EACH = 40  # random networks of a kind
DEPTH = 0.02  # of the failures, in standard deviations of the margin
SHORT = Gradient(restarts=1, lone=1, full=0)
LONG = Gradient(seed=2, restarts=500, lone=500, full=0)
PLANTED = ((3, 0.05), (5, 0.05), (10, 0.1))
PASSES = (100, 400, 1600)
STARTS = ("random", "crown", "moments")
FAMILIES = ["linearizenn", "reach_prob_density", "rl_benchmarks", "tllverifybench"]


@dataclass(frozen=True)
class Row:
    """One kind of start on one kind of question."""

    question: str
    starts: str
    passes: int
    sets: int
    found: int
    seconds: float


def questions(folder: Path) -> Iterator[tuple[str, list[Problem]]]:
    """Names, and problems, each with a failure."""
    for d, half in PLANTED:
        yield f"planted, {d} inputs, {half:g}", [planted(d, half)]
    for d, width in NETWORKS:
        problems = [problem for seed in range(EACH) if (problem := lowered(d, width, seed)) is not None]
        yield f"random, {d} inputs, missed by one descent", problems
    yield "public, sat", list(public(folder))


def lowered(d: int, width: int, seed: int) -> Problem | None:
    """A random network that fails about its least value, as far as that is known; None where a short attack finds it."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(d, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    for layer in model[::2]:
        nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
        nn.init.normal_(layer.bias, std=0.5)
    captured = capture_module(model, (d,), live=False)
    region = BoxRegion(torch.full((1, d), -1.0).double(), torch.full((1, d), 1.0).double())
    spread = captured.program(2 * torch.rand(1000, d) - 1).std().item()

    def asked(offset: float) -> Problem:
        return Problem.make(captured.program, captured.network, region, LinearRules.make([[1.0]], [offset]))

    worst = LONG.solve(asked(0.0), Budget(goal=Goal.VALUE))
    problem = asked(-float(worst.upper[0]) - DEPTH * spread)
    return None if SHORT.solve(problem, Budget()).broken[0] else problem


def public(folder: Path) -> Iterator[Problem]:
    """Those that are small enough."""
    for _, model, prop in instances(folder, FAMILIES):
        problem = to_problem(read_property(prop), read_onnx(model))
        try:
            Moments(clauses=0).starts(problem, Budget(goal=Goal.VALUE).start())  # refuses what is too large, and solves nothing
        except FathomError:
            continue
        yield problem


def starts(problem: Problem, kind: str) -> Tensor | None:
    """Points [n, c, d]; None for none."""
    if kind == "random":
        return None
    if kind == "crown":
        return Crown().solve(problem, Budget(goal=Goal.VALUE)).points
    return Moments().starts(problem, Budget(goal=Goal.VALUE).start())


def main() -> None:
    parser = argparse.ArgumentParser(description="Failures found from random points, from CROWN's minimisers and from moments.")
    parser.add_argument("folder", type=Path, help="the public benchmarks")
    parser.add_argument("--csv", type=Path, required=True, help="a row for each kind of start and question")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for question, problems in questions(asked.folder):
        for kind in STARTS:
            began = time.process_time()
            given = [starts(problem, kind) for problem in problems]
            ready = time.process_time() - began
            for passes in PASSES:
                began, found = time.process_time(), 0
                for problem, points in zip(problems, given, strict=True):
                    more = passes // (2 * Gradient().steps + 1) + 1
                    attack = Gradient(restarts=more, lone=more, full=0, seed=1)
                    found += int(attack.solve(problem, Budget(passes=passes), Hints(points=points)).broken.sum())
                taken = ready + time.process_time() - began
                rows.append(Row(question, kind, passes, sum(len(problem) for problem in problems), found, taken))
                print(*astuple(rows[-1]), flush=True)
        with asked.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([f.name for f in fields(Row)])
            writer.writerows([[f"{cell:.3g}" if isinstance(cell, float) else cell for cell in astuple(row)] for row in rows])


if __name__ == "__main__":
    main()
