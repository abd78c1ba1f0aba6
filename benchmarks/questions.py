"""Questions to a judge that can only be asked: what a guide saves.

    OMP_NUM_THREADS=1 python -m benchmarks.questions --csv benchmarks/questions.csv

The judge gives margins of inputs and outputs, without gradients or rows, and every question is counted. There are two judges of a
digits network: one knows the right reading of each image; the other forbids that 3 or 8 be read, whatever the image. Beside them
stands what a gradient attack finds, which such judges do not allow.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.attack_networks import digits
from fathom.attacks.gradient import Gradient
from fathom.attacks.guided import Guided
from fathom.attacks.values import Values
from fathom.capture.onnx_file import read_onnx
from fathom.core.budget import Budget
from fathom.core.errors import NotCompilable
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.problem import Problem
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.regions.linf import LinfBall

FORBIDDEN = (3, 8)
RADIUS = 0.09
SEARCHES = (
    *(Values(samples=32, steps=steps) for steps in (5, 10, 20)),
    Values(),
    Values(steps=300),
    *(Guided(samples=samples, rounds=rounds) for samples, rounds in ((8, 10), (32, 10), (32, 20), (32, 60))),
)


@dataclass(frozen=True, eq=False)
class OnlyAsked(Overseer):
    """Another overseer, of which nothing but its margins can be had."""

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    judge: Overseer
    asked: list[int] = field(metadata={"fingerprint": False})

    def take(self, index: Tensor) -> OnlyAsked:
        return OnlyAsked(self.judge.take(index), self.asked, severity=self.severity)

    @property
    def compilable(self) -> bool:
        return False

    @property
    def differentiable(self) -> bool:
        return False

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        self.asked[0] += len(x)
        return self.judge.margin(x, y)

    def compile(self, network: Network) -> Compiled:
        raise NotCompilable("it can only be asked")

    def judgement(self, index: int, y: Tensor) -> str:
        return self.judge.judgement(index, y)


def forbidding(n: int) -> Overseer:
    """A failure where a forbidden class has a score no less than all the others': a clause for each."""
    rows, clauses = [], []
    for clause, bad in enumerate(FORBIDDEN):
        for other in range(10):
            if other not in FORBIDDEN:
                row = [0.0] * 10
                row[other], row[bad] = 1.0, -1.0
                rows.append(row)
                clauses.append(clause)
    return LinearRules.make(rows, [0.0] * len(rows), clause=clauses, sets=n)


def main() -> None:
    parser = argparse.ArgumentParser(description="Questions to a judge that can only be asked.")
    parser.add_argument("--csv", type=Path, required=True, help="a row for each judge and search")
    asked = parser.parse_args()
    rows: list[tuple[str, int, str, int, int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        (subject,) = digits(Path(folder), ["cnn-standard"])
        captured = read_onnx(subject.model)
    x, label = subject.images.flatten(1).double(), subject.labels
    read = captured.program(x.float()).argmax(1)
    for name, keep in (("knows the labels", read == label), ("forbids readings", ~torch.isin(read, torch.tensor(FORBIDDEN)))):
        region = LinfBall.around(x[keep], RADIUS, (0, 1))
        n = len(region)
        judge = Misclassification(label[keep], 10) if name == "knows the labels" else forbidding(n)
        plain = Problem.make(captured.program, captured.network, region, judge)
        found = Gradient().solve(plain, Budget())
        rows.append((name, n, "Gradient, for comparison", int(found.broken.sum()), 0, 0))
        for search in SEARCHES:
            count = [0]
            problem = Problem.make(captured.program, captured.network, region, OnlyAsked(judge, count))
            answers = search.solve(problem, Budget())
            passes = int((answers.cost.forward + answers.cost.backward).sum())
            rows.append((name, n, repr(search), int(answers.broken.sum()), count[0] // n, passes // n))
            print(*rows[-1], sep="  ", flush=True)
    with asked.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["judge", "images", "search", "broken", "questions an image", "passes an image"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
