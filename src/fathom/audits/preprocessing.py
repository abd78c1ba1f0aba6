"""Looking at model and data before an audit: most wrong audits are of the wrong question.

An audit of a model on samples that it would never be given proves and breaks something else than its owner meant. What
gives such a mistake away is the clean accuracy: so the usual mistakes are tried the other way round, and one that would have
lifted the accuracy by far is reported, with both numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fathom.audits.data import Data
from fathom.audits.what_if import Bench, best_change, right, share, show_shape, spread
from fathom.core.errors import FathomError
from fathom.core.program import Program

MOST_SAMPLES = 1000
"""No more samples than this are looked at, spread over the file."""

Clip = tuple[Sequence[float], Sequence[float]]
"""Lower and upper ends of the declared range, each one number or one an input."""


class PreprocessingError(FathomError):
    """What looks like a mistake in how samples and labels reach the model."""


@dataclass(frozen=True)
class Finding:
    """Something about model and data, in a sentence with its numbers, and what to do."""

    says: str
    todo: str = ""
    stops: bool = True  # False: worth a note

    def __str__(self) -> str:
        return f"{self.says}; {self.todo}" if self.todo else self.says


@dataclass(frozen=True)
class Inspection:
    """What model and data look like together."""

    samples: int  # looked at
    data_shape: tuple[int, ...]  # of one sample
    model_shapes: tuple[tuple[int, ...], ...]
    least: float  # value in any sample
    most: float
    clip: Clip | None
    correct: int | None  # None: no labels, or no classes
    labels: tuple[int, ...]  # how many samples of each class; () without labels or classes
    predicted: tuple[int, ...]  # how many are read as each class; () where the model was not run, or has no classes
    findings: tuple[Finding, ...]

    @property
    def accuracy(self) -> float | None:
        """Share of the samples that are read as labelled, untouched."""
        return None if self.correct is None else self.correct / self.samples

    @property
    def stops(self) -> tuple[Finding, ...]:
        """The findings on which an audit should not go on."""
        return tuple(finding for finding in self.findings if finding.stops)

    def lines(self) -> list[str]:
        """What to show before an audit: accuracy, layout, range, classes, notes."""
        takes = ", ".join(show_shape(shape) for shape in self.model_shapes)
        lines = [f"inputs    {show_shape(self.data_shape)} in [{self.least:.6g}, {self.most:.6g}]; the model takes {takes}"]
        if self.clip is not None:
            lines.append(f"range     [{min(self.clip[0]):.6g}, {max(self.clip[1]):.6g}]")
        if self.accuracy is not None:
            lines.insert(0, f"accuracy  {self.accuracy:.1%} ({self.correct} of {self.samples} samples, untouched)")
        if self.labels:
            lines.append(f"labels    {_counts(self.labels)}")
        if self.predicted:
            lines.append(f"read as   {_counts(self.predicted)}")
        return lines + [f"note      {finding}" for finding in self.findings if not finding.stops]

    def require(self, *, anyway: bool = False) -> None:
        """Goes on only where nothing stops, or `anyway`.

        Raises:
            PreprocessingError: with all that was found.
        """
        if self.stops and not anyway:
            found = "\n".join(f"  - {finding}" for finding in self.stops)
            raise PreprocessingError(
                "expected model and data that were made for each other, got what looks like a mistake, so nothing was audited:\n"
                f"{found}\n  if all is as it should be, go on with --anyway"
            )


def inspect(program: Program, data: Data, clip: Clip | None = None) -> Inspection:
    """What model and data look like together, and whether they were made for each other.

    Args:
        program: [n, d] -> [n, m]; scores of m classes, if accuracy is to be told.
        data: samples, and labels from 0 on.
        clip: the declared range of inputs, if there is one.
    """
    rows = spread(len(data), MOST_SAMPLES)
    x, y = data.flat[rows], None if data.labels is None else data.labels[rows]
    bench = Bench(program, data.shape, x, y)
    findings = [*_features(bench), *_range(bench, clip)]
    if bench.fits:
        plain = [*_outputs(bench), *_labels(bench)]
        findings += plain if any(finding.stops for finding in plain) else [*plain, *_doubts(bench)]
    classified = bench.classes > 1
    return Inspection(
        samples=len(rows),
        data_shape=data.shape,
        model_shapes=bench.model_shapes,
        least=float(x.min()),
        most=float(x.max()),
        clip=clip,
        correct=int(right(bench.scores, y).sum()) if bench.fits and classified and y is not None else None,
        labels=_histogram(y, bench.classes) if classified and y is not None else (),
        predicted=_histogram(bench.scores.argmax(1), bench.classes) if bench.fits and classified else (),
        findings=tuple(findings),
    )


def _features(bench: Bench) -> Iterator[Finding]:
    """Whether the sizes agree."""
    have, takes = bench.x.shape[1], ", ".join(show_shape(shape) for shape in bench.model_shapes)
    if bench.fits:
        return
    hint = f"reshape, crop or scale the samples to {takes}"
    if have == bench.size + 1:
        hint = "is one column of the samples the label? save it apart"
    elif have == bench.size * 3:
        hint = "are the samples in colour, and the model for grey images?"
    elif bench.size == have * 3:
        hint = "are the samples grey, and the model for colour images?"
    yield Finding(f"samples have {have} features ({show_shape(bench.shape)}), and the model takes {bench.size} ({takes})", hint)


def _range(bench: Bench, clip: Clip | None) -> Iterator[Finding]:
    """Whether the samples lie in the declared range, whose ends count as rounded to the samples' own precision."""
    if clip is None:
        return
    features = bench.x.shape[1]
    if any(len(end) not in (1, features) for end in clip):
        sizes = " and ".join(str(len(end)) for end in clip)
        yield Finding(f"the range has {sizes} ends, and samples have {features} features", "give one end for all, or one each")
        return
    lower, upper = (torch.tensor(tuple(end), dtype=bench.x.dtype).expand(features) for end in clip)
    low, high, least, most = (float(t) for t in (lower.min(), upper.max(), bench.x.min(), bench.x.max()))
    outside = (bench.x < lower) | (bench.x > upper)
    says = f"values span [{least:.6g}, {most:.6g}], and the range is [{low:.6g}, {high:.6g}]"
    if outside.any():
        count = int(outside.any(1).sum())
        hint = "give the range that the data have, or scale them into it"
        if high <= 1 and least >= 0 and 1 < most <= 255:
            hint = "if they are 0 .. 255, save x / 255, or give --range 0 255 and the radius in that unit"
        elif least < 0 <= low and abs(float(bench.x.mean())) < 0.5 and 0.5 < float(bench.x.std()) < 2:
            hint = "if they were normalised, make that the model's first layer, or give the range after it"
        yield Finding(f"{says}: {count} of {len(outside)} samples lie outside", hint)
    elif high - low > 20 * (most - least) > 0:
        yield Finding(says, "check that radius and range are in the unit of the data", stops=False)


