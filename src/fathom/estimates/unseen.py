"""How much is still unseen: the probability of failures of a kind that no draw has shown."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fathom.bounds.intermediate import bends
from fathom.core.answer import Claim
from fathom.core.budget import Clock
from fathom.estimates.answer import Part
from fathom.estimates.estimator import Estimator, Progress, timed, unable, unheard
from fathom.estimates.question import Question
from fathom.estimates.sampling import Drawn
from fathom.estimates.words import count, probability

FEW = 20  # failures seen, below which the estimate says little


@final
@dataclass(frozen=True)
class Unseen(Estimator):
    """Good and Turing's estimate of what is unseen, from plain draws.

    Requires: what plain sampling saw, with failures in it; a captured network tells kinds finer.
    Returns: an estimate of the probability that one more draw fails in a way that is new, and of how many new ways as many draws
        again would show.
    Method: two failures are of one kind where they are of one case and fail by the same clause (read as the same class, break the
        same rule); and, counted apart, where they also switch on the same rectifiers. Of n draws, the kinds seen exactly once,
        over n, is what to expect of the unseen; kinds seen once, less those seen twice, plus those seen three times, ... of new
        kinds in n more draws.
    Sound? No: an estimate, of small bias and no guarantee.
    Reference: Good, The population frequencies of species and the estimation of population parameters, Biometrika 40, 1953; Good
        and Toulmin, The number of new species, and the increase in population coverage, Biometrika 43, 1956.
    """

    drawn: Drawn

    def estimate(self, question: Question, clock: Clock, progress: Progress = unheard) -> Part:
        began, question, fails, draws = time.monotonic(), question.afresh(), len(self.drawn.owner), self.drawn.count
        if not fails:
            return unable("unseen", f"nothing to say about kinds of failures: none of {draws:,} draws failed")
        found = kinds(question, self.drawn.owner, self.drawn.x)
        seen, patterns = Counter((case, clause) for case, clause, _ in found), Counter(found)
        times, fine = Counter(seen.values()), Counter(patterns.values())
        missing = times[1] / draws
        new = max(0, sum(times[j] * (-1) ** (j + 1) for j in times))
        warnings = [] if fails >= FEW else [f"only {count(fails, 'failure')} to judge by"]
        told = "case and clause" if question.guided else "case alone, as there is no network"
        alone = f"{times[1]:,} {'is' if times[1] == 1 else 'are'} alone"
        ways = f"{count(fails, 'failure')} in {count(len(seen), 'way')}, told apart by {told}"
        sentence = (
            f"the next draw fails in a way not seen yet with probability about {probability(missing)}; as many draws again would "
            f"show about {count(new, 'new way')} ({ways}, of which {alone})"
        )
        if question.guided:
            share = probability(fine[1] / draws)
            sentence += f"; of {len(patterns):,} ways told apart by rectifiers too, one more is new with probability {share}"
        facts = (
            *(("failures", fails), ("kinds", len(seen)), ("seen_once", times[1]), ("seen_twice", times[2]), ("new_kinds", new)),
            *(("patterns", len(patterns)), ("patterns_seen_once", fine[1])),
        )
        return timed(Part("unseen", Claim.ESTIMATE, missing, None, None, None, sentence, tuple(warnings), facts), question, began)


def kinds(question: Question, owner: Tensor, x: Tensor) -> list[tuple[int, int, int]]:
    """The kind of each failure x [k, d], in the program's dtype, of the sets `owner`: case, clause, and pattern of rectifiers."""
    cases = question.problem.owner[owner].tolist()
    if not question.guided:
        return [(case, 0, 0) for case in cases]
    spec = question.problem.spec
    assert spec is not None
    question.meter.forward += len(x)
    values = question.network.values(x)
    clause = spec.take(owner).clauses(spec.take(owner).values(values[-1])).argmin(1).tolist()
    random = torch.Generator().manual_seed(0)  # a pattern is told by a sum of random numbers, one a rectifier that is on
    pattern = torch.zeros(len(x), dtype=torch.int64)
    for i, kinks in sorted(bends(question.network).items()):
        for kink in kinks:
            if kink is not None:
                on = values[i].flatten(1) > kink
                marks = torch.randint(-(2**62), 2**62, (on.shape[1],), generator=random)
                pattern += torch.where(on, marks, 0).sum(1)
    return list(zip(cases, clause, pattern.tolist(), strict=True))
