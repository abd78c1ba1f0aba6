"""What the audit cost, and where the effort went."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fathom.audits.result import AuditResult
from fathom.report.markup import Content, Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.words import GROUPS, many, mark, measured, paragraph, table, whole

DEAREST = 5
NOTE = (
    "Forward counts evaluations of the network, backward gradients and bounds, boxes sub-problems. "
    "Cases are worked on together, so the seconds of one case are its share of the clock."
)
HEAD = ("seconds", "forward", "backward", "boxes")


class Costs(Panel):
    order: ClassVar[int] = 70
    anchor: ClassVar[str] = "costs"
    title: ClassVar[str] = "Costs"

    def body(self, result: AuditResult) -> Markup:
        cost, seconds = result.answers.cost, result.answers.cost.seconds
        sums = [_sums(result, group.members(result), join(mark(group), " ", group.word)) for group in GROUPS]
        sums.append(_sums(result, torch.ones_like(result.proved), "all cases"))
        dearest = seconds.argsort(descending=True, stable=True)[:DEAREST].tolist()
        rows: list[tuple[Content, ...]] = [
            (
                _named(result, case),
                measured(seconds[case].item()),
                whole(int(cost.forward[case])),
                whole(int(cost.backward[case])),
                whole(int(cost.boxes[case])),
            )
            for case in dearest
        ]
        return join(
            paragraph(_means(result)),
            table("Spent, by verdict", ("verdict", *HEAD), sums),
            table("The dearest cases", ("case", *HEAD), rows) if seconds.sum() > 0 else "",
            paragraph(NOTE, class_="muted"),
        )


def _sums(result: AuditResult, members: Tensor, name: Content) -> tuple[Content, ...]:
    cost = result.answers.cost
    counts = [whole(int(part[members].sum())) for part in (cost.forward, cost.backward, cost.boxes)]
    return (name, measured(cost.seconds[members].sum().item()), *counts)


def _means(result: AuditResult) -> str:
    """Where half of the effort went."""
    seconds = result.answers.cost.seconds
    words = f"The audit took {measured(result.seconds)} seconds, {measured(result.seconds / len(result))} a case."
    total = seconds.sum().item()
    if total > 0:
        running = seconds.sort(descending=True).values.cumsum(0)
        half = int((running < total / 2).sum()) + 1
        words += f" Half of the work on single cases went into {many(half, 'case')} of {len(result)}."
    return words


def _named(result: AuditResult, case: int) -> Markup:
    """The case's number beside the mark of its verdict; the word is there for who cannot see the mark."""
    group = next(group for group in GROUPS if group.members(result)[case])
    return join(mark(group), " ", case, tag("span", f" {group.word}", class_="unseen"))