def _outputs(bench: Bench) -> Iterator[Finding]:
    """Whether the model answers at all."""
    scores = bench.scores
    wild = int((~torch.isfinite(scores)).any(1).sum())
    if wild:
        says = f"outputs are infinite or not a number on {wild} of {len(scores)} samples"
        yield Finding(says, "check the model, and the scale of its inputs")
    elif len(scores) > 1 and bool((scores == scores[0]).all()) and not bool((bench.x == bench.x[0]).all()):
        says = f"outputs are the same on all {len(scores)} samples"
        yield Finding(says, "check that the model was exported with its weights, and reads its input")


def _labels(bench: Bench) -> Iterator[Finding]:
    """Whether the labels can be the model's classes."""
    y, last = bench.y, bench.classes - 1
    if y is None:
        yield Finding("no labels, so the clean accuracy is not known", "save them as y, to have mistakes found", stops=False)
        return
    if last < 1:
        yield Finding("the model has one output, so there are no classes to be right about", stops=False)
        return
    least, most = int(y.min()), int(y.max())
    says = f"labels run from {least} to {most}, and the model's classes from 0 to {last}"
    if least == 1 and most == bench.classes:
        shares = [share(right(bench.scores, labels)) for labels in (y, y - 1)]
        yield Finding(f"{says}: accuracy is {shares[0]:.1%} so, and {shares[1]:.1%} with every label one less", "save y - 1")
    elif least < 0 or most > last:
        yield Finding(says, "number the classes as the model does, from 0")
    elif least == most and len(y) > 9:
        says = f"all {len(y)} samples have the label {least}"
        yield Finding(says, "an audit of one class says nothing of the others", stops=False)


