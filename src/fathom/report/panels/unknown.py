"""The unknown cases: why each is open, and what would help."""

from __future__ import annotations

from typing import ClassVar

import torch

from fathom.audits.result import AuditResult
from fathom.core.answer import REASONS, Reason
from fathom.report.markup import Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.words import UNKNOWN, lower_words, many, mark, measured, paragraph, table, upper_words

LISTED = 60  # for each reason


class Unknown(Panel):
    order: ClassVar[int] = 40
    anchor: ClassVar[str] = "unknown"
    title: ClassVar[str] = "Unknown cases"

    def body(self, result: AuditResult) -> Markup:
        unknown = result.unknown
        if not unknown.any():
            return paragraph("No case is unknown: each one is proved, broken, or already wrong when clean.")
        means = (
            "Neither a failure nor a proof was found for these, so their bracket still holds 0. They are not known to be safe."
        )
        reasons = [
            _reason(result, reason) for reason in REASONS if (unknown & (result.answers.reason == REASONS.index(reason))).any()
        ]
        return join(paragraph(means), reasons)


def _reason(result: AuditResult, reason: Reason) -> Markup:
    """The cases that stopped for one reason, the widest open first."""
    answers = result.answers
    cases = (result.unknown & (answers.reason == REASONS.index(reason))).nonzero()[:, 0]
    cases = cases[torch.nan_to_num(answers.lower[cases]).argsort(stable=True)]
    why, _, help_ = reason.value.partition("; ")
    obstacle = f" {_sentence(result.obstacle)}" if reason is Reason.NOT_PROVABLE and result.obstacle else ""
    more = f" The {LISTED} furthest from a proof are listed." if len(cases) > LISTED else ""
    rows = [
        (
            f"{case}",
            result.titles[case],
            lower_words(answers.lower[case].item()),
            upper_words(answers.upper[case].item()),
            measured(answers.cost.seconds[case].item()),
        )
        for case in cases[:LISTED].tolist()
    ]
    said = (f"What would help: {help_}." if help_ else "") + obstacle + more
    return join(
        tag("h3", mark(UNKNOWN), " ", f"{many(len(cases), 'case')}: {why}"),
        paragraph(said.strip()) if said else "",
        table("Furthest from a proof first", ("case", "what it is", "proved", "found", "seconds"), rows, words=2),
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
