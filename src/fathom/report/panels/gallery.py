"""The gallery of broken cases: before, after, difference, margin, and how to see it fail again."""

from __future__ import annotations

import base64
import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fathom.audit.result import AuditResult
from fathom.report.markup import Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.pictures import Layout, difference, image, layout, photograph, scale_bar
from fathom.report.png import data_uri
from fathom.report.words import BROKEN, lower_words, many, mark, measured, paragraph, table, upper_words

CARDS = 24
ROOM = 600_000  # characters: the page stays under a megabyte whatever the inputs are
PASTED = 2048  # numbers of an input, at most, that are written out to be pasted
CHANGES, SCORES = 10, 3  # lines of a table of changed features; outputs named


class Gallery(Panel):
    order: ClassVar[int] = 30
    anchor: ClassVar[str] = "broken"
    title: ClassVar[str] = "Broken cases"

    def body(self, result: AuditResult) -> Markup:
        cases = result.broken.nonzero()[:, 0]
        if not len(cases):
            return paragraph("No case is broken: no allowed change that makes one fail was found.")
        cases = cases[result.answers.upper[cases].argsort(stable=True)][:CARDS]
        easel = Easel.of(result, cases)
        cards: list[Markup] = []
        room = ROOM
        for case in cases.tolist():
            card = _card(result, case, easel)
            room -= len(card)
            if room < 0 and cards:
                break
            cards.append(card)
        return join(_introduction(result, len(cards)), _kinds(result), easel.legend(), tag("div", cards, class_="cards"))


@dataclass(frozen=True)
class Easel:
    """How the inputs of these cards are drawn: one scale for all of them, so that cards can be compared."""

    layout: Layout | None
    low: float
    high: float
    reach: float  # the largest change

    @staticmethod
    def of(result: AuditResult, cases: Tensor) -> Easel:
        before, after = result.x[cases].to(torch.float64), result.answers.found.x[cases].to(torch.float64)
        both = torch.cat([before, after])
        return Easel(layout(result.inputs), both.min().item(), both.max().item(), (after - before).abs().max().item())

    def legend(self) -> Markup:
        if self.layout is None:
            return join()
        bar = tag("img", src=data_uri(scale_bar()), alt="from blue through white to red", width=160, height=12)
        scale = tag("span", f"{measured(-self.reach)} ", bar, f" +{measured(self.reach)}", class_="scale")
        notes = [f"Pictures run from {measured(self.low)} (black) to {measured(self.high)} (white)."]
        if self.layout.channels == 3:
            notes = [
                f"Each channel runs from {measured(self.low)} to {measured(self.high)}.",
                "The difference is that of the channel that changed most.",
            ]
        if self.layout.shrink > 1:
            notes.append(f"Drawn at 1/{self.layout.shrink} of their size.")
        return tag("div", paragraph("Difference, after less before: ", scale), paragraph(" ".join(notes)), class_="legend")


def _introduction(result: AuditResult, shown: int) -> Markup:
    broken = result.counts.broken
    words = (
        f"Each of these {broken} is" if broken > 1 else "This is"
    ) + " a counterexample: this very input was given to the deployed program, and it failed."
    if shown < broken:
        rest = f" The other {broken - shown} are in {result.casebook}." if result.casebook else ""
        words += f" The worst {shown} are shown, worst first.{rest}"
    return paragraph(words)


def _kinds(result: AuditResult) -> Markup:
    """What the failures are, most frequent first."""
    counted = Counter(result.judgements[case] for case in result.broken.nonzero()[:, 0].tolist())
    common = sorted(
        ((words, count) for words, count in counted.items() if words and count > 1), key=lambda kind: (-kind[1], kind[0])
    )
    if not common:
        return join()
    return paragraph("Most frequent: ", "; ".join(f"{words} ({many(count, 'case')})" for words, count in common[:5]), ".")


