"""Whether a model fails for any activation of a layer within bounds: the parts of that question, brought together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fathom.attacks.gradient import Gradient
from fathom.audits.engine import versions
from fathom.audits.interrupt import interruptible
from fathom.audits.portfolio import Portfolio
from fathom.audits.pose import Source, capture, pose
from fathom.audits.relaxed import Containment, LatentResult
from fathom.capture.captured import Captured
from fathom.core.arguments import require_parts
from fathom.core.budget import Budget
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer
from fathom.core.problem import Problem
from fathom.core.region import Region
from fathom.estimates.intervals import clopper_pearson
from fathom.hunt.latent import LatentHunt
from fathom.hunt.layers import Layer, reach_boxes
from fathom.hunt.natural import Natural, fit
from fathom.prove.work import suited_threads
from fathom.regions.box import BoxRegion
from fathom.regions.l2 import L2Ball
from fathom.regions.linf import LinfBall
from fathom.transforms.region import Transformed

WITHIN = ("reach", "box", "ellipsoid", "ball", "l2-ball")


@dataclass(frozen=True, eq=False)
class NaturalInputs:
    """Natural inputs, and the class of each."""

    x: Tensor  # [N, d]
    group: Tensor | None = None  # [N] int64; None: all of one class, number 0


def latent(
    model: nn.Module | Captured | str | Path,
    region: Region,
    overseer: Overseer,
    *,
    layer: str,
    within: str = "reach",
    radius: float | None = None,
    natural: NaturalInputs | None = None,
    group: Tensor | None = None,
    coverage: float = 0.9,
    confidence: float = 0.95,
    rounds: int = 8,
    budget: Budget | None = None,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    title: str = "model",
    tell: Callable[[str], None] = lambda text: None,
) -> LatentResult:
    """Search, and prove, against an adversary that chooses the activation at a layer, within bounds.

    Args:
        model: any `nn.Module`; the path of an ONNX file; or what was captured before.
        region: n sets of inputs [d], a case each.
        overseer: n judges.
        layer: the name of a node that every path from input to output passes; an error lists those there are.
        within: "reach": all that the inputs of the case can reach, by a proof; "box" or "ellipsoid": what is natural for the
            case's class, fitted to `natural`; "ball" or "l2-ball": all within `radius` of the activation of the case's centre.
        radius: of balls, in the layer's units.
        natural: inputs that nobody has changed, for containment, and for boxes and ellipsoids to be fitted to.
        group: [n] the class of each case; None: all of one class.
        coverage, confidence: the share of natural activations that a box or an ellipsoid is to hold, and how sure that is to be.
        rounds: of refinement, at most.
        budget: of the whole; by default a minute.
        shape: of one sample, where a module does not take flat vectors [d].
        tell: told how far the work is.

    Returns:
        For every case its claim, and what was found on the way. Interrupted, it returns what it has so far.

    Raises:
        FathomError: a model that is not understood, a layer that there is not, or parts that do not fit together.
    """
    require_parts(model, Source, region, overseer, budget)
    problem = pose(capture(model, region, shape), region, overseer)
    if natural is not None and isinstance(region, Transformed) and natural.x.flatten(1).shape[1] == region.pixels:
        natural = replace(natural, x=region.unchanged(natural.x.flatten(1).to(torch.float64)))
    began, budget = time.monotonic(), budget or Budget(seconds=60)
    at = Layer.of(problem, layer)
    if group is None:
        group = torch.zeros(len(problem), dtype=torch.int64)
        natural = None if natural is None else NaturalInputs(natural.x)
    asked = _Asked(problem, at, within, radius, natural, group, coverage, confidence, seed)
    asked.check()
    with interruptible(budget.stop), suited_threads(problem.network):
        tell("bounding what is reached" if within == "reach" else "making the region")
        latent_region, of, fitted = asked.region(budget.start().late)
        contained = asked.containment(latent_region, fitted)
        hunt = LatentHunt(
            problem, at, latent_region, within == "reach", Portfolio(seed=seed, worsen=False, case_seconds=10.0),
            Gradient(seed=seed, restarts=3, full=0), of, rounds, seed, tell,
        )  # fmt: skip
        left = None if budget.seconds is None else max(budget.seconds - (time.monotonic() - began), 0.0)
        relaxed = hunt.solve(budget.part(seconds=left))
    return LatentResult(
        title=title,
        layer=layer,
        shape=at.shape,
        within=within,
        latent=asked.words(),
        region=str(problem.written),
        overseer=str(problem.overseer),
        containment=contained,
        relaxed=relaxed,
        program=problem.program.digest,
        seed=seed,
        seconds=time.monotonic() - began,
        interrupted=budget.stop.is_set(),
        versions=versions(),
        coverage=problem.coverage(problem.deployed.centres()),
    )


@dataclass(frozen=True, eq=False)
class _Asked:
    """What `latent` was called with."""

    problem: Problem
    layer: Layer
    within: str
    radius: float | None
    natural: NaturalInputs | None
    group: Tensor  # [n]
    coverage: float
    confidence: float
    seed: int

    def check(self) -> None:
        """Refuses what does not fit together.

        Raises:
            FathomError: with what to give instead.
        """
        if self.within not in WITHIN:
            raise FathomError(f"expected `within` as one of {', '.join(WITHIN)}, got {self.within!r}")
        balls = self.within in ("ball", "l2-ball")
        if balls and not (self.radius is not None and self.radius > 0):
            raise FathomError(f"expected a radius > 0, in the layer's units, for a {self.within}, got {self.radius}")
        if not balls and self.radius is not None:
            raise FathomError(f"expected no radius within a {self.within}, got {self.radius:g}; ask for a ball, or leave it out")
        if self.natural is None and self.within in ("box", "ellipsoid"):
            raise FathomError(f"expected natural inputs to fit a {self.within} to, got none; give some that nobody has changed")
        if self.group.shape != (len(self.problem),):
            raise FathomError(f"expected a class for each of {len(self.problem)} cases, got {list(self.group.shape)}")
        if self.natural is None:
            return
        x, group = self.natural.x, self.natural.group
        if x.ndim != 2 or x.shape[1] != self.problem.deployed.size or (group is not None and group.shape != (len(x),)):
            got = f"{list(x.shape)} and classes {None if group is None else list(group.shape)}"
            raise FathomError(f"expected natural inputs [N, {self.problem.deployed.size}], and a class for each, got {got}")

    def region(self, late: Callable[[], bool]) -> tuple[Region, Tensor, Natural | None]:
        """The regions of the n cases; [n] numbers, equal where regions are; and what was fitted."""
        n = len(self.problem)
        if self.within == "reach":
            box = reach_boxes(self.layer.head, self.problem.region, late=late)
            return BoxRegion(box.lower, box.upper), torch.arange(n), None
        if self.natural is not None and self.within in ("box", "ellipsoid"):
            group = self._classes()
            asked = torch.isin(group, self.group).nonzero()[:, 0]  # of other classes nothing is asked, and few may be there
            generator = torch.Generator().manual_seed(self.seed)
            z = self.layer.activations(self.natural.x[asked])
            fitted = fit(self.within, z, group[asked], self.coverage, self.confidence, generator)
            fitted = replace(fitted, held=asked[fitted.held])
            of = fitted.of(self.group)
            return fitted.region.take(of), of, fitted
        assert self.radius is not None
        kind = LinfBall if self.within == "ball" else L2Ball
        centre = self.layer.activations(self.problem.deployed.centres().to(self.problem.program.dtype))
        return kind.around(centre, self.radius), torch.arange(n), None

    def words(self) -> str:
        """The region, in words."""
        return {
            "reach": "the box that is proved to hold all that the inputs of the case reach",
            "box": "the box of what is natural for the case's class",
            "ellipsoid": "the ellipsoid of what is natural for the case's class",
            "ball": f"the L-infinity ball of radius {self.radius or 0:g} round the activation of the case",
            "l2-ball": f"the L2 ball of radius {self.radius or 0:g} round the activation of the case",
        }[self.within]

    def containment(self, region: Region, fitted: Natural | None) -> Containment | None:
        """The natural activations, of none that the regions were made of, that lie in a region of a case of their class.

        Where regions are of single cases, an input does not count as inside by a region round itself.
        """
        if self.natural is None or not len(self.problem):
            return None
        held = torch.arange(len(self.natural.x)) if fitted is None else fitted.held
        x, group = self.natural.x[held].to(torch.float64), self._classes()[held]
        z = self.layer.activations(x)
        if fitted is None:
            regions, classes, own = region, self.group, self.problem.deployed.centres()
        else:
            regions, classes, own = fitted.region, fitted.group, None
        inside = 0
        for i in range(len(z)):
            there = regions.contains(z[i].expand(len(regions), -1)) & (classes == group[i])
            if own is not None:
                there &= (own.to(self.problem.program.dtype) != x[i].to(self.problem.program.dtype)).any(1)
            inside += bool(there.any())
        interval = clopper_pearson(inside, 0, len(z), self.confidence)
        stated = None if fitted is None else fitted.share.min().item()
        return Containment(
            inside, len(z), interval, self.confidence, stated, 0 if fitted is None else int(fitted.calibrated.min())
        )

    def _classes(self) -> Tensor:
        """[N] of the natural inputs; without any, all are of one."""
        assert self.natural is not None
        if self.natural.group is None:
            return torch.zeros(len(self.natural.x), dtype=torch.int64)
        return self.natural.group
