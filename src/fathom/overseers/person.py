"""A judge that is a person, or several: what they said, kept in a casebook, and nothing beyond it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.checks import check_whole
from fathom.core.errors import FathomError, NotCompilable
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.overseers.agreement import agreements
from fathom.overseers.judgements import Judgement, Opinion, settled


@final
@dataclass(frozen=True, eq=False)
class Person(Overseer):
    """margin = -1 where people call (x, y) a failure, 1 where they call it fine, and NaN where nobody has said anything.

    Every judge has one vote, and a tie is a failure; see `overseers.judgements.settled`. A judgement is about exactly the numbers
    that were shown: any other input, however near, is not judged, so nothing can be proved of people's word, and there is no
    gradient to follow. It can only be evaluated, and no search would find anything: what people have called failures is looked
    at, and what else they should look at `fathom.questions` puts to them.

    Make it by `Person.of`.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    sets: Tensor  # [n] int64: zeros; how many sets there are
    record: str  # a digest of all that was said: stands for it wherever problems are told apart
    memory: Memory = field(metadata={"fingerprint": False})

    @staticmethod
    def of(judgements: Sequence[Judgement], *, sets: int = 1) -> Person:
        """The people behind these judgements, for every one of `sets` sets.

        Args:
            judgements: of one model, in the order in which they were given; none is nobody's word on anything.

        Raises:
            FathomError: judgements of inputs or outputs of several sizes, and so of several models.
        """
        sizes = {(one.x.numel(), one.y.numel()) for one in judgements}
        if len(sizes) > 1:
            raise FathomError(f"expected judgements of one model, got some of {sorted(sizes)} inputs and outputs")
        text = "\n".join(sorted(f"{one.question} {one.judge!r} {one.opinion.value}" for one in judgements))
        record = hashlib.sha256(text.encode()).hexdigest()
        return Person(torch.zeros(check_whole("sets", sets), dtype=torch.int64), record, Memory(judgements))

    def __str__(self) -> str:
        return f"judged by people ({len(self.memory.known)} inputs so far)"

    @property
    def compilable(self) -> bool:
        return False

    @property
    def differentiable(self) -> bool:
        return False

    @property
    def searchable(self) -> bool:
        return False

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """In float64."""
        said = self.memory.recall(x, y)
        return torch.tensor([torch.nan if one is None else _margin(one) for one in said], dtype=torch.float64)

    def compile(self, network: Network) -> Compiled:
        raise NotCompilable(
            "people's judgements are about single inputs, of which no rows say anything; they can only be looked up"
        )

    def judgement(self, index: int, y: Tensor) -> str:
        return "judged by people"

    def severities(self, x: Tensor, y: Tensor) -> Tensor:
        """As people call them."""
        said = (None if one is None else one.severity for one in self.memory.recall(x, y))
        return torch.tensor([-1 if one is None else one.rank for one in said], dtype=torch.int64)

    def troubles(self) -> tuple[str, ...]:
        judged = len(self.memory.known)
        if not judged:
            return ("Nobody has judged an input of this model yet, so that none counts as a failure, and none as safe.",)
        return (
            f"Only the {judged} inputs that people have judged count as failures or as safe; of all others nothing is known.",
            *self.memory.agreement,
        )

    def judged(self) -> tuple[Tensor, Tensor, Tensor]:
        """What people have judged: inputs [k, d] and outputs [k, m] in float64, and the margins [k]."""
        points = list(self.memory.known.values())
        if not points:
            return torch.zeros(0, 0), torch.zeros(0, 0), torch.zeros(0)
        x, y, opinions = zip(*points, strict=True)
        return torch.stack(x), torch.stack(y), torch.tensor([_margin(one) for one in opinions], dtype=torch.float64)


class Memory:
    """What is known of (x, y), by their exact numbers. Shared by all parts of one overseer."""

    def __init__(self, judgements: Sequence[Judgement]) -> None:
        words: dict[bytes, list[tuple[str, Opinion]]] = {}
        points: dict[bytes, tuple[Tensor, Tensor]] = {}
        for one in judgements:
            x, y = one.x.reshape(-1).to(torch.float64), one.y.reshape(-1).to(torch.float64)
            (key,) = _keys(x[None], y[None])
            words.setdefault(key, []).append((one.judge, one.opinion))
            points[key] = x, y
        self.known = {key: (*points[key], settled(said)) for key, said in words.items()}
        self.agreement = tuple(one.sentence() for one in agreements(judgements))

    def recall(self, x: Tensor, y: Tensor) -> list[Opinion | None]:
        """What people said of x [n, d] and y [n, m]; None where they said nothing."""
        found = (self.known.get(key) for key in _keys(x.detach().to(torch.float64), y.detach().to(torch.float64)))
        return [None if known is None else known[2] for known in found]


def _keys(x: Tensor, y: Tensor) -> Iterable[bytes]:
    """A digest of the numbers of each row, in float64, which holds those of every smaller type exactly; -0 is 0."""
    both = torch.cat([x, y], 1).contiguous() + 0.0
    return [hashlib.sha256(row.tobytes()).digest() for row in both.cpu().numpy()]


def _margin(opinion: Opinion) -> float:
    return 1.0 if opinion is Opinion.FINE else -1.0
