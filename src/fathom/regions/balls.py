"""What the norm balls share: how they are made and called, and directed rounding of centre +- radius."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.checks import as_numbers
from fathom.core.errors import FathomError
from fathom.core.region import Projectable
from fathom.core.rounding import TINY, dot_down, down, gamma, up
from fathom.regions.box import check_matrices, per_set

End = float | Tensor
"""An end of a clipping range: one number, or a tensor that broadcasts with the flat inputs [n, d]."""


@dataclass(frozen=True, eq=False)
class Ball(Projectable):
    """|x - centre| <= radius in some norm, and lower <= x <= upper, over the real numbers. `around` makes one from samples.

    Raises:
        FathomError: parts that are no ball (see `check_ball`).
    """

    norm: ClassVar[str]  # as people write it
    centre: Tensor  # [n, d] float64
    radius: Tensor  # [n] float64
    lower: Tensor  # [n, d] float64: the clipping range
    upper: Tensor  # [n, d] float64

    def __post_init__(self) -> None:
        check_ball(self.centre, self.radius, self.lower, self.upper)

    @classmethod
    def around(cls, centre: Tensor, radius: float | Tensor, clip: tuple[End, End] | None = None) -> Self:
        """Balls around samples [n, *shape], of one radius or one for each [n], clipped to a range such as (0, 1).

        Raises:
            FathomError: a sample outside the range, or a radius below 0.
        """
        return cls(*ball_parts(centre, radius, clip))

    def __str__(self) -> str:
        return describe(self.norm, self.radius, self.lower, self.upper, reach(self.centre, self.radius))

    @cached_property
    def clip(self) -> Box:
        """The clipping range."""
        return Box(self.lower, self.upper)

    @cached_property
    def _hull(self) -> Box:
        return reach(self.centre, self.radius).intersect(self.clip)

    def box(self) -> Box:
        return self._hull

    def centres(self) -> Tensor:
        return self.centre


def check_ball(centre: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> None:
    """Refuses the parts of a ball that is none.

    Raises:
        FathomError: centre, lower and upper are not finite float64 [n, d], or radius is not finite float64 [n] and >= 0.
    """
    check_matrices(centre=centre, lower=lower, upper=upper)
    if radius.shape != centre.shape[:1] or radius.dtype != torch.float64:
        raise FathomError(f"expected `radius` as float64 [{len(centre)}], got {radius.dtype} {list(radius.shape)}")
    check_radius(radius)


def check_radius(radius: Tensor) -> None:
    """Refuses radii that make a set empty, or no set.

    Raises:
        FathomError: one is below 0 or not finite.
    """
    wrong = radius[~((radius >= 0) & torch.isfinite(radius))].flatten()
    if len(wrong):
        raise FathomError(f"expected radii >= 0 and finite, got {wrong[0].item()}")


def ball_parts(centre: Tensor, radius: float | Tensor, clip: tuple[End, End] | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre [n, d], radius [n], lower and upper [n, d] from samples [n, *shape] and one radius, or one a sample.

    Without `clip`, the ball's own hull, which takes nothing away.

    Raises:
        FathomError: no batch of samples, radii of another number, below 0 or not finite, or a centre outside the clipping range.
    """
    if not isinstance(centre, Tensor) or centre.ndim < 2:
        got = f"a tensor {list(centre.shape)}" if isinstance(centre, Tensor) else f"a {type(centre).__name__}"
        raise FathomError(f"expected samples as a tensor [n, *shape], got {got}; see torch.as_tensor, and x[None] for one sample")
    centre = centre.detach().to(torch.float64).flatten(1)
    radius = as_numbers("radius", radius)
    if radius.shape not in ((), (1,), (len(centre),)):
        raise FathomError(
            f"expected one radius, or one for each of {len(centre)} samples, got {list(radius.shape)}; for one for each input "
            "see LinfBall.per_input"
        )
    check_radius(radius)
    radius = radius.expand(len(centre))
    if clip is None:
        hull = reach(centre, radius)
        return centre, radius, hull.lower, hull.upper
    lower, upper = (as_numbers("clip", end).expand_as(centre) for end in clip)
    outside = ((centre < lower) | (centre > upper)).nonzero()
    if len(outside):
        i, j = outside[0].tolist()
        raise FathomError(
            f"expected centres inside the clipping range, got {centre[i, j].item()!r} at sample {i}, input {j}, outside "
            f"[{lower[i, j].item():g}, {upper[i, j].item():g}]; check how the data are scaled"
        )
    return centre, radius, lower, upper


def reach(centre: Tensor, radius: Tensor) -> Box:
    """The smallest float64 boxes [n, d] that hold centre [n, d] -+ radius [n]."""
    low, high = difference(centre, radius[:, None]), difference(centre, -radius[:, None])
    return Box(low[0], high[1])


