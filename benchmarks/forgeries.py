"""Forged certificates for public properties that are broken: the checker has to refuse every one.

    python -m benchmarks.forgeries FAMILY_FOLDER... --count 1000 --csv FILE

For every instance that `expected.csv` says is `sat`, and for which Fathom confirms a witness, so many forgeries of the kinds in
forging.py; and a tenth as many for each of two questions of our own that are broken by a hair: about a small box round the
witness, with constants such that the worst margin is just below 0. The checker runs in this process, through its own door, on
files; only what it reads of model and property is read once. First it has to accept honest certificates of near-by questions that
hold: a checker that refuses everything would show nothing. Ends with 1 where a forgery was accepted; that is kept beside the CSV.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import fathom_checker
from benchmarks.forging import KINDS, Broken, Forger, Parts, about, by_a_hair, claimed, nearby, packed
from benchmarks.queries import Instance, instances, problem
from fathom.audits.verify import verify
from fathom.capture.export import export
from fathom.cli.memory import keep_freed_memory
from fathom.core.problem import Problem
from fathom.prove.certificate import certificate
from fathom.prove.record import Record

LEAVES = (128, 16, 1)  # of a base at most; the fewer, the larger the network
HAIRS = (1e-3, 1e-6)  # boxes round the witness, as shares of each input's width
LONGEST = 0.1  # seconds that the checker may take for a base: a thousand forgeries take a minute or two
REMEMBERED = 16  # models, with the names that a certificate gives their neurons
DECIDING = 60.0  # seconds to find a witness
AT_LEAST = re.compile(r"at least (\S+)$")


@dataclass
class Tally:
    """What became of the forgeries of one instance."""

    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    malformed: int = 0  # of the refused: not of the format at all
    accepted: int = 0
    nearest: float = -np.inf  # the greatest bound that a refusal names, of what has to be above 0


def refusal(model: Path, prop: Path, content: bytes, into: Path) -> str | None:
    """The checker's words against a certificate; None where it accepts it."""
    file = into / "certificate.npz"
    file.write_bytes(content)
    try:
        fathom_checker.check(model, prop, file)
    except fathom_checker.Rejected as reason:
        return f"rejected: {reason}"
    except fathom_checker.Malformed as reason:
        return f"malformed: {reason}"
    return None


def opened(instance: Instance) -> Broken | None:
    """The instance with a confirmed witness; None where none was found."""
    found = verify(instance.model, instance.prop, seconds=DECIDING)
    if found.witness is None or found.answers is None:
        return None
    margin = float(found.answers.found.real_upper[0])
    return Broken(problem(instance), (instance.model, instance.prop), found.witness[0].to(torch.float64), margin)


def bases(broken: Broken, leaves: Sequence[int], into: Path) -> tuple[list[Parts], list[Parts], int]:
    """What the prover claims of its own search; its proofs of near-by properties, with this one's statement; and how many of
    those are accepted for what they are about.

    Most have to be. Not all: the checker charges more for rounding than the prover, so what is proved by 1e-13 may be refused.
    """

    def slow(parts: Parts) -> bool:
        began = time.monotonic()
        refusal(*broken.files, packed(parts), into)
        return time.monotonic() - began > LONGEST

    for most in leaves:
        searched = list(claimed(broken, most))
        if not any(map(slow, searched[-2:])):
            break
    statement, proofs = broken.written(None), list(nearby(broken, most))
    refused = [words for words in (honest(*proof, into) for proof in proofs) if words is not None]
    assert 2 * len(refused) < max(len(proofs), 1), f"honest certificates were refused: {refused}"
    return searched, [about(statement, broken.written(record, near)) for near, record in proofs], len(proofs) - len(refused)


def honest(asked: Problem, record: Record, into: Path) -> str | None:
    """The checker's words against a certificate of a question that holds."""
    folder, every = into / "honest", torch.arange(1)
    export(asked, folder)
    files = folder / "model.onnx", folder / "problem.json"
    content = certificate(asked, every, [(every, record)], *(file.read_bytes() for file in files), numbered=True)
    return refusal(*files, content, into)


