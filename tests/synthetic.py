"""Audit results made up from a seed, for tests of what reads them: no network is run, and every number is consistent."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fathom.audits.result import AuditResult
from fathom.core.answer import REASONS, Answers, Cost, Reason, Witnesses
from fathom.core.network import Port

RADIUS = 0.06
SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcfgd")


def glyph(digit: int) -> Tensor:
    """A seven-segment digit, [8, 8] in [0, 1]."""
    image = torch.zeros(8, 8)
    places = {"a": (0, slice(2, 6)), "g": (3, slice(2, 6)), "d": (7, slice(2, 6))}
    places |= {"f": (slice(0, 4), 2), "b": (slice(0, 4), 5), "e": (slice(3, 8), 2), "c": (slice(3, 8), 5)}
    for segment in SEGMENTS[digit]:
        image[places[segment]] = 1.0
    return image


def digits(cases: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blurred, noisy digits [cases, 64] and their classes [cases]."""
    label = torch.randint(0, 10, (cases,), generator=random)
    sharp = torch.stack([glyph(int(k)) for k in label])
    soft = torch.nn.functional.avg_pool2d(sharp[:, None], 3, 1, 1)[:, 0]
    noise = 0.08 * torch.randn(cases, 8, 8, generator=random)
    return (0.7 * sharp + 0.5 * soft + noise).clamp(0, 1).flatten(1), label


def pictures(cases: int, size: int, random: torch.Generator) -> Tensor:
    """Smooth coloured pictures [cases, 3 size size]."""
    coarse = torch.rand(cases, 3, 4, 4, generator=random)
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)
    return (fine + 0.05 * torch.randn(fine.shape, generator=random)).clamp(0, 1).flatten(1)


def answers(cases: int, m: int, label: Tensor, x: Tensor, already: Tensor, random: torch.Generator) -> Answers:
    """Brackets of all kinds, wrong when clean where `already`."""
    kind = torch.rand(cases, generator=random)
    spread, gap = torch.randn(cases, 2, generator=random, dtype=torch.float64).abs().T
    proved, broken = kind < 0.62, kind > 0.72
    lower = torch.where(proved, 0.05 + 2 * spread, torch.where(broken, -1 - 2 * spread - gap, -0.1 - spread))
    upper = torch.where(proved, lower + gap, torch.where(broken, -0.02 - spread, 0.01 + 0.3 * gap))
    upper = torch.where(already, -0.5 - spread, upper)
    lower = torch.where(already, upper - 1, lower)
    lower[kind > 0.985] = -math.inf
    moved = x + RADIUS * torch.randn(x.shape, generator=random).sign()
    points = torch.where(already[:, None], x, moved.clamp(0, 1)).float()
    y = torch.randn(cases, m, generator=random, dtype=torch.float64)
    if m > 1:
        other = (label + 1 + torch.randint(0, m - 1, (cases,), generator=random)) % m
        y = y.scatter(1, label[:, None], 4.0).scatter(1, other[:, None], (4.0 - upper)[:, None])
    found = Witnesses(points, y, upper + 1e-7, upper - 1e-6, upper + 1e-6, torch.ones(cases, dtype=torch.bool))
    reasons = torch.tensor([REASONS.index(r) for r in (Reason.TIME, Reason.TIME, Reason.TOO_CLOSE, Reason.INTERRUPTED)])
    reason = reasons[torch.randint(0, 4, (cases,), generator=random)]
    seconds = torch.rand(cases, generator=random, dtype=torch.float64) * torch.where(proved | broken, 0.2, 4.0)
    cost = Cost(seconds, (seconds * 900).long() + 40, (seconds * 300).long() + 10, (seconds * 700).long())
    return Answers(lower, found, reason, cost)


