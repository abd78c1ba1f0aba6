"""What an audit is asked: `audit.toml` and the command line's flags, read into one frozen value.

A key is a field of a dataclass here, with the reader that turns what was written into what is meant.

    model = "model.onnx"                # or "package.module:factory", for a torch model
    seed = 0

    [data]
    path = "test.npz"
    limit = 200

    [region]
    kind = "linf"
    radius = 0.03
    range = [0, 1]

    [budget]
    total_seconds = 120
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fathom.audits import keys
from fathom.audits.keys import Key, Place, SettingsError, Source
from fathom.audits.model_keys import Factory
from fathom.audits.model_keys import model as model_key
from fathom.audits.overseer_settings import LABELLED, MISCLASSIFIED, OverseerSettings, Relation
from fathom.audits.transformation_keys import transformation
from fathom.transforms.transformation import Transformation

MAX_BYTES = 64 << 20
"""No settings are larger than this."""


@dataclass(frozen=True)
class DataSettings:
    """[data]: where samples and labels are, and which of them make the cases."""

    path: Annotated[Path, keys.existing]  # .npz or .safetensors
    inputs: Annotated[str | None, keys.text] = None  # the samples' name in the file, where it does not go without saying
    labels: Annotated[str | None, keys.text] = None
    start: Annotated[int, keys.whole(0)] = 0  # the first case
    limit: Annotated[int | None, keys.whole(1)] = None  # at most so many cases


REGION_KINDS = ("linf", "l2", "l1", "box", "l0", "patch", "wasserstein", "tabular", "finite", "transformation")

REGION_NEEDED = {"count": "l0", "size": "patch", "points": "finite", "transform": "transformation"}
"""Key to the one kind of region that has it and cannot do without."""

REGION_OPTIONAL = {
    "pixels": "l0",
    "window": "wasserstein",
    **dict.fromkeys(("immutable", "step", "groups", "most", "unit", "budget", "relations"), "tabular"),
}
"""Key to the one kind of region that has it."""

NO_RADIUS = ("box", "tabular", "finite")


@dataclass(frozen=True)
class RegionSettings:
    """[region]: what the adversary may choose. A set round every sample, or one box."""

    kind: Annotated[str, keys.choice(*REGION_KINDS)]
    radius: Annotated[float | tuple[float, ...] | None, keys.one_or_list(keys.number(0))] = None  # of linf also one an input
    range: Annotated[tuple[float, float] | None, keys.list_of(keys.number(), 2)] = None  # that every input keeps to
    lower: Annotated[tuple[float, ...] | None, keys.one_or_more(keys.number())] = None  # the same, an end an input
    upper: Annotated[tuple[float, ...] | None, keys.one_or_more(keys.number())] = None
    count: Annotated[int | None, keys.whole(0)] = None  # of inputs that may change
    pixels: Annotated[bool | None, keys.truth] = None  # count pixels, whose channels change together
    size: Annotated[tuple[int, ...] | None, keys.one_or_more(keys.whole(1))] = None  # of a patch: height and width, or both
    window: Annotated[int | None, keys.whole(0)] = None  # how far mass moves, in rows and columns; without: 2
    points: Annotated[str | None, keys.text] = None  # the name in the file of the points [N, k, *shape]
    immutable: Annotated[tuple[int, ...] | None, keys.list_of(keys.whole(0))] = None  # features that stay
    step: Annotated[tuple[float, ...] | None, keys.list_of(keys.number(0))] = None  # 1 for whole features, 0 for any number
    groups: Annotated[tuple[tuple[int, ...], ...] | None, keys.list_of(keys.list_of(keys.whole(0)))] = None  # one-hot
    most: Annotated[tuple[float, ...] | None, keys.list_of(keys.number(0))] = None  # how far each feature may move
    unit: Annotated[tuple[float, ...] | None, keys.list_of(keys.number(0, above=True))] = None  # of the budget, for each
    budget: Annotated[float | None, keys.number(0)] = None  # how many units may change in all
    relations: Annotated[tuple[Relation, ...] | None, keys.list_of(keys.table(Relation))] = None
    transform: Annotated[tuple[Transformation, ...] | None, keys.list_of(transformation)] = None  # in this order

    def __post_init__(self) -> None:
        self._check_keys()
        if self.kind == "box" and self.radius is not None:
            raise SettingsError("expected no radius for a box, which is the same for all; give lower and upper", "radius")
        if self.kind in NO_RADIUS and self.radius is not None:
            other = "give most, a number a feature" if self.kind == "tabular" else "leave it out"
            raise SettingsError(f"expected no radius for the kind {self.kind}, got one; {other}", "radius")
        if isinstance(self.radius, tuple) and self.kind != "linf":
            raise SettingsError(
                f"expected one radius for the kind {self.kind}, got a list of {len(self.radius)}; one for each input is for the "
                "kind linf, and for features of a table most of the kind tabular",
                "radius",
            )
        if self.kind in ("linf", "l2", "l1", "wasserstein") and self.radius is None:
            raise SettingsError(f"expected the radius of the {self.kind} balls, got none; add radius = 0.03, say", "radius")
        if (self.lower is None) != (self.upper is None):
            alone = "lower" if self.upper is None else "upper"
            raise SettingsError(f"expected both lower and upper, got {alone} alone", alone)
        if self.range is not None and self.lower is not None:
            raise SettingsError("expected either range, or lower and upper, got both", "range")
        if self.kind == "box" and self.lower is None:
            raise SettingsError("expected lower and upper of the box, a number an input, got none", "lower")
        self._check_ends()

    def _check_keys(self) -> None:
        """Each kind has its own keys."""
        for key, kind in REGION_NEEDED.items():
            value = getattr(self, key)
            if (self.kind == kind) != (value is not None):
                got = "none" if value is None else f"one for the kind {self.kind}"
                raise SettingsError(f"expected {key} where the kind of region is {kind}, and only there, got {got}", key)
        for key, kind in REGION_OPTIONAL.items():
            if getattr(self, key) is not None and self.kind != kind:
                raise SettingsError(
                    f"expected {key} only where the kind of region is {kind}, got one for the kind {self.kind}", key
                )
        if self.size is not None and len(self.size) > 2:
            raise SettingsError(f"expected height and width of a patch, or one number, got {len(self.size)}", "size")
        bounded = self.range is not None or self.lower is not None
        if self.kind == "finite" and bounded:
            name = "range" if self.range is not None else "lower"
            raise SettingsError("expected no range for finite sets, whose points are all there is, got one", name)
        if self.kind == "tabular" and not bounded:
            raise SettingsError("expected a range of the features, got none; add range, or lower and upper", "range")
        if self.kind in ("l0", "patch") and self.radius is None and not bounded:
            raise SettingsError(
                f"expected a range or a radius for the kind {self.kind}, got neither; add range = [0, 1]", "range"
            )
        if self.unit is not None and self.budget is None:
            raise SettingsError("expected a budget for the units to count in, got none; add budget", "unit")
        sizes = sorted({len(relation.coefficients) for relation in self.relations or ()})
        if len(sizes) > 1:
            raise SettingsError(f"expected relations with one number of coefficients, got {sizes}", "relations")

    def _check_ends(self) -> None:
        if self.clip is None:
            return
        lower, upper = self.clip
        name = "range" if self.range is not None else "upper"
        if len(lower) != len(upper) and 1 not in (len(lower), len(upper)):
            raise SettingsError(f"expected lower and upper of one length, got {len(lower)} and {len(upper)}", name)
        size = max(len(lower), len(upper))
        for i, (low, high) in enumerate(zip(lower * (size // len(lower)), upper * (size // len(upper)))):
            if low > high:
                raise SettingsError(f"expected lower <= upper, got {low:g} > {high:g} at input {i}", name)

    @property
    def one_radius(self) -> float | None:
        """`radius`, of kinds that have one for all inputs."""
        assert not isinstance(self.radius, tuple)
        return self.radius

    @property
    def clip(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Lower and upper ends, each one number for all inputs or one an input; None where nothing bounds them."""
        if self.range is not None:
            return (self.range[0],), (self.range[1],)
        return None if self.lower is None or self.upper is None else (self.lower, self.upper)