def forge(broken: Broken, count: int, leaves: Sequence[int], seed: int, into: Path, keep: Path) -> dict[str, Any]:
    """What became of so many forgeries: columns of the table."""
    began = time.monotonic()
    searched, neighbours, proofs = bases(broken, leaves, into)
    forger, tally = Forger(broken, searched, neighbours, np.random.default_rng(seed)), Tally()
    for kind in _in_turn(count):
        forged = packed(forger.make(kind))
        said = refusal(*broken.files, forged, into)
        if said is None:
            tally.accepted += 1
            (keep / f"accepted-{broken.files[1].stem}-{kind}-{tally.accepted}.npz").write_bytes(forged)
            continue
        tally.refused[kind] += 1
        tally.malformed += said.startswith("malformed")
        named = AT_LEAST.search(said)
        bound = float(named[1]) if named else -np.inf
        if kind == "climb":
            forger.heard(bound)
        if kind in ("search", "nearby", "climb"):
            tally.nearest = max(tally.nearest, bound)
    return {
        "witness_margin": f"{broken.margin:.4g}",
        "bases": len(searched) + len(neighbours),
        "honest_accepted": proofs,
        **tally.refused,
        "malformed": tally.malformed,
        "accepted": tally.accepted,
        "nearest_bound": f"{tally.nearest:.4g}",
        "seconds": f"{time.monotonic() - began:.0f}",
    }


def rows_of(instance: Instance, count: int, seed: int, into: Path, keep: Path) -> Iterator[dict[str, Any]]:
    """The row of the instance, and those of the questions broken by a hair; none where no witness was found."""
    broken = opened(instance)
    asked = {"published": (broken, count, LEAVES)}
    for share in HAIRS if broken is not None else ():
        asked[f"by a hair, {share:g}"] = by_a_hair(broken, share, into / f"hair-{share:g}"), count // 10, LEAVES[1:]
    for name, (question, forged, leaves) in asked.items():
        if question is None:
            print(f"{instance.model.name} {instance.prop.name}: not known to be broken ({name}), left out", flush=True)
            continue
        names = {"family": instance.family, "model": instance.model.name, "prop": instance.prop.name, "question": name}
        yield {**names, **forge(question, forged, leaves, seed, into, keep)}


def _in_turn(count: int) -> Iterator[str]:
    """Kinds in turn, each as often as its share says."""
    given = dict.fromkeys(KINDS, 0)
    for _ in range(count):
        kind = min(KINDS, key=lambda name: (given[name] + 1) / KINDS[name])
        given[kind] += 1
        yield kind


def main() -> int:
    parser = argparse.ArgumentParser(description="Forged certificates for broken properties.")
    parser.add_argument("folders", type=Path, nargs="+", help="families of the public benchmarks")
    parser.add_argument("--count", type=int, default=1000, help="forgeries an instance")
    parser.add_argument("--every", type=int, default=1, help="of the `sat` instances, each so many-th")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, required=True, help="a row an instance")
    asked = parser.parse_args()
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, _read_once():
        into = Path(folder)
        for family in asked.folders:
            broken = [one for one in instances(family.parent, family.name, 1, into) if one.expected == "sat"]
            for instance in broken[:: asked.every]:
                for row in rows_of(instance, asked.count, asked.seed, into, asked.csv.parent):
                    rows.append(row)
                    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
                    with asked.csv.open("w", newline="", encoding="utf-8") as file:
                        writer = csv.DictWriter(file, list(row), lineterminator="\n")
                        writer.writeheader()
                        writer.writerows(rows)
    accepted = sum(row["accepted"] for row in rows)
    print(f"{len(rows)} questions, {sum(row[kind] for row in rows for kind in KINDS)} forgeries refused, {accepted} accepted")
    return int(accepted > 0)


def _read_once() -> Any:
    """Within, the checker remembers what it read of a model and a property."""
    names = ("Model", "read_vnnlib", "read_problem")
    return patch.multiple(fathom_checker, **{name: _remembering(getattr(fathom_checker, name)) for name in names})


def _remembering(read: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Any, Any] = {}

    def remembered(content: bytes, *more: Any, **named: Any) -> Any:
        key = content, repr([getattr(each, "exact", each) for each in more]), repr(named)
        if key not in known:
            if len(known) >= REMEMBERED:
                known.clear()
            known[key] = read(content, *more, **named)
        return known[key]

    return remembered


if __name__ == "__main__":
    sys.exit(main())
