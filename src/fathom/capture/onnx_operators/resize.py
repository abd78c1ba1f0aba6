"""Enlargement by nearest neighbours: every element is copied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fathom.capture.onnx_table import Array, Call, Value, imports

COORDINATES: dict[str, Callable[[Array, float], Array]] = {
    "asymmetric": lambda i, factor: i / factor,
    "half_pixel": lambda i, factor: (i + 0.5) / factor - 0.5,
    "pytorch_half_pixel": lambda i, factor: (i + 0.5) / factor - 0.5,
}
ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


@imports("Upsample", "Resize")
def resize(call: Call) -> Value:
    """Element i of an enlarged axis is the one nearest to i in the original's coordinates; whole factors only."""
    x = call.value()
    old = call.node.op_type == "Upsample" or call.opset < 11
    mode = call.attribute("mode", "nearest")
    coordinates = call.attribute("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounding = call.attribute("nearest_mode", "floor" if old else "round_prefer_floor")
    if mode != "nearest" or coordinates not in COORDINATES or rounding not in ROUNDINGS:
        raise call.refuse(
            f"expected the mode nearest, with coordinates {', '.join(COORDINATES)}, got {mode} with {coordinates}; only such an "
            "enlargement is supported"
        )
    places = call.places(x)
    factors = _factors(call, x, old=old)
    for axis, factor in enumerate(factors):
        if factor != int(factor) or factor < 1:
            raise call.refuse(f"expected whole factors of at least 1, got {factors}; only such an enlargement is supported")
        if factor > 1:
            i = np.arange(x.shape[axis] * int(factor))
            nearest = ROUNDINGS[rounding](COORDINATES[coordinates](i, factor))
            places = places.take(nearest.clip(0, x.shape[axis] - 1).astype(np.int64), axis)
    return call.move(x, places, [axis for axis, factor in enumerate(factors) if factor != 1])


def _factors(call: Call, x: Value, *, old: bool) -> list[float]:
    """How much each axis grows: the scales, or the quotients of the sizes."""
    if call.attribute("axes") is not None:
        raise call.refuse("expected the scales of all axes, got the attribute axes; leave it out")
    given: Array | list[float] | None = call.attribute("scales")
    if given is None:
        given = call.constant(1 if old else 2)
    if given is not None and len(given):
        return [float(factor) for factor in given]
    return [float(size) / have for size, have in zip(call.required(3), x.shape, strict=True)]
