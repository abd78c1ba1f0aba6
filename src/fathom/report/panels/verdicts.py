"""How many cases came out how, and the bracket on the share that holds."""

from __future__ import annotations

import math
from typing import ClassVar

from fathom.audits.numbers import percent_at_least, percent_at_most
from fathom.audits.result import AuditResult
from fathom.report.markup import Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.scale import Scale, figure, line, text
from fathom.report.words import GROUPS, lower_words, many, mark, paragraph, upper_words, whole

TOP, THICK = 34, 30  # the bar's place in the picture, in pixels


class Verdicts(Panel):
    order: ClassVar[int] = 10
    anchor: ClassVar[str] = "verdicts"
    title: ClassVar[str] = "The verdicts"

    def body(self, result: AuditResult) -> Markup:
        return join(_bar(result), _tiles(result), _worst(result))


def _bar(result: AuditResult) -> Markup:
    """All cases side by side, best first; above them the bracket, below them the axis."""
    counts, percent = result.counts, Scale(0, 100)
    hatch = tag("path", d="M0 0V6", class_="hatching")
    pattern = tag("pattern", hatch, id="hatch", width=5, height=6, patternUnits="userSpaceOnUse", patternTransform="rotate(45)")
    drawn, start = [tag("defs", pattern)], 0
    for group in GROUPS:
        size = int(group.members(result).sum())
        if size:
            place = {"x": percent.at(100 * start / counts.cases), "width": percent.at(100 * size / counts.cases)}
            title = tag("title", f"{group.word}: {size} of {counts.cases}")
            drawn.append(tag("rect", title, y=TOP, height=THICK, class_=f"block {group.key}", **place))
            if group.key == "unknown":
                drawn.append(tag("rect", y=TOP, height=THICK, fill="url(#hatch)", **place))
        start += size
    axis = [
        text(percent.at(tick), TOP + THICK + 18, f"{tick} %" if tick == 100 else tick, anchor=_anchor(tick))
        for tick in (0, 25, 50, 75, 100)
    ]
    least, most = result.share
    measure = result.measure[:1].upper() + result.measure[1:]
    ends = (
        "The left end is what is proved, the right end what is not yet broken; more work brings them closer, never apart."
        if counts.unknown
        else "What is proved and what is not broken have met, and no more work will move them."
    )
    means = (
        f"{measure}, over {many(counts.cases, 'case')}, is {result.share_words}. {ends} "
        "It is a statement about these cases, not about others."
    )
    label = ", ".join(f"{group.word} {int(group.members(result).sum())}" for group in GROUPS)
    return figure(TOP + THICK + 24, means, drawn, _bracket(result, 100 * least, 100 * most), axis, label=f"{label}. {means}")


def _bracket(result: AuditResult, least: float, most: float) -> Markup:
    """The two ends of the bracket above the bar, and their numbers."""
    percent, counts = Scale(0, 100), result.counts
    ends = [line(percent.at(end), percent.at(end), TOP - 12, TOP + THICK + 4, class_="bracket") for end in (least, most)]
    low, high = counts.holding
    numbers = percent_at_least(low, counts.cases), percent_at_most(high, counts.cases)
    words = numbers[0] if numbers[0] == numbers[1] else f"{numbers[0]} to {numbers[1]}"
    middle = min(max((least + most) / 2, 18), 82)  # clear of the picture's edges on a phone
    across = line(percent.at(least), percent.at(most), TOP - 12, TOP - 12, class_="bracket")
    return join(ends, across, text(percent.at(middle), TOP - 20, words, class_="strong"))


def _tiles(result: AuditResult) -> Markup:
    """The legend of the bar, with the counts."""
    tiles = []
    for group in GROUPS:
        size = int(group.members(result).sum())
        word = tag("dt", mark(group), " ", group.word)
        share = tag("span", f"{100 * size / len(result):.1f} %", class_="muted")
        tiles.append(
            tag("div", word, tag("dd", tag("strong", whole(size)), " ", share), tag("dd", group.meaning, class_="muted"))
        )
    return tag("dl", tiles, class_="tiles")


def _worst(result: AuditResult) -> Markup:
    """The worst point found, and how much worse it could be."""
    worst = result.worst
    if worst is None:
        return paragraph("No point is known for any case that is right when clean.")
    lower = lower_words(worst.lower)
    proved = f"proved: no worse than {lower}" if math.isfinite(worst.lower) else lower
    found = f"case {worst.case}" + (f", {worst.judgement}" if worst.judgement else "") + f", margin {upper_words(worst.margin)}"
    shown = tag("a", found, href=f"#broken-{worst.case}") if result.broken[worst.case] else tag("strong", found)
    return paragraph("Worst found: ", shown, f" ({proved}).")


def _anchor(tick: int) -> str:
    return {0: "start", 100: "end"}.get(tick, "middle")
