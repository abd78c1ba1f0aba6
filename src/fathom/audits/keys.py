"""Reading settings by key: where each stands, what was meant by it, and errors that say both.

A class of settings is a frozen dataclass whose fields are annotated with the reader of what was written:
`seed: Annotated[int, whole(0)] = 0`. A key that is no field does not exist.
"""

from __future__ import annotations

import difflib
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from fathom.core.errors import FathomError

T = TypeVar("T")
Key = tuple[str | int, ...]
Reader = Callable[["Place", object], Any]


class SettingsError(FathomError):
    """A setting that cannot be meant. `key` is the field at fault, where it is known."""

    def __init__(self, text: str, key: str = "") -> None:
        super().__init__(text)
        self.key = key


# Where a setting stands, and how errors say so


@dataclass(frozen=True)
class Source:
    """What was written, by whom: a file, and flags that go before it."""

    file: Path | None
    text: str
    flags: Mapping[str, str]  # how a person knows a key that came from the command line: {"region.radius": "--linf"}
    overridden: frozenset[Key]

    def folder(self, key: Key) -> Path:
        """What paths are relative to: the file's folder, for what the file says."""
        return Path.cwd() if self.file is None or self._overridden(key) else self.file.resolve().parent

    def name(self, key: Key) -> str:
        name = dotted(key)
        if self.file is None or self._overridden(key):
            listed = re.sub(r"\[\d+\]$", "", name)  # one flag may be given for each item
            return self.flags.get(name) or self.flags.get(listed) or name or "settings"
        line = _line(self.text, key)
        return f"{self.file}, " + (f"line {line}, " if line else "") + (name or "the whole")

    def _overridden(self, key: Key) -> bool:
        return any(key[:length] in self.overridden for length in range(1, len(key) + 1))


@dataclass(frozen=True)
class Place:
    """One key of a source."""

    source: Source
    key: Key = ()

    def at(self, name: str | int) -> Place:
        return Place(self.source, (*self.key, name))

    def refuse(self, expected: str, got: object, todo: str = "") -> NoReturn:
        text = f"{self.source.name(self.key)}: expected {expected}, got {got}" + (f"; {todo}" if todo else "")
        raise SettingsError(text, dotted(self.key))


