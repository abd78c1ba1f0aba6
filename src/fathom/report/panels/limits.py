"""What the numbers do not say, and what the words mean."""

from __future__ import annotations

from typing import ClassVar

from fathom.audits.result import AuditResult
from fathom.report.markup import Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.words import paragraph, table

ARITHMETIC = {
    "real": "The network over the real numbers, with the file's own weights; proofs account for their own rounding.",
    "float32": "The float32 program itself, for any order of summation.",
}
STANDING = ("Only the cases of this audit, only changes within its region and only its kind of failure were judged.",)
MEANINGS = (
    ("margin", "How far an output is from failing. Above 0 is safe, 0 or below fails."),
    ("counterexample", "This input, on the deployed program, fails. Run again and confirmed, with no tolerance."),
    (
        "certificate (unchecked)",
        "No input in the region fails: a rigorous bound, its own rounding subtracted. No independent program has checked it yet.",
    ),
    ("certificate (checked)", "The same, recomputed and accepted by the independent checker."),
    ("unknown", "Neither was found. It says why, and what would help."),
    ("bracket", "The lower end is proved, the upper end was found; the worst margin lies between them."),
)


class Limits(Panel):
    order: ClassVar[int] = 80
    anchor: ClassVar[str] = "limits"
    title: ClassVar[str] = "Limits, and what the words mean"

    def body(self, result: AuditResult) -> Markup:
        limits = list(result.limits or STANDING)
        if result.waiting_words:
            limits.append(f"{result.waiting_words}.")
        if result.obstacle:
            limits.append(f"Nothing could be proved: {result.obstacle}")
        arithmetic = (f"{result.arithmetic} arithmetic", ARITHMETIC.get(result.arithmetic, "What proofs are about."))
        return join(
            paragraph("Every figure on this page is to be read with these limits."),
            tag("ul", [tag("li", sentence) for sentence in limits]),
            table("What kind of statement each word is", ("word", "says"), [*MEANINGS, arithmetic], words=2),
        )
