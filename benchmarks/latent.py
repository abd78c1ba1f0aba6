"""The adversary inside the digits network: escapes from reach sets, containment, and spuriousness before and after refinement.

    python -m examples.digits.train --folder FOLDER
    python -m benchmarks.latent escapes FOLDER [--inputs 1000000] [--cases 20] [--layer relu_2 ...]
    python -m benchmarks.latent regions FOLDER [--cases 50] [--seconds 600] [--layer relu_2 ...]

`escapes` counts the inputs of a case whose activation, computed in float64, lies outside the box that was proved to hold them.
Half of the inputs are drawn from the region, half are the steps of attacks, each of which pushes one element over the end of the
box that samples came nearest to. It exits with 1 if there is any. `regions` asks `fathom.latent` for every kind of region at each
layer, and prints a row for each: containment and stated coverage, hits and spuriousness of the region as asked for, and what
refinement came to.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from examples.digits.model import WEIGHTS, trained
from examples.digits.train import split_digits
from fathom.audits.latent import NaturalInputs, latent
from fathom.audits.relaxed import LatentResult
from fathom.capture.captured import Captured
from fathom.capture.torch_module import capture_module
from fathom.core.answer import Claim
from fathom.core.box import Box
from fathom.core.budget import Budget
from fathom.core.problem import Problem
from fathom.hunt.layers import Layer, reach_boxes
from fathom.overseers.misclassification import Misclassification
from fathom.regions.linf import LinfBall

RADIUS = 0.06
LAYERS = ("conv2d", "relu", "relu_1", "linear", "relu_2", "linear_1")
STEPS = 50  # of an attack
KINDS = (("reach", None), ("box", None), ("ellipsoid", None), ("ball", 0.5), ("l2-ball", 2.0))


def main() -> int:
    parser = argparse.ArgumentParser(description="What an adversary inside the digits network can do.")
    parser.add_argument("what", choices=("escapes", "regions"))
    parser.add_argument("folder", type=Path, help="where examples.digits.train wrote the weights")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of `escapes`, for each layer")
    parser.add_argument("--cases", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=600.0, help="of `regions`, for each row")
    parser.add_argument("--layer", nargs="+", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    captured = capture_module(trained(options.folder / WEIGHTS), (1, 8, 8), live=False)
    if options.what == "regions":
        regions(captured, options.cases or 50, options.seconds, options.layer or ["relu_1", "relu_2"])
        return 0
    return int(sum(escapes(captured, name, options.cases or 20, options.inputs) for name in options.layer or LAYERS) > 0)


def escapes(captured: Captured, name: str, cases: int, inputs: int) -> int:
    """Prints and returns how many of so many inputs leave the reach sets of their cases at a layer."""
    began = time.process_time()
    x, y = (part[:cases] for part in split_digits(0)[2:])
    region = LinfBall.around(x.flatten(1), RADIUS, (0, 1))
    problem = Problem.make(captured.program, captured.network, region, Misclassification(label=y, classes=10))
    layer = Layer.of(problem, name)
    box = reach_boxes(layer.head, problem.region)
    each, out, seen, slack = -(-inputs // cases), 0, 0, torch.inf
    for k in range(cases):
        one, mine = region.take(torch.tensor([k])), box.take(torch.tensor([k]))
        generator = torch.Generator().manual_seed(k)
        tally = _Tally(layer, mine)
        while tally.seen < each // 2:
            tally.count(one.sample(min(2000, each // 2 - tally.seen), generator)[0])
        lanes = max(1, -(-(each - tally.seen) // STEPS))
        tally.attack(one, lanes, each, generator)
        out, seen, slack = out + tally.out, seen + tally.seen, min(slack, tally.slack)
    seconds = time.process_time() - began
    print(
        f"{name}: {layer.size} elements, {cases} cases, {seen:,} inputs, {out} escapes; nearest to an end {slack:.2g} of the "
        f"width, {seconds:.0f} s"
    )
    return out


class _Tally:
    """The inputs of one case seen so far."""

    def __init__(self, layer: Layer, box: Box) -> None:
        self.layer, self.box, self.seen, self.out, self.slack = layer, box, 0, 0, torch.inf
        self.low = torch.full_like(box.lower[0], torch.inf)
        self.high = -self.low

    def count(self, x: Tensor) -> None:
        """Looks whether the activations of x [k, d] are inside."""
        z = self.layer.activations(x)
        self.seen += len(z)
        self.out += int(((z < self.box.lower) | (z > self.box.upper)).any(1).sum())
        self.low, self.high = torch.minimum(self.low, z.amin(0)), torch.maximum(self.high, z.amax(0))
        gaps = torch.stack([self.low - self.box.lower[0], self.box.upper[0] - self.high]) / self.box.width[0]
        self.slack = gaps[:, self.box.width[0] > 0].min().item()

    def attack(self, region: LinfBall, lanes: int, most: int, generator: torch.Generator) -> None:
        """Pushes `lanes` elements over their ends, those first that samples came nearest to, until `most` inputs are seen."""
        width = self.box.width[0].clamp(min=1e-300)
        gaps = torch.cat([(self.low - self.box.lower[0]) / width, (self.box.upper[0] - self.high) / width])
        gaps = torch.where(torch.cat([width, width]) > 1e-300, gaps, torch.inf)
        chosen = gaps.argsort()[torch.arange(lanes) % len(gaps)]
        element, sign = chosen % len(width), torch.where(chosen < len(width), -1.0, 1.0).double()
        x = region.sample(lanes, generator)[0]
        many = region.take(torch.zeros(lanes, dtype=torch.int64))
        for step in range(STEPS):
            here = x[: most - self.seen]
            if not len(here):
                break
            self.count(here)
            free = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad((sign * self.layer.head(free).gather(1, element[:, None])[:, 0]).sum(), free)
            x = x + (0.3 if step < STEPS // 2 else 1.0) * (many.minimise(-slope[:, None])[1][:, 0] - x)


def regions(captured: Captured, cases: int, seconds: float, names: list[str]) -> None:
    """Prints a row for every kind of region at every layer."""
    train_x, train_y, x, y = split_digits(0)
    natural = NaturalInputs(train_x.flatten(1), train_y)
    region = LinfBall.around(x[:cases].flatten(1), RADIUS, (0, 1))
    print("layer | within | inside | stated | hits | spurious | proved so | rounds | proved | broken | relaxed | unknown | CPU s")
    for name in names:
        for within, radius in KINDS:
            began = time.process_time()
            result = latent(
                captured, region, Misclassification(label=y[:cases], classes=10), layer=name, within=within, radius=radius,
                natural=natural, group=y[:cases], budget=Budget(seconds=seconds),
            )  # fmt: skip
            print(f"{name} | {within} | {_row(result)} | {time.process_time() - began:.0f}", flush=True)


def _row(result: LatentResult) -> str:
    held, first, counts = result.containment, result.relaxed.rounds[0], result.counts()
    assert held is not None
    claims = (Claim.CERTIFICATE, Claim.COUNTEREXAMPLE, Claim.RELAXED, Claim.UNKNOWN)
    stated = "" if held.stated is None else f"{held.stated:.1%}"
    ends = [str(counts[claim]) for claim in claims]
    hits = [f"{first.hits}/{first.searched}", str(first.spurious), str(first.certain), str(len(result.relaxed.rounds) - 1)]
    return " | ".join([f"{held.inside}/{held.held}", stated, *hits, *ends])


if __name__ == "__main__":
    sys.exit(main())
