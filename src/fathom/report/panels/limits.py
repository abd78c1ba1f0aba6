"""What the numbers do not say, and what the words mean."""

from __future__ import annotations

from typing import ClassVar

from fathom.audit.result import AuditResult
from fathom.report.markup import Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.words import paragraph, table

ARITHMETIC = {
    "real": (
        "Proofs are about the network over the real numbers with the file's own weights; the rounding of the proof's own "
        "computation is accounted for. The deployed program rounds, and could differ where a margin is within its rounding of 0."
    ),
    "float32": "Proofs are about the float32 program itself, for any order of summation.",
}
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
        standing = [
            "Only the cases of this audit, only changes within the region named above and only this kind of failure were judged.",
            ARITHMETIC.get(result.arithmetic, f"The arithmetic is {result.arithmetic}."),
            *([f"Nothing could be proved: {result.obstacle}"] if result.obstacle else []),
        ]
        sentences = tag("ul", [tag("li", sentence) for sentence in (*standing, *result.limits)])
        return join(
            paragraph("Every figure on this page is to be read with these limits."),
            sentences,
            table("What kind of statement each word is", ("word", "says"), [*MEANINGS], words=2),
        )
