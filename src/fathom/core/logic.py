"""The algebra of specs: "or", "and" and "not" of catastrophes, kept in disjunctive normal form."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor

from fathom.core.errors import NotCompilable
from fathom.core.spec import Spec

MOST_NUMBERS = 1 << 23
"""How many coefficients the rows of a combined spec may have: 64 MiB of them."""


def either(first: Spec, second: Spec) -> Spec:
    """The catastrophes of both specs, set by set: the clauses of one beside those of the other. margin = min."""
    first, second = _paired(first, second)
    clause = torch.where(second.clause >= 0, second.clause + _clauses(first), -1)
    return _joined(first, replace(second, clause=clause))


def both(first: Spec, second: Spec) -> Spec:
    """What both specs call a catastrophe, set by set: every clause of one together with every one of the other. margin = max.

    Raises:
        NotCompilable: the product has more than `MOST_NUMBERS` coefficients; it is not made.
    """
    first, second = _paired(first, second)
    mine, theirs = _clauses(first), _clauses(second)
    sets, (rows, outputs), others = len(first.rows), first.rows.shape[1:], second.rows.shape[1]
    _check_size(sets * (rows * theirs + others * mine) * outputs, f"{mine} clauses and {theirs}, over {outputs} outputs")
    of = torch.arange(sets)
    has_mine, has_theirs = (replace(spec, of=of).has() for spec in (first, second))
    # Row r of clause p stands once for every clause q of the other, in clause p q of the product.
    place = first.clause[:, :, None] * theirs + torch.arange(theirs)
    place = torch.where((first.clause[:, :, None] >= 0) & has_theirs[:, None], place, -1)
    left = _repeated(first, theirs, place)
    place = second.clause[:, :, None] + torch.arange(mine) * theirs
    place = torch.where((second.clause[:, :, None] >= 0) & has_mine[:, None], place, -1)
    return _compact(_joined(left, _repeated(second, mine, place)))


def neither(spec: Spec) -> Spec:
    """Catastrophes exactly where `spec` has none, by De Morgan: of each clause one row, negated, strict where it was not.

    Offsets stay as far from what was written as they were, so a number within their `blur` of one is certain of neither.

    Raises:
        NotCompilable: there are too many ways to choose a row of each clause.
    """
    chosen = [_choices(spec, k) for k in range(len(spec.rows))]
    most = max((picks.numel() for picks in chosen), default=0)
    _check_size(len(chosen) * most * spec.rows.shape[2], f"one of {len(chosen)} rules, negated")
    index = torch.zeros(len(chosen), max(most, 1), dtype=torch.int64)
    clause = torch.full_like(index, -1)
    for k, picks in enumerate(chosen):
        index[k, : picks.numel()] = picks.flatten()
        clause[k, : picks.numel()] = torch.arange(len(picks)).repeat_interleave(picks.shape[1])
    rows = 0.0 - spec.rows.gather(1, index[:, :, None].expand(-1, -1, spec.rows.shape[2]))
    offsets, strict, blur = (part.gather(1, index) for part in (spec.offsets, spec.strict, spec.blur))
    # A rule without any clause never holds; its negation, which always does, is a row that says -1 <= 0.
    always = (spec.clause < 0).all(1)
    rows[always, 0], offsets[always, 0], blur[always, 0] = 0.0, 1.0, 0.0
    strict[always, 0], clause[always, 0] = True, 0
    return _cleared(Spec(rows, 0.0 - offsets, clause, ~strict, spec.of, blur))


def widened(spec: Spec, columns: Tensor, size: int) -> Spec:
    """The same spec over `size` outputs, of which those at the distinct `columns` [m] are the ones that it is about."""
    rows = spec.rows.new_zeros(*spec.rows.shape[:2], size).index_copy(2, columns, spec.rows)
    return replace(spec, rows=rows)


def _paired(first: Spec, second: Spec) -> tuple[Spec, Spec]:
    """Both specs of n sets, their rows shared by the same sets: k pairs."""
    assert len(first) == len(second) and first.rows.shape[2] == second.rows.shape[2]
    pairs, of = torch.unique(first.of * max(len(second.rows), 1) + second.of, return_inverse=True)
    kept = pairs // max(len(second.rows), 1), pairs % max(len(second.rows), 1)
    left, right = (
        Spec(spec.rows[k], spec.offsets[k], spec.clause[k], spec.strict[k], of, spec.blur[k])
        for spec, k in zip((first, second), kept, strict=True)
    )
    return left, right


def _clauses(spec: Spec) -> int:
    """C: clauses are numbered below it."""
    return int(spec.clause.max()) + 1 if spec.clause.numel() else 0


def _joined(first: Spec, second: Spec) -> Spec:
    """The rows of one behind those of the other."""
    names = ("rows", "offsets", "clause", "strict", "blur")
    return replace(first, **{name: torch.cat([getattr(first, name), getattr(second, name)], 1) for name in names})


def _repeated(spec: Spec, times: int, clause: Tensor) -> Spec:
    """Every row `times` over, in clauses [k, R, times]."""
    names = ("rows", "offsets", "strict", "blur")
    parts = {name: getattr(spec, name).repeat_interleave(times, 1) for name in names}
    return replace(spec, clause=clause.reshape(len(clause), spec.clause.shape[1] * times), **parts)


def _compact(spec: Spec) -> Spec:
    """Without padding between the rows, or more of it than is needed."""
    padding = spec.clause < 0
    most = max(int((~padding).sum(1).max()) if padding.numel() else 0, 1)
    if spec.clause.shape[1] == 0:
        return Spec.make(spec.rows, spec.offsets, spec.clause, spec.of)
    order = padding.to(torch.int64).argsort(dim=1, stable=True)[:, :most]
    rows = spec.rows.gather(1, order[:, :, None].expand(-1, -1, spec.rows.shape[2]))
    names = ("offsets", "clause", "strict", "blur")
    return _cleared(replace(spec, rows=rows, **{name: getattr(spec, name).gather(1, order) for name in names}))


def _cleared(spec: Spec) -> Spec:
    """With nothing but zeros in the padding."""
    held = spec.clause >= 0
    rows, offsets, blur = spec.rows * held[:, :, None], spec.offsets * held, spec.blur * held
    return replace(spec, rows=rows, offsets=offsets, strict=spec.strict & held, blur=blur)


def _choices(spec: Spec, k: int) -> Tensor:
    """[choices, clauses]: every way to choose a row of each clause of spec k."""
    clause = spec.clause[k]
    groups = [(clause == c).nonzero()[:, 0].tolist() for c in torch.unique(clause[clause >= 0]).tolist()]
    sizes = [len(group) for group in groups]
    count = math.prod(sizes)
    _check_size(count * len(groups) * spec.rows.shape[2], f"the negation of clauses of {_few(sizes)} rows")
    return torch.tensor(list(itertools.product(*groups)), dtype=torch.int64).reshape(count, len(groups))


def _few(sizes: list[int]) -> str:
    shown = ", ".join(map(str, sizes[:8]))
    return f"{shown}, ... ({len(sizes)} clauses)" if len(sizes) > 8 else shown


def _check_size(numbers: int, what: str) -> None:
    if numbers > MOST_NUMBERS:
        raise NotCompilable(
            f"expected rules that combine to at most {MOST_NUMBERS} coefficients, got {numbers} for {what}; combine fewer, or "
            "attack without proof"
        )
