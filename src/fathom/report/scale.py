"""An axis whose places are per cent of the width: a picture fills a phone and a desk alike, and its text keeps its size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.report.markup import Content, Markup, tag
from fathom.report.words import typeset

LARGEST = 1e300  # so that no difference of two ends overflows


@dataclass(frozen=True)
class Scale:
    """The numbers from `left` to `right`, left < right, laid over the middle of the width."""

    left: float
    right: float
    margin: float = 0.0  # per cent kept free at either side

    @staticmethod
    def around(lower: Tensor, upper: Tensor) -> Scale:
        """Holds 0, the least upper and the greatest lower end; of the ends beyond those, the widest tenth runs off."""
        lower, upper = (ends[torch.isfinite(ends)].clamp(-LARGEST, LARGEST) for ends in (lower, upper))
        left, right = [0.0], [0.0]
        if len(upper):
            left.append(upper.min().item())
            right.append(upper.quantile(0.9).item())
        if len(lower):
            left.append(lower.quantile(0.1).item())
            right.append(lower.max().item())
        low, high = min(left), max(right)
        room = (high - low) * 0.04 or 1.0
        return Scale(low - room, high + room)

    def share(self, value: float) -> float:
        """Where `value` stands, in per cent of the width; what lies beyond the ends stands at the edge of the picture."""
        if value < self.left:
            return 0.0
        if value > self.right:
            return 100.0
        return self.margin + (100 - 2 * self.margin) * (value - self.left) / (self.right - self.left)

    def at(self, value: float) -> str:
        """The same as text: "12.34%"."""
        return f"{self.share(value):.2f}%".replace(".00%", "%")

    def ticks(self, about: int) -> list[float]:
        """Round numbers inside, steps of 1, 2 or 5 times a power of ten, roughly `about` of them."""
        rough = (self.right - self.left) / max(about, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = min((1, 2, 5, 10), key=lambda size: abs(math.log(size * power / rough))) * power
        first, last = math.ceil(self.left / step), math.floor(self.right / step)
        return [count * step for count in range(first, last + 1)]


def line(x1: str, x2: str, y1: float, y2: float, class_: str | None = None) -> Markup:
    return tag("line", x1=x1, x2=x2, y1=number(y1), y2=number(y2), class_=class_)


def text(x: str, y: float, *words: Content, anchor: str = "middle", class_: str | None = None) -> Markup:
    return tag("text", *words, x=x, y=number(y), text_anchor=anchor, class_=class_)


def beside(x: str, y: float, offset: float, *words: Content, class_: str | None = None) -> Markup:
    """Text some pixels to the right (offset > 0) or left of a place given in per cent."""
    anchor = "start" if offset > 0 else "end"
    return tag(
        "svg", tag("text", *words, x=number(offset), text_anchor=anchor, class_=class_), x=x, y=number(y), overflow="visible"
    )


def number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def figure(height: float, caption: str, *children: Content, label: str) -> Markup:
    """A picture as wide as its column, with the sentence that says what it means."""
    drawing = tag("svg", *children, width="100%", height=number(height), role="img", aria_label=label, class_="chart")
    return tag("figure", drawing, tag("figcaption", typeset(caption)))
