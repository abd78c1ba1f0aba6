"""A panel: one section of the page. Adding one is adding a file to `panels/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from fathom.audits.result import AuditResult
from fathom.report.markup import Markup


class Panel(ABC):
    """Panels are found by discovery and stand in the order of `order`; `anchor` is the section's id in the page."""

    order: ClassVar[int]
    anchor: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def body(self, result: AuditResult) -> Markup:
        """The section below its heading. Never empty: what was not found is said in a sentence."""
