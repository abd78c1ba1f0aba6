"""What a model would say if its samples came otherwise: the usual mistakes of preprocessing, tried the other way round."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.core.program import Program

FEW = 128
"""Samples that a question is asked about."""

GAIN = 0.2
"""By so much must a change lift the accuracy to count as the way that the data should have come."""

_NORMALISATIONS = {
    "(x - 0.1307) / 0.3081": ([0.1307], [0.3081]),  # the usual constants of MNIST
    "(x - 0.5) / 0.5": ([0.5], [0.5]),
    "ImageNet's mean and deviation": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "CIFAR-10's mean and deviation": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
}


class Bench:
    """A model, with samples x [n, d] of one shape and, if there are any, labels y [n]."""

    def __init__(self, program: Program, shape: tuple[int, ...], x: Tensor, y: Tensor | None) -> None:
        self.program, self.shape, self.x, self.y = program, shape, x, y
        self.model_shapes = tuple(port.shape for port in program.inputs)
        self.size = sum(port.size for port in program.inputs)
        self.classes = sum(port.size for port in program.outputs)
        self.fits = x.shape[1] == self.size
        self.scores = self.run(x) if self.fits else x[:, :0]  # [n, m]

    def run(self, x: Tensor) -> Tensor:
        """Outputs [k, m] float64 at samples x [k, d]."""
        parts = (x[start : start + 256] for start in range(0, len(x), 256))
        return torch.cat([self.program(part.to(self.program.dtype)).detach().to(torch.float64) for part in parts])

    @property
    def data_axes(self) -> tuple[int, ...]:
        """The samples' shape, without axes of one."""
        return tuple(k for k in self.shape if k != 1)

    @property
    def model_axes(self) -> tuple[int, ...]:
        """The shape that the model takes, without axes of one; () for several inputs."""
        return tuple(k for k in self.model_shapes[0] if k != 1) if len(self.model_shapes) == 1 else ()


def right(scores: Tensor, y: Tensor) -> Tensor:
    """[n] whether scores [n, m] read samples as labelled y [n]."""
    return (scores.argmax(1) == y) & torch.isfinite(scores).all(1)


def share(hits: Tensor) -> float:
    """How many are True."""
    return float(hits.to(torch.float64).mean())


def spread(n: int, most: int) -> Tensor:
    """At most `most` indices below n, evenly spread: files are often sorted by class."""
    return torch.arange(min(n, most)) * n // min(n, most)


@dataclass(frozen=True)
class Change:
    """A way in which samples and labels should perhaps have come."""

    words: str  # "accuracy is 97 % ..."
    todo: str
    x: Callable[[Tensor], Tensor] = lambda x: x
    y: Callable[[Tensor], Tensor] = lambda y: y


def best_change(bench: Bench) -> tuple[float, float, Change] | None:
    """The change that lifts the accuracy most, with that before and after; None where none does by far.

    By far: by GAIN, to more than guessing has, and by more than two deviations of McNemar's test, so that few samples do not
    accuse by chance.
    """
    if bench.y is None:
        return None
    few = spread(len(bench.x), FEW)
    x, y, given = bench.x[few].to(torch.float64), bench.y[few], right(bench.scores, bench.y)[few]
    before, best = share(given), None
    if before > 1 - GAIN:
        return None
    for change in (*_label_changes(bench.y, bench.classes), *_layout_changes(bench), *_scale_changes(bench)):
        scores = bench.run(change.x(x))
        if bool((scores.argmax(1) == scores[0].argmax()).all()):
            continue  # who gives one answer to all may be right often, and has understood nothing
        then = right(scores, change.y(y))
        after, gained, lost = share(then), int((then & ~given).sum()), int((given & ~then).sum())
        by_far = after > 1 / bench.classes and after - before >= GAIN and gained - lost > 2 * math.sqrt(gained + lost)
        if by_far and (best is None or after > best[1] + 0.02):
            best = (before, after, change)
    return best