def _doubts(bench: Bench) -> Iterator[Finding]:
    """What the accuracy gives away: a cause, or else the symptom."""
    mine, theirs = bench.data_axes, bench.model_axes
    misfit = len(mine) > 1 and len(theirs) > 1 and mine != theirs
    says = f"samples are {show_shape(bench.shape)}, and the model takes {show_shape(bench.model_shapes[0])}"
    reorder = "save the samples with their axes in the model's order (x.transpose)"
    if bench.y is None or bench.classes < 2:
        if misfit:
            yield Finding(f"{says}: as many values, in another order", reorder)
        return
    cause = best_change(bench)
    if cause is not None:
        before, after, change = cause
        yield Finding(f"accuracy is {before:.1%} on the data as they are, and {after:.1%} {change.words}", change.todo)
        return
    symptoms = list(_symptoms(bench, bench.y))
    yield from symptoms
    if misfit:
        # Only a model that reads most samples rightly as they are shows that their order is its own.
        well_read = share(right(bench.scores, bench.y)) >= _halfway(bench.classes)
        yield Finding(f"{says}: as many values, in another order", reorder, stops=bool(symptoms) or not well_read)


def _halfway(classes: int) -> float:
    """Accuracy halfway from guessing to perfect."""
    return (1 + 1 / classes) / 2


def _symptoms(bench: Bench, y: Tensor) -> Iterator[Finding]:
    predicted, hits = bench.scores.argmax(1), right(bench.scores, y)
    n, ways = len(y), len(set(y.tolist()))
    if n > 9 and ways > 1 and bool((predicted == predicted[0]).all()):
        says = f"all {n} samples are read as class {int(predicted[0])}, and have {ways} different labels"
        yield Finding(says, "check how the model wants its inputs scaled and laid out")
    chance = 1 / bench.classes
    poor = n > 9 and share(hits) < _halfway(bench.classes)
    if poor and _by_guessing(n, n, chance) < 0.01 <= _by_guessing(int(hits.sum()), n, chance):
        says = f"accuracy is {share(hits):.1%} on {n} samples, and guessing among {bench.classes} classes would have {chance:.1%}"
        yield Finding(says, "check that labels and samples are in one order, and that classes are numbered as in training")


def _by_guessing(hits: int, n: int, chance: float) -> float:
    """The probability of at least so many hits out of n."""
    log = math.lgamma
    terms = (
        log(n + 1) - log(k + 1) - log(n - k + 1) + k * math.log(chance) + (n - k) * math.log1p(-chance)
        for k in range(hits, n + 1)
    )
    return min(1.0, sum(math.exp(term) for term in terms))


def _histogram(classes: Tensor, count: int) -> tuple[int, ...]:
    inside = classes[(classes >= 0) & (classes < count)]
    return tuple(torch.bincount(inside, minlength=count).tolist())


def _counts(counts: Sequence[int]) -> str:
    """Class counts in a line: all of them, or where they are many, how many have any and the extremes."""
    if len(counts) <= 12:
        return "  ".join(f"{index}: {count}" for index, count in enumerate(counts))
    seen = [count for count in counts if count]
    return f"{len(seen)} of {len(counts)} classes, {min(seen, default=0)} to {max(seen, default=0)} samples each"
