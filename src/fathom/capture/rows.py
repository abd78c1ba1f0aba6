"""Affine maps of few entries a row, composed and added without rounding, or not at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.ops.dense import Dense
from fathom.ops.sparse import Sparse

FEW = 8
"""Entries a row or a column may have and still be picked one by one."""

WORTH = 8
"""How many multiplications of a matrix product the picking of one entry costs."""

SMALL = 2.0**-900
"""Products below this may lose digits to underflow."""


@dataclass(frozen=True, eq=False)
class Rows:
    """m affine functions of `size` numbers: entry k of row i is value[i, k] times number index[i, k].

    Number `size` is the constant 1, and number `size + 1` a 0 that pads short rows. Entries of a row are sorted by index, and
    none but padding is 0.
    """

    index: Tensor  # [m, k] int64
    value: Tensor  # [m, k] float64
    size: int

    @staticmethod
    def of(operator: Dense) -> Rows | None:
        """A dense layer, if its rows have few entries."""
        mask = operator.weight != 0
        count = mask.sum(1)
        most = int(count.max()) if mask.numel() else 0
        if not 0 < most <= FEW:
            return None
        m, size = operator.weight.shape
        rows, columns = mask.nonzero().T
        place = torch.arange(len(rows)) - (count.cumsum(0) - count)[rows]
        index = torch.full((m, most + 1), size + 1)
        value = torch.zeros(m, most + 1, dtype=torch.float64)
        index[rows, place] = columns
        value[rows, place] = operator.weight[rows, columns].detach().to(torch.float64)
        if operator.shift is not None:
            index[:, most] = size
            value[:, most] = operator.shift.detach().to(torch.float64)
        return _merged(index, value, size)

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Tensor) -> Rows:
        return Rows(self.index[rows], self.value[rows], self.size)

    def entries(self) -> tuple[Tensor, Tensor]:
        """[m, k] whether an entry is one of a number that varies, and whether it is the constant."""
        return self.index < self.size, self.index == self.size

    def renamed(self, index: Tensor, size: int) -> Rows | None:
        """The same rows over other numbers: number j is called index[j] [self.size]; None if adding up namesakes rounds."""
        names = torch.cat([index, torch.tensor([size, size + 1])])
        return _merged(names[self.index], self.value, size)

    def masked(self, keep: Tensor) -> Rows:
        """The rows with only the entries `keep` [m, k]."""
        merged = _merged(torch.where(keep, self.index, self.size + 1), torch.where(keep, self.value, 0.0), self.size)
        assert merged is not None
        return merged

    def after(self, first: Rows) -> Rows | None:
        """These functions of what `first` gives; None if a float64 cannot hold an entry of the composition."""
        assert self.size == len(first)
        constant, padding = first.size, first.size + 1
        tail = torch.full((2, first.index.shape[1]), padding)
        tail[0, 0] = constant
        ones = torch.zeros(tail.shape, dtype=torch.float64)
        ones[0, 0] = 1.0
        index = torch.cat([first.index, tail])[self.index]
        value = torch.cat([first.value, ones])[self.index]
        factor = self.value[:, :, None]
        product = factor * value
        if not _exact_product(factor.expand_as(value), value, product):
            return None
        return _merged(index.flatten(1), product.flatten(1), first.size)

    def cost(self) -> int:
        """Multiplications that one vector takes, in the cheaper of the two forms."""
        return min(self._picking(), len(self) * self.size)

    def operator(self) -> Dense | Sparse:
        """The cheaper form."""
        varying, constant = self.entries()
        shift = torch.where(constant, self.value, 0.0).sum(1) if bool(constant.any()) else None
        own = self.masked(varying)
        if self._picking() >= len(self) * self.size:
            weight = torch.zeros(len(self), self.size + 2, dtype=torch.float64).scatter_add(1, own.index, own.value)
            return Dense(weight[:, : self.size].clone(), shift)
        rows, place = (own.index < own.size).nonzero().T
        columns, values = own.index[rows, place], own.value[rows, place]
        order = columns.argsort(stable=True)
        back = torch.bincount(columns, minlength=self.size)
        at = torch.arange(len(order)) - (back.cumsum(0) - back)[columns[order]]
        back_index = torch.zeros(self.size, max(int(back.max()), 1), dtype=torch.int64)
        back_value = torch.zeros(back_index.shape, dtype=torch.float64)
        back_index[columns[order], at] = rows[order]
        back_value[columns[order], at] = values[order]
        return Sparse(torch.where(own.index < own.size, own.index, 0), own.value, back_index, back_value, shift)

    def _picking(self) -> int:
        varying, _ = self.entries()
        wide = int(varying.sum(1).max()) if len(self) else 0
        deep = int(torch.bincount(self.index[varying], minlength=self.size).max()) if self.size else 0
        if max(wide, deep) > FEW:
            return len(self) * self.size
        return WORTH * (wide * len(self) + deep * self.size)


def _merged(index: Tensor, value: Tensor, size: int) -> Rows | None:
    """Rows with the entries of one number added up; None if that rounds."""
    index, order = index.sort(dim=1, stable=True)
    value = value.gather(1, order)
    for k in range(1, index.shape[1]):
        same = index[:, k] == index[:, k - 1]
        left, right = torch.where(same, value[:, k - 1], 0.0), value[:, k]
        total = left + right
        if not _exact_sum(left, right, total):
            return None
        value[:, k] = total
        value[:, k - 1] = torch.where(same, 0.0, value[:, k - 1])
    index, order = torch.where(value == 0, size + 1, index).sort(dim=1, stable=True)
    value = value.gather(1, order)
    keep = max(int((index <= size).sum(1).max()) if len(index) else 0, 1)
    return Rows(index[:, :keep].clone(), value[:, :keep].clone(), size)


def _exact_sum(a: Tensor, b: Tensor, total: Tensor) -> bool:
    """Whether total is a + b, without rounding (the error term of Knuth's TwoSum is 0)."""
    part = total - a
    return bool((((a - (total - part)) + (b - part)) == 0).all())


def _exact_product(a: Tensor, b: Tensor, product: Tensor) -> bool:
    """Whether product is a b, without rounding (the error term of Dekker's TwoProduct is 0, and nothing underflows)."""
    (ah, al), (bh, bl) = _halves(a), _halves(b)
    error = ((ah * bh - product) + ah * bl + al * bh) + al * bl
    whole = (product.abs() >= SMALL) | ((product == 0) & ((a == 0) | (b == 0)))
    return bool(((error == 0) & whole).all())


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """x as the sum of two numbers of half its digits (Veltkamp)."""
    scaled = x * (2.0**27 + 1)
    high = scaled - (scaled - x)
    return high, x - high
