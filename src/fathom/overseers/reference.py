"""A trusted reference: a slow model, several, a table. The fast model fails where it departs from it, or decides otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import final

import torch
from torch import Tensor

from fathom.core.checks import as_numbers, check_number, check_whole
from fathom.core.errors import FathomError, NotCompilable
from fathom.core.logic import MOST_NUMBERS
from fathom.core.network import Network, fork
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.spec import Spec
from fathom.overseers.models import Model, Source, with_digest
from fathom.overseers.tally import UNASKED, Tally


@final
@dataclass(frozen=True, eq=False)
class Reference(Overseer):
    """Some output differs from the reference's by more than `eps`; from the mean of several. A difference of exactly eps is none.

    margin = eps - the greatest difference, times k / 2^ceil(log2 k) for k references, which is 1 for one or two: so the mean is
    never rounded. Its sign is exact for the numbers that the programs gave.
    exact: yes, where every reference was captured (all networks on one input), or is a table.

    Make it by `Reference.make`, or `Reference.to_table`.

    Raises:
        FathomError: an eps that is negative or not finite.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    eps: Tensor  # [n] float64
    table: Tensor | None  # [n, m] float64: what the reference gives for each set; None where there are models
    digest: str  # of the models
    models: tuple[Model, ...] = field(default=(), metadata={"fingerprint": False})
    tally: Tally = field(default_factory=Tally, metadata=UNASKED)

    def __post_init__(self) -> None:
        if not bool(((self.eps >= 0) & torch.isfinite(self.eps)).all()):
            raise FathomError(f"expected an eps of at least 0, got {self.eps.min().item()}")
        if self.table is not None and not (self.table.ndim == 2 and len(self.table) == len(self.eps)):
            raise FathomError(f"expected a table [{len(self.eps)}, m], a row a set, got {list(self.table.shape)}")
        if self.table is not None and not bool(torch.isfinite(self.table).all()):
            raise FathomError("expected a table of finite numbers, got some that are not")

    @staticmethod
    def make(
        source: Source | Model | Sequence[Source | Model],
        eps: float,
        *,
        sets: int = 1,
        name: str = "",
        severity: Severity = Severity.SERIOUS,
    ) -> Reference:
        """A reference model for every one of `sets` sets; of several, their mean.

        Args:
            source: captured (`fathom.read_onnx`, `fathom.capture_module`): provable. Or a program, or a function of x [n, d] that
                returns [n, m]: only searched.
            eps: how far an output may be off.
            name: of a function, by which problems are told apart.
        """
        models = _models(source, name)
        limits = torch.full((check_whole("sets", sets),), check_number("eps", eps, least=0), dtype=torch.float64)
        return Reference(limits, None, with_digest(models), models, severity=severity)

    @staticmethod
    def to_table(values: Tensor, eps: float, *, severity: Severity = Severity.SERIOUS) -> Reference:
        """One row [m] of right values a set: what the model should give anywhere in it, but for eps."""
        table = as_numbers("values", values)
        if table.ndim != 2:
            raise FathomError(f"expected a table [n, m], a row a set, got {list(table.shape)}")
        limits = torch.full((len(table),), check_number("eps", eps, least=0), dtype=torch.float64)
        return Reference(limits, table, "", severity=severity)

    def __str__(self) -> str:
        return "departs from the reference"

    @property
    def compilable(self) -> bool:
        return all(model.network is not None for model in self.models)

    @property
    def differentiable(self) -> bool:
        return not self.models

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """In float64; the sign is exact."""
        values = [self.table] if self.table is not None else [model(x) for model in self.models]
        for value in values:
            _check_size(value.shape[1], y.shape[1])
        spec = self._spec(y.shape[1], len(values))
        return self.tally.counted(spec.certain_margin(torch.cat([y.to(torch.float64), *values], 1)))

    def compile(self, network: Network) -> Compiled:
        if self.table is not None:
            _check_size(self.table.shape[1], network.output_size)
            return Compiled(network, self._to_table(network.output_size))
        others = [model.require_network(network) for model in self.models]
        for other in others:
            _check_size(other.output_size, network.output_size)
        return Compiled(fork(network, *others), self._spec(network.output_size, len(others)))

    def judgement(self, index: int, y: Tensor) -> str:
        return f"judged against the reference, to {self.eps[index].item():.3g}"

    def troubles(self) -> tuple[str, ...]:
        return self.tally.troubles("The comparison with the reference", "came to NaN")

    def _spec(self, outputs: int, count: int) -> Spec:
        """Over the model's outputs, then those of `count` references: two strict rows an output, each a clause of its own."""
        scale = 1 << (count - 1).bit_length()
        unit = torch.eye(outputs, dtype=torch.float64) / scale
        gap = torch.cat([-count * unit, *[unit] * count], 1)
        limits, of = torch.unique(self.eps, return_inverse=True)
        exact = [Fraction(limit) * count / scale for limit in limits.tolist()]
        offset = torch.tensor([float(value) for value in exact], dtype=torch.float64)
        off = [abs(value - Fraction(near)) for value, near in zip(exact, offset.tolist(), strict=True)]
        blur = torch.tensor([float(value) * (1 + 2.0**-50) for value in off], dtype=torch.float64)
        rows = torch.cat([gap, -gap]).expand(len(limits), -1, -1)
        clause = torch.arange(2 * outputs).expand(len(limits), -1)
        shape = clause.shape
        return Spec.make(
            rows,
            offset[:, None].expand(shape),
            clause,
            of,
            torch.ones(shape, dtype=torch.bool),
            blur[:, None].expand(shape),
        )

    def _to_table(self, outputs: int) -> Spec:
        assert self.table is not None
        n = len(self.table)
        if n * 2 * outputs**2 > MOST_NUMBERS:
            raise NotCompilable(
                f"expected tables whose rows have at most {MOST_NUMBERS} coefficients, got {n * 2 * outputs**2} for {n} sets of "
                f"{outputs} outputs; ask about fewer sets at once"
            )
        unit = torch.eye(outputs, dtype=torch.float64)
        terms = torch.cat([self.table, -self.table], 1)
        eps = self.eps[:, None].expand(terms.shape)
        offsets, blur = _two_sum(eps, terms)
        rows = torch.cat([-unit, unit]).expand(n, -1, -1)
        clause = torch.arange(2 * outputs).expand(n, -1)
        return Spec.make(rows, offsets, clause, torch.arange(n), torch.ones(terms.shape, dtype=torch.bool), blur)


