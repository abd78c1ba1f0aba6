"""Other models that overseers ask: captured ones, programs, functions; and several of them as one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fathom.core.arithmetic import Arithmetic
from fathom.core.errors import FathomError, NotCompilable
from fathom.core.network import Network
from fathom.core.program import Program


@runtime_checkable
class HasNetwork(Protocol):
    """What reading an ONNX file, or capturing a module, gives: `fathom.read_onnx`, `fathom.capture_module`."""

    @property
    def program(self) -> Program: ...

    @property
    def network(self) -> Network: ...


Source = HasNetwork | Program | Callable[[Tensor], Tensor]


class Model:
    """A model that an overseer asks, shared by all its sets: what is deployed and, where it was captured, its network.

    No dataclass, so that its weights are not taken apart with the judges of single sets; `digest` stands for it.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], network: Network | None, digest: str, why: str = "") -> None:
        """`why` there is no network, in a sentence."""
        self.run, self.network, self.digest, self.why = run, network, digest, why

    @staticmethod
    def of(source: Source | Model, name: str = "") -> Model:
        """A model from what a user has.

        Args:
            source: captured, a program, or a function of x [n, d] that returns [n, m].
            name: what a function is known by wherever problems are told apart; another, when its meaning changes.

        Raises:
            FathomError: it is none of these, or a function without a name.
        """
        if isinstance(source, Model):
            return source
        if isinstance(source, HasNetwork):
            return Model(_deployed(source.program), source.network, source.program.digest)
        if isinstance(source, Program):
            return Model(_deployed(source), None, source.digest, "the model was not captured as a network")
        if callable(source) and not isinstance(source, type | torch.nn.Module):
            if not name:
                raise FathomError("expected a name for a function, by which problems are told apart, got none; pass name=...")
            return Model(source, None, hashlib.sha256(name.encode()).hexdigest(), f"{name} is a Python function")
        raise FathomError(
            f"expected a captured model, a program or a function, got {type(source).__name__}; read it by fathom.read_onnx, or "
            "capture it by fathom.capture_module"
        )

    def __call__(self, x: Tensor) -> Tensor:
        """[n, d] -> [n, m] float64, as deployed.

        Raises:
            FathomError: a function raised an error, or gave no such tensor.
        """
        if isinstance(self.run, _Deployed):
            return self.run(x)
        try:
            y = self.run(x)
        except Exception as error:
            raise FathomError(
                f"{self.why} that raised {type(error).__name__}: {error}; it was given x {list(x.shape)}"
            ) from error
        if not isinstance(y, Tensor) or y.ndim != 2 or len(y) != len(x):
            got = f"a tensor {list(y.shape)}" if isinstance(y, Tensor) else repr(y)
            raise FathomError(f"{self.why} that was expected to return a tensor [{len(x)}, m], got {got}")
        return y.to(torch.float64)

    def require_network(self, beside: Network) -> Network:
        """The network, to be joined with the one under judgement.

        Raises:
            NotCompilable: there is none, or proofs are to be about a float32 program.
        """
        if self.network is None:
            raise NotCompilable(f"{self.why}, and so has no rows to prove; capture it to prove with it")
        if Arithmetic.FLOAT32 in (beside.arithmetic, self.network.arithmetic):
            raise NotCompilable("networks are joined for real arithmetic alone, and float32 was asked for; ask for real")
        return self.network


class _Deployed:
    """A program, on inputs of any dtype."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __call__(self, x: Tensor) -> Tensor:
        size = sum(port.size for port in self.program.inputs)
        if x.shape[1] != size:
            raise FathomError(f"expected the overseer's model to take {x.shape[1]} numbers, got one that takes {size}")
        return self.program(x.detach().to(self.program.dtype)).to(torch.float64)


def _deployed(program: Program) -> _Deployed:
    return _Deployed(program)


def with_digest(models: Sequence[Model]) -> str:
    """What stands for some models, in this order, wherever problems are told apart."""
    return hashlib.sha256(" ".join(model.digest for model in models).encode()).hexdigest()
