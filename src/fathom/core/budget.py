"""A budget: what a solver may spend, and what it is to aim at."""

from __future__ import annotations

import enum
import math
import threading
import time
from dataclasses import dataclass, field
from numbers import Real

from fathom.core.answer import Reason
from fathom.core.errors import FathomError


class Goal(enum.Enum):
    DECIDE = "decide"  # stop at the sign of the worst margin
    VALUE = "value"  # tighten the bracket


@dataclass(frozen=True)
class Budget:
    """Limits of one call to `solve`; None is no limit. `stop`, once set from anywhere, ends the work at the next step.

    Raises:
        FathomError: seconds or passes that are no number; NaN would never be over.
    """

    seconds: float | None = None  # inf is None
    passes: int | None = None  # forward plus backward passes a set
    memory: int = 4 << 30  # bytes of working tensors
    goal: Goal = Goal.DECIDE
    stop: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    def __post_init__(self) -> None:
        limits: dict[str, object] = {"seconds": self.seconds, "passes": self.passes}
        for name, value in limits.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or math.isnan(float(value))):
                raise FathomError(f"expected `{name}` of a budget as a number, or None for no limit, got {value!r}")
        if self.seconds == math.inf:  # of which no share can be taken
            object.__setattr__(self, "seconds", None)

    def start(self) -> Clock:
        return Clock(self, time.monotonic())

    def part(self, seconds: float | None = None, passes: int | None = None) -> Budget:
        """A smaller budget inside this one: the lesser of each limit, the same goal and the same `stop`."""
        return Budget(_least(self.seconds, seconds), _least(self.passes, passes), self.memory, self.goal, self.stop)


@dataclass
class Clock:
    """A budget being spent."""

    budget: Budget
    began: float
    passes: int = 0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    @property
    def remaining(self) -> float:
        """Seconds left; inf where there is no limit."""
        return float("inf") if self.budget.seconds is None else self.budget.seconds - self.elapsed

    def late(self) -> bool:
        """Whether to stop now."""
        return self.over() is not None

    def over(self) -> Reason | None:
        """Why to stop now, or None."""
        if self.budget.stop.is_set():
            return Reason.INTERRUPTED
        if self.remaining <= 0:
            return Reason.TIME
        if self.budget.passes is not None and self.passes >= self.budget.passes:
            return Reason.PASSES
        return None


def _least(a: float | None, b: float | None):  # type: ignore[no-untyped-def]
    return b if a is None else a if b is None else min(a, b)
