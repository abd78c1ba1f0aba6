"""Models that answer at random: a failure found is run again many times, and what is claimed of it holds with confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fathom.core.overseer import Overseer
from fathom.core.program import Program
from fathom.estimates.intervals import clopper_pearson

RUNS = 100
"""Of the program on every failure found."""
CONFIDENCE = 0.95
LOOKS = 8  # inputs
TWICE = 4  # runs on each, by which it is found out that a program answers at random
OBSTACLE = "the program gives the same input different answers, so no network computes what it does"


@dataclass(frozen=True)
class Draws:
    """How often the failures of a model that answers at random were seen again, in fresh runs that nothing was selected by."""

    runs: int
    fails: tuple[int | None, ...]  # [cases] of the runs; None for a case that is not broken
    gone: int  # failures found once and in no fresh run, which are not counted as failures

    def interval(self, case: int) -> tuple[float, float]:
        """Holds the probability of failing at the input found, with `CONFIDENCE`."""
        fails = self.fails[case]
        assert fails is not None
        return clopper_pearson(fails, 0, self.runs, CONFIDENCE)

    def words(self, case: int) -> str:
        """ "fails in 37 of 100 fresh runs: a chance between 0.276 and 0.473, with 95 % confidence"."""
        lower, upper = self.interval(case)
        return (
            f"fails in {self.fails[case]} of {self.runs} fresh runs: a chance between {_down(lower)} and {_up(upper)}, with "
            f"{100 * CONFIDENCE:g} % confidence"
        )

    def line(self) -> str:
        """What the command prints."""
        seen = sorted(fails for fails in self.fails if fails is not None)
        most = f"; in {self.runs} fresh runs each they fail {seen[0]} to {seen[-1]} times" if seen else ""
        gone = f"; {self.gone} more were never seen again, and do not count" if self.gone else ""
        return f"THE MODEL ANSWERS AT RANDOM, so failures are no counterexamples but bounds with confidence{most}{gone}"

    def to_json(self, case: int) -> dict[str, Any] | None:
        """Plain types for `json.dumps`; None for a case that is not broken."""
        if self.fails[case] is None:
            return None
        lower, upper = self.interval(case)
        return {"runs": self.runs, "fails": self.fails[case], "lower": lower, "upper": upper, "confidence": CONFIDENCE}


def answers_at_random(program: Program, x: Tensor) -> bool:
    """Whether some of inputs x [n, d] get different answers from one run to the next. A few runs: it may be overlooked."""
    x = x[:LOOKS].to(program.dtype)
    first = program(x)
    return any(not torch.equal(first, program(x)) for _ in range(TWICE - 1))


def margins_drawn(program: Program, overseer: Overseer, x: Tensor, runs: int = RUNS) -> Tensor:
    """Margins [runs, k] of fresh runs at inputs x [k, d]; +inf where the overseer cannot judge."""
    x = x.to(program.dtype)
    drawn = [overseer.margin(x.to(torch.float64), program(x).to(torch.float64)).to(torch.float64) for _ in range(runs)]
    return torch.stack(drawn).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _down(value: float) -> str:
    return f"{int(value * 1000) / 1000:g}"


def _up(value: float) -> str:
    return f"{min(1.0, -(-int(value * 1e9) // 1_000_000) / 1000):g}"
