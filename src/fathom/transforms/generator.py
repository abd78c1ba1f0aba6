"""A chain of transformations as one network: from a picture and parameters to the picture that the model is given."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.network import Network
from fathom.transforms.canvas import Canvas, Shape
from fathom.transforms.transformation import Change, Move, Transformation

MOST_PIXELS = 1 << 20


def draw(chain: Sequence[Transformation], shape: Shape, ends: tuple[Tensor, Tensor] | None, *, noise: bool) -> Network:
    """The network of a chain, in float32; its flat input is picture, parameters and, with `noise`, what is added at the end.

    Args:
        chain: in the order in which they are applied. Moves that stand together are put together, and the picture is read once.
        shape: channels, height and width.
        ends: [channels, height, width] what pixel values are cut off at wherever they are computed anew; None for nothing.

    Raises:
        FathomError: there is nothing to do, or a transformation that does not suit the picture or its place in the chain.
    """
    if not chain:
        raise FathomError("expected at least one transformation, got none")
    canvas = Canvas(shape, sum(len(step.parameters) for step in chain), ends, noise=noise)
    values, start = {}, 0
    for k, step in enumerate(chain):
        count = len(step.parameters)
        values[k] = [canvas.parameter(i) for i in range(start, start + count)]
        start += count
    picture = canvas.picture
    for moves, group in groupby(range(len(chain)), lambda k: isinstance(chain[k], Move)):
        steps = list(group)
        if moves:
            place = canvas.still()
            for k in reversed(steps):  # where it is read after the last step, then where that comes from
                step = chain[k]
                assert isinstance(step, Move)
                place = step.move(canvas, values[k], place)
            picture = canvas.read(picture, place)
        else:
            for k in steps:
                step = chain[k]
                assert isinstance(step, Change)
                picture = step.change(canvas, values[k], picture)
    if noise:
        picture = canvas.clipped(canvas.plus(picture, canvas.graph.input("noise")))
    return canvas.graph.finish([("picture", picture)])
