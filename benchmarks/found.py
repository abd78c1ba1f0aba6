"""How many `sat` instances of the public benchmarks are found by search alone, within ten seconds, and by which search.

    python -m benchmarks.found ../shared/vnncomp --csv benchmarks/found.csv [--families NAME...]

The instances are those whose expected verdict is `sat`. No branch and bound: the default gradient attack; then the longer one
of audits, from where relaxations are least; then the learned and the amplified adversary, until the seconds are over. Reading
is not counted.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch

from fathom.attacks.gradient import Gradient
from fathom.attacks.learned import Learned
from fathom.bounds.alpha import AlphaCrown
from fathom.capture.onnx_file import read_onnx
from fathom.capture.vnnlib import read_property, to_problem
from fathom.core.answer import Answers
from fathom.core.budget import Budget
from fathom.core.errors import FathomError
from fathom.core.problem import Problem
from fathom.core.solver import Hints
from fathom.hunt.amplify import Amplified

SECONDS = 10.0


@dataclass(frozen=True)
class Row:
    """One instance."""

    family: str
    model: str
    property: str
    found_by: str  # "" where nothing did
    seconds: float
    note: str = ""


def instances(folder: Path, families: list[str]) -> Iterator[tuple[str, Path, Path]]:
    """Family, model and property of every instance that is expected to be `sat`."""
    for listing in sorted(folder.glob("*/expected.csv")):
        if families and listing.parent.name not in families:
            continue
        with listing.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["verdict"] == "sat":
                    yield (listing.parent.name, *(_file(listing.parent, row[name]) for name in ("onnx", "vnnlib")))


def _file(family: Path, name: str) -> Path:
    return next(path for path in (family / name, family / f"{name}.gz") if path.exists())


def searched(problem: Problem) -> str:
    """The search that found a failure first."""
    clock = Budget(seconds=SECONDS).start()

    def left(share: float = 1.0) -> Budget:
        return Budget(seconds=max(share * clock.remaining, 0.0))

    def over(answers: Answers) -> bool:
        return bool(answers.broken.any())

    answers = Gradient().solve(problem, left())
    if over(answers):
        return "gradient"
    if problem.provable:
        bound = AlphaCrown().solve(problem, left(0.4), Hints(answers=answers))
        if over(bound):
            return "minimisers of relaxations"
        again = Gradient(restarts=30, steps=50, seed=1).solve(problem, left(0.4), Hints(points=bound.points))
        if over(again):
            return "longer attack from minimisers"
        answers = answers.tighten(again)
    if over(Learned().solve(problem, left(0.3))):
        return "learned"
    return "amplified" if over(Amplified(levels=6, passes=4000).solve(problem, left())) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Public `sat` instances found by search alone within ten seconds.")
    parser.add_argument("folder", type=Path, help="the public benchmarks")
    parser.add_argument("--csv", type=Path, required=True, help="a row for each instance")
    parser.add_argument("--families", nargs="*", default=[])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for family, model, prop in instances(asked.folder, asked.families):
        try:
            problem = to_problem(read_property(prop), read_onnx(model))
            began = time.monotonic()
            found, note = searched(problem), ""
        except FathomError as error:
            began, found, note = time.monotonic(), "", str(error)[:100]
        rows.append(Row(family, model.name, prop.name, found, time.monotonic() - began, note))
        with asked.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([f.name for f in fields(Row)])
            writer.writerows([[f"{cell:.3g}" if isinstance(cell, float) else cell for cell in astuple(row)] for row in rows])
        if found != "gradient":
            print(f"{family} {model.name} {prop.name}: {found or 'nothing'} in {rows[-1].seconds:.1f} s {note}", flush=True)
    for name in dict.fromkeys(row.family for row in rows):
        mine = [row for row in rows if row.family == name]
        print(
            f"{name}: {sum(bool(row.found_by) for row in mine)} of {len(mine)}, by gradient alone "
            f"{sum(row.found_by == 'gradient' for row in mine)}"
        )
    print(f"all: {sum(bool(row.found_by) for row in rows)} of {len(rows)}")


if __name__ == "__main__":
    main()