def core(centre: Tensor, radius: Tensor) -> Box:
    """The largest float64 boxes [n, d] that centre [n, d] -+ radius [n] holds; it holds the same float64 points."""
    low, high = difference(centre, radius[:, None]), difference(centre, -radius[:, None])
    return Box(low[1], high[0])


def difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The float64 numbers next to the real a - b below and above; both a - b itself where that is a float64.

    The rounding error of a difference is itself a float64 (Knuth, The Art of Computer Programming 2, 4.2.2, theorem B).
    """
    near = a - b
    part = a - near
    error = (a - (near + part)) + (part - b)
    infinity = torch.full_like(near, torch.inf)
    below = torch.where(error < 0, torch.nextafter(near, -infinity), near)
    return below, torch.where(error > 0, torch.nextafter(near, infinity), near)


def rounded_towards(centre: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """x [n, ..., d] in `dtype`, each element rounded towards its set's centre [n, d].

    Where the centre is of the dtype too, no element moves away from it.
    """
    if dtype == torch.float64:
        return x
    near, middle = x.to(dtype), per_set(centre, x)
    infinity = torch.full_like(near, torch.inf)
    near = torch.where((x >= middle) & (near.to(torch.float64) > x), torch.nextafter(near, -infinity), near)
    return torch.where((x <= middle) & (near.to(torch.float64) < x), torch.nextafter(near, infinity), near)


def split_bound(a: Tensor, part: Tensor, norm: Tensor, centre: Tensor, radius: Tensor, box: Box) -> Tensor:
    """Rigorous lower bounds [n, k] on the minimum of a x over ball and box, for rows a [n, k, d] and *any* `part` [n, k, d] of a.

    min a x >= min over the box of (a - part) x + min over the ball of part x, and the second is part centre - radius norm.
    This is weak duality: the best part makes it an equality.

    Args:
        norm: [n, k], at least the dual norm of `part`.
    """
    rest = a - part
    vertex = torch.where(rest > 0, box.lower[:, None], box.upper[:, None])
    lost = up((rest.abs() * box.magnitude[:, None]).sum(-1) * (2 * torch.finfo(a.dtype).eps))  # rest was rounded
    in_box = down(dot_down(rest, vertex) - lost)
    in_ball = down(dot_down(part, centre[:, None]) - up(radius[:, None] * norm))
    return down(in_box + in_ball)


def euclidean(z: Tensor) -> Tensor:
    """At least the Euclidean norms [...] of z [..., d]; scaled, so that squares neither overflow nor vanish."""
    largest = z.abs().amax(-1)
    squares = (z / largest.clamp(min=TINY)[..., None]).square().sum(-1)
    return largest * squares.sqrt() * (1 + gamma(z.shape[-1] + 10, z.dtype))


def with_gradient(value: Tensor, a: Tensor, minimiser: Tensor) -> Tensor:
    """The same values [n, k] with the gradient of a minimum of a x with respect to a: the minimiser (Danskin 1966)."""
    return value.detach() + ((a - a.detach()) * minimiser.detach()).sum(-1) if a.requires_grad else value


def root(
    measure: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, good: Tensor, bad: Tensor, tolerance: Tensor
) -> Tensor:
    """Numbers t, elementwise, where a monotone excess is 0 up to `tolerance`, or just below; found to full precision.

    Args:
        measure: t to its excess (<= 0 at `good`, > 0 at `bad`) and a guess of the root, taken where it lies between the ends.
    """
    t = start
    for _ in range(100):
        excess, guess = measure(t)
        met = excess.abs() <= tolerance
        good = torch.where((excess <= 0) | met, t, good)
        bad = torch.where(excess > 0, t, bad)
        between = (guess - good) * (guess - bad) < 0
        following = torch.where(between, guess, good + (bad - good) / 2)
        done = met | ((excess <= 0) & (guess == t))
        if bool((done | (following == good) | (following == bad)).all()):
            break
        t = torch.where(done, t, following)
    return good


def describe(norm: str, radius: Tensor, lower: Tensor, upper: Tensor, hull: Box) -> str:
    """A ball in words: "Linf 0.06 in [0, 1]"."""
    words = norm + " " + _span(radius, " to ")
    binding = (lower > hull.lower) | (upper < hull.upper)
    if not bool(binding.any()):
        return words
    if bool((lower == lower[0, 0]).all()) and bool((upper == upper[0, 0]).all()):
        return f"{words} in [{lower[0, 0].item():g}, {upper[0, 0].item():g}]"
    return f"{words} in a box"


def _span(numbers: Tensor, between: str) -> str:
    if not len(numbers):
        return "of no sample"
    least, most = numbers.min().item(), numbers.max().item()
    return f"{least:g}" if least == most else f"{least:g}{between}{most:g}"
