"""Satisfying assignments, as the competition and as the VNN-LIB standard write them.

Every number is written as the shortest decimal that names its value among the float64s. A float32 is a float64
too, so a reader of either type gets the very input that was confirmed; the shorter decimal that is enough for float32
would name another number to one that computes in float64, and it might lie outside the box.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.network import Port


class Style(enum.Enum):
    """How an assignment is written."""

    COMPETITION = "competition"  # ((X_0 0.5)\\n(X_1 ...)\\n(Y_0 ...)), as the VNN-COMP competitions up to 2025 read it
    STANDARD = "standard"  # VNN-LIB 2.0: a line "X float32 [1,5]", then its elements in row-major order, a line each


def assignment(
    x: Tensor, y: Tensor, style: Style, inputs: Sequence[Port] | None = None, outputs: Sequence[Port] | None = None
) -> str:
    """One input and the output that the deployed program gave, as the text that follows `sat`, without a last line break.

    Args:
        x: [d] in the program's own type; y: [m].
        inputs, outputs: for the standard form, the variables' names, types and shapes, each a slice of x or y; by default one
            X [d] and one Y [m] of the type of x, as VNN-LIB 1 has them. The competition's form numbers the flat vectors.

    Raises:
        FathomError: an element is not finite, or the ports are not slices of x and y.
    """
    if style is Style.COMPETITION:
        names = [*(f"X_{i}" for i in range(len(x))), *(f"Y_{j}" for j in range(len(y)))]
        numbers = [*_numbers("X", x), *_numbers("Y", y)]
        return "(" + "\n".join(f"({name} {number})" for name, number in zip(names, numbers, strict=True)) + ")"
    lines = []
    for port, values in _variables(x, y, inputs, outputs):
        lines.append(f"{port.name} {port.dtype} [{','.join(map(str, port.shape))}]")
        lines.extend(_numbers(port.name, values))
    return "\n".join(lines)


def serialise(
    folder: str | Path, x: Tensor, y: Tensor, inputs: Sequence[Port] | None = None, outputs: Sequence[Port] | None = None
) -> list[Path]:
    """Write the standard's serialised form: one ONNX TensorProto a variable, `<name>.pb`; arguments as for `assignment`.

    Returns:
        The files, in the order of the variables. The folder is made where there is none.

    Raises:
        FathomError: an element is not finite, a port is no slice of x or y, a name is no file name, or the folder cannot be
            written.
    """
    folder, written = Path(folder), []
    for port, values in _variables(x, y, inputs, outputs):
        _numbers(port.name, values)
        if Path(port.name).name != port.name:
            raise FathomError(f"expected a variable whose name can name a file, got {port.name!r}; rename it in the property")
        array = values.detach().cpu().numpy().astype(np.dtype(port.dtype)).reshape(port.shape)
        path = folder / f"{port.name}.pb"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(onnx.numpy_helper.from_array(array, port.name).SerializeToString())
        except OSError as reason:
            raise FathomError(f"expected a folder that takes assignments, could not write {path}: {reason.strerror}") from reason
        written.append(path)
    return written


def _variables(x: Tensor, y: Tensor, inputs: Sequence[Port] | None, outputs: Sequence[Port] | None) -> list[tuple[Port, Tensor]]:
    """Every variable with its elements, [size]."""
    if inputs is None:
        inputs = [Port("X", (len(x),), 0, _type_name(x))]
    if outputs is None:
        outputs = [Port("Y", (len(y),), 0, _type_name(x))]
    found: list[tuple[Port, Tensor]] = []
    for word, ports, flat in (("inputs", inputs, x), ("outputs", outputs, y)):
        if sum(port.size for port in ports) != len(flat) or any(port.stop > len(flat) for port in ports):
            sizes = ", ".join(f"{port.name} {list(port.shape)}" for port in ports)
            raise FathomError(f"expected {word} of {len(flat)} elements in all, got {sizes}")
        found.extend((port, flat[port.start : port.stop]) for port in ports)
    return found


def _type_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _numbers(name: str, values: Tensor) -> list[str]:
    """The elements [k] of a variable, each as text that names its value exactly."""
    if not values.dtype.is_floating_point:
        return [str(value) for value in values.tolist()]
    numbers = values.detach().to(torch.float64).tolist()
    for i, number in enumerate(numbers):
        if not math.isfinite(number):
            raise FathomError(f"expected an assignment of finite numbers, got {number} for element {i} of {name}")
    return [_text(number) for number in numbers]


def _text(number: float) -> str:
    """As `repr`, in the one form of exponent that the grammar of VNN-LIB has: 1.0e-05 for 1e-05."""
    mantissa, e, exponent = repr(number).partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent.removeprefix('+')}"
