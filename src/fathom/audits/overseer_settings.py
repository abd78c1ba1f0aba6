"""[overseer] of an `audit.toml`: one kind of judge, or several composed.

[overseer]
kind = "all"
of = [{ kind = "misclassification" }, { kind = "not", of = [{ kind = "confident", tau = 0.9 }] }]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fathom.audits import keys
from fathom.audits.keys import Place, SettingsError
from fathom.audits.model_keys import Factory, model
from fathom.core.overseer import Severity

DEEPEST = 8
"""Compositions within compositions are read to so many levels."""


@dataclass(frozen=True)
class Relation:
    """[[region.relations]], [[overseer.relations]]: coefficients x <= limit, over the features of an input."""

    coefficients: Annotated[tuple[float, ...], keys.list_of(keys.number())]
    limit: Annotated[float, keys.number()] = 0.0


@dataclass(frozen=True)
class Rule:
    """[[overseer.rules]]: a row over the outputs, or over outputs and inputs; it holds where its value is <= 0."""

    coefficients: Annotated[tuple[float, ...], keys.list_of(keys.number())]
    offset: Annotated[float, keys.number()] = 0.0
    clause: Annotated[int | None, keys.whole(0)] = None  # rules of one number hold only together; without: each alone
    strict: Annotated[bool, keys.truth] = False  # < 0 in place of <= 0


LABELLED = ("misclassification", "confident", "abstain", "topk", "confusions")
"""Kinds of overseer that need to be told the right classes."""

COMPOSED = ("all", "any", "not")
"""Kinds that are made of others."""

KINDS = (
    *LABELLED,
    *("targeted", "ordered", "rules", "plausible", "reference", "decision", "checker", "program", "person"),
    *COMPOSED,
)

NEEDED: dict[str, tuple[tuple[str, ...], str]] = {
    "target": (("targeted",), "a target"),
    "tau": (("confident",), "tau, the confidence,"),
    "abstain": (("abstain",), "abstain, the class that says so,"),
    "k": (("topk",), "k"),
    "costs": (("confusions",), "costs, a row for every right class,"),
    "order": (("ordered",), "order, the outputs from the highest to the lowest,"),
    "relations": (("plausible",), "relations"),
    "reference": (("reference", "decision"), "a reference model"),
    "eps": (("reference",), "eps, how far an output may be off,"),
    "checker": (("checker",), "a checker model"),
    "command": (("program",), "a command"),
    "of": (COMPOSED, "of, the overseers that it is made of,"),
}
"""Key to the kinds that have it and cannot do without, and what to call it."""

OPTIONAL: dict[str, tuple[str, ...]] = {
    "threshold": ("checker", "confusions"),
    "sees": ("checker",),
    "seconds": ("program",),
    "questions": ("person",),
}
"""Key to the kinds that have it."""


def _parts(place: Place, value: object) -> tuple[OverseerSettings, ...]:
    if place.key.count("of") > DEEPEST:
        place.refuse(f"compositions of at most {DEEPEST} levels", "one more", "write them with fewer")
    read = keys.list_of(keys.table(OverseerSettings))
    parts: tuple[OverseerSettings, ...] = read(place, value)
    return parts


@dataclass(frozen=True)
class OverseerSettings:
    """[overseer]: what a catastrophe is."""

    kind: Annotated[str, keys.choice(*KINDS)] = "misclassification"
    target: Annotated[int | None, keys.whole(0)] = None  # the class that must not be predicted
    rules: Annotated[tuple[Rule, ...], keys.list_of(keys.table(Rule))] = ()
    tau: Annotated[float | None, keys.number(0, above=True)] = None  # mistakes of a softmax below it are none
    abstain: Annotated[int | None, keys.whole(0)] = None  # the output that says "I do not know"
    k: Annotated[int | None, keys.whole(1)] = None  # the right class is to be among so many best
    costs: Annotated[tuple[tuple[float, ...], ...] | None, keys.list_of(keys.list_of(keys.number()))] = None  # [right][decided]
    order: Annotated[tuple[int, ...] | None, keys.list_of(keys.whole(0))] = None  # outputs, from the highest to the lowest
    relations: Annotated[tuple[Relation, ...] | None, keys.list_of(keys.table(Relation))] = None  # of plausible inputs
    reference: Annotated[tuple[Path | Factory, ...] | None, keys.one_or_more(model)] = None  # trusted models
    eps: Annotated[float | None, keys.number(0)] = None  # how far an output may be from theirs
    checker: Annotated[Path | Factory | None, model] = None  # a model that scores what it sees
    threshold: Annotated[float | None, keys.number()] = None  # a score of that or less, or a cost of that or more, is a failure
    sees: Annotated[str | None, keys.choice("y", "x", "xy")] = None  # the output, the input, or both; without: both
    command: Annotated[tuple[str, ...] | None, keys.list_of(keys.text)] = None  # a program and its arguments
    seconds: Annotated[float | None, keys.number(0, above=True)] = None  # for one of its answers; without: 10
    questions: Annotated[int | None, keys.whole(0)] = None  # that may wait for people to judge; without: 20
    of: Annotated[tuple[OverseerSettings, ...] | None, _parts] = None  # what it is composed of
    severity: Annotated[str | None, keys.choice(*(severity.value for severity in Severity))] = None  # of its failures

    def __post_init__(self) -> None:
        for key, (kinds, word) in NEEDED.items():
            value = getattr(self, key)
            if (self.kind in kinds) != (value is not None):
                got = "none" if value is None else f"{keys.say(value)} for the kind {self.kind}"
                raise SettingsError(f"expected {word} where the kind is {_either(kinds)}, and only there, got {got}", key)
        for key, kinds in OPTIONAL.items():
            if getattr(self, key) is not None and self.kind not in kinds:
                raise SettingsError(
                    f"expected {key} only where the kind is {_either(kinds)}, got one for the kind {self.kind}", key
                )
        if self.tau is not None and self.tau >= 1:
            raise SettingsError(f"expected tau, a confidence, below 1, got {self.tau:g}", "tau")
        if self.kind == "not" and self.of is not None and len(self.of) != 1:
            raise SettingsError(
                f'expected one overseer to negate, got {len(self.of)}; compose them by "any" or "all" first', "of"
            )
        if self.severity is not None and self.kind in (*COMPOSED, "person"):
            why = "people say themselves how bad a failure is" if self.kind == "person" else "that of the parts counts"
            raise SettingsError(f"expected no severity for the kind {self.kind}, got {self.severity}: {why}", "severity")
        self._check_costs()
        self._check_rules()

    def _check_costs(self) -> None:
        if self.costs is None:
            return
        if self.threshold is None:
            raise SettingsError("expected a threshold, the cost from which on a confusion is a failure, got none", "threshold")
        sizes = [len(row) for row in self.costs]
        if set(sizes) != {len(sizes)}:
            raise SettingsError(
                f"expected costs as a square, of every decision for every right class, got rows of {sizes}", "costs"
            )

    def _check_rules(self) -> None:
        if (self.kind == "rules") != bool(self.rules):
            got = f"{len(self.rules)} for the kind {self.kind}"
            raise SettingsError(f"expected [[overseer.rules]] where the kind is rules, and only there, got {got}", "rules")
        for key in ("rules", "relations"):
            sizes = sorted({len(row.coefficients) for row in getattr(self, key) or ()})
            if len(sizes) > 1:
                raise SettingsError(f"expected {key} with one number of coefficients, got {sizes}", key)
        if len({rule.clause is None for rule in self.rules}) > 1:
            raise SettingsError("expected a clause for every rule or for none, got some without", "rules")

    def leaves(self) -> Iterator[OverseerSettings]:
        """The kinds that are no compositions: itself, or those that it is made of."""
        if self.of is None:
            yield self
        for part in self.of or ():
            yield from part.leaves()

    def models(self, name: str = "overseer") -> Iterator[tuple[str, Path | Factory]]:
        """The models that it asks, with the keys that name them."""
        several = self.reference or ()
        for i, one in enumerate(several):
            yield f"{name}.reference" + (f"[{i}]" if len(several) > 1 else ""), one
        if self.checker is not None:
            yield f"{name}.checker", self.checker
        for i, part in enumerate(self.of or ()):
            yield from part.models(f"{name}.of[{i}]")


MISCLASSIFIED = OverseerSettings()
"""What is asked where nothing is said."""


def _either(kinds: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
