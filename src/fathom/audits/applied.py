"""What transformations did to a picture, for whoever reads a result: its words, its parameters, and the picture that came out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from fathom.core.answer import Witnesses
from fathom.core.program import Program
from fathom.transforms.program import TransformedProgram
from fathom.transforms.region import Transformed

if TYPE_CHECKING:
    from fathom.audits.result import AuditResult


@dataclass(frozen=True)
class Applied:
    """To one picture."""

    words: str  # "rotated by 7.3 degrees, brightness changed by 0.1"
    parameters: dict[str, float]  # exactly; by name: "rotation.degrees"

    def to_json(self) -> dict[str, Any]:
        return {"words": self.words, "parameters": self.parameters}


def as_seen(result: AuditResult, region: Transformed, program: Program) -> AuditResult:
    """A result about the inputs of a transformed program as one about the pictures that the program itself is given.

    Whoever runs the program alone on such a picture gets the output that was judged.
    """
    assert isinstance(program, TransformedProgram)
    found, applied = seen(result.answers.found, region, program)
    simplest = None if result.simplest is None else seen(result.simplest, region, program)
    return replace(
        result,
        x=region.pictures(result.x),
        inputs=program.program.inputs,
        answers=replace(result.answers, found=found),
        simplest=None if simplest is None else simplest[0],
        applied=applied,
        applied_simplest=() if simplest is None else simplest[1],
    )


def seen(found: Witnesses, region: Transformed, program: Program) -> tuple[Witnesses, tuple[Applied | None, ...]]:
    """Inputs of a transformed program as the pictures that the program itself is given, and what was done to each."""
    assert isinstance(program, TransformedProgram)
    known = found.known.nonzero()[:, 0]
    x = found.x[known]
    pictures = torch.full((len(found.x), region.pixels), torch.nan, dtype=found.x.dtype)
    pictures[known] = program.seen(x)
    words = dict(zip(known.tolist(), zip(region.words(x), region.values(x))))
    applied = tuple(Applied(*words[i]) if i in words else None for i in range(len(found.x)))
    return replace(found, x=pictures), applied
