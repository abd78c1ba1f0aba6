"""Answers: for every set a bracket on the worst margin, what it rests on, and what it cost."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fathom.core.value import take


class Verdict(enum.Enum):
    """The three words that a person reads."""

    PROVED = "proved"
    BROKEN = "broken"
    UNKNOWN = "unknown"


class Claim(enum.Enum):
    """What kind of statement a number is; kinds are never added up into one score."""

    COUNTEREXAMPLE = "counterexample"
    CERTIFICATE = "certificate (unchecked)"
    CHECKED_CERTIFICATE = "certificate (checked)"
    RELAXED = "relaxed counterexample"  # the relaxation fails here; no input of the model need
    CONFIDENCE = "bound with confidence"
    ESTIMATE = "estimate"
    UNKNOWN = "unknown"


class Reason(enum.Enum):
    """Why a solver stopped, with what would help."""

    DECIDED = "decided"
    TIME = "the time budget ran out; give more seconds"
    PASSES = "the budget of sub-problems or passes ran out; give more of them"
    MEMORY = "the open sub-problems outgrew the memory budget; give more memory"
    INTERRUPTED = "interrupted; run again with the same casebook to go on"
    INCOMPLETE = "this method alone cannot decide it; branch and bound may"
    NOT_PROVABLE = "the overseer or the model cannot be compiled, so only a search is possible; state the rule as linear rules"
    TOO_CLOSE = "the worst margin is so close to zero that rounding hides its sign; ask for a region a little smaller or larger"
    NOT_STARTED = "not worked on yet; give more seconds"
    OUT_OF_DOMAIN = (
        "as far as bounds can tell, a function in the network may have no value somewhere, or float32 may overflow; ask for a "
        "smaller region"
    )
    RULES = "the overseer comes to more rules than branch and bound can take; ask about fewer classes"


REASONS = tuple(Reason)


@dataclass(frozen=True, eq=False)
class Witnesses:
    """The best point known for each of n sets, and what `confirm` found there. Rows without a point are NaN and +inf.

    Only `confirm` makes rows other than `none`.
    """

    x: Tensor  # [n, d] in the program's dtype
    y: Tensor  # [n, m] float64: the deployed program's output at x
    deployed: Tensor  # [n] float64: margin of the deployed program; its sign is exact
    real_lower: Tensor  # [n] float64: rigorous enclosure of the real network's margin at exactly x;
    real_upper: Tensor  # [n]          [-inf, +inf] where there is no exact spec
    in_written: Tensor  # [n] bool: x also lies in the region as written

    @staticmethod
    def none(n: int, inputs: int, outputs: int, dtype: torch.dtype) -> Witnesses:
        """No point known for any of n sets."""
        nan, inf = float("nan"), float("inf")
        return Witnesses(
            torch.full((n, inputs), nan, dtype=dtype),
            torch.full((n, outputs), nan, dtype=torch.float64),
            torch.full((n,), inf, dtype=torch.float64),
            torch.full((n,), -inf, dtype=torch.float64),
            torch.full((n,), inf, dtype=torch.float64),
            torch.zeros(n, dtype=torch.bool),
        )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def known(self) -> Tensor:
        """[n] whether there is a point."""
        return ~torch.isnan(self.x).any(1)

    @property
    def judged_real(self) -> Tensor:
        """[n] whether the real margin is enclosed; otherwise the deployed program alone is judged."""
        return torch.isfinite(self.real_lower)

    @property
    def upper(self) -> Tensor:
        """[n] the upper bounds on the worst margin that the points give: under `real` where that is judged."""
        return torch.where(self.judged_real, self.real_upper, self.deployed)

    @property
    def broken(self) -> Tensor:
        """[n] whether x is a witness: the deployed program fails, and where judged, the real network certainly does too."""
        return self.known & (self.deployed <= 0) & (self.upper <= 0)

    @property
    def rounding_failure(self) -> Tensor:
        """[n] whether program and real network are not known to agree on failure at x. Listed apart; moves no real bracket."""
        return self.known & self.judged_real & ((self.deployed <= 0) != (self.real_upper <= 0))

    def take(self, index: Tensor) -> Witnesses:
        return take(self, index)

    def best(self, other: Witnesses) -> Witnesses:
        """Row by row the better of two: a broken one before one that is not, then the smaller upper bound."""
        mine, theirs = (torch.where(w.broken, w.upper, w.upper.clamp(min=0) + 1e-300) for w in (self, other))
        better = (other.broken & ~self.broken) | ((other.broken == self.broken) & (theirs < mine))
        return self.where(~better, other)

    def where(self, keep: Tensor, other: Witnesses) -> Witnesses:
        """Rows of self where `keep` [n], else of other."""
        merged = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            merged[f.name] = torch.where(keep.reshape(-1, *[1] * (mine.ndim - 1)), mine, theirs)
        return Witnesses(**merged)


@dataclass(frozen=True, eq=False)
class Cost:
    """What was spent on each of n sets."""

    seconds: Tensor  # [n] float64: a share of the wall clock
    forward: Tensor  # [n] int64: evaluations of the network
    backward: Tensor  # [n] int64: gradients, and bound propagations
    boxes: Tensor  # [n] int64: sub-problems bounded

    @staticmethod
    def zero(n: int) -> Cost:
        return Cost(torch.zeros(n, dtype=torch.float64), *(torch.zeros(n, dtype=torch.int64) for _ in range(3)))

    def spend(self, seconds: float, forward: Tensor | int = 0, backward: Tensor | int = 0, boxes: Tensor | int = 0) -> Cost:
        """Add counts to every set, and `seconds` of wall clock in equal shares."""
        share = seconds / max(len(self.seconds), 1)
        return Cost(self.seconds + share, self.forward + forward, self.backward + backward, self.boxes + boxes)

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def take(self, index: Tensor) -> Cost:
        return take(self, index)


@dataclass(frozen=True, eq=False)
class Answers:
    """For each of n sets: `lower` <= worst margin <= `upper`, under the arithmetic of the problem that they are about."""

    lower: Tensor  # [n] float64, rigorous; -inf where nothing is proved
    found: Witnesses
    reason: Tensor  # [n] int64: place in REASONS
    cost: Cost
    points: Tensor | None = None
    """[n, k, d] search aids of the one call of `solve` that gave these: inputs worth a start, best first; NaN rows are none.
    Never trusted, and left behind by `tighten` and `put`."""

    @staticmethod
    def none(n: int, inputs: int, outputs: int, dtype: torch.dtype) -> Answers:
        """Nothing known."""
        return Answers(
            torch.full((n,), -float("inf"), dtype=torch.float64),
            Witnesses.none(n, inputs, outputs, dtype),
            torch.full((n,), REASONS.index(Reason.NOT_STARTED)),
            Cost.zero(n),
        )

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def upper(self) -> Tensor:
        """[n] upper bounds on the worst margins; +inf where no point is known."""
        return self.found.upper

    @property
    def proved(self) -> Tensor:
        return self.lower > 0

    @property
    def broken(self) -> Tensor:
        """[n] whether a witness is known. Where the real margin at it is not judged and a proof says that no real one fails,
        the program's rounding fails, and not the network: see `rounding_failure`."""
        return self.found.broken & ~self.proved

    @property
    def rounding_failure(self) -> Tensor:
        """[n] whether program and real network are not known to agree on failure at the point."""
        return self.found.rounding_failure | (self.found.broken & self.proved)

    @property
    def decided(self) -> Tensor:
        return self.proved | self.broken

    def verdict(self, index: int) -> Verdict:
        if self.proved[index]:
            return Verdict.PROVED
        return Verdict.BROKEN if self.broken[index] else Verdict.UNKNOWN

    def claim(self, index: int) -> Claim:
        claims = {Verdict.PROVED: Claim.CERTIFICATE, Verdict.BROKEN: Claim.COUNTEREXAMPLE, Verdict.UNKNOWN: Claim.UNKNOWN}
        return claims[self.verdict(index)]

    def why(self, index: int) -> Reason:
        return Reason.DECIDED if self.decided[index] else REASONS[int(self.reason[index])]

    def because(self, reason: Reason, index: Tensor | None = None) -> Answers:
        """The same answers with another reason, for the sets at `index` or for all."""
        code = REASONS.index(reason)
        reasons = torch.full_like(self.reason, code) if index is None else self.reason.index_fill(0, index, code)
        return replace(self, reason=reasons)

    def take(self, index: Tensor) -> Answers:
        return take(self, index)

    def tighten(self, other: Answers) -> Answers:
        """The tighter of both brackets, set by set; costs add up, and `other`, the later, gives the reason.

        Raises:
            ContradictionError: the bounds cross, so one of them is wrong: a bug in Fathom, never to be hidden.
        """
        answers = Answers(torch.fmax(self.lower, other.lower), self.found.best(other.found), other.reason, self.cost + other.cost)
        crossed = answers.found.known & answers.found.judged_real & (answers.lower > answers.upper)
        if crossed.any():
            i = int(crossed.nonzero()[0, 0])
            raise ContradictionError(
                f"set {i}: a proof says that the margin is at least {answers.lower[i].item()!r}, and a point has one of at most "
                f"{answers.upper[i].item()!r}; please report this with the casebook: one of the two is a bug in Fathom"
            )
        return answers

    def put(self, index: Tensor, part: Answers) -> Answers:
        """These answers, tightened at `index` [k] by `part`, answers about those sets alone."""
        rest = Answers.none(len(self), self.found.x.shape[1], self.found.y.shape[1], self.found.x.dtype)
        spread = replace(
            rest,
            lower=rest.lower.index_copy(0, index, part.lower),
            found=Witnesses(
                *(getattr(rest.found, f.name).index_copy(0, index, getattr(part.found, f.name)) for f in fields(Witnesses))
            ),
            reason=self.reason.index_copy(0, index, part.reason),
            cost=Cost(*(getattr(rest.cost, f.name).index_copy(0, index, getattr(part.cost, f.name)) for f in fields(Cost))),
        )
        return self.tighten(spread)


class ContradictionError(AssertionError):
    """Proof and witness disagree. An invariant of Fathom, so an assertion, and never caught."""
