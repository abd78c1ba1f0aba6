"""Compositions of overseers: `a & b`, `a | b` and `~a`, which compile by the algebra of `core.logic`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Self, final

import torch
from torch import Tensor

from fathom.core.errors import FathomError, NotCompilable
from fathom.core.logic import both, either, neither, widened
from fathom.core.network import Network, share
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.spec import Spec


@dataclass(frozen=True, eq=False)
class Several(Overseer):
    """A composition of several parts; whether of all or of any, its kinds say."""

    severity: Severity = field(kw_only=True)
    parts: tuple[Overseer, ...]

    @property
    def differentiable(self) -> bool:
        return all(part.differentiable for part in self.parts)

    def take(self, index: Tensor) -> Self:
        return type(self)(tuple(part.take(index) for part in self.parts), severity=self.severity)

    def judgement(self, index: int, y: Tensor) -> str:
        """The judgements of the parts, and of theirs, each once."""
        return "; ".join(dict.fromkeys(words for part in self.parts for words in part.judgement(index, y).split("; ")))

    def acts(self, y: Tensor) -> Tensor | None:
        """[n] whether none of the parts sees the model abstain; None where none speaks of it."""
        acts = [act for act in (part.acts(y) for part in self.parts) if act is not None]
        return reduce(torch.logical_and, acts) if acts else None

    def troubles(self) -> tuple[str, ...]:
        return tuple(trouble for part in self.parts for trouble in part.troubles())


@dataclass(frozen=True, eq=False)
class Wrapped(Overseer):
    """Another overseer, with a change to what it is shown, or to what comes of its margins: the change is what a kind says, in
    `take`, `margin` and `compile`. All else is as the other says."""

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    inner: Overseer

    @property
    def compilable(self) -> bool:
        return self.inner.compilable

    @property
    def differentiable(self) -> bool:
        return self.inner.differentiable

    @property
    def searchable(self) -> bool:
        return self.inner.searchable

    def judgement(self, index: int, y: Tensor) -> str:
        return self.inner.judgement(index, y)

    def acts(self, y: Tensor) -> Tensor | None:
        return self.inner.acts(y)

    def troubles(self) -> tuple[str, ...]:
        return self.inner.troubles()


@final
@dataclass(frozen=True, eq=False)
class AllOf(Several):
    """A catastrophe is what all parts call one: margin = max over the parts. `a & b` makes it.

    One part that says "safe" decides, even where another cannot judge (NaN).

    Severity: where all hold, what happens is as bad as the worst of them says.
    exact: where every part is. A part that cannot be compiled is left out, since what all call a catastrophe the others do too:
    what is proved of the others is proved of all, and `exact` is False.
    """

    def __str__(self) -> str:
        return " and ".join(_bracketed(part) for part in self.parts)

    @property
    def compilable(self) -> bool:
        return any(part.compilable for part in self.parts)

    @property
    def searchable(self) -> bool:
        return all(part.searchable for part in self.parts)

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        margins = _margins(self.parts, x, y)
        top = torch.where(margins.isnan(), -torch.inf, margins).amax(0)
        return torch.where(margins.isnan().any(0) & ~(top > 0), torch.nan, top)

    def compile(self, network: Network) -> Compiled:
        """The product of the parts' clauses, over a network in which the model is held once.

        Raises:
            NotCompilable: no part can be compiled, or the product is too large.
        """
        done, reasons = [], []
        for part in self.parts:
            try:
                done.append(part.compile(network))
            except NotCompilable as reason:
                reasons.append(str(reason))
        if not done:
            raise NotCompilable("; ".join(dict.fromkeys(reasons)))
        return _combined(done, both, exact=not reasons)

    def severities(self, x: Tensor, y: Tensor) -> Tensor:
        worst = torch.stack([part.severities(x, y) for part in self.parts]).amax(0)
        return torch.where(self.margin(x, y) <= 0, worst, -1)


@final
@dataclass(frozen=True, eq=False)
class AnyOf(Several):
    """A catastrophe is what any part calls one: margin = min over the parts. `a | b` makes it.

    One part that says "catastrophe" decides, even where another cannot judge (NaN).

    Severity: that of the worst part, as the most that may happen; `severities` is of the parts that do hold at a point.
    exact: where every part is; and every part has to be compiled, or a proof would leave catastrophes out.
    """

    def __str__(self) -> str:
        return " or ".join(_bracketed(part) for part in self.parts)

    @property
    def compilable(self) -> bool:
        return all(part.compilable for part in self.parts)

    @property
    def searchable(self) -> bool:
        return any(part.searchable for part in self.parts)

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        margins = _margins(self.parts, x, y)
        least = torch.where(margins.isnan(), torch.inf, margins).amin(0)
        return torch.where(margins.isnan().any(0) & ~(least <= 0), torch.nan, least)

    def compile(self, network: Network) -> Compiled:
        """The parts' clauses, one beside the other, over a network in which the model is held once."""
        return _combined([part.compile(network) for part in self.parts], either, exact=True)

    def severities(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([part.severities(x, y) for part in self.parts]).amax(0)


@final
@dataclass(frozen=True, eq=False)
class Not(Overseer):
    """A catastrophe is exactly what `part` does not call one. `~a` makes it.

    margin = -margin, and the least positive number where that of the part is 0.

    Where the part cannot judge (NaN), neither can this one. Numbers within the `blur` of an offset that no float64 equals are no
    certain failure of the part, and so judged one of this; its rows are certain of neither.

    Severity: that of the part, for want of a better word; give another with `dataclasses.replace`.
    exact: always. A part that only over-approximates is refused: its negation leaves out failures, and proofs would be unsound.
    """

    severity: Severity = field(kw_only=True)
    part: Overseer

    def __str__(self) -> str:
        return f"not {_bracketed(self.part)}"

    @property
    def compilable(self) -> bool:
        return self.part.compilable

    @property
    def differentiable(self) -> bool:
        return self.part.differentiable

    @property
    def searchable(self) -> bool:
        return self.part.searchable

    def take(self, index: Tensor) -> Self:
        return type(self)(self.part.take(index), severity=self.severity)

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        margin = self.part.margin(x, y)
        # Added, and not put in its place, so that the gradient is kept.
        least = margin.new_tensor(torch.finfo(margin.dtype).tiny)
        return torch.where(margin == 0, least, torch.zeros_like(least)) - margin

    def compile(self, network: Network) -> Compiled:
        """The part's clauses by De Morgan: rows negated, strict where they were not.

        Raises:
            NotCompilable: the part cannot be compiled exactly, or has too many clauses.
        """
        compiled = self.part.compile(network)
        if not compiled.exact:
            raise NotCompilable(
                f"expected rows that say exactly what {_bracketed(self.part)} means, got some that also hold elsewhere: their "
                "negation would leave out failures, and prove what is false; negate an exact overseer, or attack without proof"
            )
        return Compiled(compiled.network, neither(compiled.spec))

    def judgement(self, index: int, y: Tensor) -> str:
        return self.part.judgement(index, y)

    def acts(self, y: Tensor) -> Tensor | None:
        return self.part.acts(y)

    def troubles(self) -> tuple[str, ...]:
        return self.part.troubles()


def all_of(*overseers: Overseer) -> AllOf:
    """Of all these together; those that are such compositions themselves, by their parts."""
    parts = tuple(part for o in overseers for part in (o.parts if isinstance(o, AllOf) else (o,)))
    return AllOf(parts, severity=_worst(overseers))


def any_of(*overseers: Overseer) -> AnyOf:
    """Of any of these; those that are such compositions themselves, by their parts."""
    parts = tuple(part for o in overseers for part in (o.parts if isinstance(o, AnyOf) else (o,)))
    return AnyOf(parts, severity=_worst(overseers))


def opposite(overseer: Overseer) -> Overseer:
    """`Not`, pushed down to what is no composition: so every negation is of few clauses, and a double one is none."""
    if isinstance(overseer, Not):
        return overseer.part
    if isinstance(overseer, AllOf):
        return any_of(*(opposite(part) for part in overseer.parts))
    if isinstance(overseer, AnyOf):
        return all_of(*(opposite(part) for part in overseer.parts))
    return Not(overseer, severity=overseer.severity)


def _combined(done: Sequence[Compiled], how: Callable[[Spec, Spec], Spec], *, exact: bool) -> Compiled:
    lengths = {len(one.spec) for one in done}
    if len(lengths) > 1:
        raise FathomError(f"expected overseers of as many judges to combine, got {sorted(lengths)}; make one a set")
    network, columns = share(*(one.network for one in done))
    specs = [widened(one.spec, where, network.output_size) for one, where in zip(done, columns, strict=True)]
    return Compiled(network, reduce(how, specs), exact and all(one.exact for one in done))


def _margins(parts: Sequence[Overseer], x: Tensor, y: Tensor) -> Tensor:
    """[parts, n]."""
    margins = [part.margin(x, y) for part in parts]
    if len({len(margin) for margin in margins}) > 1:
        raise FathomError(f"expected overseers of as many judges to combine, got {[len(margin) for margin in margins]}")
    dtype = reduce(torch.promote_types, (margin.dtype for margin in margins))
    return torch.stack([margin.to(dtype) for margin in margins])


def _worst(overseers: Sequence[Overseer]) -> Severity:
    return max((overseer.severity for overseer in overseers), key=lambda severity: severity.rank)


def _bracketed(part: Overseer) -> str:
    return f"({part})" if isinstance(part, Several) else str(part)
