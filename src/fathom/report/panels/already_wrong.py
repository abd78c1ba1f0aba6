"""The cases that fail before any attack: ordinary errors, listed apart."""

from __future__ import annotations

from typing import ClassVar

from fathom.audits.result import AuditResult
from fathom.report.markup import Markup, join
from fathom.report.panel import Panel
from fathom.report.words import many, measured, paragraph, table

LISTED = 40


class AlreadyWrong(Panel):
    order: ClassVar[int] = 50
    anchor: ClassVar[str] = "already-wrong"
    title: ClassVar[str] = "Already wrong when clean"

    def body(self, result: AuditResult) -> Markup:
        cases = result.already_wrong.nonzero()[:, 0]
        if not len(cases):
            return paragraph("Every case is right when clean.")
        cases = cases[result.clean_margin[cases].argsort(stable=True)]
        rows = [
            (f"{case}", result.titles[case], result.judgements[case], measured(result.clean_margin[case].item()))
            for case in cases[:LISTED].tolist()
        ]
        fail = many(len(cases), "case fails", "cases fail")
        means = f"{fail} with no change at all: an ordinary error, counted as not holding."
        more = f" The worst {LISTED} are listed." if len(cases) > LISTED else ""
        listed = table("Ordinary errors, worst first", ("case", "what it is", "what came out", "margin"), rows, words=3)
        return join(paragraph(means + more), listed)
