"""How the inputs of broken cases are shown: pictures before, after and in difference, or a table of what changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.audits.result import AuditResult
from fathom.report.markup import Markup, join, tag
from fathom.report.pictures import Layout, difference, image, layout, photograph, scale_bar
from fathom.report.png import data_uri
from fathom.report.words import many, measured, paragraph, table

CHANGES = 10  # lines of a table of changed features


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

    def show(self, result: AuditResult, case: int) -> Markup:
        """A broken case's input before and after: pictures, or a table of what changed."""
        after = result.answers.found.x[case]
        return _changes(result, case, after) if self.layout is None else _triptych(result, case, self, self.layout)

    def simplest(self, result: AuditResult, case: int, after: Tensor) -> Markup:
        """Its simplest failing input, `after` [d], the same way."""
        if self.layout is None:
            return _changes(result, case, after)
        before, pixels = self.layout.pixels(result.x[case]), self.layout.pixels(after)
        shown = photograph(pixels, self.low, self.high), difference(pixels - before, self.reach)
        alts = f"Case {case} changed as little as was found to make it fail", f"Case {case}, its simplest failure less before"
        names = "simplest", "difference"
        figures = [tag("figure", image(p, alt), tag("figcaption", name)) for name, p, alt in zip(names, shown, alts, strict=True)]
        return tag("div", figures, class_="triptych")

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


def _changes(result: AuditResult, case: int, after: Tensor) -> Markup:
    before, after = result.x[case].to(torch.float64), after.to(torch.float64)
    change = after - before
    order = change.abs().argsort(descending=True, stable=True)
    moved = int((change != 0).sum())
    names = result.features or tuple(f"{port.name}[{i}]" for port in result.inputs for i in range(port.size))
    shown = order[: min(moved, CHANGES)].tolist()
    rows = [(names[i], measured(before[i].item()), measured(after[i].item())) for i in shown]
    rest = paragraph(f"and {many(moved - CHANGES, 'smaller change')}", class_="muted") if moved > CHANGES else join()
    return join(table("Largest change first", ("feature", "before", "after"), rows), rest)
