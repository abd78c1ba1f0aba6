"""From settings to the parts of an audit: the model captured, the data read, the region round them, the overseer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fathom.audits.data import Data, read_data
from fathom.audits.settings import Factory, OverseerSettings, Settings
from fathom.audits.threats import make_region
from fathom.capture.captured import Captured
from fathom.core.arithmetic import Arithmetic
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer
from fathom.core.region import Region
from fathom.overseers.abstain import Abstain
from fathom.overseers.checker_network import CheckerNetwork
from fathom.overseers.confident import Confident
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.misclassification import Misclassification
from fathom.overseers.person import Person
from fathom.overseers.program import ProgramOverseer
from fathom.overseers.reference import Reference
from fathom.overseers.targeted import Targeted
from fathom.overseers.top_k import TopK
from fathom.transforms.region import Transformed


@dataclass(frozen=True, eq=False)
class Parts:
    """What `audit` is called with."""

    captured: Captured
    data: Data | None
    region: Region
    overseer: Overseer
    clean: Tensor  # [n, d] of the region's own inputs
    others: dict[str, Captured] = field(default_factory=dict)  # models that failures are tried on


def read_model(settings: Settings, data: Data | None) -> Captured:
    """The model that the settings name, captured.

    Raises:
        FathomError: it is not understood.
    """
    shape = settings.input_shape or (None if data is None else data.shape)
    return _read(settings.model, shape, settings.arithmetic)


def read_others(settings: Settings, data: Data | None) -> dict[str, Captured]:
    """The other models that the settings name, by their file's name, or where that is not enough, its path.

    Raises:
        FathomError: one of them is not understood.
    """
    shape = settings.input_shape or (None if data is None else data.shape)
    names = [model.name if isinstance(model, Path) else str(model) for model in settings.also]
    unique = [name if names.count(name) == 1 else str(model) for name, model in zip(names, settings.also, strict=True)]
    return {name: _read(model, shape, Arithmetic.REAL) for name, model in zip(unique, settings.also, strict=True)}


def _read(model: Path | Factory, shape: tuple[int, ...] | None, arithmetic: str) -> Captured:
    if isinstance(model, Factory) or model.suffix == ".pt2":
        from fathom.capture.torch_module import capture_module
        from fathom.capture.torch_source import load_torch

        if shape is None:
            raise FathomError("expected the shape of one input for a torch model without data, got none; set input_shape")
        try:
            module = load_torch(str(model))
        except SystemExit as end:  # raised by the user's code
            raise FathomError(f"expected {model} to make a module, but it ends the process: {end!r}") from end
        if arithmetic != Arithmetic.REAL:
            raise FathomError(f"expected an ONNX file for {arithmetic} arithmetic, got {model}; export it first")
        return capture_module(module, shape, live=False)
    from fathom.capture.onnx_file import read_onnx

    return read_onnx(model, arithmetic)


def read_samples(settings: Settings) -> Data | None:
    """The whole file of samples; None for a box, which needs none.

    Raises:
        FathomError: the file is not understood.
    """
    if settings.data is None:
        return None
    return read_data(settings.data.path, inputs=settings.data.inputs, labels=settings.data.labels)


def make_parts(settings: Settings, captured: Captured, data: Data | None) -> Parts:
    """Region and overseer for a captured model and those of its samples that are to be cases.

    Raises:
        FathomError: the parts do not fit together, or no sample is asked for.
    """
    if data is not None and settings.data is not None:
        data = data.part(settings.data.start, settings.data.limit)
    size = sum(port.size for port in captured.program.inputs)
    region = make_region(settings.region, data, _points(settings), size)
    clean = region.centres() if data is None or isinstance(region, Transformed) else data.flat
    if settings.overseer.kind == "person":
        return Parts(captured, data, region, _person(settings, captured, len(region)), clean)
    return Parts(captured, data, region, _overseer(settings.overseer, data, captured, len(region)), clean)


def _points(settings: Settings) -> Data | None:
    """The points of finite sets, of the samples that are to be cases."""
    if settings.data is None or settings.region.points is None:
        return None
    found = read_data(settings.data.path, inputs=settings.region.points, labels=settings.data.labels)
    return found.part(settings.data.start, settings.data.limit)


def _person(settings: Settings, captured: Captured, n: int) -> Person:
    """What people have said of this model, by the audit's casebook; nothing yet, where there is none."""
    if not settings.casebook.exists():
        return Person.of([], sets=n)
    from fathom.casebook.store import Casebook  # here, because a database is not needed for every audit

    with Casebook.open(settings.casebook) as book:
        return Person.of(book.judgements(captured.program.digest), sets=n)


def _overseer(settings: OverseerSettings, data: Data | None, captured: Captured, n: int) -> Overseer:
    classes = sum(port.size for port in captured.program.outputs)
    names = () if data is None else data.names
    if settings.kind in ("reference", "checker", "program"):
        return _outside(settings, captured, n)
    if settings.kind == "targeted":
        assert settings.target is not None
        return Targeted(target=torch.full((n,), settings.target), classes=classes, names=names)
    if settings.kind == "rules":
        clauses = [rule.clause if rule.clause is not None else k for k, rule in enumerate(settings.rules)]
        rows, offsets = [rule.coefficients for rule in settings.rules], [rule.offset for rule in settings.rules]
        return LinearRules.make(rows, offsets, clause=clauses, strict=[rule.strict for rule in settings.rules], sets=n)
    if data is None or data.labels is None:
        raise FathomError(f"expected labels to judge {settings.kind} by, got data without any; add an array y of them")
    if settings.tau is not None:
        return Confident(data.labels, classes, settings.tau, names)
    if settings.abstain is not None:
        return Abstain(data.labels, classes, settings.abstain, names)
    if settings.k is not None:
        return TopK(data.labels, classes, settings.k, names)
    return Misclassification(label=data.labels, classes=classes, names=names)


def _outside(settings: OverseerSettings, captured: Captured, n: int) -> Overseer:
    """Judges that are models or programs of their own."""
    shapes = [port.shape for port in captured.program.inputs]
    if settings.reference is not None:
        assert settings.eps is not None
        shape = shapes[0] if len(shapes) == 1 else None
        return Reference.make(_read(settings.reference, shape, Arithmetic.REAL), settings.eps, sets=n)
    if settings.checker is not None:
        sees, threshold = settings.sees or "xy", settings.threshold or 0.0
        sizes = {"x": captured.network.input_size, "y": captured.network.output_size}
        checker = _read(settings.checker, (sum(sizes[part] for part in sees),), Arithmetic.REAL)
        return CheckerNetwork.make(checker, threshold, sees=sees, sets=n)
    assert settings.command is not None
    return ProgramOverseer.make(settings.command, seconds=settings.seconds or 10.0, sets=n)