@final
@dataclass(frozen=True, eq=False)
class OtherDecision(Overseer):
    """The highest of the scores y [n, classes] is another class than the reference's, or either is a tie.

    margin, for one reference: the least, over pairs of different classes, of the greater of how far the first is from being the
    highest here and the second there. For several, the reference's decision is the class that most of them choose: margin = its
    score less the highest other; NaN, so no judgement, where equally many choose another, or one gives NaN.
    exact: for one captured reference of up to about 35 classes, whose pairs are a clause each. More classes, and several
    references, are searched and not proved.

    Make it by `OtherDecision.make`.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    of: Tensor  # [n] int64: zeros; how many sets there are
    digest: str  # of the models
    models: tuple[Model, ...] = field(metadata={"fingerprint": False})
    tally: Tally = field(default_factory=Tally, metadata=UNASKED)

    @staticmethod
    def make(
        source: Source | Model | Sequence[Source | Model],
        *,
        sets: int = 1,
        name: str = "",
        severity: Severity = Severity.SERIOUS,
    ) -> OtherDecision:
        """A reference for every one of `sets` sets; of several, the class that most choose. As `Reference.make`."""
        models = _models(source, name)
        return OtherDecision(
            torch.zeros(check_whole("sets", sets), dtype=torch.int64), with_digest(models), models, severity=severity
        )

    def __str__(self) -> str:
        return "decides otherwise than the reference"

    @property
    def compilable(self) -> bool:
        return len(self.models) == 1 and self.models[0].network is not None

    @property
    def differentiable(self) -> bool:
        return False

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """Differences of two scores, so its sign is exact."""
        values = [model(x) for model in self.models]
        for value in values:
            _check_size(value.shape[1], y.shape[1])
        if len(values) > 1:
            return self.tally.counted(_against_votes(y, values))
        ours, theirs = _behind(y.to(torch.float64)), _behind(values[0])
        if ours.shape[1] < 2:
            raise FathomError(f"expected at least 2 classes to decide between, got {ours.shape[1]}; compare by Reference instead")
        (first, second), (at, _) = (part.T for part in ours.topk(2, 1, largest=False))
        (first_there, second_there), (at_there, _) = (part.T for part in theirs.topk(2, 1, largest=False))
        same = torch.minimum(torch.maximum(first, second_there), torch.maximum(second, first_there))
        return self.tally.counted(torch.where(at == at_there, same, torch.maximum(first, first_there)))

    def compile(self, network: Network) -> Compiled:
        if len(self.models) > 1:
            raise NotCompilable(
                "the vote of several references has no rows to prove; compare with one of them, or with their mean"
            )
        other = self.models[0].require_network(network)
        classes = network.output_size
        _check_size(other.output_size, classes)
        if classes < 2:
            raise FathomError(f"expected at least 2 classes to decide between, got {classes}; compare by Reference instead")
        pairs = torch.tensor([(c, d) for c in range(classes) for d in range(classes) if c != d])
        numbers = len(pairs) * 2 * (classes - 1) * 2 * classes
        if numbers > MOST_NUMBERS:
            raise NotCompilable(
                f"expected decisions between classes whose pairs have at most {MOST_NUMBERS} coefficients, got {numbers} for "
                f"{classes} classes; compare outputs by Reference instead, or attack without proof"
            )
        unit = torch.eye(classes, dtype=torch.float64)
        rivals = torch.tensor([[i for i in range(classes) if i != c] for c in range(classes)])
        behind = unit[rivals] - unit[:, None]  # [c, classes - 1, classes]: y_i - y_c
        here, there = behind[pairs[:, 0]], behind[pairs[:, 1]]
        zero = torch.zeros_like(here)
        rows = torch.cat([torch.cat([here, zero], 2), torch.cat([zero, there], 2)], 1)  # [pairs, rows, 2 classes]
        clause = torch.arange(len(pairs)).repeat_interleave(rows.shape[1])[None]
        spec = Spec.make(rows.flatten(0, 1)[None], torch.zeros(clause.shape), clause, self.of)
        return Compiled(fork(network, other), spec)

    def judgement(self, index: int, y: Tensor) -> str:
        return f"read as {int(y.argmax())}, judged against the reference"

    def troubles(self) -> tuple[str, ...]:
        return self.tally.troubles("The reference", "took no decision" if len(self.models) > 1 else "came to NaN")


def _models(source: Source | Model | Sequence[Source | Model], name: str) -> tuple[Model, ...]:
    several = list(source) if isinstance(source, Sequence) else [source]
    if not several:
        raise FathomError("expected a reference, got none")
    return tuple(Model.of(one, f"{name} {k}".strip() if name and len(several) > 1 else name) for k, one in enumerate(several))


def _check_size(theirs: int, ours: int) -> None:
    if theirs != ours:
        raise FathomError(f"expected a reference of {ours} outputs, as the model's, got one of {theirs}")


def _behind(y: Tensor) -> Tensor:
    """[n, m]: how far every score is behind the highest of the others; negative for the one that is highest alone."""
    if y.shape[1] < 2:
        return y
    two, at = y.topk(2, 1)
    rival = two[:, :1].expand(y.shape).scatter(1, at[:, :1], two[:, 1:])
    return rival - y


def _against_votes(y: Tensor, values: Sequence[Tensor]) -> Tensor:
    votes = torch.stack([torch.nn.functional.one_hot(value.argmax(1), y.shape[1]) for value in values]).sum(0)
    most, chosen = votes.topk(2, 1)
    y = y.to(torch.float64)
    lead = y.gather(1, chosen[:, :1])[:, 0] - y.scatter(1, chosen[:, :1], -torch.inf).amax(1)
    clear = (most[:, 0] > most[:, 1]) & ~torch.stack(list(values)).isnan().any(2).any(0)
    return torch.where(clear, lead, torch.nan)


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded sum, and its rounding error's magnitude, exactly (Knuth, The Art of Computer Programming 2, 4.2.2)."""
    total = a + b
    part = total - a
    return total, ((a - (total - part)) + (b - part)).abs()
