"""Products of variables, and of sums of variables, as a network, so that polynomial constraints are rows over its outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from fathom.core.network import Join, Network, Node, Port
from fathom.ops.dense import Dense
from fathom.ops.pick import Pick
from fathom.ops.power import Square
from fathom.ops.product import Product

Monomial = tuple[int, ...]
"""The places of the factors, ascending."""


def append_monomials(size: int, keep: int, monomials: Sequence[Monomial], sums: Dense | None = None) -> Network:
    """The network from [n, size] to [n, keep + k]: the first `keep` inputs, then the k monomials.

    Factors are inputs or, numbered on, the values of `sums`.

    One of even powers is the square of its root, which bounds better than a product of a value with itself; others are a product
    of two that come before. Monomials of one degree are one node.
    """
    parts: dict[Monomial, tuple[Monomial, ...]] = {}
    todo = list(monomials)
    while todo:
        monomial = todo.pop()
        if len(monomial) > 1 and monomial not in parts:
            parts[monomial] = _parts(monomial)
            todo.extend(parts[monomial])
    ports = (Port("x", (size,), 0),)
    nodes = [Node("input", None, (), (size,))]
    places: dict[Monomial, int] = {(i,): i for i in range(size)}
    pool = 0
    if sums is not None:
        count = len(sums.weight)
        nodes.append(Node("sums", sums, (0,), (count,)))
        nodes.append(Node("sums/pool", Join(((size,), (count,))), (0, 1), (size + count,)))
        places.update(((size + k,), size + k) for k in range(count))
        pool = 2
    for degree in sorted({len(monomial) for monomial in parts}):
        for count in (1, 2):
            made = [monomial for monomial in parts if len(monomial) == degree and len(parts[monomial]) == count]
            if not made:
                continue
            shape, total = (len(made),), nodes[pool].shape
            label = f"{'square' if count == 1 else 'product'} of degree {degree}"
            for factor in range(count):
                index = torch.tensor([places[parts[monomial][factor]] for monomial in made])
                nodes.append(Node(f"{label}/factor {factor}", Pick(total, index), (pool,), shape))
            factors = tuple(range(len(nodes) - count, len(nodes)))
            nodes.append(Node(label, Square() if count == 1 else Product(), factors, shape))
            places.update((monomial, total[0] + k) for k, monomial in enumerate(made))
            nodes.append(Node(f"{label}/pool", Join((total, shape)), (pool, len(nodes) - 1), (total[0] + len(made),)))
            pool = len(nodes) - 1
    index = torch.tensor([*range(keep), *(places[monomial] for monomial in monomials)])
    nodes.append(Node("polynomials", Pick(nodes[pool].shape, index), (pool,), tuple(index.shape)))
    return Network(tuple(nodes), ports, (Port("y", tuple(index.shape), 0),))


def _parts(monomial: Monomial) -> tuple[Monomial, ...]:
    counts = Counter(monomial)
    if all(count % 2 == 0 for count in counts.values()):
        return (tuple(sorted(factor for factor, count in counts.items() for _ in range(count // 2))),)
    return monomial[:-1], monomial[-1:]
