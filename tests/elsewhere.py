"""A device that is pretended, so that what would fail on a GPU fails on a machine without one. Run by `test_device.py` alone.

    python -m tests.elsewhere

A tensor that is elsewhere holds one on the CPU and refuses to meet another that is not. Its device is torch's place for devices
from outside, which is set up once for the process: so this is one of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from fathom.bounds.alpha import AlphaCrown
from fathom.bounds.crown import Crown
from fathom.bounds.interval import Interval
from fathom.core.budget import Budget, Goal
from fathom.core.problem import Problem
from tests.contracts.test_bounds import MAKERS, Deployed, made, regions, rules

NAME = "elsewhere"


class Elsewhere(Tensor):
    """A tensor on the pretended device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        shape, stride, offset = held.shape, held.stride(), held.storage_offset()
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, shape, strides=stride, storage_offset=offset, dtype=held.dtype, device=torch.device(NAME, 0)
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class Pretence(TorchDispatchMode):
    """Under which the device can be used."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class FromNumbers(TorchFunctionMode):
    """Tensors of Python's numbers, which torch would make without asking the device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if function is torch.tensor:
            target = kwargs.pop("device", None)
            return function(*args, **kwargs) if target is None else function(*args, **kwargs).to(target)
        return function(*args, **kwargs)


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The same on the CPU.

    Raises:
        RuntimeError: tensors of two devices meet, other than a number, or an index on the CPU, which torch allows.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    indexing = "index" in str(function) and isinstance(args[0], Elsewhere)
    copying = str(function).startswith(("aten._to_copy", "aten.copy_"))
    if far and not indexing and not copying and any(tensor.ndim and not isinstance(tensor, Elsewhere) for tensor in tensors):
        raise RuntimeError(f"tensors on two devices met in {function}")
    target = kwargs.get("device")
    there = far if target is None else torch.device(target).type == NAME
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, Elsewhere) else leaf, (args, kwargs))
    result = function(*args, **kwargs)
    return tree_map(lambda leaf: Elsewhere(leaf) if there and isinstance(leaf, Tensor) else leaf, result)


def main() -> None:
    """Bounds of every network of the contract, here and there, have to be the same, to the bit; and devices must not mix."""
    _setup_privateuseone_for_python_backend(NAME)
    few = torch.arange(2)
    for k, maker in enumerate(MAKERS):
        network = made(maker)
        kinds = regions(1, d=network.input_size)
        region = kinds[k % len(kinds)].take(few)
        problem = Problem.make(Deployed(network), network, region, rules(2, len(few), network.output_size))
        for bound in (Interval(), Crown(), AlphaCrown(steps=2), AlphaCrown(steps=1, inner_steps=1)):
            here = bound.solve(problem, Budget(goal=Goal.VALUE))
            with Pretence(), FromNumbers():
                there = replace(bound, device=NAME).solve(problem, Budget(goal=Goal.VALUE))
            assert torch.equal(here.lower, there.lower), (maker.__name__, region, bound, here.lower, there.lower)
        print("the same:", maker.__name__, type(region).__name__, flush=True)
    try:
        with Pretence():
            torch.zeros(3, device=NAME) + torch.ones(3)
    except RuntimeError as refusal:
        print("refused:", refusal)


if __name__ == "__main__":
    main()
