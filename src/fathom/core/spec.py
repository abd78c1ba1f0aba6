"""A spec: catastrophe as a disjunction of clauses, each a conjunction of affine rows over a network's flat output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from fathom.core.box import Box
from fathom.core.rounding import down, gamma, tiny, up


@dataclass(frozen=True, eq=False)
class Spec:
    """k specs shared by n sets, padded to R rows.

    A row's value is rows y + offset; a row holds when its value is <= 0 (< 0 if strict); a catastrophe is a clause all of
    whose rows hold. So margin = min over clauses of max over rows, > 0 where safe. No clause at all: margin = +inf.
    """

    rows: Tensor  # [k, R, m] float64
    offsets: Tensor  # [k, R] float64
    clause: Tensor  # [k, R] int64, the clause a row belongs to; -1 for padding
    strict: Tensor  # [k, R] bool
    of: Tensor  # [n] int64 -> k
    blur: Tensor  # [k, R] float64: at most how far `offsets` is from the number that was written; 0 if exact

    @staticmethod
    def make(
        rows: Tensor, offsets: Tensor, clause: Tensor, of: Tensor, strict: Tensor | None = None, blur: Tensor | None = None
    ) -> Spec:
        """A spec from its parts, cast to their dtypes; rows that are not strict and offsets that are exact are the default."""
        offsets = offsets.to(torch.float64)
        spec = Spec(
            rows.to(torch.float64),
            offsets,
            clause.to(torch.int64),
            torch.zeros(offsets.shape, dtype=torch.bool) if strict is None else strict.to(torch.bool),
            of.to(torch.int64),
            torch.zeros_like(offsets) if blur is None else blur.to(torch.float64),
        )
        return spec._padded(max(rows.shape[1], 1))  # so that there is always a row to reduce over

    @staticmethod
    def stack(specs: Sequence[Spec]) -> Spec:
        """One spec for the sets of all, in order, padded to the longest.

        Raises:
            ValueError: they are over outputs of different sizes, or there are none.
        """
        sizes = {spec.rows.shape[2] for spec in specs}
        if len(sizes) != 1:
            raise ValueError(f"expected specs over outputs of one size, got sizes {sorted(sizes)}")
        most = max(spec.rows.shape[1] for spec in specs)
        padded = [spec._padded(most) for spec in specs]
        starts = torch.tensor([0, *(len(spec.rows) for spec in specs)]).cumsum(0)
        return Spec(
            torch.cat([s.rows for s in padded]),
            torch.cat([s.offsets for s in padded]),
            torch.cat([s.clause for s in padded]),
            torch.cat([s.strict for s in padded]),
            torch.cat([s.of + start for s, start in zip(padded, starts[:-1], strict=True)]),
            torch.cat([s.blur for s in padded]),
        )

    def _padded(self, count: int) -> Spec:
        more = count - self.rows.shape[1]
        pad = torch.nn.functional.pad
        return Spec(
            pad(self.rows, (0, 0, 0, more)),
            pad(self.offsets, (0, more)),
            pad(self.clause, (0, more), value=-1),
            pad(self.strict, (0, more)),
            self.of,
            pad(self.blur, (0, more)),
        )

    def __len__(self) -> int:
        return len(self.of)

    def take(self, index: Tensor) -> Spec:
        """The specs of the sets at `index` [j]; rows stay shared."""
        return replace(self, of=self.of[index])

    def alone(self, index: int) -> Spec:
        """The spec of one set, without padding or others' rows: what its digest is made of."""
        k = self.of[index]
        keep = self.clause[k] >= 0
        parts = (self.rows[k][keep], self.offsets[k][keep], self.clause[k][keep], self.strict[k][keep])
        rows, offsets, clause, strict = (part[None] for part in parts)
        return Spec(rows, offsets, clause, strict, torch.zeros(1, dtype=torch.int64), self.blur[k][keep][None])

    def distinct(self) -> tuple[Spec, Tensor]:
        """Each row once, in one clause, and which [k, R] of those a row is: clauses of many pairs share most of theirs."""
        parts = torch.cat([self.rows, self.offsets[..., None], self.blur[..., None], self.strict[..., None].double()], 2)
        found = [torch.unique(part, dim=0, return_inverse=True) for part in parts]
        most = max(len(rows) for rows, _ in found)
        rows = torch.stack([torch.nn.functional.pad(rows, (0, 0, 0, most - len(rows))) for rows, _ in found])
        clause = torch.tensor([[0] * len(rows) + [-1] * (most - len(rows)) for rows, _ in found])
        offsets, blur, strict = rows[..., -3], rows[..., -2], rows[..., -1] > 0
        return Spec(rows[..., :-3], offsets, clause, strict, self.of, blur), torch.stack([place for _, place in found])

    def values(self, y: Tensor) -> Tensor:
        """Row values [n, R] at outputs y [n, m], in the dtype of y; padding reads 0. Differentiable."""
        rows, offsets = self.rows.to(y.dtype), self.offsets.to(y.dtype)
        if len(rows) == 1:
            return y @ rows[0].T + offsets
        return torch.einsum("nrm,nm->nr", rows[self.of], y) + offsets[self.of]

    def combine(self, values: Tensor) -> Tensor:
        """Margins [n] from row values [n, R]: rigorous lower bounds on rows give rigorous lower bounds on margins.

        A strict row at exactly 0 does not hold, and counts as the smallest positive number.
        """
        strict = self.strict[self.of]
        least = torch.finfo(values.dtype).tiny
        return self.clauses(torch.where(strict & (values == 0), values.new_tensor(least), values)).amin(1)

    def clauses(self, values: Tensor) -> Tensor:
        """The value [n, C] of every clause, the greatest of its row values [n, R]; +inf where a set has no such clause."""
        present, place = self._clauses()
        top = values.new_full((len(values), present.shape[1] + 1), -torch.inf).scatter_reduce(1, place, values, "amax")[:, :-1]
        # Present or not is asked of the rows, never of their values: a row known only to be at least -inf is no absent one.
        return torch.where(present, top, top.new_tensor(torch.inf))

    def has(self) -> Tensor:
        """[n, C] whether a set has clause c."""
        return self._clauses()[0]

    def _clauses(self) -> tuple[Tensor, Tensor]:
        """`has`, and [n, R] the clause of each row, with C for padding: a place of its own, where it can overwrite nothing."""
        clause = self.clause[self.of]
        count = max(int(self.clause.max()) + 1 if self.clause.numel() else 0, 1)
        place = torch.where(clause >= 0, clause, count)
        return torch.zeros(len(place), count + 1, dtype=torch.bool).scatter(1, place, value=True)[:, :-1], place

    def margin(self, y: Tensor) -> Tensor:
        """Margins [n] at outputs y [n, m]; differentiable, with the rounding of plain evaluation."""
        return self.combine(self.values(y))

    def enclose(self, y: Box) -> Box:
        """Boxes [n] that hold the real margin for every output in `y` [n, m]; rounding and `blur` included.

        Where the arithmetic overflows, nothing is known: -inf to inf. What reads only outputs known exactly is judged exactly: a
        rectifier's 0 has a margin of at most 0, and not of at most a little more, and equal features meet "no greater than".
        """
        rows, offsets, blur = self.rows[self.of], self.offsets[self.of], self.blur[self.of]
        middle, radius = y.middle[:, None], y.radius[:, None]
        centre = (rows * middle).sum(-1) + offsets
        spread = (rows.abs() * radius).sum(-1)
        size = (rows.abs() * middle.abs()).sum(-1) + offsets.abs() + spread
        reach = up(spread + blur + gamma(rows.shape[-1] + 4, centre.dtype) * size)
        lower, upper = down(centre - reach), up(centre + reach)
        lower, upper = torch.where(lower.isnan(), -torch.inf, lower), torch.where(upper.isnan(), torch.inf, upper)
        rows_upper, lower, upper = upper, self.combine(lower), self.combine(upper)
        tied = ((lower <= 0) & (upper > 0)).nonzero()[:, 0]
        if len(tied):
            fails = tied[self.take(tied)._certain_upper(y.take(tied), rows_upper[tied]) <= 0]
            upper = upper.index_fill(0, fails, 0.0)
        return Box(lower, upper)

    def _certain_upper(self, y: Box, upper: Tensor) -> Tensor:
        """Margins [n] of whose sign none is too low for y [n, m], given upper ends of its rows [n, R]: rows that read only what
        is known exactly are judged exactly."""
        point = y.lower == y.upper
        known = ((self.rows[self.of] == 0) | point[:, None]).all(-1) & (self.clause[self.of] >= 0)
        if not bool(known.any()):
            return self.combine(upper)
        return self.combine(torch.where(known, self._certain_values(torch.where(point, y.lower, 0.0).detach()), upper))

    def certain_margin(self, y: Tensor) -> Tensor:
        """Margins [n] of concrete outputs y [n, m] whose *sign* is exactly right; never <= 0 unless the catastrophe is certain.

        Row values are float64; one that its own rounding could turn round is evaluated again in rational arithmetic. Outputs that
        are not finite are taken as floating-point arithmetic takes them, and NaN makes no catastrophe.
        """
        return self.combine(self._certain_values(y.to(torch.float64)))

    def _certain_values(self, y: Tensor) -> Tensor:
        """Row values [n, R] at y [n, m] in float64, whose signs are exactly right; a real 0 is 0."""
        values = self.values(y)
        rows, offsets, blur = self.rows[self.of], self.offsets[self.of], self.blur[self.of]
        doubt = up(gamma(rows.shape[-1] + 4, y.dtype) * ((rows * y[:, None]).abs().sum(-1) + offsets.abs()) + blur)
        doubtful = ~(values.abs() > doubt) & (self.clause[self.of] >= 0) & torch.isfinite(y).all(1, keepdim=True)
        for i, r in doubtful.nonzero().tolist():
            terms = zip(rows[i, r].tolist(), y[i].tolist(), strict=True)
            exact = sum((Fraction(a) * Fraction(b) for a, b in terms if a), Fraction(offsets[i, r].item()))
            exact += Fraction(blur[i, r].item())
            size = float(min(max(abs(exact), Fraction(tiny(y.dtype))), Fraction(torch.finfo(y.dtype).max)))
            values[i, r] = 0.0 if exact == 0 else size if exact > 0 else -size
        return values
