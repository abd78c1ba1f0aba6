"""What a search inside the network answers: what was asked, what regions hold, what was hit, what is real, and what is proved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fathom.core.answer import Claim, Witnesses
from fathom.core.coverage import Coverage
from fathom.hunt.latent import Relaxed, Round

FORMAT = "fathom-latent/1"


@dataclass(frozen=True)
class Containment:
    """How many natural activations that had no part in making a region lie inside it."""

    inside: int
    held: int
    interval: tuple[float, float]  # of the share, at this confidence, where they are independent draws
    confidence: float
    stated: float | None = (
        None  # the share that each class's region holds at least, at this confidence; None where none is stated
    )
    calibrated: int = 0  # activations of the class that this rests on; the fewest of any class

    @property
    def share(self) -> float:
        return self.inside / self.held

    def sentences(self) -> list[str]:
        """In words."""
        low, high = self.interval
        words = (
            f"containment: {self.inside} of {self.held} natural activations held out ({self.share:.1%}; with confidence "
            f"{self.confidence:g}, {low:.1%} to {high:.1%}) lie inside a region of their class"
        )
        if self.stated is None:
            return [words]
        return [
            words,
            f"stated coverage: at least {self.stated:.1%} of the activations of any one class, with confidence "
            f"{self.confidence:g} (from {self.calibrated} or more that the shape was not made of)",
        ]


@dataclass(frozen=True, eq=False)
class LatentResult:
    """n cases whose activations at a layer an adversary chose within a region."""

    title: str
    layer: str
    shape: tuple[int, ...]  # of one activation
    within: str  # "reach", "box", "ellipsoid" or "ball"
    latent: str  # the region of activations, in words
    region: str  # the inputs, in words
    overseer: str
    containment: Containment | None  # None without natural activations
    relaxed: Relaxed
    program: str  # digest of what runs
    seed: int
    seconds: float
    interrupted: bool
    recipe: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    coverage: Coverage | None = None  # on how many sets' centres the model acts; None where abstaining is not spoken of

    @property
    def lower(self) -> Tensor:
        """[n] proved lower bounds on the whole model's margin; -inf where the region need not hold all that inputs reach."""
        return self.relaxed.lower if self.within == "reach" else torch.full_like(self.relaxed.lower, -torch.inf)

    @property
    def found(self) -> Witnesses:
        """[n] the best real inputs found, confirmed on the deployed program; `broken` where they fail."""
        return self.relaxed.found

    @property
    def broken(self) -> Tensor:
        """[n] whether a real input fails; where a proof says that none does, the program's rounding fails, and not the model."""
        return self.found.broken & ~(self.lower > 0)

    @property
    def spuriousness(self) -> float | None:
        """Of the region as asked for: the share of hits that no real input was found to reach; None without a hit."""
        return self.relaxed.rounds[0].spuriousness if self.relaxed.rounds else None

    def claim(self, index: int) -> Claim:
        """What is known of a case. A certificate within `reach` is about the model, else about activations in the region."""
        if self.broken[index]:
            return Claim.COUNTEREXAMPLE
        if self.relaxed.proved[index]:
            return Claim.CERTIFICATE
        return Claim.UNKNOWN if self.relaxed.hit[index].isnan().any() else Claim.RELAXED

    def counts(self) -> dict[Claim, int]:
        """How many cases there are of each claim."""
        claims = [self.claim(i) for i in range(len(self.found))]
        order = (Claim.CERTIFICATE, Claim.COUNTEREXAMPLE, Claim.RELAXED, Claim.UNKNOWN)
        return {claim: claims.count(claim) for claim in order}

    def lines(self) -> list[str]:
        """What the command prints."""
        n = len(self.found)
        lines = [
            f"{self.title}, {_cases(n)}, {self.region}, {self.overseer}",
            f"asked: whether it fails for any activation at {self.layer} {list(self.shape)} in {self.latent}",
            "",
        ]
        if self.coverage is not None:
            lines.append(str(self.coverage))
        if self.containment is not None:
            lines += self.containment.sentences()
        else:
            lines.append("containment: not measured, for want of natural inputs")
        lines += self._searched()
        counts = self.counts()
        lines += ["", *(f"{claim.value}: {self._meaning(claim, count)}" for claim, count in counts.items() if count)]
        if self.relaxed.stopped:
            lines.append("stopped before it was done; more seconds may settle more")
        return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]

    def _searched(self) -> list[str]:
        if not self.relaxed.rounds:
            return ["nothing was searched in the time there was"]
        first, *later = self.relaxed.rounds
        lines = [
            f"found: for {first.hits} of {_cases(first.searched)} an activation in the region that fails; for {first.proved} a "
            "proof that none does"
        ]
        if first.hits:
            share = f"{first.spurious / first.hits:.1%}"
            lines.append(
                f"spuriousness: {first.spurious} of these {first.hits} hits ({share}) are reached by no input that a search "
                f"found; {first.certain} of them are proved to be out of reach"
            )
            lines.append(
                f"    {first.real} led to a real input that fails; {first.reached} are reached by inputs that do not fail"
            )
        for k, now in enumerate(later, 1):
            lines.append(f"    refinement {k}: {_round(now)}")
        return lines

    def _meaning(self, claim: Claim, count: int) -> str:
        cases = _cases(count)
        if claim is Claim.CERTIFICATE:
            if self.within == "reach":
                return f"of {cases}, no input of the region fails: no activation that they can reach does"
            later = int((self.relaxed.proved & self.relaxed.refined & ~self.broken).sum())
            whole = f"of {_cases(count - later)}, no activation in the region fails, whether an input reaches it or not"
            part = f"of {_cases(later)}, no input of the case whose activation lies in the region fails"
            return "; ".join(text for text, some in ((whole, count - later), (part, later)) if some)
        if claim is Claim.COUNTEREXAMPLE:
            return f"of {cases}, a real input fails, confirmed on the deployed program"
        if claim is Claim.RELAXED:
            return f"of {cases}, an activation in the region fails; no input that fails was found, so it may be spurious"
        return f"of {cases}, neither a proof nor a failure"

    def to_json(self) -> dict[str, Any]:
        """Plain types for `json.dumps`; numbers that are not finite are null.

        Keys:
            format: "fathom-latent/1".
            title, layer, shape, within, latent, region, overseer, program, seed, seconds, interrupted, recipe: the fields.
            stopped: whether the budget ended before the rounds did.
            versions: {name: version}.
            coverage: the share of the sets' centres on which the model acts, or null where abstaining is not spoken of.
            containment: null, or {inside, held, share, interval, confidence, stated, calibrated}.
            spuriousness: of the first round; null without a hit.
            rounds: a list of {searched, proved, hits, real, reached, spurious, certain}, the first before any refinement.
            counts: {claim: cases}.
            cases: a list of {claim, lower, refined, distance, hit, input, margin}: `lower` of the margin at the layer, `distance`
                and `hit` of an activation that stands, `input` and its `margin` of a real failure.
        """
        names = (
            "title",
            "layer",
            "within",
            "latent",
            "region",
            "overseer",
            "program",
            "seed",
            "seconds",
            "interrupted",
            "recipe",
        )
        held = self.containment
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in names},
            "shape": list(self.shape),
            "stopped": self.relaxed.stopped,
            "versions": dict(self.versions),
            "coverage": None if self.coverage is None else self.coverage.share,
            "containment": None if held is None else {**vars(held), "interval": list(held.interval), "share": held.share},
            "spuriousness": self.spuriousness,
            "rounds": [vars(now) for now in self.relaxed.rounds],
            "counts": {claim.value: count for claim, count in self.counts().items()},
            "cases": [self._case(i) for i in range(len(self.found))],
        }

    def _case(self, i: int) -> dict[str, Any]:
        relaxed, claim = self.relaxed, self.claim(i)
        standing, broken = claim is Claim.RELAXED, claim is Claim.COUNTEREXAMPLE
        return {
            "claim": claim.value,
            "lower": _finite(relaxed.lower[i].item()),
            "refined": bool(relaxed.refined[i]),
            "distance": _finite(relaxed.distance[i].item()) if standing else None,
            "hit": relaxed.hit[i].tolist() if standing else None,
            "input": self.found.x[i].tolist() if broken else None,
            "margin": _finite(self.found.deployed[i].item()) if broken else None,
        }


def _round(now: Round) -> str:
    return (
        f"{_cases(now.searched)} searched again, {now.proved} proved, {now.hits} hit: {now.real} real, {now.spurious} spurious "
        f"({now.certain} proved so), {now.reached} reached without a failure"
    )


def _cases(count: int) -> str:
    return "1 case" if count == 1 else f"{count} cases"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
