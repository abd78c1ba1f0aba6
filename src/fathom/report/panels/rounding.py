"""Rounding failures: points where the deployed program and the real network are not known to agree. Never mixed with the rest."""

from __future__ import annotations

from typing import ClassVar

from fathom.audits.result import AuditResult
from fathom.report.markup import Markup, join
from fathom.report.panel import Panel
from fathom.report.words import many, paragraph, signed, table

LISTED = 60


class Rounding(Panel):
    order: ClassVar[int] = 60
    anchor: ClassVar[str] = "rounding"
    title: ClassVar[str] = "Rounding failures"

    def body(self, result: AuditResult) -> Markup:
        found = result.answers.found
        cases = result.rounding_failure.nonzero()[:, 0].tolist()
        if result.arithmetic != "real":
            return paragraph(f"None: failures and proofs are about the {result.arithmetic} program, rounding included.")
        if not cases:
            return paragraph(_none(int((found.known & found.judged_real).sum())))
        rows = [
            (
                f"{case}",
                result.titles[case],
                signed(repr(found.deployed[case].item())),
                signed(f"{found.real_lower[case].item():.6g} to {found.real_upper[case].item():.6g}"),
            )
            for case in cases[:LISTED]
        ]
        means = (
            f"At {many(len(cases), 'point')} the deployed program and the same network over the real numbers are not known to "
            "agree on whether it fails: rounding alone may decide. These points move no bracket and are counted nowhere else."
        )
        more = f" {LISTED} of them are listed." if len(cases) > LISTED else ""
        listed = table("Margins that disagree", ("case", "what it is", "deployed program", "real numbers"), rows, words=2)
        return join(paragraph(means + more), listed)


def _none(judged: int) -> str:
    if not judged:
        return "Nothing is known: no point was judged both on the deployed program and over the real numbers."
    where = many(judged, "point that was", "points that were")
    return f"None: at the {where} judged both ways, the deployed program and the same network over the real numbers agree."