@dataclass(frozen=True)
class BudgetSettings:
    """[budget]: what the audit may spend."""

    total_seconds: Annotated[float, keys.number(0, above=True)] = 60.0
    case_seconds: Annotated[float | None, keys.number(0, above=True)] = None  # on any one case; without: its share of the total
    case_boxes: Annotated[int | None, keys.whole(1)] = None  # sub-problems of any one case; unlike seconds, alike on all machines
    planted: Annotated[int, keys.whole(0)] = 20  # failures of each size, planted to see how many are found; 0: none


@dataclass(frozen=True)
class Settings:
    """All that an audit is asked."""

    model: Annotated[Path | Factory, model_key]
    region: Annotated[RegionSettings, keys.table(RegionSettings)]
    data: Annotated[DataSettings | None, keys.table(DataSettings)] = None
    overseer: Annotated[OverseerSettings, keys.table(OverseerSettings)] = MISCLASSIFIED
    budget: Annotated[BudgetSettings, keys.table(BudgetSettings)] = BudgetSettings()
    input_shape: Annotated[tuple[int, ...] | None, keys.list_of(keys.whole(1))] = None  # of one sample; without: that of the data
    casebook: Annotated[Path, keys.writable] = Path("casebook.db")
    report: Annotated[Path, keys.writable] = Path("report.html")
    seed: Annotated[int, keys.whole(0)] = 0
    arithmetic: Annotated[str, keys.choice("real", "float32")] = "real"
    also: Annotated[tuple[Path | Factory, ...], keys.list_of(model_key)] = ()  # other models that failures are tried on

    def __post_init__(self) -> None:
        if self.data is None and self.region.kind != "box":
            raise SettingsError(
                f"expected data, round whose samples the {self.region.kind} sets are, got none; add [data]", "data"
            )
        if self.data is not None and self.region.kind == "box":
            raise SettingsError("expected no data for a box, which is the same for all, got some; leave them out", "data")
        leaves = list(self.overseer.leaves())
        labelled = [leaf.kind for leaf in leaves if leaf.kind in LABELLED]
        if self.region.kind == "box" and labelled:
            raise SettingsError(
                f"expected an overseer without labels for a box, got {labelled[0]}; use targeted or rules", "overseer"
            )
        if self.region.transform is not None and any(leaf.kind == "person" for leaf in leaves):
            raise SettingsError(
                "expected another overseer for the kind transformation, got person: questions to people are put about whole "
                "inputs, and not about parameters; audit finite sets of transformed pictures instead",
                "overseer",
            )
        used: dict[Path, str] = {}
        places = {"model": self.model, "data": self.data and self.data.path, "casebook": self.casebook, "report": self.report}
        for name, path in places.items():
            if isinstance(path, Path):
                other = used.setdefault(path.resolve(), name)
                if other != name:
                    raise SettingsError(
                        f"expected another file than that of {other}, got {path}, which would be overwritten", name
                    )
        written = {self.casebook.resolve(): "casebook", self.report.resolve(): "report"}
        models = dict(self.overseer.models())
        models |= {f"also[{i}]": model for i, model in enumerate(self.also)}
        for name, path in models.items():
            if isinstance(path, Path) and path.resolve() in written:
                other = written[path.resolve()]
                raise SettingsError(f"expected another file than that of {name}, got {path}, which would be overwritten", other)


