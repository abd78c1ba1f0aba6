"""Pictures with everything that a chain of transformations may make of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.errors import FathomError
from fathom.core.network import Network
from fathom.core.region import Projectable, Region
from fathom.regions.box import BoxRegion, clamp
from fathom.transforms.canvas import Shape
from fathom.transforms.generator import draw
from fathom.transforms.transformation import Transformation


@final
@dataclass(frozen=True, eq=False)
class Transformed(Projectable):
    """n pictures, each fixed, the parameters of a chain of transformations in a box, and noise of at most `radius` on top.

    It is over the inputs of the chain's generator: picture, parameters and, where there is a radius, noise. `fathom.audit` puts
    that generator in front of the model. `around` makes it.
    """

    inside: BoxRegion
    chain: tuple[Transformation, ...]
    shape: Shape
    radius: float  # of the noise; 0 for none
    ends: tuple[tuple[float, ...], tuple[float, ...]] | None  # of pixel values: one number, or one a pixel

    @staticmethod
    def around(
        images: Tensor,
        chain: Sequence[Transformation],
        *,
        clip: tuple[float | Tensor, float | Tensor] | None = None,
        radius: float = 0.0,
    ) -> Transformed:
        """Sets round images.

        Args:
            images: [n, channels, height, width] or [n, height, width], as the model takes them.
            chain: applied in this order. Those that move pixels and stand together are put together: the picture is read once.
            clip: what pixel values are cut off at where brightness, contrast or noise would carry them further; numbers, or
                tensors of as many as there are pixels.
            radius: how far every pixel may be from the transformed picture, besides.

        Raises:
            FathomError: no such images, no transformation, or one that does not suit them; a radius below 0.
        """
        shape = _shape_of(images)
        if not radius >= 0 or not bool(torch.isfinite(torch.tensor(radius))):
            raise FathomError(f"expected a radius of at least 0, got {radius!r}")
        flat = images.detach().to(torch.float64).flatten(1)
        spans = torch.tensor([p.span for step in chain for p in step.parameters], dtype=torch.float64).reshape(-1, 2)
        noise = [torch.full_like(flat, radius)] if radius else []
        lower, upper = (torch.cat([flat, end.expand(len(flat), -1)], 1) for end in spans.unbind(1))
        inside = BoxRegion(torch.cat([lower, *(-part for part in noise)], 1), torch.cat([upper, *noise], 1))
        ends = None if clip is None else (_numbers(clip[0], flat.shape[1]), _numbers(clip[1], flat.shape[1]))
        made = Transformed(inside, tuple(chain), shape, float(radius), ends)
        made.generator()  # refuses what cannot be drawn
        return made

    def shrunk(self, share: Tensor) -> Transformed:
        """The same sets with a share [n], in [0, 1], of all ranges and of the noise, from where least is changed."""
        box, far = self.inside.box(), share[:, None]
        still = clamp(self.centres(), box)
        ends = (torch.where(far < 1, still + far * (end - still), end) for end in (box.lower, box.upper))
        return replace(self, inside=BoxRegion(*ends))

    def __str__(self) -> str:
        words = ", then ".join(str(step) for step in self.chain)
        noise = f", then noise of at most {self.radius:g} a pixel" if self.radius else ""
        clip = "" if self.ends is None else f", in [{min(self.ends[0]):g}, {max(self.ends[1]):g}]"
        return words + noise + clip

    @property
    def pixels(self) -> int:
        return math.prod(self.shape)

    def generator(self) -> Network:
        """The network from what this region is over to the picture that the model is given, in float32."""
        ends = None
        if self.ends is not None:
            low, high = (torch.tensor(end, dtype=torch.float32).expand(self.pixels).reshape(self.shape) for end in self.ends)
            ends = low, high
        return draw(self.chain, self.shape, ends, noise=bool(self.radius))

    def pictures(self, x: Tensor) -> Tensor:
        """[n, d] the pictures in inputs [n, ...], before anything is done to them."""
        return x[:, : self.pixels]

    def values(self, x: Tensor) -> list[dict[str, float]]:
        """For each input of x [n, ...] its parameters by name, such as "rotation.degrees"; numbered where a kind comes twice."""
        names, seen = [], dict[str, int]()
        for step in self.chain:
            seen[step.kind] = seen.get(step.kind, 0) + 1
            kind = step.kind if seen[step.kind] == 1 else f"{step.kind} {seen[step.kind]}"
            names += [f"{kind}.{parameter.name}" for parameter in step.parameters]
        rows = x[:, self.pixels : self.pixels + len(names)].to(torch.float64).tolist()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def words(self, x: Tensor) -> list[str]:
        """For each input of x [n, ...], what was done to its picture: "rotated by 7.3 degrees, brightness changed by 0.1"."""
        found = []
        for row in x.to(torch.float64):
            start, parts = self.pixels, []
            for step in self.chain:
                count = len(step.parameters)
                parts.append(step.words(row[start : start + count].tolist()))
                start += count
            if self.radius:
                most = row[start:].abs().max().item()
                parts.append(f"noise of at most {most:.3g} a pixel" if most else "")
            found.append(", ".join(part for part in parts if part) or "unchanged")
        return found

    # What a region is asked; the box answers.

    def rounded(self, dtype: torch.dtype) -> BoxRegion:
        return self.inside.rounded(dtype)

    def hull(self, other: Region) -> BoxRegion:
        return self.inside.hull(other)

    def centres(self) -> Tensor:
        """The pictures as they are: see `unchanged`."""
        return self.unchanged(self.pictures(self.inside.lower))

    def unchanged(self, picture: Tensor) -> Tensor:
        """[n, d] inputs for pictures [n, pixels]: every parameter at the value that changes nothing, also where that is not
        allowed, and no noise."""
        still = torch.tensor([p.identity for step in self.chain for p in step.parameters], dtype=torch.float64)
        rest = [torch.zeros_like(picture)] if self.radius else []
        return torch.cat([picture, still.expand(len(picture), -1), *rest], 1)

    def empty(self) -> Tensor:
        return self.inside.empty()

    def box(self) -> Box:
        return self.inside.box()

    def contains(self, x: Tensor) -> Tensor:
        return self.inside.contains(x)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return self.inside.sample(count, generator)

    def minimise(self, a: Tensor) -> tuple[Tensor, Tensor]:
        return self.inside.minimise(a)

    def restrict(self, owner: Tensor, lower: Tensor, upper: Tensor) -> BoxRegion:
        return self.inside.restrict(owner, lower, upper)

    def project(self, x: Tensor) -> Tensor:
        return self.inside.project(x)


def _shape_of(images: Tensor) -> Shape:
    if images.ndim not in (3, 4) or not len(images):
        raise FathomError(
            f"expected images [N, channels, height, width] or [N, height, width] to transform, got {list(images.shape)}; save "
            "them in their shape"
        )
    channels = images.shape[1] if images.ndim == 4 else 1
    height, width = images.shape[-2:]
    if images.ndim == 4 and width in (1, 3, 4) and channels not in (1, 3, 4):
        raise FathomError(f"expected images with their channels first, got {list(images.shape)}; give a model that takes them so")
    return channels, height, width


def _numbers(end: float | Tensor, size: int) -> tuple[float, ...]:
    numbers = torch.as_tensor(end, dtype=torch.float64).flatten().tolist()
    if len(numbers) not in (1, size):
        raise FathomError(f"expected one end of the range, or one for each of {size} pixels, got {len(numbers)}")
    return tuple(numbers) if len(set(numbers)) > 1 else (numbers[0],)
