"""What L0 balls and patches share: only inputs of a choice may change, each within its range; the others stay as they are."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.core.region import Projectable, Region
from fathom.core.rounding import TINY, dot_down, down, gamma
from fathom.regions.balls import End, ball_parts, reach, with_gradient
from fathom.regions.box import BoxRegion, check_matrices, clamp, in_rows, inward, per_set, sample_box


@dataclass(frozen=True, eq=False)
class Changes(Projectable):
    """lower <= x <= upper, and the inputs outside [still_lower, still_upper] are among those of one admitted choice.

    Which choices of inputs are admitted is what a kind says. `still` is a sample, or the hull of a sample and what a program
    gets of it; a sub-box may leave parts of it outside, and then those inputs have to change.

    A choice saves, against leaving all as it is, the sum over its inputs of what each can save: the oracle takes the choice of
    the greatest sum, with every sum rounded up, and so is exact but for rounding.

    Raises:
        FathomError: the parts are no finite float64 [n, d], or the range does not hold the sample.
    """

    still_lower: Tensor  # [n, d] float64
    still_upper: Tensor  # [n, d] float64
    lower: Tensor  # [n, d] float64: the range of what changes
    upper: Tensor  # [n, d] float64

    def __post_init__(self) -> None:
        check_matrices(lower=self.lower, upper=self.upper, still_lower=self.still_lower, still_upper=self.still_upper)

    @abstractmethod
    def _most(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        """The admitted choice with the greatest sum of `gain` [n, k, d] >= 0: at least that sum [n, k], and the inputs [n, k, d].

        Every choice has all `forced` inputs; where none is admitted, any.
        """

    @abstractmethod
    def _admits(self, changed: Tensor) -> Tensor:
        """[n] whether some choice has all inputs of `changed` [n, d]."""

    @abstractmethod
    def _reachable(self) -> Tensor:
        """[n, d] the inputs that some admitted choice with all `forced` inputs has."""

    @abstractmethod
    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random admitted choices [n, count, d] that have all `forced` inputs."""

    @abstractmethod
    def _choices(self, most: int) -> tuple[Tensor, Tensor] | None:
        """Admitted choices [k, d], and [k] the set of each, such that every other is within one of them; None for more than
        `most` of a set."""

    @property
    def convex(self) -> bool:
        return False

    @cached_property
    def quiet(self) -> Box:
        """What inputs that need not change may be; a point of the range for those that have to."""
        return Box(clamp(self.still_lower, self._range), clamp(self.still_upper, self._range))

    @cached_property
    def forced(self) -> Tensor:
        """[n, d] the inputs that have to change, since the range has nothing of `still`."""
        return (self.still_lower > self.upper) | (self.still_upper < self.lower)

    @property
    def _range(self) -> Box:
        return Box(self.lower, self.upper)

    def centres(self) -> Tensor:
        return Box(self.still_lower, self.still_upper).middle

    def empty(self) -> Tensor:
        return self._range.empty() | ~self._admits(self.forced)

    def why_empty(self, index: int) -> str:
        if bool(self._range.empty()[index]):
            return BoxRegion(self.lower, self.upper).why_empty(index)
        return f"{int(self.forced[index].sum())} inputs cannot stay as they are, and not all of them may change"

    def rounded(self, dtype: torch.dtype) -> Self:
        ends = ("still_lower", "still_upper", "lower", "upper")
        return replace(self, **{end: getattr(self, end).to(dtype).to(torch.float64) for end in ends})

    def hull(self, other: Region) -> Self:
        """The same choices, with ends that hold those of both."""
        assert isinstance(other, type(self))
        still = Box(self.still_lower, self.still_upper).hull(Box(other.still_lower, other.still_upper))
        both = self._range.hull(other._range)
        return replace(self, still_lower=still.lower, still_upper=still.upper, lower=both.lower, upper=both.upper)

    def box(self) -> Box:
        """Tight; ends cross where a set is empty."""
        here, none = self._reachable(), self.empty()[:, None]
        lower = torch.where(here, self.lower, self.quiet.lower)
        upper = torch.where(here, self.upper, self.quiet.upper)
        below = torch.nextafter(self.quiet.lower, torch.full_like(lower, -torch.inf))
        return Box(torch.where(none, self.quiet.upper, lower), torch.where(none, below, upper))

    def contains(self, x: Tensor) -> Tensor:
        """Exact."""
        x = x.to(torch.float64)
        return self._range.contains(x) & self._admits((x < self.still_lower) | (x > self.still_upper))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Random choices, and points of their ranges, many at the ends."""
        moved, still = sample_box(self._range, count, generator), sample_box(self.quiet, count, generator)
        return torch.where(self._draw(count, generator), moved, still)

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """What staying costs, less the most that a choice saves."""
        a = a.to(torch.float64)
        fixed = a.detach()
        positive = fixed > 0
        stay = torch.where(positive, self.quiet.lower[:, None], self.quiet.upper[:, None])
        move = torch.where(positive, self.lower[:, None], self.upper[:, None])
        before, after = fixed * stay, fixed * move
        size = before.abs() + after.abs()
        gain = torch.where(stay == move, 0.0, (before - after + gamma(4, a.dtype) * size + TINY).clamp(min=0))
        saved, choice = self._most(gain)
        worth = choice & ((before > after) | self.forced[:, None])
        x = torch.where(worth, move, stay)
        return with_gradient(down(dot_down(fixed, stay) - saved), a, x), x

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> Self:
        part = self._range.take(owner).intersect(Box(lower, upper))
        return replace(self.take(owner), lower=part.lower, upper=part.upper)

    def parts(self, most: int) -> tuple[Region, Tensor] | None:
        """A box for each choice."""
        found = self._choices(most)
        if found is None:
            return None
        choice, owner = found
        lower = torch.where(choice, self.lower[owner], self.quiet.lower[owner])
        upper = torch.where(choice, self.upper[owner], self.quiet.upper[owner])
        some = (lower <= upper).all(1)
        return BoxRegion(lower[some], upper[some]), owner[some]

    def project(self, x: Tensor) -> Tensor:
        """The choice that brings back most of the distance, and every input clamped to what it may be."""
        wide = in_rows(x)
        still = clamp(wide, inward(self.quiet, x.dtype).to(torch.float64))
        moved = clamp(wide, inward(self._range, x.dtype).to(torch.float64))
        closer = ((wide - still).square() - (wide - moved).square()).clamp(min=0)
        choice = self._most(closer)[1] & ((still != moved) | per_set(self.forced, wide))
        return torch.where(choice, moved, still).reshape(x.shape).to(x.dtype)


def change_parts(
    centre: Tensor, radius: float | Tensor | None, clip: tuple[End, End] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """still_lower, still_upper, lower and upper [n, d] from samples [n, *shape], a radius for each input, a range, or both.

    Raises:
        FathomError: neither is given, or the samples lie outside the range.
    """
    if radius is None and clip is None:
        raise FathomError("expected a range, or a radius, that bounds how far an input may change, got neither; try clip=(0, 1)")
    wide, size, lower, upper = ball_parts(centre, 0.0 if radius is None else radius, clip)
    if radius is not None:
        ball = reach(wide, size).intersect(Box(lower, upper))
        lower, upper = ball.lower, ball.upper
    return wide, wide, lower.clone(), upper.clone()