def dotted(key: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def _line(text: str, key: Key) -> int | None:
    """The line, from 1, at which a key of a TOML text is written; of the nearest table round it, where it is not.

    tomllib does not say, so this looks for headers and `name =` line by line. It is for messages alone.
    """
    table: Key = ()
    counts: dict[Key, int] = {}
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*(\[\[?)\s*([\w.\-\"' ]+?)\s*\]", line)
        pair = re.match(r"\s*([\w.\-\"' ]+?)\s*=", line)
        if header:
            table = tuple(part.strip(" \"'") for part in header[2].split("."))
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            here = table
        elif pair:
            here = (*table, *(part.strip(" \"'") for part in pair[1].split(".")))
        else:
            continue
        if key[: len(here)] == here and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return None if best is None else best[1]


def say(value: object) -> str:
    """A value as it was written, shortened."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value[:80]!r}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"a table of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, int) and abs(value) >= 1 << 256:
        return "a whole number of more than 256 bits"
    return str(value)[:80]


# Readers: from what was written to what is meant


def number(least: float = -math.inf, *, above: bool = False) -> Reader:
    """Any finite number from `least` on; above it, with `above`."""
    words = f"a number {'above' if above else 'of at least'} {least:g}" if least > -math.inf else "a number"

    def read(place: Place, value: object) -> float:
        if isinstance(value, str):
            place.refuse(words, say(value), "write it without quotes")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(_float(value)):
            place.refuse(words, say(value))
        if value < least or (above and value == least):
            place.refuse(words, say(value))
        return _float(value)

    return read


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def whole(least: int) -> Reader:
    """A whole number from `least` on."""

    def read(place: Place, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
            place.refuse(f"a whole number of at least {least}", say(value))
        return value

    return read


def list_of(read_one: Reader, count: int | None = None) -> Reader:
    """A list, of `count` where that is given, with a reader for each."""

    def read(place: Place, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not value or (count is not None and len(value) != count):
            place.refuse("a list" if count is None else f"a list of {count}", say(value) if value != [] else "an empty one")
        return tuple(read_one(place.at(i), one) for i, one in enumerate(value))

    return read


def one_or_more(read_one: Reader) -> Reader:
    """A list, or a single value that stands for all."""
    many = list_of(read_one)
    return lambda place, value: many(place, value) if isinstance(value, list | tuple) else (read_one(place, value),)


def one_or_list(read_one: Reader) -> Reader:
    """A single value, or a list of them."""
    many = list_of(read_one)
    return lambda place, value: (many if isinstance(value, list | tuple) else read_one)(place, value)


def choice(*words: str) -> Reader:
    """One of some words."""

    def read(place: Place, value: object) -> str:
        if value not in words:
            place.refuse(f"one of {', '.join(words)}", say(value), nearest(value, words))
        return str(value)

    return read


def text(place: Place, value: object) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        place.refuse("a text", say(value))
    return value


def truth(place: Place, value: object) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        place.refuse("true or false", say(value))
    return value


def _path(place: Place, value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        place.refuse("a path", say(value))
    try:
        path = place.source.folder(place.key) / Path(value).expanduser()
        path.exists()
    except (RuntimeError, OSError) as error:  # the home of nobody, or longer than the system takes
        place.refuse("a path", say(str(value)), str(error)[:200])
    return path


def existing(place: Place, value: object) -> Path:
    """A file that is there."""
    path = _path(place, value)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        place.refuse(f"a file at {path}", got, near or f"paths are relative to {place.source.folder(place.key)}")
    return path


def writable(place: Place, value: object) -> Path:
    """A file that can be written, in a folder that is there."""
    path = _path(place, value)
    if path.is_dir():
        place.refuse(f"a file to write at {path}", "a folder", "add the file's name")
    if not path.parent.is_dir():
        place.refuse(f"a folder {path.parent} to write {path.name} in", "nothing there", "make it first")
    return path


def table(kind: type[T]) -> Reader:
    """A table, as another class of settings."""
    return lambda place, value: build(kind, place, value)


def nearest(word: object, known: Iterable[str]) -> str:
    """A question after the word that was meant, or nothing."""
    close = difflib.get_close_matches(str(word).lower(), list(known), 1, 0.6)
    return f"did you mean {close[0]}?" if close else ""


def build(kind: type[T], place: Place, value: object) -> T:
    """A dataclass of settings from a table. A path that is not given is read as its default would be.

    Raises:
        SettingsError: a key that is none, one that is missing, a value that cannot be meant, or values that contradict.
    """
    if not isinstance(value, Mapping):
        place.refuse(f"a table, [{dotted(place.key)}]", say(value))
    readers = {name: hint.__metadata__[0] for name, hint in typing.get_type_hints(kind, include_extras=True).items()}
    for name in value:
        if name not in readers:
            hint = nearest(name, readers) or f"known here: {', '.join(readers)}"
            place.at(str(name)).refuse("a key that is known", repr(name), hint)
    found = {}
    for key in fields(kind):  # type: ignore[arg-type]
        written = value.get(key.name, key.default if isinstance(key.default, Path) else None)
        if written is not None:
            found[key.name] = readers[key.name](place.at(key.name), written)
        elif key.default is MISSING:
            where = f"under [{dotted(place.key)}]" if place.key else "at the top"
            place.refuse(f"a key {key.name!r}", "none", f"add it {where}")
    try:
        return kind(**found)
    except SettingsError as error:
        at = place.at(error.key)
        raise SettingsError(f"{at.source.name(at.key)}: {error}", dotted(at.key)) from None
