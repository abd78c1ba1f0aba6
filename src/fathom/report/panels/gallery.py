"""The gallery of broken cases: before, after, difference, margin, and how to see it fail again."""

from __future__ import annotations

import base64
import math
from collections import Counter
from typing import ClassVar

import torch
from torch import Tensor

from fathom.audits.result import AuditResult
from fathom.core.overseer import Severity
from fathom.report.easel import Easel
from fathom.report.markup import Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.words import BROKEN, called, lower_words, many, mark, measured, paragraph, table, typeset, upper_words

CARDS = 24
ROOM = 600_000  # characters: the page stays under a megabyte whatever the inputs are
PASTED = 2048  # numbers of an input, at most, that are written out to be pasted
SCORES = 3  # outputs named


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


def _introduction(result: AuditResult, shown: int) -> Markup:
    broken = result.counts.broken
    words = (
        f"Each of these {broken} is" if broken > 1 else "This is"
    ) + " a counterexample: this very input was given to the deployed program, and it failed."
    if result.draws is not None:
        words = f"{result.draws.line()[:1]}{result.draws.line()[1:].lower()}."
    if shown < broken:
        rest = f" The other {broken - shown} are in {result.casebook}." if result.casebook else ""
        words += f" The worst {shown} are shown, worst first.{rest}"
    return paragraph(words)


def _kinds(result: AuditResult) -> Markup:
    """What the failures are, most frequent first; how bad, where that differs."""
    counted = Counter(result.judgements[case] for case in result.broken.nonzero()[:, 0].tolist())
    common = sorted(
        ((words, count) for words, count in counted.items() if words and count > 1), key=lambda kind: (-kind[1], kind[0])
    )
    ranked = Counter(result.severity(case) for case in result.broken.nonzero()[:, 0].tolist())
    worst_first = [(severity.value, ranked[severity.value]) for severity in reversed(Severity) if ranked[severity.value]]
    return join(
        paragraph("Severity: ", ", ".join(f"{count} {name}" for name, count in worst_first), ".")
        if len(worst_first) > 1
        else join(),
        paragraph("Most frequent: ", "; ".join(f"{words} ({many(count, 'case')})" for words, count in common[:5]), ".")
        if common
        else join(),
    )


def _card(result: AuditResult, case: int, easel: Easel) -> Markup:
    answers = result.answers
    name, lower = f"broken-{case}", answers.lower[case].item()
    severity = result.severity(case)
    margins = tag(
        "dl",
        _pair("severity", severity) if severity else join(),
        _pair("margin found", tag("strong", upper_words(answers.upper[case].item()))),
        _pair("proved", f"no worse than {lower_words(lower)}" if math.isfinite(lower) else "nothing"),
        _pair("margin when clean", measured(result.clean_margin[case].item())),
        class_="pairs",
    )
    drawn = join() if result.draws is None else paragraph(typeset(f"It {result.draws.words(case)}."))
    heading = tag("h3", mark(BROKEN), " ", result.judgements[case] or result.titles[case], id=name)
    where = paragraph(called(result, case), class_="muted")
    return tag(
        "article",
        heading,
        where,
        drawn,
        _applied(result, case),
        easel.show(result, case),
        margins,
        _scores(result, case),
        _simplest(result, case, easel),
        _again(result, case),
        class_="card",
        aria_labelledby=name,
    )


def _applied(result: AuditResult, case: int) -> Markup:
    """What transformations did to the picture, in words."""
    applied = result.applied[case] if result.applied else None
    return join() if applied is None else paragraph(f"The picture is {applied.words}; the model is given what is shown after.")


def _scores(result: AuditResult, case: int) -> Markup:
    """The outputs that matter, before and after: the largest of each, and the next largest of what came out."""
    before, after = result.y[case].to(torch.float64), result.answers.found.y[case]
    names = result.classes or tuple(f"y[{i}]" for i in range(len(after)))
    ranked = [int(before.argmax()), *after.argsort(descending=True, stable=True).tolist()]
    shown = list(dict.fromkeys(ranked))[:SCORES]
    rows = [(name, *(measured(y[i].item()) for i in shown)) for name, y in (("before", before), ("after", after))]
    return table("Largest outputs", ("output", *(names[i] for i in shown)), rows)


def _simplest(result: AuditResult, case: int, easel: Easel) -> Markup:
    """The failure with the fewest changes that was found, where it is simpler than the worst one."""
    found = result.simplest
    if found is None or not bool(found.known[case]):
        return join()
    x, before = found.x[case], result.x[case]
    if result.applied:
        return _simplest_applied(result, case, found.upper[case].item(), easel)
    changed, size = int((x != before).sum()), len(x)
    if changed == int((result.answers.found.x[case] != before).sum()):
        return join()
    margin = upper_words(found.upper[case].item())
    words = f"It fails with {changed} of {many(size, 'input')} changed, too: margin {margin}."
    return join(paragraph(words), easel.simplest(result, case, x))


def _simplest_applied(result: AuditResult, case: int, margin: float, easel: Easel) -> Markup:
    """The mildest transformation that was found to do, where it is not the worst one."""
    worst, mildest = result.applied[case], result.applied_simplest[case]
    if mildest is None or worst is None or mildest.words == worst.words:
        return join()
    assert result.simplest is not None
    words = f"It fails when it is only {mildest.words}, too: margin {upper_words(margin)}."
    return join(paragraph(words), easel.simplest(result, case, result.simplest.x[case]))


def _pair(name: str, value: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value))


def _again(result: AuditResult, case: int) -> Markup:
    """How to see this failure again: the exact input where it is small, and the case's digest for the casebook."""
    found, x = result.answers.found, result.answers.found.x[case]
    gives = "gives" if result.draws is None else "gave once"
    parts = [paragraph(f"The deployed program {gives} the margin {found.deployed[case].item()!r} at exactly this input.")]
    if x.numel() <= PASTED and x.dtype in (torch.float32, torch.float64):
        parts.append(tag("pre", tag("code", _snippet(x, result)), tabindex=0))
    kept = f"Kept in {result.casebook} as " if result.casebook else "Its digest: "
    parts.append(paragraph(kept, tag("code", result.digests[case]), "."))
    return tag("details", tag("summary", "How to reproduce"), *parts)


def _snippet(x: Tensor, result: AuditResult) -> str:
    kind = "<f4" if x.dtype == torch.float32 else "<f8"
    packed = base64.b64encode(x.contiguous().cpu().numpy().astype(kind).tobytes()).decode()
    shape = (1, *result.inputs[0].shape) if len(result.inputs) == 1 else (1, x.numel())
    lines = [
        "import base64, numpy",
        f'x = numpy.frombuffer(base64.b64decode(\n    "{packed}"\n), "{kind}").reshape({shape})',
    ]
    if len(result.inputs) == 1:
        lines += [
            f"# ONNX:    onnxruntime.InferenceSession(path).run(None, {{{result.inputs[0].name!r}: x}})",
            "# PyTorch: model.eval()(torch.from_numpy(x.copy()))",
        ]
    return "\n".join(lines)
