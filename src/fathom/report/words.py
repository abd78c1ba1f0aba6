"""Small pieces of text and markup that several panels share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fathom.audits.numbers import at_least, at_most, near
from fathom.audits.result import AuditResult
from fathom.report.markup import Content, Markup, tag


@dataclass(frozen=True)
class Group:
    """The cases that came out one way. `key` names its colour and mark."""

    key: str
    word: str
    meaning: str
    members: Callable[[AuditResult], Tensor]


PROVED = Group("proved", "proved", "no allowed change makes it fail", lambda result: result.proved)
UNKNOWN = Group("unknown", "unknown", "no failure found, and none ruled out", lambda result: result.unknown)
BROKEN = Group("broken", "broken", "a change that makes it fail is known", lambda result: result.broken)
ALREADY = Group("already", "already wrong", "fails with no change at all", lambda result: result.already_wrong)
GROUPS = (PROVED, UNKNOWN, BROKEN, ALREADY)
"""From best to worst, so that the bracket on the share is what lies between the first and the third."""

SHAPES = {"proved": "M2 2H10V10H2Z", "unknown": "M6 1A5 5 0 1 0 6 11A5 5 0 1 0 6 1Z", "broken": "M2 2L10 10M10 2L2 10"}
SHAPES["already"] = "M6 1L11 10.5H1Z"


def mark(group: Group) -> Markup:
    """The sign of a group, so that nothing is said by colour alone."""
    return tag("svg", tag("path", d=SHAPES[group.key]), class_=f"mark {group.key}", viewBox="0 0 12 12", aria_hidden="true")


def signed(text: str) -> str:
    """With a true minus sign."""
    return text.replace("-", "\u2212")


def lower_words(value: float) -> str:
    """A lower bound, rounded down, as text."""
    return "nothing proved" if value == -float("inf") else signed(at_least(value))


def upper_words(value: float) -> str:
    """An upper bound, rounded up, as text."""
    return "no point known" if value == float("inf") else signed(at_most(value))


def measured(value: float) -> str:
    """A measured number, rounded to nearest, as text."""
    return signed(near(value))


def whole(number: int) -> str:
    """A count with thin spaces between the thousands."""
    return f"{number:,}".replace(",", "\u202f")


def many(number: int, noun: str, plural: str = "") -> str:
    """A count and its noun: "1 case", "2 cases"."""
    return f"{whole(number)} {noun if number == 1 else plural or noun + 's'}"


def paragraph(*children: Content, class_: str | None = None) -> Markup:
    return tag("p", *children, class_=class_)


def called(result: AuditResult, case: int) -> str:
    """A case by number and, where that says more, by title: "case 17 \u00b7 digit 3"."""
    number, title = f"case {case}", result.titles[case]
    return number if title in ("", number) else f"{number} \u00b7 {title}"


def typeset(text: str) -> str:
    """The text with its percentages held together."""
    return text.replace(" %", "\u00a0%")


def table(caption: Content, head: tuple[str, ...], rows: Sequence[tuple[Content, ...]], words: int = 1) -> Markup:
    """A table whose first column names its rows; columns after the first `words` hold numbers, and line up on the right."""

    def kind(column: int) -> str | None:
        return "number" if column >= words else None

    columns = tag("tr", [tag("th", name, scope="col", class_=kind(i)) for i, name in enumerate(head)])
    lines = [
        tag("tr", tag("th", row[0], scope="row"), [tag("td", cell, class_=kind(i)) for i, cell in enumerate(row[1:], 1)])
        for row in rows
    ]
    return tag("div", tag("table", tag("caption", caption), tag("thead", columns), tag("tbody", lines)), class_="scroll")
