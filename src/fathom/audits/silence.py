"""How far silence can be trusted: what an audit says about the cases in which it found no failure and proved nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fathom.estimates.intervals import clopper_pearson

CONFIDENCE = 0.95
"""Of the intervals of find rates."""


@dataclass(frozen=True)
class Rate:
    """How many of the failures that were planted in one way were found."""

    size: float  # of a pit: the share of a set's volume. Of a depth: the share of what was won, by which the best point fails
    planted: int
    found: int
    plain: int | None  # those that one plain descent of 45 steps finds; None where there is no gradient to follow

    @property
    def interval(self) -> tuple[float, float]:
        """Holds the share that is found, of all that could be planted so, with `CONFIDENCE` (Clopper and Pearson)."""
        return clopper_pearson(self.found, 0, self.planted, CONFIDENCE)

    @property
    def words(self) -> str:
        """ "9 of 19 ([24 %, 72 %])"."""
        return f"{self.found} of {self.planted} ({self.interval_words})"

    @property
    def interval_words(self) -> str:
        """In whole per cent, rounded outward: "[24 %, 72 %]"."""
        lower, upper = self.interval
        return f"[{math.floor(100 * lower)} %, {math.ceil(100 * upper)} %]"

    def to_json(self) -> dict[str, Any]:
        lower, upper = self.interval
        return {"size": self.size, "planted": self.planted, "found": self.found, "plain": self.plain, "interval": [lower, upper]}


@dataclass(frozen=True)
class Sign:
    """Something that casts doubt on silence, in some of the cases examined."""

    name: str
    cases: int
    masks: bool  # whether it says that gradients mislead, and not only that the search was short
    example: str  # the words about one of them

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "cases": self.cases, "masks": self.masks, "example": self.example}


@dataclass(frozen=True)
class Silence:
    """What is known about the search that was silent, of `silent` cases. Made by `fathom.audits.planting.listen`."""

    silent: int  # cases in which nothing was found or proved
    examined: int  # of them, for signs that attacks fail
    masked: int  # of those examined: whose gradients mislead
    broke: int  # of those examined: broken by the examination itself
    signs: tuple[Sign, ...]
    depths: tuple[Rate, ...]  # from easy to hard
    pits: tuple[Rate, ...]  # from wide to narrow
    measured: bool  # volumes of pits are those of the region's own samples, and not exact
    passes: int  # forward plus backward, of one search for a planted failure, at most
    stopped: str  # why no more was planted, in a sentence; "" where all was
    seconds: float  # what all this took

    @property
    def sentence(self) -> str:
        """How many isolated failures were found, and so how rare a failure may be that silence still speaks against."""
        if not self.pits:
            return f"nothing is known of how rare a failure the search would find: {self.stopped or 'no pit could be planted'}"
        said = "; ".join(f"{share(rate.size)}: {rate.words}" for rate in self.pits)
        means = f". {self.meaning}" if self.meaning else ""
        return f"isolated failures planted, by the share of a set that they hold, and found: {said}{means}"

    @property
    def meaning(self) -> str:
        """Of which isolated failures silence says something, and of which nothing; "" where too few were planted to tell."""
        none = [rate for rate in self.pits if rate.found == 0]
        most = [rate for rate in self.pits if rate.interval[0] >= 0.5]
        said = [f"speaks against failures that hold {share(most[-1].size)} of a set or more"] if most else []
        said += [f"says nothing about those that hold {share(none[0].size)} or less"] if none else []
        return f"Silence {', and '.join(said)}" if said else ""

    @property
    def depth_sentence(self) -> str:
        """How reliably the search comes as far as the best point known; "" where that was not asked."""
        if not self.depths:
            return ""
        said = "; ".join(f"to within {share(rate.size)}: {rate.words}" for rate in self.depths)
        return f"the best point known of a case is reached again by a fresh search: {said}"

    @property
    def masking_sentence(self) -> str:
        """The masking flag, where it is raised; else ""."""
        if not self.masked:
            return ""
        worst = next((sign.example for sign in self.signs if sign.masks), "")
        return f"GRADIENTS ARE MASKED in {self.masked} of {self.examined} cases examined, and silence there says little: {worst}"

    def lines(self) -> list[str]:
        """What the command prints."""
        open_ = f"silence: nothing was found or proved in {self.silent} {'case' if self.silent == 1 else 'cases'}"
        looked = f"{self.examined} of them examined, {self.masked or 'none'} with masked gradients"
        caught = f", {self.broke} broken on the way" if self.broke else ""
        more = [text for text in (self.masking_sentence, self.depth_sentence, self.sentence) if text]
        return [f"{open_}; {looked}{caught}", *(f"  {text}" for text in more)]

    def to_json(self) -> dict[str, Any]:
        """Plain types for `json.dumps`."""
        names = ("silent", "examined", "masked", "broke", "measured", "passes", "stopped", "seconds")
        return {
            **{name: getattr(self, name) for name in names},
            "confidence": CONFIDENCE,
            **{name: [part.to_json() for part in parts] for name, parts in self._parts()},
        }

    def _parts(self) -> tuple[tuple[str, Sequence[Rate | Sign]], ...]:
        return (("signs", self.signs), ("depths", self.depths), ("pits", self.pits))


def share(size: float) -> str:
    """A share in words: "10 %", "0.1 %", "1e-06"."""
    return f"{100 * size:.3g} %" if size >= 1e-4 else f"{size:.0e}"