def _card(result: AuditResult, case: int, easel: Easel) -> Markup:
    answers = result.answers
    name, lower = f"broken-{case}", answers.lower[case].item()
    margins = tag(
        "dl",
        _pair("margin found", tag("strong", upper_words(answers.upper[case].item()))),
        _pair("proved", f"no worse than {lower_words(lower)}" if math.isfinite(lower) else "nothing"),
        _pair("margin when clean", measured(result.clean_margin[case].item())),
        class_="pairs",
    )
    heading = tag("h3", mark(BROKEN), " ", result.judgements[case] or result.titles[case], id=name)
    where = paragraph(f"case {case} \u00b7 {result.titles[case]}", class_="muted")
    shown = _changes(result, case) if easel.layout is None else _triptych(result, case, easel, easel.layout)
    return tag(
        "article",
        heading,
        where,
        shown,
        margins,
        _scores(result, case),
        _again(result, case),
        class_="card",
        aria_labelledby=name,
    )


def _triptych(result: AuditResult, case: int, easel: Easel, shape: Layout) -> Markup:
    before, after = shape.pixels(result.x[case]), shape.pixels(result.answers.found.x[case])
    pictures = (
        ("before", photograph(before, easel.low, easel.high), f"Case {case} as it was: {result.titles[case]}"),
        ("after", photograph(after, easel.low, easel.high), f"Case {case} changed so that it fails: {result.judgements[case]}"),
        ("difference", difference(after - before, easel.reach), f"Case {case}, after less before"),
    )
    return tag(
        "div", [tag("figure", image(pixels, alt), tag("figcaption", name)) for name, pixels, alt in pictures], class_="triptych"
    )


def _changes(result: AuditResult, case: int) -> Markup:
    before, after = result.x[case].to(torch.float64), result.answers.found.x[case].to(torch.float64)
    change = after - before
    order = change.abs().argsort(descending=True, stable=True)
    moved = int((change != 0).sum())
    names = result.features or tuple(f"{port.name}[{i}]" for port in result.inputs for i in range(port.size))
    shown = order[: min(moved, CHANGES)].tolist()
    rows = [(names[i], measured(before[i].item()), measured(after[i].item())) for i in shown]
    rest = paragraph(f"and {many(moved - CHANGES, 'smaller change')}", class_="muted") if moved > CHANGES else join()
    return join(table("Largest change first", ("feature", "before", "after"), rows), rest)


def _scores(result: AuditResult, case: int) -> Markup:
    """The outputs that matter, before and after: the largest of each, and the next largest of what came out."""
    before, after = result.y[case].to(torch.float64), result.answers.found.y[case]
    names = result.classes or tuple(f"y[{i}]" for i in range(len(after)))
    ranked = [int(before.argmax()), *after.argsort(descending=True, stable=True).tolist()]
    shown = list(dict.fromkeys(ranked))[:SCORES]
    rows = [(name, *(measured(y[i].item()) for i in shown)) for name, y in (("before", before), ("after", after))]
    return table("Largest outputs", ("output", *(names[i] for i in shown)), rows)


def _pair(name: str, value: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value))


def _again(result: AuditResult, case: int) -> Markup:
    """How to see this failure again: the exact input where it is small, and the case's digest for the casebook."""
    found, x = result.answers.found, result.answers.found.x[case]
    parts = [paragraph(f"The deployed program gives the margin {found.deployed[case].item()!r} at exactly this input.")]
    if x.numel() <= PASTED and x.dtype in (torch.float32, torch.float64):
        parts.append(tag("pre", tag("code", _snippet(x, result)), tabindex=0))
    kept = f"Kept in {result.casebook} as " if result.casebook else "Its digest: "
    parts.append(paragraph(kept, tag("code", result.digests[case]), "."))
    return tag("details", tag("summary", "How to reproduce"), *parts)


def _snippet(x: Tensor, result: AuditResult) -> str:
    kind = "<f4" if x.dtype == torch.float32 else "<f8"
    packed = base64.b64encode(x.contiguous().cpu().numpy().astype(kind).tobytes()).decode()
    shape = (1, *result.inputs[0].shape) if len(result.inputs) == 1 else (1, x.numel())
    return f'import base64, numpy\nx = numpy.frombuffer(base64.b64decode(\n    "{packed}"\n), "{kind}").reshape({shape})'
