"""A method: from a question to its part of the answer, at any time."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from fathom.core.answer import Claim
from fathom.core.budget import Clock
from fathom.estimates.answer import Part
from fathom.estimates.question import Question

Progress = Callable[[str], None]
"""Told, in a few words, how far a method is: never how many draws failed, so that who stops it does not choose by that."""


def unheard(text: str) -> None:
    """Nobody looks on."""


@dataclass(frozen=True)
class Estimator(ABC):
    """A frozen dataclass: its `repr` is the recipe that pastes back. Docstrings have the heads
    Requires / Returns / Method / Sound? / Reference."""

    @abstractmethod
    def estimate(self, question: Question, clock: Clock, progress: Progress = unheard) -> Part:
        """What is known when the method is done, or the clock says stop. Nothing is guessed where nothing is known."""


def timed(part: Part, question: Question, began: float) -> Part:
    """The part with what its question's meter and the clock on the wall say it cost, and what could not be judged."""
    meter, warnings = question.meter, part.warnings
    if meter.unjudged:
        warnings = (*warnings, f"at {meter.unjudged:,} inputs the margin is not a number; they are taken for failures")
    seconds = time.monotonic() - began
    return replace(part, forward=meter.forward, backward=meter.backward, boxes=meter.boxes, seconds=seconds, warnings=warnings)


def generator(method: str, seed: int) -> torch.Generator:
    """Of one method alone, so that leaving another out changes nothing."""
    number = int.from_bytes(hashlib.sha256(f"{method} {seed}".encode()).digest()[:7], "little")
    return torch.Generator().manual_seed(number)


def unable(method: str, sentence: str) -> Part:
    """The part of a method that has nothing to say, with the reason."""
    return Part(method, Claim.UNKNOWN, None, None, None, None, sentence)
