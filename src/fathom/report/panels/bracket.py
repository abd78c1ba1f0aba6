"""The bracket as a picture: for every case, the line between what is proved and what was found."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fathom.audits.result import AuditResult
from fathom.report.markup import Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.scale import Scale, beside, figure, line, number, text
from fathom.report.words import ALREADY, BROKEN, PROVED, UNKNOWN, Group, called, lower_words, many, mark, table, upper_words

BANDS = (BROKEN, UNKNOWN, PROVED)
DRAWN = 300  # lines at most
HEAD, GAP = 26, 14  # pixels above a band for its name, and between bands


class Bracket(Panel):
    order: ClassVar[int] = 20
    anchor: ClassVar[str] = "bracket"
    title: ClassVar[str] = "The bracket of every case"

    def body(self, result: AuditResult) -> Markup:
        bands = {group: _sample(_sorted(result, group), len(result)) for group in BANDS}
        if not any(len(cases) for cases in bands.values()):
            return tag("p", "Every case is already wrong when clean, so there is no bracket to draw.")
        return join(tag("p", _introduction(result)), _picture(result, bands), _numbers(result, bands))


def _introduction(result: AuditResult) -> str:
    return (
        "A margin says how far an output is from failing: above 0 it is safe, at 0 or below it fails. Each line is one case. "
        "Its left end is proved: no allowed input has a smaller margin. Its right end was found: an allowed input that has it."
    )


def _sorted(result: AuditResult, group: Group) -> Tensor:
    """The cases of a group from worst to best: broken by what was found, the others by what is proved."""
    cases = group.members(result).nonzero()[:, 0]
    key = result.answers.upper if group is BROKEN else result.answers.lower
    return cases[torch.nan_to_num(key[cases]).argsort(stable=True)]


def _sample(cases: Tensor, total: int) -> Tensor:
    """All of them, or, of very many, evenly spaced ones, the first and the last among them."""
    if total <= DRAWN or not len(cases):
        return cases
    count = max(2, len(cases) * DRAWN // total)
    return cases[torch.linspace(0, len(cases) - 1, min(count, len(cases))).round().long()]


def _picture(result: AuditResult, bands: dict[Group, Tensor]) -> Markup:
    drawn = torch.cat(list(bands.values()))
    lower, upper = result.answers.lower[drawn], result.answers.upper[drawn]
    scale, pitch = Scale.around(lower, upper), min(14.0, max(3.0, 120 / len(drawn)))
    parts, y = [], 24.0
    for group, cases in bands.items():
        if len(cases):
            parts.append(_name(group, int(group.members(result).sum()), y))
            y += HEAD
            parts.append(
                tag(
                    "g",
                    [_row(result, case, scale, y + (i + 0.5) * pitch) for i, case in enumerate(cases.tolist())],
                    class_=group.key,
                )
            )
            y += len(cases) * pitch + GAP
    beyond = int(((lower < scale.left) | (upper > scale.right)).sum())
    return figure(y + 22, _caption(result, len(drawn), beyond), _axis(scale, y), parts, label=_label(result))


def _name(group: Group, size: int, y: float) -> Markup:
    sign = tag("svg", mark(group), y=number(y + 3), width=12, height=12, x=0)
    return join(sign, text("18", y + 13, f"{group.word}: {many(size, 'case')}", anchor="start", class_="strong"))


def _row(result: AuditResult, case: int, scale: Scale, y: float) -> Markup:
    lower, upper = result.answers.lower[case].item(), result.answers.upper[case].item()
    words = f"{called(result, case)}: {lower_words(lower)} to {upper_words(upper)}"
    decides = {"proved": lower, "broken": upper}.get(_group(result, case).key)
    dot = "" if decides is None else tag("circle", cx=scale.at(decides), cy=number(y), r="1.75")
    return tag("g", tag("title", words), line(scale.at(lower), scale.at(upper), y, y), dot)


def _group(result: AuditResult, case: int) -> Group:
    return next((group for group in BANDS if group.members(result)[case]), ALREADY)


def _axis(scale: Scale, bottom: float) -> Markup:
    zero, place = scale.at(0), scale.share(0)
    parts = [tag("rect", x=0, y=20, width=zero, height=number(bottom - 20), class_="danger")]
    for tick in scale.ticks(6):
        if 3 < scale.share(tick) < 97:
            parts.append(line(scale.at(tick), scale.at(tick), 20, bottom, class_="zero" if tick == 0 else "grid"))
            parts.append(text(scale.at(tick), bottom + 16, f"{tick:g}".replace("-", "\u2212")))
    if place > 22:
        parts.append(beside(zero, 12, -6, "\u2190 fails"))
    if place < 78:
        parts.append(beside(zero, 12, 6, "safe \u2192"))
    return join(parts)


def _caption(result: AuditResult, drawn: int, beyond: int) -> str:
    counts, asked = result.counts, len(result) - result.counts.already_wrong
    groups = (
        (counts.proved, "line stays", "lines stay", "right of 0"),
        (counts.broken, "line ends", "lines end", "left of 0"),
        (counts.unknown, "line crosses", "lines cross", "0 and must be narrowed"),
    )
    means = "; ".join(f"{many(size, one, several)} {where}" for size, one, several, where in groups if size) + "."
    if drawn < asked:
        means += f" Of {many(asked, 'case')}, {drawn} are drawn, evenly spaced from worst to best."
    if beyond:
        means += f" {many(beyond, 'line runs', 'lines run')} on beyond the edge of the picture."
    if counts.already_wrong:
        means += f" The {many(counts.already_wrong, 'case')} already wrong when clean are left out."
    return means


def _label(result: AuditResult) -> str:
    worst = result.worst
    found = (
        "" if worst is None or not math.isfinite(worst.margin) else f" The smallest margin found is {upper_words(worst.margin)}."
    )
    return f"One line a case from its proved to its found margin, sorted.{found} The numbers are in the table below."


def _numbers(result: AuditResult, bands: dict[Group, Tensor]) -> Markup:
    answers = result.answers
    rows = [
        (
            f"{case}",
            result.titles[case],
            group.word,
            lower_words(answers.lower[case].item()),
            upper_words(answers.upper[case].item()),
        )
        for group, cases in bands.items()
        for case in cases.tolist()
    ]
    whole = table(
        "Margins of the lines above, from worst to best", ("case", "what it is", "verdict", "proved", "found"), rows, words=3
    )
    return tag("details", tag("summary", "The picture as a table"), whole)
