"""Patches: a rectangle anywhere in an image is free within its range, and the rest of the image stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from fathom.core.checks import check_whole
from fathom.core.errors import FathomError
from fathom.core.rounding import gamma, up
from fathom.regions.balls import End
from fathom.regions.changes import Changes, change_parts


@final
@dataclass(frozen=True, eq=False)
class Patch(Changes):
    """All that changes lies in one rectangle of `size`, wherever it is placed inside the image. `around` makes it from samples.

    The oracle sums what pixels save over every window of the image, and takes the best. (Brown et al., Adversarial patch, 2017;
    Chiang et al., Certified defenses for adversarial patches, ICLR 2020, prove place by place, as `parts` does here.)
    """

    shape: tuple[int, int, int]  # channels, height, width of the image that the inputs are, row-major
    window: tuple[int, int]  # height and width of the patch

    def __post_init__(self) -> None:
        Changes.__post_init__(self)
        channels, height, width = self.shape
        if channels * height * width != self.lower.shape[1]:
            raise FathomError(f"expected an image of {self.lower.shape[1]} numbers, got shape {list(self.shape)}")
        if not (1 <= self.window[0] <= height and 1 <= self.window[1] <= width):
            raise FathomError(f"expected a patch that fits into {height} x {width} pixels, got {list(self.window)}")

    @classmethod
    def around(
        cls,
        centre: Tensor,
        window: int | tuple[int, int],
        clip: tuple[End, End] | None = None,
        *,
        radius: float | Tensor | None = None,
    ) -> Patch:
        """Patches on images [n, channels, height, width] or [n, height, width].

        Args:
            window: height and width of the patch; one number for a square.
            clip: the range of a pixel.
            radius: how far a pixel may change, without or beside a range.

        Raises:
            FathomError: no images, no range and no radius, an image outside the range, or a patch that does not fit.
        """
        if not isinstance(centre, Tensor) or centre.ndim not in (3, 4):
            got = list(centre.shape) if isinstance(centre, Tensor) else type(centre).__name__
            raise FathomError(f"expected images [n, channels, height, width] or [n, height, width], got {got}")
        height, width = centre.shape[-2:]
        given = window if isinstance(window, list | tuple) and len(window) == 2 else (window, window)
        size = check_whole("window", given[0]), check_whole("window", given[1])
        shape = (centre.shape[1] if centre.ndim == 4 else 1, height, width)
        return cls(*change_parts(centre, radius, clip), shape, size)

    def __str__(self) -> str:
        return f"a patch of {self.window[0]} x {self.window[1]} pixels anywhere"

    def _sums(self, value: Tensor) -> Tensor:
        """[n, k, places] the sums of values [n, k, d] over every window, with the rounding of any order of summation."""
        image = value.reshape(-1, *self.shape).sum(1, keepdim=True)
        sums = avg_pool2d(image, self.window, stride=1, divisor_override=1)
        return sums.reshape(*value.shape[:2], self._places)

    @property
    def _places(self) -> int:
        return (self.shape[1] - self.window[0] + 1) * (self.shape[2] - self.window[1] + 1)

    def _covers(self, changed: Tensor) -> Tensor:
        """[n, places] whether a window has all inputs of `changed` [n, d]; exact: sums of ones."""
        ones = changed[:, None].to(torch.float64)
        return (self._sums(ones) == ones.sum(2, keepdim=True))[:, 0]

    def _allowed(self) -> Tensor:
        """[n, places] where a patch may be; anywhere, if it may be nowhere."""
        here = self._covers(self.forced)
        return here | ~here.any(1, keepdim=True)

    def _inputs(self, place: Tensor) -> Tensor:
        """The inputs [..., d] of the windows at places [...]."""
        columns = self.shape[2] - self.window[1] + 1
        top, left = (place // columns)[..., None, None], (place % columns)[..., None, None]
        row, column = torch.arange(self.shape[1])[:, None], torch.arange(self.shape[2])
        held = (row >= top) & (row < top + self.window[0]) & (column >= left) & (column < left + self.window[1])
        return held.unsqueeze(-3).expand(*place.shape, *self.shape).flatten(-3)

    def _most(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.where(self._allowed()[:, None], self._sums(gain), -1.0)
        best, place = sums.max(2)
        terms = self.shape[0] * self.window[0] * self.window[1]
        return up(best * (1 + gamma(terms + 4, gain.dtype))), self._inputs(place)

    def _admits(self, changed: Tensor) -> Tensor:
        return self._covers(changed).any(1)

    def _reachable(self) -> Tensor:
        down, right = self.shape[1] - self.window[0] + 1, self.shape[2] - self.window[1] + 1
        here = self._allowed().reshape(-1, 1, down, right).to(torch.float64)
        rim = (self.window[1] - 1, self.window[1] - 1, self.window[0] - 1, self.window[0] - 1)
        covered = max_pool2d(pad(here, rim), self.window, stride=1) > 0
        return covered.expand(-1, *self.shape).flatten(1)

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        key = torch.rand(len(self.lower), count, self._places, generator=generator)
        return self._inputs(torch.where(self._allowed()[:, None], key, -1.0).argmax(2))

    def _choices(self, most: int) -> tuple[Tensor, Tensor] | None:
        if self._places > most:
            return None
        owner, place = self._covers(self.forced).nonzero().T
        return self._inputs(place), owner
