"""Questions to people: how many of those that a guide chooses turn out to be failures, beside questions drawn at random.

    OMP_NUM_THREADS=1 python -m benchmarks.people --csv benchmarks/people.csv

A rule stands for the people: it answers each question of a casebook as they would, and nothing else of it is seen. Twenty
questions a round, as at the end of an audit; the first round is drawn at random on both sides. A casebook without judgements has
no guide, so the other side keeps a new one for every round.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.attack_networks import digits
from benchmarks.questions import forbidding
from benchmarks.rows import write_rows
from fathom.audits.questions import questions
from fathom.capture.onnx_file import read_onnx
from fathom.casebook.store import Casebook
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.overseers.judgements import Opinion
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.person import Person
from fathom.regions.linf import LinfBall

NETWORK = "cnn-standard"
RADII = (0.09, 0.15)
COUNT, ROUNDS = 20, 6
SEEDS = 5


@dataclass(frozen=True)
class Row:
    """One way of choosing, in one round, over all seeds."""

    people: str
    radius: float
    choice: str  # guided or random
    round: int
    questions: int
    failures: int
    seconds: float  # of processor time, to choose them


def rounds(problem: Problem, people: Overseer, *, guided: bool, seed: int, folder: Path) -> list[tuple[int, int, float]]:
    """Of each round the questions put, those that people call failures, and the seconds that choosing took."""
    told, seen = [], set[str]()
    for turn in range(ROUNDS):
        name = f"{guided}-{seed}.db" if guided else f"{guided}-{seed}-{turn}.db"
        with Casebook.open(folder / name) as book:
            began = time.process_time()
            questions(problem, book, COUNT, seed=1000 * seed + turn)
            seconds = time.process_time() - began
            fresh = failures = 0
            for question in book.queue("a rule"):  # some come back to the same judge, and count once
                bad = fails(people, problem, question.x.reshape(1, -1).double(), question.y[None])
                book.judge(question.digest, "a rule", Opinion.SERIOUS if bad else Opinion.FINE)
                new = question.digest not in seen
                seen.add(question.digest)
                fresh, failures = fresh + new, failures + (new and bad)
        told.append((fresh, failures, seconds))
    return told


def fails(people: Overseer, problem: Problem, x: Tensor, y: Tensor) -> bool:
    """What people call an input of one of the sets and its output, the nearest set's image being what they see."""
    nearest = (problem.region.box().middle - x).abs().amax(1).argmin()
    return bool(people.take(nearest[None]).margin(x, y) <= 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Questions to people, chosen by a guide and at random.")
    parser.add_argument("--csv", type=Path, required=True, help="a row for each kind of people, radius, choice and round")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        (subject,) = digits(Path(folder), [NETWORK])
        captured = read_onnx(subject.model)
        x, label = subject.images.flatten(1).double(), subject.labels
        right = captured.program(x.float()).argmax(1) == label
        for name, people in (
            ("know the labels", Misclassification(label[right], 10)),
            ("forbid 3 and 8", forbidding(int(right.sum()))),
        ):
            for radius in RADII:
                region = LinfBall.around(x[right], radius, (0, 1))
                problem = Problem.make(captured.program, captured.network, region, Person.of([], sets=len(region)))
                for choice in ("guided", "random"):
                    into = Path(tempfile.mkdtemp(dir=folder))
                    runs = [rounds(problem, people, guided=choice == "guided", seed=s, folder=into) for s in range(SEEDS)]
                    for turn, parts in enumerate(zip(*runs, strict=True)):
                        put, failures, seconds = (sum(part) for part in zip(*parts, strict=True))
                        rows.append(Row(name, radius, choice, turn + 1, int(put), int(failures), seconds))
                    mine = rows[-ROUNDS:]
                    print(name, radius, choice, *(f"{row.failures}/{row.questions}" for row in mine), flush=True)
                write_rows(Row, asked.csv, rows, digits=4)


if __name__ == "__main__":
    main()