def _label_changes(y: Tensor, classes: int) -> Iterator[Change]:
    """Labels y counted otherwise, where that leaves all of them classes of the model."""
    if y.min() >= 1:
        yield Change("with every label one less: they seem to count from 1", "save y - 1", y=lambda y: y - 1)
    if y.max() < classes - 1:
        words = "with every label one more: the model seems to have a class before the first"
        yield Change(words, "save y + 1", y=lambda y: y + 1)


def _layout_changes(bench: Bench) -> Iterator[Change]:
    """The samples' values in every other order of two or three axes that ends in the shape that the model takes."""
    mine, theirs = bench.data_axes, bench.model_axes
    for count in (2, 3):
        for order in sorted(itertools.permutations(range(count)), key=lambda order: order not in ((2, 0, 1), (1, 2, 0))):
            shapes = {mine} if len(mine) == count and (len(theirs) < 2 or _ordered(mine, order) == theirs) else set()
            if len(theirs) == count:
                shapes.add(_ordered(theirs, tuple(order.index(i) for i in range(count))))
            for shape in shapes:
                if order != tuple(range(count)):
                    yield _layout_change(bench, shape, order)


def _ordered(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[i] for i in order)


def _layout_change(bench: Bench, shape: tuple[int, ...], order: tuple[int, ...]) -> Change:
    names = {"201": "channels last turned into channels first (NHWC to NCHW)", "120": "channels first turned into channels last"}
    name = names.get("".join(map(str, order)), f"axes in the order {order}")
    axes = ", ".join(str(i + 1) for i in order)
    return Change(
        f"with {name}: samples are {show_shape(bench.shape)}, and the model takes {show_shape(bench.model_shapes[0])}",
        f"save x.reshape(-1, {', '.join(map(str, shape))}).transpose(0, {axes})",
        x=lambda x: x.reshape(-1, *shape).permute(0, *(i + 1 for i in order)).flatten(1),
    )


def _scale_changes(bench: Bench) -> Iterator[Change]:
    least, most = float(bench.x.min()), float(bench.x.max())
    unit = "give radius and range in that unit"
    small, large = "the model seems to take values in [0, 1]", "the model seems to take values in 0 .. 255"
    yield Change(f"after x / 255: {small}, and they reach {most:.6g}", f"save x / 255, and {unit}", x=lambda x: x / 255)
    yield Change(f"after x * 255: {large}, and they reach {most:.6g}", f"save x * 255, and {unit}", x=lambda x: x * 255)
    if least < 0:
        yield Change(f"after (x + 1) / 2: {small}", f"save (x + 1) / 2, and {unit}", x=lambda x: (x + 1) / 2)
    scale = 255.0 if least >= 0 and most > 1.5 else 1.0
    values = bench.x.to(torch.float64)
    own = ([float(values.mean()) / scale], [max(float(values.std(unbiased=False)), 1e-9) / scale])
    for name, (means, deviations) in {**_NORMALISATIONS, "mean 0 and deviation 1": own}.items():
        if len(means) == 1 or _channels(bench) == len(means):
            yield Change(
                f"after normalising{' x / 255' if scale > 1 else ''} by {name}: the model seems to leave that to its user",
                "make it the model's first layer, so that radius and range stay in the unit of the data",
                x=_normalised(bench, means, deviations, scale),
            )


def _channels(bench: Bench) -> int:
    shape = bench.model_shapes[0]
    return shape[-3] if len(bench.model_shapes) == 1 and len(shape) > 2 else 1


def _normalised(bench: Bench, means: list[float], deviations: list[float], scale: float) -> Callable[[Tensor], Tensor]:
    each = bench.size // len(means)
    mean, deviation = (torch.tensor(part, dtype=torch.float64).repeat_interleave(each) for part in (means, deviations))
    return lambda x: (x / scale - mean) / deviation


def show_shape(shape: tuple[int, ...]) -> str:
    """3 x 32 x 32."""
    return " x ".join(map(str, shape)) or "1"
