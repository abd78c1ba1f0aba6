"""Inputs as pictures: how a flat vector is an image, and its pixels before, after and in difference."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.network import Port
from fathom.report.markup import Markup, tag
from fathom.report.png import data_uri

LONGEST = 64
"""Pixels along the longer side, at most: larger images are averaged down, and the page says so."""

# ColorBrewer's RdBu, which people with any colour vision can read: from a decrease through none to an increase.
DIVERGING = torch.tensor([[33, 102, 172], [103, 169, 207], [247, 247, 247], [239, 138, 98], [178, 24, 43]], dtype=torch.float64)


@dataclass(frozen=True)
class Layout:
    """A flat vector as an image of 1 or 3 channels."""

    channels: int
    height: int
    width: int
    last: bool  # channels come last

    @property
    def shrink(self) -> int:
        """How many pixels along a side become one."""
        return math.ceil(max(self.height, self.width) / LONGEST)

    def pixels(self, flat: Tensor) -> Tensor:
        """[d] -> [channels, h, w] float64, averaged down by `shrink`."""
        shape = (self.height, self.width, self.channels) if self.last else (self.channels, self.height, self.width)
        image = torch.nan_to_num(flat.to(torch.float64)).reshape(shape)
        image = image.permute(2, 0, 1) if self.last else image
        return torch.nn.functional.avg_pool2d(image, self.shrink, ceil_mode=True) if self.shrink > 1 else image


def layout(ports: tuple[Port, ...]) -> Layout | None:
    """How a model's input is an image, or None: a vector, several inputs, or channels that are neither grey nor colour."""
    if len(ports) != 1:
        return None
    shape = ports[0].shape
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 3:
        return None
    for channels, height, width, last in ((*shape, False), (shape[2], *shape[:2], True)):
        if channels in (1, 3) and min(height, width) >= 4:
            return Layout(channels, height, width, last)
    return None


def photograph(image: Tensor, low: float, high: float) -> Tensor:
    """[channels, h, w] -> uint8 pixels, with `low` black and `high` white."""
    level = ((image - low) / max(high - low, 1e-300)).clamp(0, 1)
    shown = (level * 255).round().to(torch.uint8)
    return shown[0] if len(shown) == 1 else shown.permute(1, 2, 0)


def difference(change: Tensor, reach: float) -> Tensor:
    """[channels, h, w] -> uint8 RGB: blue -reach, white 0, red +reach. Of several channels, the one that changed most."""
    most = change.abs().argmax(0, keepdim=True)
    place = ((change.gather(0, most)[0] / max(reach, 1e-300)).clamp(-1, 1) + 1) * 2
    return _diverging(place)


def scale_bar() -> Tensor:
    """The colours of `difference` from -reach to +reach: uint8 [1, 64, 3]."""
    return _diverging(torch.linspace(0, 4, 64, dtype=torch.float64)[None])


def _diverging(place: Tensor) -> Tensor:
    below = place.floor().clamp(0, 3).long()
    part = (place - below)[..., None]
    colour = DIVERGING[below] * (1 - part) + DIVERGING[below + 1] * part
    return colour.round().to(torch.uint8)


def image(pixels: Tensor, alt: str) -> Markup:
    """The <img> of uint8 pixels."""
    return tag("img", src=data_uri(pixels), alt=alt, width=96, height=96, class_="pixels")
