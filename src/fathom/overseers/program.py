"""A judge that is a program: any command that reads and writes lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from fathom.core.checks import check_number, check_whole
from fathom.core.errors import FathomError, NotCompilable
from fathom.core.network import Network
from fathom.core.overseer import Compiled, Overseer, Severity
from fathom.overseers.command import Command, Judged

MOST_FAILURES = 10
"""A command that has failed so often, and judged nothing ever, is the wrong one."""


@final
@dataclass(frozen=True, eq=False)
class ProgramOverseer(Overseer):
    """margin = what the command says of x and y; 1 for {"catastrophe": false} and -1 for true. It is attacked by value alone.

    It is started once, without a shell, with the rights of whoever starts it: it is as trusted as their own code. It is asked
    a line at a time, as `overseers.command.Command` says, and ends with the process that started it. Where it gives no judgement
    (it crashes, is late, or talks nonsense) the margin is NaN: no failure, and none ruled out. That is counted, and an audit's
    limits say so; it is started again for the next question. Where it fails for long on end (`Command.weary`), the rest of a
    batch is not put to it after each further failure, so that a search goes on, and ends in time.

    Make it by `ProgramOverseer.make`.
    """

    severity: Severity = field(default=Severity.SERIOUS, kw_only=True)
    of: Tensor  # [n] int64: zeros; how many sets there are
    name: str  # stands for the command wherever problems are told apart
    command: Command = field(metadata={"fingerprint": False})

    @staticmethod
    def make(
        argv: Sequence[str],
        *,
        seconds: float = 10.0,
        sets: int = 1,
        name: str = "",
        severity: Severity = Severity.SERIOUS,
    ) -> ProgramOverseer:
        """The same command for every one of `sets` sets.

        Args:
            argv: the program and its arguments: ["python", "judge.py"]. A single string is refused: no shell reads it.
            seconds: for one answer, at most, the first of all included.
            name: what it is known by; another, when it judges otherwise. By default `argv`, which does not see a changed file.
            severity: where the command names none.

        Raises:
            FathomError: no such program, an empty command, or no time.
        """
        if isinstance(argv, str) or not argv or not all(isinstance(word, str) and word and "\0" not in word for word in argv):
            raise FathomError(f'expected a command as a list of words, such as ["python", "judge.py"], got {argv!r}')
        seconds = check_number("seconds", seconds, least=0, above=True)
        zeros = torch.zeros(check_whole("sets", sets), dtype=torch.int64)
        return ProgramOverseer(zeros, name or " ".join(argv), Command(argv, seconds), severity=severity)

    def __str__(self) -> str:
        return f"judged by {self.name}"

    @property
    def compilable(self) -> bool:
        return False

    @property
    def differentiable(self) -> bool:
        return False

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """In float64; NaN where there is no judgement.

        Raises:
            FathomError: the command failed on the first `MOST_FAILURES` questions.
        """
        said = [one.margin if one is not None else torch.nan for one in self._judge(x, y)]
        return torch.tensor(said, dtype=torch.float64)

    def compile(self, network: Network) -> Compiled:
        raise NotCompilable(f"{self.name} is a program, which has no rows to prove; write it as linear rules to prove it")

    def judgement(self, index: int, y: Tensor) -> str:
        return f"judged by {self.name}"[:160]

    def severities(self, x: Tensor, y: Tensor) -> Tensor:
        """As the command names them; `severity` where it names none."""
        said = self._judge(x, y)
        return torch.tensor(
            [-1 if one is None or one.margin > 0 else (one.severity or self.severity).rank for one in said], dtype=torch.int64
        )

    def troubles(self) -> tuple[str, ...]:
        command = self.command
        if not command.failed:
            return ()
        spared = f" {command.spared} more were not put to it, since it failed for too long on end." if command.spared else ""
        return (
            f"{self.name} gave no judgement on {command.failed} of {command.asked} inputs, which are neither failures nor safe: "
            f"the last time it {command.last}.{spared}",
        )

    def _judge(self, x: Tensor, y: Tensor) -> list[Judged | None]:
        """One judgement for each row; rows that are equal are one question.

        Once it has failed, rows are asked in random order: those that fail may well be neighbours, and keep no others from it.
        """
        command = self.command
        rows = [(*given, *made) for given, made in zip(x.detach().tolist(), y.detach().tolist(), strict=True)]
        questions = list(dict.fromkeys(rows))
        if command.failed:
            order = torch.randperm(len(questions), generator=torch.Generator().manual_seed(command.asked))
            questions = [questions[i] for i in order.tolist()]
        known: dict[tuple[float, ...], Judged | None] = {}
        for question in questions:
            known[question] = command.ask(question[: x.shape[1]], question[x.shape[1] :])
            if not command.judges and command.failed >= MOST_FAILURES:
                raise FathomError(
                    f"expected {self.name} to judge, but it failed on all of the first {command.failed} inputs; the last time it "
                    f"{command.last}"
                )
            if known[question] is None and command.weary:
                break
        command.spared += len(questions) - len(known)
        return [known.get(row) for row in rows]
