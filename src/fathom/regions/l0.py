"""L0 balls: at most so many inputs change, or groups of inputs such as the channels of a pixel, each within its range."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.core.checks import as_whole_numbers
from fathom.core.errors import FathomError
from fathom.core.rounding import gamma, up
from fathom.regions.balls import End
from fathom.regions.changes import Changes, change_parts


@final
@dataclass(frozen=True, eq=False)
class L0Ball(Changes):
    """At most `count` groups of inputs change, each input within its range. `around` makes one from samples.

    The oracle changes the groups that save most: the k largest (Croce and Hein, Sparse and imperceivable adversarial attacks,
    ICCV 2019, project likewise).
    """

    count: Tensor  # [n] int64
    group: Tensor  # [n, d] int64: which group each input belongs to, numbered from 0

    def __post_init__(self) -> None:
        Changes.__post_init__(self)
        whole = self.count.dtype == torch.int64 and self.count.shape == self.lower.shape[:1]
        if not whole or bool((self.count < 0).any()):
            raise FathomError(f"expected counts >= 0 as int64 [{len(self.lower)}], got {self.count}")
        if self.group.shape != self.lower.shape or self.group.dtype != torch.int64 or bool((self.group < 0).any()):
            raise FathomError(
                f"expected `group` as int64 {list(self.lower.shape)}, from 0, got {self.group.dtype} {list(self.group.shape)}"
            )

    @classmethod
    def around(
        cls,
        centre: Tensor,
        count: int | Tensor,
        clip: tuple[End, End] | None = None,
        *,
        radius: float | Tensor | None = None,
        groups: Tensor | None = None,
    ) -> L0Ball:
        """Balls around samples [n, *shape], with one count, or one for each [n].

        Args:
            clip: the range of an input.
            radius: how far an input may change, without or beside a range.
            groups: [*shape] the group of each input, numbered from 0; without, each input is its own. See `pixels`.

        Raises:
            FathomError: no range and no radius, a sample outside the range, or parts of other shapes.
        """
        ends = change_parts(centre, radius, clip)
        n, d = ends[0].shape
        number = torch.arange(d) if groups is None else as_whole_numbers("groups", groups).flatten()
        if len(number) != d:
            raise FathomError(f"expected a group for each of {d} inputs, got {len(number)}")
        counts = as_whole_numbers("count", count)
        if counts.shape not in ((), (n,)):
            raise FathomError(f"expected one whole count, or one for each of {n} samples, got {count}")
        return cls(*ends, counts.expand(n).clone(), number.expand(n, d).clone())

    @staticmethod
    def pixels(shape: tuple[int, int, int]) -> Tensor:
        """Groups for images [channels, height, width]: the channels of a pixel change together."""
        return torch.arange(shape[1] * shape[2]).reshape(1, *shape[1:]).expand(shape)

    def __str__(self) -> str:
        least, most = (int(self.count.min()), int(self.count.max())) if len(self.count) else (0, 0)
        single = self._groups == self.lower.shape[1]
        what = ("input" if most == 1 else "inputs") if single else ("group of inputs" if most == 1 else "groups of inputs")
        return f"at most {most if least == most else f'{least} to {most}'} {what} changed"

    @property
    def _groups(self) -> int:
        return int(self.group.max()) + 1 if self.group.numel() else self.group.shape[1]

    def ties(self) -> tuple[Tensor, ...]:
        """The groups, such as the channels of a pixel, where they are of several inputs."""
        return () if self._groups == self.lower.shape[1] else (self.group,)

    def _of_groups(self, value: Tensor, how: str) -> Tensor:
        """Sums or maxima [n, k, groups] of values [n, k, d]."""
        none = value.new_zeros(*value.shape[:2], self._groups)
        return none.scatter_reduce(2, self.group[:, None].expand_as(value), value, how)

    def _members(self, chosen: Tensor) -> Tensor:
        """The inputs [n, k, d] of chosen groups [n, k, groups]."""
        return chosen.gather(2, self.group[:, None].expand(-1, chosen.shape[1], -1))

    def _free(self) -> tuple[Tensor, Tensor]:
        """[n, 1, groups] the groups that have to change, and [n, 1, 1] how many others may."""
        must = self._of_groups(self.forced[:, None].to(torch.int8), "amax") > 0
        return must, (self.count[:, None, None] - must.sum(2, keepdim=True)).clamp(min=0)

    def _first(self, key: Tensor, count: Tensor) -> Tensor:
        """The groups that have to change, and of the others those with the `count` greatest keys [n, k, groups] >= 0."""
        must, _ = self._free()
        order = torch.where(must, -1.0, key).argsort(stable=True, dim=2, descending=True)
        rank = torch.empty_like(order).scatter_(2, order, torch.arange(key.shape[2]).expand_as(order))
        return must | (rank < count)

    def _most(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        total = self._of_groups(gain, "sum")
        chosen = self._first(total, self._free()[1])
        sums = torch.where(chosen, total, 0.0).sum(2)
        return up(sums * (1 + gamma(gain.shape[2] + self._groups + 4, gain.dtype))), self._members(chosen)

    def _admits(self, changed: Tensor) -> Tensor:
        return self._of_groups(changed[:, None].to(torch.int8), "amax")[:, 0].sum(1) <= self.count

    def _reachable(self) -> Tensor:
        must, left = self._free()
        return self._members(must | (left > 0))[:, 0]

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Half of the choices as large as they may be."""
        _, left = self._free()
        key = torch.rand(len(left), count, self._groups, generator=generator)
        share = (2 * torch.rand(len(left), count, 1, generator=generator)).clamp(max=1)
        return self._members(self._first(key, (share * (left + 0.999)).to(torch.int64).minimum(left)))

    def _choices(self, most: int) -> tuple[Tensor, Tensor] | None:
        must, left = self._free()
        found, owner = [], []
        for i in range(len(left)):
            others = (~must[i, 0]).nonzero()[:, 0].tolist()
            size = min(int(left[i]), len(others))
            several = math.comb(len(others), size)
            if several > most:
                return None
            if must[i].sum() <= self.count[i]:
                picks = torch.tensor(list(itertools.combinations(others, size)), dtype=torch.int64).reshape(several, size)
                found.append(must[i].expand(len(picks), -1).scatter(1, picks, torch.ones_like(picks, dtype=torch.bool)))
                owner.append(torch.full((len(picks),), i))
        if not found:
            return self.forced[:0], torch.zeros(0, dtype=torch.int64)
        sets = torch.cat(owner)
        return torch.cat(found).gather(1, self.group[sets]), sets
