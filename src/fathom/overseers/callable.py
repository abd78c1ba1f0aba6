"""A judge in Python: any function of input and output. Attackable, and not provable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import final

from torch import Tensor

from fathom.core.errors import FathomError, NotCompilable
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.overseers.tally import UNASKED, Tally


@final
@dataclass(frozen=True, eq=False)
class PythonOverseer(Overseer):
    """margin = function(x [n, d], y [n, m], *data), a tensor [n]; in torch operations, so that attacks can follow its gradient.

    `name` stands for the function wherever problems are told apart. By default it is the function's path and a digest of
    its code, which changes with the version of Python and does not see what the code refers to: give a name to be sure, and
    another when the meaning changes. Where it returns NaN, it has not judged; that is counted, and an audit's limits say so.

    Raises:
        FathomError: no name, and a function without code of its own (a functools.partial, say).
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    function: Callable[..., Tensor] = field(metadata={"fingerprint": False})
    data: tuple[Tensor, ...] = ()  # what the function needs to know of each set: tensors [n, ...]
    name: str = ""
    tally: Tally = field(default_factory=Tally, metadata=UNASKED)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", _name(self.function))

    def __str__(self) -> str:
        return self.name

    @property
    def compilable(self) -> bool:
        return False

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """What the function says.

        Raises:
            FathomError: it raised an error, or returned no tensor [n] of floats.
        """
        try:
            margin = self.function(x, y, *self.data)
        except Exception as error:
            raise FathomError(
                f"{self.name} raised {type(error).__name__}: {error}; it was given x {_shape(x)}, y {_shape(y)}"
            ) from error
        if not isinstance(margin, Tensor) or margin.shape != (len(x),) or not margin.is_floating_point():
            got = _shape(margin) if isinstance(margin, Tensor) else repr(margin)
            raise FathomError(
                f"expected {self.name} to return one margin, a float that is > 0 where all is well, for each of {len(x)} inputs, "
                f"got {got}"
            )
        return self.tally.counted(margin)

    def compile(self, network: Network) -> Compiled:
        raise NotCompilable(f"{self.name} is a Python function, which has no rows to prove; write it as linear rules to prove it")

    def judgement(self, index: int, y: Tensor) -> str:
        return f"judged by {self.name}"

    def troubles(self) -> tuple[str, ...]:
        return self.tally.troubles(self.name, "returned NaN")


def _shape(tensor: Tensor) -> str:
    return f"a tensor {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _name(function: Callable[..., Tensor]) -> str:
    code = getattr(function, "__code__", None)
    if code is None:
        raise FathomError(f"expected a name for {function!r}, which has no code of its own; pass name=... to PythonOverseer")
    digest = hashlib.sha256(_text(code).encode()).hexdigest()
    return f"{function.__module__}:{function.__qualname__} {digest[:12]}"


def _text(constant: object) -> str:
    """A function's code, or a constant in it, as text that is the same in every run: no addresses, no order of hashing."""
    if isinstance(constant, CodeType):
        return f"{constant.co_code!r} {constant.co_names} {[_text(c) for c in constant.co_consts]}"
    return repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)
