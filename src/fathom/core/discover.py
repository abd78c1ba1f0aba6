"""Discovery: the concrete classes of a room, found by looking at its files. Adding one is adding a file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def discover(room: ModuleType, base: type[T]) -> dict[str, type[T]]:
    """The concrete subclasses of `base` defined in the modules of the package `room`, by class name, sorted.

    Raises:
        ValueError: two files define one name.
    """
    found: dict[str, type[T]] = {}
    for info in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = inspect.isclass(value) and value.__module__ == module.__name__
            if own and issubclass(value, base) and not inspect.isabstract(value) and not name.startswith("_"):
                if name in found:
                    raise ValueError(f"{name} is defined twice: in {found[name].__module__} and in {module.__name__}")
                found[name] = value
    return dict(sorted(found.items()))


def entry(room: ModuleType, base: type[T], name: str) -> type[T]:
    """The concrete subclass of `base` called `name` in `room`: what a room's `__getattr__` answers with.

    Raises:
        AttributeError: there is none.
    """
    found = discover(room, base)
    if name not in found:
        raise AttributeError(f"{room.__name__} has no {base.__name__.lower()} {name!r}; it has {', '.join(found)}")
    return found[name]
