"""The tokens of a property file: parentheses and words, without comments. Where one stood is worked out when an error asks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fathom.core.errors import NotUnderstood

_TOKEN = re.compile(r"[()]|[^\s();]+|;[^\n]*")

INDEXED = re.compile(r'[()]|;[^\n]*|"(?:[^"\\\n]|\\.)*"|[^\s();"\[\]]+(?:\s*\[[^\[\]();"]*\])?|["\[\]]')
"""The tokens of VNN-LIB 2: a word takes the brackets behind it along, as in X[0, 1] and in real [2,3]; strings are one token."""


@dataclass(frozen=True)
class Tokens:
    """A file's words in order; `name` is the file's."""

    name: str
    source: str
    texts: list[str]
    pattern: re.Pattern[str] = _TOKEN

    @staticmethod
    def of(name: str, source: str, pattern: re.Pattern[str] = _TOKEN) -> Tokens:
        return Tokens(name, source, [text for text in pattern.findall(source) if text[0] != ";"], pattern)

    @property
    def version_2(self) -> bool:
        """Whether the file starts as one of VNN-LIB 2, in the tokens of either version."""
        return self.texts[:1] == ["("] and self.texts[1:2] in (["vnnlib-version"], ["declare-network"])

    def item(self, opened: int, count: int) -> int:
        """The index of the token where item number `count` (from 1) of the list that opens at token `opened` starts."""
        at = opened + 1
        for _ in range(count - 1):
            depth = 0
            while True:
                depth += {"(": 1, ")": -1}.get(self.texts[at], 0)
                at += 1
                if depth == 0:
                    break
        return at

    def error(self, index: int, expected: str, got: str) -> NotUnderstood:
        """An error at the token `index`, or at the end of the file where there is none; with line and column, from 1."""
        starts = (match.start() for match in self.pattern.finditer(self.source) if match[0][0] != ";")
        start = next((start for count, start in enumerate(starts) if count == index), len(self.source))
        line = self.source.count("\n", 0, start) + 1
        column = start - self.source.rfind("\n", 0, start)
        return NotUnderstood(f"{self.name}, line {line}, column {column}: expected {expected}, got {got}")
