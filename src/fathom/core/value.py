"""Frozen dataclasses that hold tensors: mapped, indexed, fingerprinted and moved by one mechanism.

A value's class name and fields are its recipe: two values with one fingerprint mean the same thing.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")


def map_tensors(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """The same value with every tensor in its fields, however deep in dataclasses, tuples and dictionaries, replaced."""
    if isinstance(value, Tensor):
        return cast(T, change(value))
    if isinstance(value, tuple):
        return cast(T, tuple(map_tensors(item, change) for item in value))
    if isinstance(value, dict):
        return cast(T, {key: map_tensors(item, change) for key, item in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: map_tensors(getattr(value, f.name), change) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **fields)
    return value


def take(value: T, index: Tensor) -> T:
    """A batched value at `index` [k]: every tensor in it is indexed along its first dimension."""
    return map_tensors(value, lambda t: t[index.to(t.device)])


def join(value: T, *others: T) -> T:
    """Batched values of one type, one after the other: every tensor is concatenated along its first dimension.

    Parts that are not tensors are those of the first.
    """
    if isinstance(value, Tensor):
        return cast(T, torch.cat([value, *cast("tuple[Tensor, ...]", others)]))
    if isinstance(value, tuple):
        return cast(T, tuple(join(*items) for items in zip(value, *cast("tuple[tuple[Any, ...], ...]", others), strict=True)))
    if isinstance(value, dict):
        rest = cast("tuple[dict[Any, Any], ...]", others)
        return cast(T, {key: join(item, *(other[key] for other in rest)) for key, item in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init]
        fields = {name: join(*(getattr(part, name) for part in (value, *others))) for name in names}
        return dataclasses.replace(value, **fields)
    return value


def flat(t: Tensor, start: int) -> Tensor:
    """`t` with its axes from `start` on made one; of length 1 where there are none, as in the value of a scalar node."""
    return t.reshape(*t.shape[:start], math.prod(t.shape[start:]))


def floats_to(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A change for `map_tensors` that casts floating-point tensors and leaves indices and flags alone."""
    return lambda t: t.to(dtype) if t.is_floating_point() else t


def fingerprint(value: object) -> str:
    """A SHA-256 over the class names, field names and bytes of a value.

    Raises:
        TypeError: a part that has no stable bytes (a function, an open file).
    """
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        yield f"tensor {plain.dtype} {tuple(plain.shape)}".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    elif value is None or isinstance(value, bool | int | float | str | bytes | enum.Enum):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, tuple | list):
        yield f"sequence {len(value)}".encode()
        for item in value:
            yield from _parts(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__qualname__.encode()
        for field in dataclasses.fields(value):
            if field.metadata.get("fingerprint", True):
                yield field.name.encode()
                yield from _parts(getattr(value, field.name))
    else:
        raise TypeError(f"expected a tensor, number, string, tuple or dataclass, got {type(value).__name__}: {value!r}")
