"""Linear rules: affine rows over the outputs, or over outputs and inputs, that hold in a catastrophe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self, final

import torch
from torch import Tensor

from fathom.core.checks import as_numbers, as_whole_numbers, check_whole
from fathom.core.errors import FathomError
from fathom.core.network import Network, fork, identity
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.core.spec import Spec

_MOST_WORDS = 4
"""How many rules a person is shown at once."""

Numbers = Tensor | Sequence[float] | Sequence[Sequence[float]]


@final
@dataclass(frozen=True, eq=False)
class LinearRules(Overseer):
    """margin = that of `spec` over the outputs y, or over [y, x] end to end where its rows are that long.

    Make it by `LinearRules.make`, or from a spec; a spec of n sets judges n sets.

    Raises:
        FathomError: a spec whose rows or offsets are not finite.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    spec: Spec

    def __post_init__(self) -> None:
        check_spec(self.spec)

    @staticmethod
    def make(
        rows: Numbers,
        offsets: Numbers,
        *,
        clause: Sequence[int] | Tensor | None = None,
        strict: Sequence[bool] | Tensor | None = None,
        sets: int = 1,
        severity: Severity = Severity.SERIOUS,
    ) -> LinearRules:
        """The same rules for every one of `sets` sets.

        `LinearRules.make([[-1.0, 0.0], [1.0, -1.0]], [3.0, 0.0])` says that y[0] >= 3 is a catastrophe, and so is y[0] <= y[1].

        Args:
            rows: [R, m], or [R, m + d] for rules over outputs and inputs. Row r holds where rows[r] y + offsets[r] <= 0.
            offsets: [R].
            clause: [R] numbers from 0; rows of one number are a catastrophe only together. None: each alone is one.
            strict: [R]; True for < 0 in place of <= 0. None: none is strict.

        Raises:
            FathomError: the shapes do not fit, a number is not finite, or a clause's number is negative.
        """
        matrix, constants = as_numbers("rows", rows), as_numbers("offsets", offsets)
        count = len(constants) if constants.ndim == 1 else -1
        numbers = torch.arange(max(count, 0)) if clause is None else as_whole_numbers("clause", clause)
        stricts = torch.zeros(max(count, 0), dtype=torch.bool) if strict is None else _truths(strict)
        shapes = {"rows": matrix.shape[:1], "clause": numbers.shape, "strict": stricts.shape}
        if count < 0 or matrix.ndim != 2 or any(shape != (count,) for shape in shapes.values()):
            got = f"{list(matrix.shape)}, {list(constants.shape)}, {list(numbers.shape)}, {list(stricts.shape)}"
            raise FathomError(f"expected rows [R, m], offsets [R], clause [R] and strict [R], got the shapes {got}")
        if bool((numbers < 0).any()):
            raise FathomError(f"expected clauses numbered from 0, got {numbers.tolist()}")
        of = torch.zeros(check_whole("sets", sets), dtype=torch.int64)
        spec = Spec.make(matrix[None], constants[None], numbers[None], of, stricts[None])
        return LinearRules(spec, severity=severity)

    def __str__(self) -> str:
        count = len(torch.unique(self.spec.clause[self.spec.clause >= 0]))
        return "a rule holds" if count == 1 else f"one of {count} rules holds"

    def take(self, index: Tensor) -> Self:
        """The judges of the sets at `index`, with only the rows that they need: a judge's digest is of its own rows."""
        kept, of = torch.unique(self.spec.of[index], return_inverse=True)
        spec = self.spec
        if len(kept) < len(spec.rows):
            parts = (spec.rows, spec.offsets, spec.clause, spec.strict, spec.blur)
            rows, offsets, clause, strict, blur = (part[kept] for part in parts)
            return replace(self, spec=Spec(rows, offsets, clause, strict, of, blur))
        return replace(self, spec=spec.take(index))

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """In float64; the sign is that of the exact value, so that no rounding of ours makes or hides a failure."""
        return self.spec.certain_margin(self._judged(x.to(torch.float64), y.to(torch.float64)))

    def compile(self, network: Network) -> Compiled:
        size, outputs, inputs = self.spec.rows.shape[2], network.output_size, network.input_size
        if size not in (outputs, outputs + inputs):
            raise FathomError(_misfit(size, outputs, inputs))
        return Compiled(network if size == outputs else fork(network, identity(network.inputs)), self.spec)

    def judgement(self, index: int, y: Tensor) -> str:
        """The rules over outputs alone that hold: "Y_3 <= Y_0, Y_3 <= Y_1"."""
        k, outputs = self.spec.of[index], len(y)
        rows, offsets, strict = self.spec.rows[k], self.spec.offsets[k], self.spec.strict[k]
        values = rows[:, :outputs] @ y.to(torch.float64) + offsets
        holds = torch.where(strict, values < 0, values <= 0) & (self.spec.clause[k] >= 0) & (rows[:, outputs:] == 0).all(1)
        which = holds.nonzero()[:, 0].tolist()
        words = [_words(rows[r].tolist(), offsets[r].item(), strict=bool(strict[r])) for r in which[:_MOST_WORDS]]
        more = f" and {len(which) - _MOST_WORDS} more" if len(which) > _MOST_WORDS else ""
        return ", ".join(words) + more if words else "no rule on the outputs holds"

    def _judged(self, x: Tensor, y: Tensor) -> Tensor:
        size = self.spec.rows.shape[2]
        if size == y.shape[1]:
            return y
        if size == y.shape[1] + x.shape[1]:
            return torch.cat([y, x], 1)
        raise FathomError(_misfit(size, y.shape[1], x.shape[1]))


def check_spec(spec: Spec) -> None:
    """Refuses rows that no output could meet or break, since a number in them is none.

    Raises:
        FathomError: with the rows and offsets.
    """
    if not bool(torch.isfinite(spec.rows).all() and torch.isfinite(spec.offsets).all()):
        raise FathomError(f"expected rules of finite numbers, got rows {_few(spec.rows)} and offsets {_few(spec.offsets)}")


def _few(numbers: Tensor) -> str:
    return str(numbers.squeeze(0).tolist())[:200]


def _truths(strict: Sequence[bool] | Tensor) -> Tensor:
    if not all(isinstance(one, bool) for one in (strict.tolist() if isinstance(strict, Tensor) else strict)):
        raise FathomError(f"expected `strict` as true or false for every rule, got {strict!r}")
    return torch.as_tensor(strict, dtype=torch.bool)


def _misfit(size: int, outputs: int, inputs: int) -> str:
    return (
        f"expected rules with {outputs} coefficients (one an output) or {outputs + inputs} (then one an input) for this model of "
        f"{inputs} inputs and {outputs} outputs, got {size}"
    )


def _words(row: list[float], offset: float, *, strict: bool) -> str:
    """A row as a person would write it: "2 Y_0 <= 3", "Y_1 >= -1", "Y_0 + 0.5 <= Y_1"."""
    sides: tuple[list[str], list[str]] = ([], [])
    for output, coefficient in enumerate(row):
        if coefficient:
            size = "" if abs(coefficient) == 1 else f"{abs(coefficient):.6g} "
            sides[coefficient < 0].append(f"{size}Y_{output}")
    if sides[1] and not sides[0]:
        return f"{' + '.join(sides[1])} {'>' if strict else '>='} {offset:.6g}"
    if not sides[1]:
        sides[1].append(f"{0.0 - offset:.6g}")
    elif offset:
        sides[offset < 0].append(f"{abs(offset):.6g}")
    return f"{' + '.join(sides[0]) or '0'} {'<' if strict else '<='} {' + '.join(sides[1])}"
