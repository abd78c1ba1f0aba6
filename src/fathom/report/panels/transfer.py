"""Transfer: which of the failures also break the user's other models."""

from __future__ import annotations

from typing import ClassVar

from fathom.audits.result import AuditResult
from fathom.report.markup import Markup, join
from fathom.report.panel import Panel
from fathom.report.words import paragraph, table, whole

LISTED = 30


class TransferPanel(Panel):
    order: ClassVar[int] = 35
    anchor: ClassVar[str] = "transfer"
    title: ClassVar[str] = "Failures in other models"

    def body(self, result: AuditResult) -> Markup:
        if not result.transfer:
            return paragraph("No other model was named, so the failures were tried on none.")
        if not result.broken.any():
            return paragraph("No failure was found that could be tried on the other models.")
        means = (
            "Each failure was given to the other models as it is, and their outputs judged alike. One that breaks a model which "
            "it was not made for is likely to break further ones."
        )
        rows = [
            (
                transfer.name,
                ", ".join(map(str, transfer.broken[:LISTED])) + (" ..." if len(transfer.broken) > LISTED else "") or "none",
                whole(len(transfer.tried)),
                whole(len(transfer.broken)),
                whole(len(transfer.already_wrong)),
                whole(len(transfer.unjudged)),
            )
            for transfer in result.transfer
        ]
        head = (
            "model",
            "cases whose failure breaks it too",
            "tried",
            "break it",
            "of them wrong there when clean",
            "cannot be judged",
        )
        return join(paragraph(means), table("The same inputs, in other models", head, rows, words=2))
