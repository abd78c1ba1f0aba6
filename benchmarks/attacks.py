"""Fathom's gradient attack beside the attacks of torchattacks, foolbox and adv-lib, in one run on one machine.

    python -m benchmarks.attacks ../shared/vnncomp --peer PYTHON --csv FILE [--networks NAME...]

PYTHON is the interpreter of an environment that has the peers (see README.md). All get the same ONNX file, images, labels and
radii, and only images that the network reads rightly. What is compared: the accuracy under attack among those, and the forward
plus backward passes an image, counted alike: every input that a network or program is given, and every gradient asked of an
output. Rows of networks that are not asked for stay in the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.attack_networks import NORMS, RADII, Subject, cifar, digits
from benchmarks.rows import read_rows, tell_losses_first, write_rows
from fathom.attacks.gradient import Gradient
from fathom.capture.onnx_file import read_onnx
from fathom.core.budget import Budget
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.overseers.misclassification import Misclassification
from fathom.regions.balls import Ball
from fathom.regions.l1 import L1Ball
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall

HERE = Path(__file__).parent
BALLS: dict[str, type[Ball]] = {"Linf": LinfBall, "L2": L2Ball, "L1": L1Ball}
FATHOM, YARDSTICK = "fathom", "AutoAttack"
SHARE = 1 / 5  # of AutoAttack's passes, at most


@dataclass(frozen=True)
class Row:
    """One network, norm and tool."""

    network: str
    norm: str
    radius: float
    points: int
    clean_correct: int
    tool: str
    standing: int  # how many of the clean-correct points no attack broke
    passes: float  # forward plus backward, a clean-correct point
    error: str = ""


class Counted(Program):
    """A program that counts what it is given: what `confirm` costs."""

    def __init__(self, program: Program) -> None:
        self.program, self.given = program, 0
        self.inputs, self.outputs, self.dtype, self.digest = program.inputs, program.outputs, program.dtype, program.digest

    def __call__(self, x: Tensor) -> Tensor:
        self.given += len(x)
        return self.program(x)


def compare(subject: Subject, norm: str, peer: str, into: Path) -> Iterator[Row]:
    """All tools on one network and norm."""
    captured = read_onnx(subject.model)
    right = (captured.program(subject.images.flatten(1)).argmax(1) == subject.labels).nonzero()[:, 0]
    images, labels, radius = subject.images[right], subject.labels[right], RADII[subject.name][NORMS.index(norm)]
    start = (subject.name, norm, radius, len(subject.images), len(right))

    program = Counted(captured.program)
    region = BALLS[norm].around(images.flatten(1), radius, (0, 1))
    problem = Problem.make(program, captured.network, region, Misclassification(labels, 10))
    answers = Gradient().solve(problem, Budget())
    passes = int((answers.cost.forward + answers.cost.backward).sum()) + program.given
    yield Row(*start, FATHOM, len(right) - int(answers.broken.sum()), passes / len(right))

    points = into / "points.npz"
    np.savez(points, images=images.numpy(), labels=labels.numpy())
    command = [peer, str(HERE / "peer_attacks.py"), str(subject.model), str(points), norm, repr(radius)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{subject.name}, {norm}: {ended.stderr.strip().splitlines()[-1]}")
    together = torch.zeros(len(right), dtype=torch.bool)
    for line in ended.stdout.splitlines():
        if not line.startswith("{"):
            continue
        told = json.loads(line)
        if "error" in told:
            yield Row(*start, told["tool"], len(right), 0.0, told["error"])
            continue
        broken = torch.tensor(told["broken"])
        together |= broken
        yield Row(*start, told["tool"], int((~broken).sum()), (told["forward"] + told["backward"]) / len(right))
    yield Row(*start, "all peers together", int((~together).sum()), 0.0)


def tell(rows: list[Row]) -> None:
    """A line a network and norm, the losses first."""
    lines = []
    for key in dict.fromkeys((row.network, row.norm) for row in rows):
        mine = {row.tool: row for row in rows if (row.network, row.norm) == key}
        ours, yardstick = mine.pop(FATHOM), mine[YARDSTICK]
        together = mine.pop("all peers together")
        best = min((row for row in mine.values() if not row.error), key=lambda row: row.standing)
        share = ours.passes / yardstick.passes if yardstick.passes else float("nan")
        lost = ours.standing > best.standing or not share <= SHARE
        text = (
            f"{key[0]:24} {key[1]:4} {ours.radius:<8.4g} of {ours.clean_correct:3} standing: Fathom {ours.standing:2}, best peer "
            f"{best.standing:2} ({best.tool}), AutoAttack {yardstick.standing:2}, peers together {together.standing:2}; passes: "
            f"Fathom {ours.passes:5.0f}, AutoAttack {yardstick.passes:6.0f}, ratio {share:.3f}"
        )
        lines.append((lost, text))
    tell_losses_first(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fathom's gradient attack beside torchattacks, foolbox and adv-lib.")
    parser.add_argument("folder", type=Path, help="the public benchmarks")
    parser.add_argument("--peer", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--networks", nargs="*", choices=list(RADII), default=list(RADII))
    parser.add_argument("--norms", nargs="*", choices=NORMS, default=list(NORMS))
    parser.add_argument("--csv", type=Path, required=True, help="a row for each network, norm and tool")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for row in read_rows(Row, asked.csv) if row.network not in asked.networks or row.norm not in asked.norms]
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder)
        for subjects in (digits(into, asked.networks), cifar(asked.folder, into, asked.networks)):
            for subject in subjects:
                for norm in asked.norms:
                    rows += compare(subject, norm, asked.peer, into)
                    write_rows(Row, asked.csv, rows, digits=6)
    tell(rows)


if __name__ == "__main__":
    main()
