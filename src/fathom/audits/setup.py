"""From settings to the parts of an audit: the model captured, the data read, the region round them, the overseer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from fathom.audits.data import Data, read_data
from fathom.audits.judges import Case, make_overseer
from fathom.audits.read_models import read_captured
from fathom.audits.settings import Settings
from fathom.audits.threats import make_region
from fathom.capture.captured import Captured
from fathom.core.overseer import Overseer
from fathom.core.region import Region
from fathom.overseers.person import Person
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
    return read_captured(settings.model, shape, settings.arithmetic)


def read_others(settings: Settings, data: Data | None) -> dict[str, Captured]:
    """The other models that the settings name, by their file's name, or where that is not enough, its path.

    Raises:
        FathomError: one of them is not understood.
    """
    shape = settings.input_shape or (None if data is None else data.shape)
    names = [model.name if isinstance(model, Path) else str(model) for model in settings.also]
    unique = [name if names.count(name) == 1 else str(model) for name, model in zip(names, settings.also, strict=True)]
    return {name: read_captured(model, shape) for name, model in zip(unique, settings.also, strict=True)}


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
    case = Case(captured, data, len(region), lambda: _person(settings, captured, len(region)))
    return Parts(captured, data, region, make_overseer(settings.overseer, case), clean)


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
