"""From the settings of an overseer to the overseer itself: a judge for every set, or a composition of such judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fathom.audits.data import Data
from fathom.audits.overseer_settings import LABELLED, OverseerSettings
from fathom.audits.read_models import read_asked
from fathom.capture.captured import Captured
from fathom.core.composed import all_of, any_of
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer, Severity
from fathom.overseers.abstain import Abstain
from fathom.overseers.checker_network import CheckerNetwork
from fathom.overseers.confident import Confident
from fathom.overseers.confusions import Confusions
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.person import Person
from fathom.overseers.plausible import Plausible
from fathom.overseers.program import ProgramOverseer
from fathom.overseers.reference import OtherDecision, Reference
from fathom.overseers.rules import ordered
from fathom.overseers.targeted import Targeted
from fathom.overseers.top_k import TopK


@dataclass(frozen=True, eq=False)
class Case:
    """What is judged: n sets of inputs of a model, with their data where there are some."""

    captured: Captured
    data: Data | None
    sets: int
    people: Callable[[], Person]  # what they have said of this model

    @property
    def outputs(self) -> int:
        return sum(port.size for port in self.captured.program.outputs)

    @property
    def names(self) -> tuple[str, ...]:
        return () if self.data is None else self.data.names

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of one input, where the model has one."""
        shapes = [port.shape for port in self.captured.program.inputs]
        return shapes[0] if len(shapes) == 1 else None


def make_overseer(settings: OverseerSettings, case: Case) -> Overseer:
    """A judge for every set.

    Raises:
        FathomError: the parts do not fit together, or a model or program that judges cannot be had.
    """
    parts = [make_overseer(part, case) for part in settings.of or ()]
    if settings.kind == "not":
        return ~parts[0]
    if parts:
        return all_of(*parts) if settings.kind == "all" else any_of(*parts)
    if settings.kind == "person":
        return case.people()
    judge = _judge(settings, case)
    return judge if settings.severity is None else replace(judge, severity=Severity(settings.severity))


def _judge(settings: OverseerSettings, case: Case) -> Overseer:
    """One that is no composition, with the severity that its kind has."""
    if settings.kind in ("reference", "decision", "checker", "program"):
        return _outside(settings, case)
    if settings.kind in LABELLED:
        return _labelled(settings, case)
    return _ruled(settings, case)


def _labelled(settings: OverseerSettings, case: Case) -> Overseer:
    """Judges that have to be told the right class."""
    labels, classes, names = _labels(settings, case), case.outputs, case.names
    if settings.tau is not None:
        return Confident(labels, classes, settings.tau, names)
    if settings.abstain is not None:
        return Abstain(labels, classes, settings.abstain, names)
    if settings.k is not None:
        return TopK(labels, classes, settings.k, names)
    if settings.costs is not None:
        assert settings.threshold is not None
        return Confusions.make(labels, torch.tensor(settings.costs), settings.threshold, names=names)
    return Misclassification(labels, classes, names)


def _labels(settings: OverseerSettings, case: Case) -> Tensor:
    if case.data is None or case.data.labels is None:
        raise FathomError(f"expected labels to judge {settings.kind} by, got data without any; add an array y of them")
    return case.data.labels


def _ruled(settings: OverseerSettings, case: Case) -> Overseer:
    """Judges by rows over outputs, inputs or both."""
    if settings.target is not None:
        return Targeted(torch.full((case.sets,), settings.target), case.outputs, case.names)
    if settings.order is not None:
        return ordered(settings.order, outputs=case.outputs, sets=case.sets)
    if settings.relations is not None:
        relations = settings.relations
        rows, offsets = [one.coefficients for one in relations], [0.0 - one.limit for one in relations]
        return Plausible.make(rows, offsets, sets=case.sets)
    clauses = [rule.clause if rule.clause is not None else k for k, rule in enumerate(settings.rules)]
    rows, offsets = [rule.coefficients for rule in settings.rules], [rule.offset for rule in settings.rules]
    return LinearRules.make(rows, offsets, clause=clauses, strict=[rule.strict for rule in settings.rules], sets=case.sets)


def _outside(settings: OverseerSettings, case: Case) -> Overseer:
    """Judges that are models or programs of their own."""
    if settings.reference is not None:
        models = [read_asked(one, case.shape) for one in settings.reference]
        if settings.eps is None:
            return OtherDecision.make(models, sets=case.sets)
        return Reference.make(models, settings.eps, sets=case.sets)
    if settings.checker is not None:
        sees, threshold = settings.sees or "xy", settings.threshold or 0.0
        sizes = {"x": case.captured.network.input_size, "y": case.captured.network.output_size}
        checker = read_asked(settings.checker, (sum(sizes[part] for part in sees),))
        return CheckerNetwork.make(checker, threshold, sees=sees, sets=case.sets)
    assert settings.command is not None
    return ProgramOverseer.make(settings.command, seconds=settings.seconds or 10.0, sets=case.sets)
