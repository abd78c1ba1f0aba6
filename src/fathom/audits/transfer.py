"""Transfer: which of the failures that were found in one model also break others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer
from fathom.core.program import Program


@dataclass(frozen=True)
class Transfer:
    """What the failures of the audited model do to another one."""

    name: str  # of the other model
    program: str  # its digest
    tried: tuple[int, ...]  # the broken cases
    broken: tuple[int, ...]  # those of them whose failure also breaks the other model
    already_wrong: tuple[int, ...]  # those of `broken` in which it fails on the clean input too
    unjudged: tuple[int, ...] = ()  # those in which its output there is one that the overseer cannot judge

    def line(self) -> str:
        """What the command prints."""
        noun = "failure" if len(self.tried) == 1 else "failures"
        also = "also break" if len(self.broken) != 1 else "also breaks"
        rest = f", {len(self.already_wrong)} of them already wrong there when clean" if self.already_wrong else ""
        open_ = f"; {len(self.unjudged)} cannot be judged there" if self.unjudged else ""
        return f"transfer: {len(self.broken)} of {len(self.tried)} {noun} {also} {self.name}{rest}{open_}"

    def to_json(self) -> dict[str, Any]:
        """Plain types for `json.dumps`."""
        lists = {name: list(getattr(self, name)) for name in ("tried", "broken", "already_wrong", "unjudged")}
        return {"model": self.name, "program": self.program, **lists}


def require_fitting(inputs: int, outputs: int, others: Mapping[str, Program]) -> None:
    """Refuses models on which failures cannot be tried, or not judged.

    Raises:
        FathomError: one of another number of inputs or outputs than the audited model.
    """
    for name, other in others.items():
        for word, count, ports in (("inputs", inputs, other.inputs), ("outputs", outputs, other.outputs)):
            theirs = sum(port.size for port in ports)
            if theirs != count:
                shapes = ", ".join(str(list(port.shape)) for port in ports)
                raise FathomError(
                    f"expected other models with the {count} {word} of the audited one, to try its failures on, got {name} with "
                    f"{theirs} ({shapes}); leave it out of `also`"
                )


def transfers(others: Mapping[str, Program], overseer: Overseer, cases: Tensor, x: Tensor, clean: Tensor) -> tuple[Transfer, ...]:
    """Every failure run on every other deployed program, and judged by the same overseers.

    Args:
        others: by name; `require_fitting` has seen them.
        overseer: of the k cases.
        cases: [k] the numbers of the broken cases.
        x: [k, d] what breaks each.
        clean: [k, d] what each is about.
    """
    found = []
    for name, other in others.items():
        there, before = (_margins(other, overseer, points) for points in (x, clean))
        fails = there <= 0
        which = [cases[rows].tolist() for rows in (torch.ones_like(fails), fails, fails & (before <= 0), there.isnan())]
        found.append(Transfer(name, other.digest, *(tuple(numbers) for numbers in which)))
    return tuple(found)


def _margins(program: Program, overseer: Overseer, x: Tensor) -> Tensor:
    """[k] margins of a program at inputs x [k, d]; NaN where the overseer cannot judge, as people of what they were not shown."""
    if not len(x):
        return torch.zeros(0, dtype=torch.float64)
    y = program(x.to(program.dtype)).to(torch.float64)
    return overseer.margin(x.to(torch.float64), y)
