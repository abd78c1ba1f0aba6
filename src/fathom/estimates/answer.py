"""What an estimation answers: one part a method, each with its own claim, and never a number made of several."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fathom.core.answer import Claim
from fathom.core.coverage import Coverage

FORMAT = "fathom-estimate/1"


@dataclass(frozen=True)
class Part:
    """What one method says about the probability of failure."""

    method: str  # "sampling", "splitting", "importance", "volume", "enumeration", "unseen"
    claim: Claim
    value: float | None  # the best guess; None where the method has none
    lower: float | None  # the interval; None where the method has none
    upper: float | None
    confidence: float | None  # of the interval: guaranteed for a bound with confidence, meant for an estimate; None: certain
    sentence: str  # what it says, in words
    warnings: tuple[str, ...] = ()  # why not to lean on it
    facts: tuple[tuple[str, float | int | str], ...] = ()  # what a reader may want to check
    forward: int = 0  # evaluations of one input
    backward: int = 0  # gradients of one input
    boxes: int = 0  # sub-problems bounded
    seconds: float = 0.0
    seed: int | None = None  # None where nothing is drawn
    stopped: bool = False  # before it was done

    @property
    def reliable(self) -> bool:
        return not self.warnings

    def to_json(self) -> dict[str, Any]:
        """Plain types for `json.dumps`: the fields by name, with `claim` its words, `facts` an object, `cost` the four counts."""
        return {
            "method": self.method,
            "claim": self.claim.value,
            **{name: getattr(self, name) for name in ("value", "lower", "upper", "confidence", "sentence")},
            "reliable": self.reliable,
            "warnings": list(self.warnings),
            "facts": {key: _finite(value) for key, value in self.facts},
            "cost": {name: getattr(self, name) for name in ("seconds", "forward", "backward", "boxes")},
            "seed": self.seed,
            "stopped": self.stopped,
        }


@dataclass(frozen=True)
class Estimation:
    """The probability that a draw of a named distribution fails, by every method that can say something about it."""

    title: str
    region: str
    distribution: str
    overseer: str
    cases: int
    program: str  # digest of what runs
    seed: int
    seconds: float
    interrupted: bool
    parts: tuple[Part, ...]
    recipe: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    coverage: Coverage | None = None  # on how many sets' centres the model acts; None where abstaining is not spoken of

    def part(self, method: str) -> Part | None:
        """What the method called so says; None where it was not asked."""
        return next((part for part in self.parts if part.method == method), None)

    def lines(self) -> list[str]:
        """What the command prints: the question, then for every method its claim, what it says, its warnings and its cost."""
        sets = "1 case" if self.cases == 1 else f"{self.cases} cases, each as likely"
        asked = [f"{self.title}, {sets}, {self.region}, {self.overseer}", f"drawn: {self.distribution}"]
        lines = [*asked, *([] if self.coverage is None else [str(self.coverage)]), ""]
        for part in self.parts:
            lines.append(f"{part.claim.value}: {part.sentence}")
            lines += [f"    beware: {warning}" for warning in part.warnings]
            lines.append(f"    {part.method}, {_cost(part)}")
        if self.parts:
            lines += [
                "",
                "These are different kinds of statement. They are not to be averaged; docs/estimate.md says which to lean on.",
            ]
        return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]

    def to_json(self) -> dict[str, Any]:
        """Plain types for `json.dumps`; floats are exact (the shortest decimal that reads back as the same number).

        Keys:
            format: "fathom-estimate/1".
            title, region, distribution, overseer, cases, program, seed, seconds, interrupted, recipe: the fields.
            versions: {name: version}.
            coverage: the share of the sets' centres on which the model acts, or null where abstaining is not spoken of.
            parts: a list with one entry a method: method, claim, value, lower, upper, confidence, sentence, reliable,
                warnings, facts, cost: {seconds, forward, backward, boxes}, seed, stopped.
        """
        names = ("title", "region", "distribution", "overseer", "cases", "program", "seed", "seconds", "interrupted", "recipe")
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in names},
            "versions": dict(self.versions),
            "coverage": None if self.coverage is None else self.coverage.share,
            "parts": [part.to_json() for part in self.parts],
        }


def _cost(part: Part) -> str:
    counts = ((part.forward, "evaluations"), (part.backward, "gradients"), (part.boxes, "boxes"))
    spent = ", ".join(f"{count:,} {word}" for count, word in counts if count) or "no evaluation"
    seed = "" if part.seed is None else f", seed {part.seed}"
    return f"{spent}, {part.seconds:.1f} s{seed}{', stopped early' if part.stopped else ''}"


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: None for them."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
