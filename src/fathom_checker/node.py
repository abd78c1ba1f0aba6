"""One node of an ONNX graph: its attributes, each of which has to be asked for, and its constant inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from fathom_checker.numbers import Array
from fathom_checker.reading import Malformed


class Node:
    """What the readers of operators see. `constants`: arrays by the name of their tensor."""

    def __init__(self, proto: onnx.NodeProto, opset: int, constants: Mapping[str, Array]) -> None:
        self.op, self.opset, self.constants = proto.op_type, opset, constants
        self.inputs, self.outputs = list(proto.input), [name for name in proto.output if name]
        self._name = proto.name or "".join(self.outputs[:1])
        self._attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        self._asked: set[str] = set()
        if proto.domain not in ("", "ai.onnx"):
            raise self.unknown(f"the domain {proto.domain!r}")

    def __str__(self) -> str:
        return f"node {self._name!r} ({self.op})"

    def unknown(self, what: str) -> Malformed:
        return Malformed(f"{self}: {what} is not understood")

    def attribute(self, name: str, default: Any) -> Any:
        self._asked.add(name)
        value = self._attributes.get(name, default)
        return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value

    def finish(self) -> None:
        """Raises: Malformed: an attribute that nobody asked for would have been ignored."""
        for name in sorted(set(self._attributes) - self._asked):
            raise self.unknown(f"the attribute {name!r}")

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] != ""

    def is_constant(self, index: int) -> bool:
        return self.has(index) and self.inputs[index] in self.constants

    def constant(self, index: int) -> Array:
        if not self.is_constant(index):
            raise self.unknown(f"an input number {index} that is no constant")
        return self.constants[self.inputs[index]]

    def integers(self, index: int, name: str, default: Any) -> Any:
        """Whole numbers from an attribute, or in later opsets from an input; the default where there are neither."""
        values = self.attribute(name, None)
        if values is None and self.has(index):
            array = self.constant(index)
            if not np.issubdtype(array.dtype, np.integer):
                raise self.unknown(f"an input number {index} that holds no integers")
            values = array.reshape(-1).tolist()
        return default if values is None else tuple(values)
