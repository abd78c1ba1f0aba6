"""How to get the same answers again."""

from __future__ import annotations

from typing import ClassVar

from fathom.audits.result import AuditResult
from fathom.report.markup import Content, Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.words import paragraph, table


class Reproduce(Panel):
    order: ClassVar[int] = 90
    anchor: ClassVar[str] = "reproduce"
    title: ClassVar[str] = "How to reproduce this"

    def body(self, result: AuditResult) -> Markup:
        shapes = "; ".join(f"{port.name} {list(port.shape)} {port.dtype}" for port in result.inputs)
        rows: list[tuple[Content, ...]] = [
            ("model", result.title),
            ("its digest", tag("code", result.program)),
            ("inputs", shapes),
            ("region", result.region),
            ("failure", result.overseer),
            ("arithmetic", result.arithmetic),
            ("seed", f"{result.seed}"),
            ("casebook", result.casebook or "none was written"),
            *((name, version) for name, version in result.versions),
        ]
        return join(
            paragraph(
                "The same command, seed and versions ask the same questions; a casebook also replays every failure found before."
            ),
            tag("pre", tag("code", result.recipe), tabindex=0, class_="recipe"),
            table("What was audited, with what", ("part", "value"), rows, words=2),
        )
