"""Reading [[region.transform]]: the kinds are what the room of transformations holds, and their keys are the fields."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import fathom.transforms
from fathom.audits import keys
from fathom.audits.keys import Place, Reader, SettingsError, dotted, nearest, say
from fathom.core.discover import discover
from fathom.core.errors import FathomError
from fathom.transforms.transformation import Span, Transformation


def kinds() -> dict[str, type[Transformation]]:
    """Every kind of transformation by the name that settings have for it."""
    found = discover(fathom.transforms, Transformation)  # type: ignore[type-abstract]
    return {made.kind: made for made in found.values()}


def span(place: Place, value: object) -> Span:
    """A range of two numbers, or a number that stays."""
    if isinstance(value, list | tuple):
        low, high = keys.list_of(keys.number(), 2)(place, value)
        return low, high
    one = keys.number()(place, value)
    return one, one


READERS: dict[Any, Reader] = {Span: span, int: keys.whole(1)}
"""Type of a field to the reader of its key."""


def transformation(place: Place, value: object) -> Transformation:
    """One table: `kind`, and what that kind needs.

    Raises:
        SettingsError: no such kind, a key that is none or is missing, or a value that cannot be meant.
    """
    known = kinds()
    if not isinstance(value, Mapping):
        place.refuse(f"a table, [[{dotted(place.key[:-1])}]]", say(value))
    kind = value.get("kind")
    if kind not in known:
        place.at("kind").refuse(f"one of {', '.join(known)}", "none" if kind is None else say(kind), nearest(kind, known))
    made, hints = known[kind], typing.get_type_hints(known[kind])
    readers = {field.name: READERS[hints[field.name]] for field in fields(made)}
    for name in value:
        if name != "kind" and name not in readers:
            hint = nearest(name, readers) or f"known for the kind {kind}: {', '.join(readers)}"
            place.at(str(name)).refuse("a key that is known", repr(name), hint)
    for field in fields(made):
        if field.name not in value and field.default is MISSING:
            place.refuse(f"a key {field.name!r} for the kind {kind}", "none", f"add {field.name} = [-1, 1], say")
    found = {name: read(place.at(name), value[name]) for name, read in readers.items() if name in value}
    try:
        return made(**found)
    except FathomError as error:
        raise SettingsError(f"{place.source.name(place.key)}: {error}", dotted(place.key)) from None