def digits_result(cases: int = 200, seed: int = 0) -> AuditResult:
    """What an audit of a small digits network might find."""
    random = torch.Generator().manual_seed(seed)
    x, label = digits(cases, random)
    already = torch.rand(cases, generator=random) < 0.02
    part = answers(cases, 10, label, x, already, random)
    y = torch.randn(cases, 10, generator=random, dtype=torch.float64).scatter(1, label[:, None], 7.0)
    read = part.found.y.scatter(1, label[:, None], -math.inf).argmax(1)
    y = torch.where(already[:, None], part.found.y, y)
    return AuditResult(
        title="digits-cnn",
        region=f"Linf {RADIUS} in [0, 1]",
        overseer="misclassified",
        inputs=(Port("image", (1, 8, 8), 0),),
        outputs=(Port("logits", (10,), 0),),
        program="4f1c" * 16,
        x=x,
        y=y,
        clean_margin=torch.where(already, part.upper, part.upper.clamp(min=0) + 3),
        answers=part,
        titles=tuple(f"digit {k}, row {1500 + i}" for i, k in enumerate(label.tolist())),
        judgements=tuple(
            f"{a} read as {b}" if broken else f"{a} read as {a}"
            for a, b, broken in zip(label.tolist(), read.tolist(), part.broken)
        ),
        digests=tuple(f"{i:064x}" for i in range(cases)),
        seconds=float(part.cost.seconds.sum()) + 1.5,
        seed=seed,
        recipe="fathom audit digits.onnx digits.npz --linf 0.06 --range 0 1 --seed 0",
        versions=(("fathom", "0.1.0"), ("torch", "2.13.0"), ("onnxruntime", "1.31.1"), ("python", "3.11.7")),
        casebook="casebook.db",
        measure="accuracy under attack",
        classes=tuple("0123456789"),
        limits=("Only these 200 held-back cases were audited.", "Rotations and changes of light were not covered."),
    )


def colour_result(cases: int = 40, size: int = 32, seed: int = 1) -> AuditResult:
    """The same kind of answers about coloured pictures."""
    base, random = digits_result(cases, seed), torch.Generator().manual_seed(seed)
    x = pictures(cases, size, random)
    moved = (x + RADIUS * torch.randn(x.shape, generator=random).sign()).clamp(0, 1)
    found = replace(base.answers.found, x=moved.float())
    return replace(
        base, title="colour-net", inputs=(Port("image", (3, size, size), 0),), x=x, answers=replace(base.answers, found=found)
    )


def table_result(cases: int = 30, seed: int = 2) -> AuditResult:
    """Answers about rows of a table with two outputs."""
    base, random = digits_result(cases, seed), torch.Generator().manual_seed(seed)
    x = torch.randn(cases, 12, generator=random) * 10 ** torch.linspace(-2, 3, 12)
    change = 0.1 * x * (torch.rand(x.shape, generator=random) < 0.6)
    found = replace(base.answers.found, x=(x + change).float(), y=base.answers.found.y[:, :2])
    return replace(
        base,
        title="credit",
        inputs=(Port("row", (12,), 0),),
        outputs=(Port("score", (2,), 0),),
        x=x,
        y=base.y[:, :2],
        answers=replace(base.answers, found=found),
        classes=("refused", "granted"),
        features=tuple(f"feature {i}" for i in range(12)),
        judgements=tuple("granted read as refused" if broken else "granted" for broken in base.answers.broken),
    )


def only(result: AuditResult, keep: Tensor) -> AuditResult:
    """The cases where `keep` [cases], as a result of their own."""
    index = keep.nonzero()[:, 0]

    def chosen(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(texts[i] for i in index.tolist())

    return replace(
        result,
        x=result.x[index],
        y=result.y[index],
        clean_margin=result.clean_margin[index],
        answers=result.answers.take(index),
        titles=chosen(result.titles),
        judgements=chosen(result.judgements),
        digests=chosen(result.digests),
    )


def unanswered(result: AuditResult) -> AuditResult:
    """The same cases before any work: nothing proved, no point known."""
    cases, d = result.x.shape
    return replace(
        result,
        answers=Answers.none(cases, d, result.y.shape[1], torch.float32),
        judgements=("",) * cases,
        clean_margin=torch.ones(cases, dtype=torch.float64),
        obstacle="",
    )
