"""Points as the casebook keeps them: what kind of finding each is, how many are kept, and their bytes."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fathom.casebook.database import DAMAGED, MAX_BYTES, CasebookError
from fathom.core.answer import Answers
from fathom.core.value import fingerprint


class Kind(enum.Enum):
    """What a point showed when it was found, best first. Says nothing about what it shows on the program of today."""

    WITNESS = "witness"  # a confirmed failure
    ROUNDING_FAILURE = "rounding failure"  # program and real network are not known to agree there
    NEAR = "near"  # the smallest margins above 0

    @property
    def kept(self) -> int:
        """How many are kept of a set; beyond, those of the largest margin go."""
        return {Kind.WITNESS: 16, Kind.ROUNDING_FAILURE: 8, Kind.NEAR: 3}[self]

    @property
    def order(self) -> int:
        """0 for the best kind."""
        return list(Kind).index(self)


@dataclass(frozen=True, eq=False)
class Point:
    """A point in a casebook. A candidate only: `confirm` judges it again."""

    place: int  # of the set within its case
    kind: Kind
    x: Tensor  # [d] in the program's dtype
    y: Tensor  # [m] float64
    deployed: float
    real_lower: float
    real_upper: float
    in_written: bool
    run: int
    created: str


def kind_of(answers: Answers, index: int) -> Kind:
    """What the point of set `index` is; a failure on a set that is proved is the program's rounding, and no witness."""
    if answers.broken[index]:
        return Kind.WITNESS
    return Kind.ROUNDING_FAILURE if answers.rounding_failure[index] else Kind.NEAR


def rank(kind: Kind, deployed: float, real_lower: float, real_upper: float) -> tuple[int, float]:
    """Sorts points of one set, best first: by kind, then by the upper bound on the worst margin that they give."""
    return kind.order, real_upper if real_lower > -torch.inf else deployed


def encode(x: Tensor, y: Tensor) -> bytes:
    """The bytes of a point x [d] and the program's output y [m] there.

    Raises:
        CasebookError: too large to be kept.
    """
    data = safetensors.torch.save({"x": x.contiguous(), "y": y.contiguous()})
    if len(data) > MAX_BYTES - 4096:
        raise CasebookError(
            f"expected a point of at most {MAX_BYTES} bytes, got one of {len(data)}; such inputs cannot be stored"
        )
    return data


def decode(digest: str, data: object) -> tuple[Tensor, Tensor]:
    """x [d] and y [m] of the point whose address, the fingerprint of x, is `digest`.

    Raises:
        CasebookError: the bytes are not those that were stored.
    """
    try:
        if not isinstance(data, bytes):
            raise TypeError(f"{type(data).__name__} instead of bytes")
        arrays = safetensors.torch.load(data)
        x, y = arrays["x"], arrays["y"]
        if x.ndim != 1 or y.ndim != 1 or not x.is_floating_point() or fingerprint(x) != digest:
            raise ValueError(f"x {x.dtype} {list(x.shape)} of digest {fingerprint(x)[:12]}")
    except (TypeError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CasebookError(
            f"expected the arrays of point {digest[:12]}, got bytes that are not what was stored ({error}); {DAMAGED}"
        ) from error
    return x, y