def make_settings(table: Mapping[str, Any], flags: Mapping[str, str] | None = None) -> Settings:
    """Settings from nested tables, as the command line builds them; paths are relative to the working directory.

    Args:
        table: what `audit.toml` would hold; None, wherever it stands, is not given.
        flags: how the user knows a key, for errors: {"region.radius": "--linf"}.

    Raises:
        SettingsError: which key, what was expected, what came, and what to do.
    """
    return keys.build(Settings, Place(Source(None, "", flags or {}, frozenset())), _given(table))


def read_settings(
    path: str | Path, overrides: Mapping[str, Any] | None = None, flags: Mapping[str, str] | None = None
) -> Settings:
    """Settings from an `audit.toml`, whose paths are relative to its folder.

    Args:
        overrides: nested tables, as for `make_settings`, that go before what the file says.
        flags: as for `make_settings`.

    Raises:
        SettingsError: the file cannot be read, is no TOML, or says what cannot be meant; with the line, where it can be had.
    """
    path = Path(path)
    text = _read(path)
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise SettingsError(
            f"{path}: expected TOML, got: {error or 'tables too deep'}; see https://toml.io for its rules"
        ) from error
    over = _given(overrides or {})
    return keys.build(Settings, Place(Source(path, text, flags or {}, frozenset(_keys(over)))), _merge(table, over))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SettingsError(f"{path}: expected settings of at most {MAX_BYTES} bytes, got {path.stat().st_size}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: expected a file of settings, got: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path}: expected TOML, which is UTF-8 text, got byte {error.object[error.start]:#x} at {error.start}"
        ) from error


def _given(table: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, and tables that held nothing else."""
    nested = {name: _given(value) if isinstance(value, Mapping) else value for name, value in table.items()}
    return {name: value for name, value in nested.items() if value is not None and (value != {} or table[name] == {})}


def _merge(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for name, value in over.items():
        mine = merged.get(name)
        merged[name] = _merge(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return merged


def _keys(table: Mapping[str, Any], before: Key = ()) -> list[Key]:
    found: list[Key] = []
    for name, value in table.items():
        found.extend(_keys(value, (*before, name)) if isinstance(value, Mapping) else [(*before, name)])
    return found
