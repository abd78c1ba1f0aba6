"""How far silence can be trusted: find rates of planted failures on the digits networks, and masking flags on planted defences.

    python -m benchmarks.silence --csv benchmarks/silence.csv [--planted N]

Each network of `attack_networks` is attacked at its own radius, and what comes of the images that stand is put to the test of
`fathom audit`: failures planted by depth and by volume, and the signs of masked gradients. The defences are planted before or
behind the network of plain training: they break no fewer images than it, and only hide that.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.attack_networks import RADII, Subject, digits
from fathom.attacks.gradient import Gradient
from fathom.attacks.objective import has_gradient
from fathom.attacks.values import Values
from fathom.audits.planting import listen
from fathom.audits.silence import Rate
from fathom.capture.onnx_file import read_onnx
from fathom.core.budget import Budget
from fathom.core.network import Join, Network, Node
from fathom.core.problem import Problem
from fathom.core.program import Program
from fathom.ops.scale import Scale
from fathom.ops.sigmoid import Sigmoid
from fathom.overseers.misclassification import Misclassification
from fathom.regions.linf import LinfBall

NETWORKS = ("mlp-standard", "mlp-adversarial", "mlp-ibp", "cnn-standard")
STEEP = 1e4  # of saturated scores
LEVELS = 8  # of quantised inputs
NOISE = 0.5  # standard deviation, of scores


@dataclass(frozen=True)
class Row:
    """One size of planted failure, or the masking flag."""

    network: str
    radius: float
    what: str  # "depth", "pit" or "masked"
    size: float
    planted: int  # or, for the flag, cases examined
    found: int  # or, for the flag, cases flagged
    plain: int  # found by one plain descent of 45 steps; -1 where there is none
    lower: float  # of the share found, with 95 % confidence
    upper: float


class Wrapped(Program):
    """A program with something before it and behind it."""

    def __init__(self, program: Program, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        self.program, self.before, self.after = program, before, after
        self.inputs, self.outputs, self.dtype, self.digest = program.inputs, program.outputs, program.dtype, program.digest

    def __call__(self, x: Tensor) -> Tensor:
        return self.after(self.program(self.before(x)))


def same(x: Tensor) -> Tensor:
    return x


def defences(program: Program, network: Network) -> Iterator[tuple[str, Program, Network | None]]:
    """Planted before or behind a network; each with what capture would make of it."""
    scores = network.output_size
    steep = Network(
        (
            Node("input", None, (), (scores,)),
            Node("steep", Scale(torch.full((scores,), STEEP)), (0,), (scores,)),
            Node("flat", Sigmoid(), (1,), (scores,)),
            Node("output", Join(((scores,),)), (2,), (scores,)),
        ),
        network.outputs,
        network.outputs,
    )
    yield "saturated", Wrapped(program, same, lambda y: (STEEP * y).sigmoid()), network.then(steep)
    yield "quantised", Wrapped(program, lambda x: (x * LEVELS).round() / LEVELS, same), None
    dice = torch.Generator().manual_seed(0)
    yield "noisy", Wrapped(program, same, lambda y: y + NOISE * torch.randn(y.shape, generator=dice)), network


def tried(name: str, radius: float, problem: Problem, clean: Tensor, count: int) -> Iterator[Row]:
    """The rows of one network: `count` failures planted of each size."""
    attack = Gradient() if has_gradient(problem) else Values()
    answers = attack.solve(problem, Budget())
    passes = int((answers.cost.forward + answers.cost.backward).max())
    _, silence = listen(problem, answers, clean, [(attack, passes)], count, Budget(), seed=0)
    if silence is None:
        raise SystemExit(f"{name}: nothing is left to listen to; choose a smaller radius")
    yield Row(name, radius, "masked", 0.0, silence.examined, silence.masked, -1, *_interval(silence.masked, silence.examined))
    for what, rates in (("depth", silence.depths), ("pit", silence.pits)):
        for rate in rates:
            plain = -1 if rate.plain is None else rate.plain
            yield Row(name, radius, what, rate.size, rate.planted, rate.found, plain, *rate.interval)


def _interval(part: int, whole: int) -> tuple[float, float]:
    return Rate(0.0, whole, part, None).interval


def subject_rows(subject: Subject, count: int) -> Iterator[Row]:
    """A network as it is and, if it is that of plain training, behind the three defences."""
    captured = read_onnx(subject.model)
    right = (captured.program(subject.images.flatten(1)).argmax(1) == subject.labels).nonzero()[:, 0]
    clean, labels, radius = subject.images.flatten(1)[right], subject.labels[right], RADII[subject.name][0]
    region, judge = LinfBall.around(clean, radius, (0, 1)), Misclassification(labels, 10)
    yield from tried(subject.name, radius, Problem.make(captured.program, captured.network, region, judge), clean, count)
    if subject.name == "mlp-standard":
        for name, program, network in defences(captured.program, captured.network):
            yield from tried(f"{subject.name}, {name}", radius, Problem.make(program, network, region, judge), clean, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Find rates of planted failures, and masking flags.")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--planted", type=int, default=50, help="failures of each size")
    parser.add_argument("--csv", type=Path, required=True, help="a row for each network and size")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, asked.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(Row)])
        for subject in digits(Path(folder), asked.networks):
            for row in subject_rows(subject, asked.planted):
                writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in astuple(row)])
                file.flush()
                print(row, flush=True)


if __name__ == "__main__":
    main()
