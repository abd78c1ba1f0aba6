"""The amplified adversary beside the plain gradient attack at equal passes: failures found per 1,000 passes, level by level.

    python -m benchmarks.amplify ../shared/vnncomp --csv benchmarks/amplify.csv

Three kinds of question: digits networks at radii where some cases are hard, the `sat` instances of ACAS Xu, and failures planted
in boxes of few inputs that are flat elsewhere. The plain attack gets as many starting points as the passes of the amplified
adversary's dearest set pay for. Bounds count as their solver counts them, a pass each way through the network, which is less
than they take: seconds are processor time, and say the rest.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import nn

from benchmarks.attack_networks import digits
from fathom.attacks.gradient import Gradient
from fathom.attacks.learned import Learned
from fathom.attacks.objective import Objective
from fathom.capture.onnx_file import read_onnx
from fathom.capture.torch_module import capture_module
from fathom.capture.vnnlib import read_property, to_problem
from fathom.core.answer import Answers
from fathom.core.budget import Budget
from fathom.core.problem import Problem
from fathom.core.solver import Solver
from fathom.hunt.amplify import Amplified
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.regions.box import BoxRegion
from fathom.regions.linf import LinfBall

LEVELS = (0, 2, 4)
NETWORKS = {"mlp-standard": 0.07, "mlp-ibp": 0.14}
PLANTED = ((3, 0.05), (3, 0.02), (5, 0.05), (10, 0.1))  # inputs, and the half width of the failing place in the set's
PASSES = 1000  # of each open set at each level


@dataclass(frozen=True)
class Row:
    """One solver on one kind of question."""

    question: str
    solver: str
    cases: int
    found: int
    passes: int
    per_thousand: float
    seconds: float


def questions(folder: Path, into: Path) -> Iterator[tuple[str, list[Problem]]]:
    """Names, and problems."""
    for d, width in PLANTED:
        yield f"planted, {d} inputs, {width:g}", [planted(d, width)]
    family = folder / "acasxu"
    with (family / "expected.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["onnx"], row["vnnlib"]) for row in csv.DictReader(file) if row["verdict"] == "sat"]
    problems = []
    for model, prop in rows:
        captured = read_onnx(_file(family, model))
        problems.append(to_problem(read_property(_file(family, prop)), captured))
    yield "acasxu, sat", problems
    for subject in digits(into, list(NETWORKS)):
        captured = read_onnx(subject.model)
        right = (captured.program(subject.images.flatten(1)).argmax(1) == subject.labels).nonzero()[:, 0]
        region = LinfBall.around(subject.images[right].flatten(1), NETWORKS[subject.name], (0, 1))
        judge = Misclassification(subject.labels[right], 10)
        yield f"{subject.name}, {NETWORKS[subject.name]:g}", [Problem.make(captured.program, captured.network, region, judge)]


def _file(family: Path, name: str) -> Path:
    return next(path for path in (family / name, family / f"{name}.gz") if path.exists())


def planted(d: int, width: float, n: int = 20) -> Problem:
    """Boxes [-1, 1]^d, flat but for one place each, that says nothing of itself outside, and fails in its middle."""
    place = 2 * torch.rand(n, d, generator=torch.Generator().manual_seed(d)) - 1
    near, hat, last = nn.Linear(2 * d, 2 * d), nn.Linear(2 * d, 1), nn.Linear(1, 1)
    one = torch.cat([torch.eye(d), -torch.eye(d)], 1)
    near.weight.data, near.bias.data = torch.cat([one, -one]), torch.zeros(2 * d)
    hat.weight.data, hat.bias.data = torch.full((1, 2 * d), -1 / width), torch.ones(1)
    last.weight.data, last.bias.data = torch.tensor([[-2.0]]), torch.ones(1)
    captured = capture_module(nn.Sequential(near, nn.ReLU(), hat, nn.ReLU(), last), (2 * d,), live=False)
    ends = (torch.cat([torch.full((n, d), end), place], 1).double() for end in (-1.0, 1.0))
    return Problem.make(captured.program, captured.network, BoxRegion(*ends), LinearRules.make([[1.0]], [0.0], sets=n))


def plain(problem: Problem, passes: int) -> Gradient:
    """The gradient attack with as many starting points as so many passes of a set pay for: it runs a quarter of them at once."""
    aims = min(Gradient().nearest, Objective.of(problem).clause_count)
    starts = max(passes // ((2 * Gradient().steps + 1) * aims), 1)
    return Gradient(restarts=starts, lone=starts, full=0)


def measure(
    question: str, name: str, solver: Solver | None, problems: list[Problem], most: list[int] | None
) -> tuple[Row, list[int]]:
    """A solver, by default the plain one, on all problems; and the passes of the dearest set of each."""
    began, found, passes, dearest = time.process_time(), 0, 0, []
    for k, problem in enumerate(problems):
        passes_each = None if most is None else most[k]
        attack = solver or plain(problem, passes_each or 0)
        answers: Answers = attack.solve(problem, Budget(passes=passes_each, seconds=60.0))
        spent = answers.cost.forward + answers.cost.backward
        found += len(torch.unique(problem.owner[answers.broken]))
        passes += int(spent.sum())
        dearest.append(int(spent.max()))
    cases = sum(problem.cases for problem in problems)
    seconds = time.process_time() - began
    return Row(question, name, cases, found, passes, 1000 * found / max(passes, 1), seconds), dearest


def main() -> None:
    parser = argparse.ArgumentParser(description="The amplified adversary beside the plain gradient attack at equal passes.")
    parser.add_argument("folder", type=Path, help="the public benchmarks")
    parser.add_argument("--csv", type=Path, required=True, help="a row for each question and solver")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for question, problems in questions(asked.folder, Path(folder)):
            for level in LEVELS:
                row, dearest = measure(
                    question, f"amplified, level {level}", Amplified(levels=level, passes=PASSES), problems, None
                )
                rows += [row, measure(question, f"plain, as many passes as level {level}", None, problems, dearest)[0]]
            rows.append(measure(question, "learned", Learned(), problems, None)[0])
            with asked.csv.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow([f.name for f in fields(Row)])
                writer.writerows([[f"{cell:.4g}" if isinstance(cell, float) else cell for cell in astuple(row)] for row in rows])
            for row in (row for row in rows if row.question == question):
                print(
                    f"{row.question:26} {row.solver:34} found {row.found:3} of {row.cases:3}, {row.passes:8} passes, "
                    f"{row.per_thousand:7.3f} per 1,000, {row.seconds:6.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
