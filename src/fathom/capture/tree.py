"""Many values into one by a balanced tree of two-by-two steps b + f(a - b): a maximum where f is the rectifier, a log-sum-exp
where it is the softplus. Only differences are bent, so nothing overflows, and a rectifier is split like any other."""

from __future__ import annotations

import torch
from torch import Tensor

from fathom.capture.graph import Graph, Shape
from fathom.core.operator import Nonlinear
from fathom.ops.layout import Reshape
from fathom.ops.pick import Concat, Pick
from fathom.ops.sum import Sum


def combine(graph: Graph, name: str, x: int, table: Tensor, after: Shape, bend: Nonlinear) -> int:
    """Each row of `table` [rows, elements] of flat places in a sample of x combined into one value, in the shape `after`.

    -1 in the table is no element; every row has one at least. Neighbours meet once, however many rows share the pair; elements
    without a partner wait for the next round.
    """
    level = 0
    while table.shape[1] > 1:
        if table.shape[1] % 2:
            table = torch.nn.functional.pad(table, (0, 1), value=-1)
        first, second = table[:, 0::2], table[:, 1::2]
        paired, alone = (first >= 0) & (second >= 0), (first >= 0) ^ (second >= 0)
        pairs, of_pair = torch.unique(torch.stack([first[paired], second[paired]]), dim=1, return_inverse=True)
        rest, of_rest = torch.unique(torch.maximum(first, second)[alone], return_inverse=True)
        table = torch.full_like(first, -1)
        table[paired] = of_pair
        table[alone] = of_rest + pairs.shape[1]
        x = _round(graph, f"{name}/round{level}", x, pairs, rest, bend)
        level += 1
    index = table[:, 0]
    if graph.shape(x) == (len(index),) and torch.equal(index, torch.arange(len(index))):
        return graph.add(name, Reshape(graph.shape(x), after), x)
    return graph.add(name, Pick(graph.shape(x), index.reshape(after)), x)


def _round(graph: Graph, name: str, x: int, pairs: Tensor, rest: Tensor, bend: Nonlinear) -> int:
    """The pairs [2, k] of places met, then the elements at the places `rest` [j] as they are: [k + j]."""
    before = graph.shape(x)
    single = graph.add(f"{name}/rest", Pick(before, rest), x) if len(rest) else None
    if not pairs.shape[1]:
        assert single is not None
        return single
    a = graph.add(f"{name}/a", Pick(before, pairs[0].contiguous()), x)
    b = graph.add(f"{name}/b", Pick(before, pairs[1].contiguous()), x)
    over = graph.add(f"{name}/over", bend, graph.add(f"{name}/difference", Sum((1, -1)), a, b))
    met = graph.add(f"{name}/met", Sum((1, 1)), over, b)
    if single is None:
        return met
    return graph.add(f"{name}/all", Concat(0, (pairs.shape[1], len(rest))), met, single)
