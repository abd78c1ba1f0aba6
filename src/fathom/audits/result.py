"""What an audit found: a bracket for every case, what it rests on, and how to get it again. Printed, stored as JSON and drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fathom.audits.applied import Applied
from fathom.audits.checking import Check
from fathom.audits.draws import Draws
from fathom.audits.numbers import at_least, at_most, percent_at_least, percent_at_most, percent_near
from fathom.audits.silence import Silence
from fathom.audits.transfer import Transfer
from fathom.core.answer import Answers, Claim, Witnesses
from fathom.core.coverage import Coverage
from fathom.core.network import Port
from fathom.core.overseer import Severity

FORMAT = "fathom-audit/1"
"""The meaning of `AuditResult.to_json`; a change that breaks a reader changes it."""


class Counts(NamedTuple):
    """How many cases came out how; the last four are disjoint and add up to the first."""

    cases: int
    proved: int
    broken: int
    unknown: int
    already_wrong: int

    @property
    def holding(self) -> tuple[int, int]:
        """How many cases hold under attack: at least, and at most."""
        return self.proved, self.proved + self.unknown


class Worst(NamedTuple):
    """The smallest margin that was found among the cases that are right when clean."""

    case: int
    margin: float
    lower: float  # no margin of this case is below it; -inf where nothing is proved
    judgement: str
    applied: str = ""  # what transformations did there, in words


@dataclass(frozen=True, eq=False)
class AuditResult:
    """Everything that a person or a program reads after an audit of `cases` cases, d inputs and m outputs each.

    A case whose clean input already fails is broken with itself as the witness. Such cases are counted apart, under
    `already_wrong`, and so `proved`, `broken`, `unknown` and `already_wrong` are disjoint.

    Raises:
        ValueError: parts of different lengths, or no case at all.
    """

    title: str  # the model's name
    region: str  # in words: "Linf 0.06 in [0, 1]"
    overseer: str  # what a failure is, in a word: "misclassified"
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    program: str  # digest of what is deployed
    x: Tensor  # [cases, d] clean inputs
    y: Tensor  # [cases, m] the deployed program's outputs there
    clean_margin: Tensor  # [cases] the deployed program's margins there
    answers: Answers  # of the cases, not of their sets
    titles: tuple[str, ...]  # [cases] what a person calls the case: "digit 3, row 1417"
    judgements: tuple[str, ...]  # [cases] the overseer's words about the best point known: "3 read as 8"; "" without one
    digests: tuple[str, ...]  # [cases] of the problems, by which the casebook knows them
    seconds: float  # wall clock of the whole audit
    seed: int
    recipe: str  # the command or the Python that does it again
    versions: tuple[tuple[str, str], ...]  # (name, version): fathom, torch, onnxruntime, python
    casebook: str  # file name; "" where nothing was stored
    arithmetic: str = "real"  # or "float32"
    measure: str = "share of cases that hold"  # what proved / cases bounds; "accuracy under attack" for misclassification
    classes: tuple[str, ...] = ()  # names of the m outputs, or none
    features: tuple[str, ...] = ()  # names of the d inputs, or none
    limits: tuple[str, ...] = ()  # sentences: what was not covered
    obstacle: str = ""  # why nothing could be proved, where that is so
    coverage: Coverage | None = None  # on how many clean inputs the model acts; None where abstaining is not spoken of
    check: Check | None = None  # of the certificate of all proved cases, where one was asked for
    simplest: Witnesses | None = None  # [cases] failures with as few changes as were found; see `fathom.hunt.shrink`
    applied: tuple[Applied | None, ...] = ()  # [cases] what transformations did at the best point; () where there are none
    applied_simplest: tuple[Applied | None, ...] = ()  # the same for `simplest`
    draws: Draws | None = None  # fresh runs of every failure, where the model answers at random
    transfer: tuple[Transfer, ...] = ()  # what the failures do to each other model that was named
    severities: tuple[Severity | None, ...] = ()  # [cases] of failures, as the overseer calls them
    waiting: int | None = None  # how many questions wait in the casebook for people to judge; None where people do not
    silence: Silence | None = None  # how far it can be trusted; None where every case was settled, or nobody asked

    def __post_init__(self) -> None:
        cases, d = self.x.shape
        if not cases:
            raise ValueError("expected at least one case, got none")
        lengths = {name: len(getattr(self, name)) for name in ("y", "clean_margin", "answers", "titles", "judgements", "digests")}
        wrong = {name: length for name, length in lengths.items() if length != cases}
        if wrong:
            raise ValueError(f"expected {cases} of each, one a case, got {wrong}")
        for name, names, size in (("classes", self.classes, self.y.shape[1]), ("features", self.features, d)):
            if names and len(names) != size:
                raise ValueError(f"expected {size} names in `{name}` or none, got {len(names)}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def already_wrong(self) -> Tensor:
        """[cases] whether the deployed program fails on the clean input."""
        return self.clean_margin <= 0

    @property
    def proved(self) -> Tensor:
        """[cases] whether no input in the region fails."""
        return self.answers.proved & ~self.already_wrong

    @property
    def broken(self) -> Tensor:
        """[cases] whether a witness is known, and the clean input is none."""
        return self.answers.broken & ~self.answers.proved & ~self.already_wrong

    @property
    def unknown(self) -> Tensor:
        """[cases] neither."""
        return ~self.answers.decided & ~self.already_wrong

    @property
    def rounding_failure(self) -> Tensor:
        """[cases] whether the deployed program and the real network are not known to agree on failure at the best point."""
        return self.answers.rounding_failure

    def claim(self, index: int) -> Claim:
        """What kind of statement is made about a case."""
        claim = self.answers.claim(index)
        if self.draws is not None and claim is Claim.COUNTEREXAMPLE:
            return Claim.CONFIDENCE
        return self.check.claim if self.check is not None and claim is Claim.CERTIFICATE else claim

    @property
    def counts(self) -> Counts:
        groups = (self.proved, self.broken, self.unknown, self.already_wrong)
        return Counts(len(self), *(int(group.sum()) for group in groups))

    @property
    def share(self) -> tuple[float, float]:
        """The bracket on `measure`: proved / cases, and (proved + unknown) / cases."""
        least, most = self.counts.holding
        return least / len(self), most / len(self)

    @property
    def share_words(self) -> str:
        """The bracket in words, rounded outward: "between 60.5 % and 69.0 %"; as a fraction too where nothing is left open."""
        least, most = self.counts.holding
        if least == most:
            return f"exactly {least} of {len(self)}, {percent_near(least, len(self))}"
        return f"between {percent_at_least(least, len(self))} and {percent_at_most(most, len(self))}"

    @property
    def worst(self) -> Worst | None:
        """The worst point found for a case that is right when clean; None where no point is known."""
        upper = torch.where(self.already_wrong, torch.inf, self.answers.upper)
        case = int(upper.argmin())
        if not math.isfinite(upper[case]):
            return None
        applied = self.applied[case] if self.applied else None
        words = "" if applied is None else applied.words
        return Worst(case, upper[case].item(), self.answers.lower[case].item(), self.judgements[case], words)

    @property
    def useful(self) -> bool:
        """Whether the model acts often enough for its failures to say anything: the usefulness gate."""
        return self.coverage is None or self.coverage.useful

    @property
    def coverage_words(self) -> str:
        """On how many clean inputs the model acts, and what that means; "" where abstaining is not spoken of."""
        return "" if self.coverage is None else str(self.coverage)

    @property
    def waiting_words(self) -> str:
        """What people are asked to do; "" where they do not judge."""
        if self.waiting is None:
            return ""
        how = f"`fathom judge {self.casebook} --as NAME`, then audit again"
        return f"{self.waiting} {'question waits' if self.waiting == 1 else 'questions wait'} to be judged by people: {how}"

    def severity(self, index: int) -> str:
        """What the overseer calls the failure of a case: "serious"; "" where there is none."""
        severity = self.severities[index] if self.severities else None
        return "" if severity is None else severity.value

    def sentence(self) -> str:
        """The one sentence to remember."""
        return f"The {self.measure} of {plain(self.title)} is {self.share_words}."

    def lines(self, report: str = "") -> list[str]:
        """What the command prints: the question, the counts and the bracket, the worst point, the files written."""
        counts, worst = self.counts, self.worst
        wrong = f"{counts.already_wrong} already wrong when clean"
        judged = self.overseer if self.arithmetic == "real" else f"{self.overseer}, {self.arithmetic} arithmetic"
        asked = f"{self.title}, {len(self)} {'case' if len(self) == 1 else 'cases'} ({wrong}), {self.region}, {judged}"
        tally = f"proved {counts.proved}   broken {counts.broken}   unknown {counts.unknown}"
        found = f"{tally}      {self.measure} is {self.share_words}"
        written = "   ".join(name for name in (report, self.casebook) if name)
        checked = "" if self.check is None else self.check.line()
        heard = () if self.silence is None else self.silence.lines()
        others = (transfer.line() for transfer in self.transfer)
        random = "" if self.draws is None else self.draws.line()
        rest = (*others, *heard, self.waiting_words, checked, written)
        printed = (asked, found, random, self.coverage_words, _worst_line(worst), *rest)
        return [plain(line) for line in printed if line]

    def to_json(self) -> dict[str, Any]:
        """Plain types for `json.dumps`; floats are exact (the shortest decimal that reads back as the same number).

        Keys:
            format: "fathom-audit/1".
            title, region, overseer, measure, arithmetic, program, seed, recipe, seconds, casebook, limits, obstacle: the fields.
            versions: {name: version}.
            coverage: the share of clean inputs on which the model acts, or null where abstaining is not spoken of.
            waiting: how many questions wait in the casebook for people to judge, or null where they do not judge.
            useful: whether that is enough; true where it is null.
            certificate: {accepted, words, seconds, bytes} of the proved cases, or null where none was asked for.
            transfer: a list with one entry for each other model that was named: {model, program, tried, broken, already_wrong,
                unjudged}; the last four are lists of cases: those whose failure was tried, those in which it breaks that model
                too, those of them that it fails when clean, and those of which the overseer cannot say.
            silence: how far silence can be trusted, or null where every case was settled or nobody asked:
                silent, examined, masked, broke: counts of cases, see `fathom.audits.silence.Silence`; signs: a list of {name,
                cases, masks, example}; depths and pits: lists of {size, planted, found, plain, interval: [lower, upper]};
                confidence of the intervals; measured; passes; stopped; seconds.
            cases, proved, broken, unknown, already_wrong: counts; the last four add up to the first.
            share: [least, most], the bracket on `measure`.
            worst: {case, margin, lower, judgement, applied}, or null; applied: what transformations did there, in words.
            answers: a list with one entry a case:
                case, title, digest; verdict: "proved", "broken" or "unknown"; claim; already_wrong; clean_margin;
                lower, upper: the bracket on the worst margin, null for none; judgement; reason: a name; why: its sentence;
                severity: "benign", "serious" or "malign" for a failure, as the overseer calls it, else null;
                rounding_failure; cost: {seconds, forward, backward, boxes};
                witness: {x, y, deployed, real: [lower, upper] or null, in_written} for a broken case or a rounding failure,
                else null; simplest: the same for the failure of a broken case with the fewest changes that were found, and
                `changed`, at which inputs; else null; draws: {runs, fails, lower, upper, confidence} of fresh runs of a broken
                case of a model that answers at random, whose claim is "bound with confidence"; else null.
                Where pictures are transformed, x is the picture that the program is
                given, and `applied` says {words, parameters: {name: value}}; else that is null.
        """
        worst = self.worst
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in ("title", "region", "overseer", "measure", "arithmetic", "program", "seed")},
            **{name: getattr(self, name) for name in ("recipe", "seconds", "casebook", "obstacle")},
            "limits": list(self.limits),
            "versions": dict(self.versions),
            "coverage": None if self.coverage is None else self.coverage.share,
            "waiting": self.waiting,
            "useful": self.useful,
            "certificate": None if self.check is None else self.check.to_json(),
            "transfer": [transfer.to_json() for transfer in self.transfer],
            "silence": None if self.silence is None else self.silence.to_json(),
            **self.counts._asdict(),
            "share": list(self.share),
            "worst": None if worst is None else {name: _finite(value) for name, value in worst._asdict().items()},
            "answers": [self._case(index) for index in range(len(self))],
        }

    def _case(self, index: int) -> dict[str, Any]:
        answers, why = self.answers, self.answers.why(index)
        cost = answers.cost
        shown = bool(answers.broken[index] | self.rounding_failure[index])
        return {
            "case": index,
            "title": self.titles[index],
            "digest": self.digests[index],
            "verdict": answers.verdict(index).value,
            "claim": self.claim(index).value,
            "already_wrong": bool(self.already_wrong[index]),
            "clean_margin": _finite(self.clean_margin[index].item()),
            "lower": _finite(answers.lower[index].item()),
            "upper": _finite(answers.upper[index].item()),
            "judgement": self.judgements[index],
            "reason": why.name.lower(),
            "why": why.value,
            "severity": self.severity(index) or None,
            "rounding_failure": bool(self.rounding_failure[index]),
            "cost": {name: getattr(cost, name)[index].item() for name in ("seconds", "forward", "backward", "boxes")},
            "witness": self._witness(self.answers.found, index, self.applied) if shown else None,
            "simplest": self._simplest(index),
            "draws": None if self.draws is None else self.draws.to_json(index),
        }

    def _simplest(self, index: int) -> dict[str, Any] | None:
        if self.simplest is None or not bool(self.simplest.known[index]):
            return None
        changed = (self.simplest.x[index] != self.x[index]).nonzero()[:, 0].tolist()
        return {"changed": changed, **self._witness(self.simplest, index, self.applied_simplest)}

    def _witness(self, found: Witnesses, index: int, applied: tuple[Applied | None, ...]) -> dict[str, Any]:
        real = [_finite(found.real_lower[index].item()), _finite(found.real_upper[index].item())]
        return {
            "x": found.x[index].tolist(),
            "y": [_finite(value) for value in found.y[index].tolist()],
            "deployed": _finite(found.deployed[index].item()),
            "real": real if found.judged_real[index] else None,
            "in_written": bool(found.in_written[index]),
            "applied": done.to_json() if applied and (done := applied[index]) else None,
        }


def plain(text: str) -> str:
    """One line of text that is safe to print: control characters of an untrusted name become question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _worst_line(worst: Worst | None) -> str:
    if worst is None:
        return "worst found: no point is known for any case that is right when clean"
    proved = f"proved: no worse than {at_least(worst.lower)}" if math.isfinite(worst.lower) else "nothing proved"
    said = "".join(f"{words}, " for words in (worst.applied, worst.judgement) if words)
    return f"worst found: case {worst.case}, {said}margin {at_most(worst.margin)} ({proved})"


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: None for them."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
