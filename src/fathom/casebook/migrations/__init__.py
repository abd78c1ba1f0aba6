"""How a casebook of an older version becomes one of this version: one file a step, found by its name, never edited again.

`m0001_first.py` takes an empty file to version 1, `m0002_...` version 1 to 2, and so on. Each has one function,
`upgrade(connection)`, run inside the transaction of the whole upgrade. It spells out tables and columns as they were then,
and imports nothing of this room, whose tables are those of today.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Sequence

from sqlalchemy import Connection

Migration = Callable[[Connection], None]


def migrations() -> Sequence[Migration]:
    """The steps, in order: number i takes a casebook from version i to version i + 1.

    Raises:
        ValueError: the files' numbers are not 1, 2, 3, ...
    """
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if re.fullmatch(r"m\d{4}_\w+", info.name))
    if [int(name[1:5]) for name in names] != list(range(1, len(names) + 1)):
        raise ValueError(f"expected migrations numbered 1, 2, 3, ..., got {names}")
    return [importlib.import_module(f"{__name__}.{name}").upgrade for name in names]
