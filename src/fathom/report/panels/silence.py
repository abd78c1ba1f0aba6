"""How far silence can be trusted: masked gradients, and how many failures that were planted the search found."""

from __future__ import annotations

from typing import ClassVar

from fathom.audits.result import AuditResult
from fathom.audits.silence import CONFIDENCE, Rate, Silence, share
from fathom.report.markup import Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.scale import Scale, figure, line, number, text
from fathom.report.words import BROKEN, UNKNOWN, many, mark, paragraph, table, typeset, whole

HEAD = ("what was planted", "planted", "found", "share found", "found by one plain descent")
ROW = 26  # pixels
DEPTHS = (
    "In a case in which nothing was found the best point known is as near to failing as the search came. It was made to fail by "
    "a little, and searched for anew: these failures lie where the model's own slopes lead."
)
PITS = (
    "A pit fails where a few inputs are near certain values, as a backdoor does, and nowhere else, so no slope leads there. A "
    "search comes upon it or misses it."
)


class SilencePanel(Panel):
    order: ClassVar[int] = 45
    anchor: ClassVar[str] = "silence"
    title: ClassVar[str] = "How far silence can be trusted"

    def body(self, result: AuditResult) -> Markup:
        silence = result.silence
        if silence is None and result.unknown.any():
            return paragraph("That nothing was found in the unknown cases was not put to a test, so it says little.")
        if silence is None:
            return paragraph("There is no silence to be trusted: in every case a failure was found or ruled out.")
        return join(_masking(silence), _signs(silence), _depths(silence), _pits(silence), _means(silence))


def _masking(silence: Silence) -> Markup:
    """The flag, or that it is not raised."""
    asked = (
        f"In {many(silence.silent, 'case')} nothing was found and nothing proved. "
        f"{whole(silence.examined)} of them {'was' if silence.examined == 1 else 'were'} examined for signs that the attacks "
        "failed, and not that there is nothing to find."
    )
    caught = (
        f" {many(silence.broke, 'case')} {'was' if silence.broke == 1 else 'were'} broken on the way." if silence.broke else ""
    )
    if silence.masked:
        flag = paragraph(tag("strong", mark(BROKEN), " ", silence.masking_sentence, "."))
    else:
        flag = paragraph(mark(UNKNOWN), " No sign of masked gradients: following them is not misleading here.")
    return join(paragraph(asked, caught), flag)


def _signs(silence: Silence) -> Markup:
    if not silence.signs:
        return paragraph("Nothing else casts doubt on the search.")
    rows = [(sign.name, sign.example, whole(sign.cases)) for sign in silence.signs]
    return table("What casts doubt on the search", ("sign", "in one of the cases", "cases"), rows, words=2)


def _depths(silence: Silence) -> Markup:
    if not silence.depths:
        return join()
    names = [f"the best point known, to within {share(rate.size)}" for rate in silence.depths]
    return join(tag("h3", "Failures where slopes lead"), paragraph(DEPTHS), _rates(silence.depths, names))


def _pits(silence: Silence) -> Markup:
    heading = tag("h3", "Isolated failures")
    if not silence.pits:
        return join(heading, paragraph(typeset(silence.sentence[:1].upper() + silence.sentence[1:]), "."))
    names = [f"pits of {share(rate.size)} of a set" for rate in silence.pits]
    said = silence.meaning or "It takes more of them to say how rare a failure silence speaks against"
    stopped = f" Narrower ones were left out: {silence.stopped}." if silence.stopped else ""
    drawn = _picture(silence.pits, f"{said}.{stopped}")
    return join(heading, paragraph(PITS), drawn, _rates(silence.pits, names))


def _picture(rates: tuple[Rate, ...], caption: str) -> Markup:
    """A line for every size: the interval of the share that is found, and a dot at what was found."""
    scale, bottom = Scale(0, 100, margin=0), 24 + ROW * len(rates)
    rows = []
    for i, rate in enumerate(rates):
        y = 24 + ROW * (i + 0.5)
        low, high = (100 * end for end in rate.interval)
        rows += [
            text("0%", y - 6, share(rate.size), anchor="start", class_="strong"),
            tag("g", line(scale.at(low), scale.at(high), y + 4, y + 4), class_="proved"),
            tag("g", tag("circle", cx=scale.at(100 * rate.found / rate.planted), cy=number(y + 4), r=3), class_="proved"),
        ]
    ticks = [
        text(
            scale.at(tick), bottom + 14, f"{tick} %" if tick == 100 else tick, anchor={0: "start", 100: "end"}.get(tick, "middle")
        )
        for tick in (0, 25, 50, 75, 100)
    ]
    label = "; ".join(f"of pits that hold {share(rate.size)} of a set {rate.words} are found" for rate in rates)
    return figure(bottom + 18, caption, rows, ticks, label=label)


def _rates(rates: tuple[Rate, ...], names: list[str]) -> Markup:
    rows = [
        (
            name,
            whole(rate.planted),
            whole(rate.found),
            rate.interval_words,
            "no gradient" if rate.plain is None else whole(rate.plain),
        )
        for name, rate in zip(names, rates, strict=True)
    ]
    caption = f"Intervals hold the share that is found, of all that could be planted so, with {100 * CONFIDENCE:g} % confidence"
    return table(typeset(caption), HEAD, rows)


def _means(silence: Silence) -> Markup:
    measured = " Volumes are shares of the region's own samples." if silence.measured else ""
    return paragraph(
        f"Each search had at most {whole(silence.passes)} passes, as the audit's own attacks had; branch and bound, which "
        f"searched on, is not counted.{measured} Rates are about failures like those planted, not about whatever "
        "the model may hide.",
        class_="muted",
    )
