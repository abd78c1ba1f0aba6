"""Every mistake of preprocessing that is looked for is found on a model that suffers from it, and none where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fathom.audits.data import Data
from fathom.audits.preprocessing import Inspection, PreprocessingError, inspect
from fathom.core.errors import FathomError
from fathom.core.network import Port
from fathom.core.program import Program

CLASSES, SHAPE, N = 6, (3, 5, 4), 120
SIZE = math.prod(SHAPE)


class Linear(Program):
    """scores = W prepare(x) + b, of inputs of some shape."""

    dtype = torch.float32
    digest = "linear"

    def __init__(
        self, weight: Tensor, bias: Tensor, shape: tuple[int, ...] = SHAPE, prepare: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        self.weight, self.bias, self.prepare = weight, bias, prepare
        self.inputs = (Port("x", shape, 0),)
        self.outputs = (Port("y", (len(bias),), 0),)
        self.seen = 0

    def __call__(self, x: Tensor) -> Tensor:
        assert x.dtype == self.dtype and x.shape[1] == self.weight.shape[1] and len(x) <= 256
        self.seen += len(x)
        return self.prepare(x) @ self.weight.T + self.bias


def _prototypes() -> tuple[Tensor, Tensor]:
    """Classes [CLASSES, SIZE] in [0, 1], from dim to bright, and a generator's worth of samples round them."""
    generator = torch.Generator().manual_seed(0)
    brightness = torch.linspace(0.3, 1, CLASSES)[:, None]
    prototypes = torch.rand(CLASSES, SIZE, generator=generator) * brightness
    labels = torch.arange(N) % CLASSES
    x = (prototypes[labels] + 0.05 * torch.randn(N, SIZE, generator=generator)).clamp(0, 1)
    return prototypes, x


PROTOTYPES, X = _prototypes()
Y = np.arange(N) % CLASSES


def model(prepare: Callable[[Tensor], Tensor] = lambda x: x, shape: tuple[int, ...] = SHAPE) -> Linear:
    """Picks the nearest prototype, which is linear, of prepare(x)."""
    return Linear(PROTOTYPES, -(PROTOTYPES**2).sum(1) / 2, shape, prepare)


def data(x: Tensor = X, y: np.ndarray | None = Y, shape: tuple[int, ...] = SHAPE) -> Data:
    return Data(x.reshape(-1, *shape).numpy(), None if y is None else y.astype(np.int64))


def stops(inspection: Inspection) -> str:
    """All that stops, in one text; "" where nothing does."""
    return "\n".join(str(finding) for finding in inspection.stops)


UNIT = ((0.0,), (1.0,))


# Where all is well


def test_a_healthy_pair(capsys: pytest.CaptureFixture[str]) -> None:
    inspection = inspect(model(), data(), UNIT)
    assert inspection.findings == () and inspection.accuracy is not None and inspection.accuracy > 0.97
    assert inspection.labels == (N // CLASSES,) * CLASSES and sum(inspection.predicted) == N
    assert inspection.lines()[0].startswith(f"accuracy  {inspection.accuracy:.1%} ({inspection.correct} of {N}")
    assert any("3 x 5 x 4" in line for line in inspection.lines()) and any("[0, 1]" in line for line in inspection.lines())
    inspection.require()
    assert capsys.readouterr().out == "", "it says, and does not print"


@pytest.mark.parametrize("shape", [SHAPE, (SIZE,), (1, *SHAPE), (3, 20)])
def test_shapes_that_mean_the_same(shape: tuple[int, ...]) -> None:
    given = inspect(model(shape=(SIZE,)), data(shape=shape), UNIT)
    assert given.findings == (), "a flat model takes the values in the order they come"
    assert stops(inspect(model(), data(shape=shape), UNIT)) == ""


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("right", [True, False])
def test_few_samples_accuse_nobody(n: int, right: bool) -> None:  # noqa: FBT001
    y = Y[:n] if right else (Y[:n] + 3) % CLASSES
    given = data(X[:n], y)
    assert stops(inspect(model(), given, UNIT)) == ""


@pytest.mark.parametrize("accuracy", [0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_mediocre_model_is_no_mistake(accuracy: float, seed: int) -> None:
    """Labels that are wrong at random, so that no change of the data can help."""
    generator = np.random.default_rng(seed)
    noisy = np.where(generator.random(N) < accuracy, Y, generator.integers(0, CLASSES, N))
    assert stops(inspect(model(), data(y=noisy), UNIT)) == ""


def test_two_classes_and_few_samples() -> None:
    weight = torch.stack([-X[0], X[0]])
    pair = Linear(weight, torch.tensor([0.0, 0.0]))
    y = pair(X[:6]).argmax(1).numpy()
    assert stops(inspect(pair, data(X[:6], y))) == ""


def test_the_ends_of_a_range_count_as_the_data_round_them() -> None:
    """float32(0.1) lies above 0.1."""
    squeezed = X * np.float32(0.1)
    assert float(squeezed.max()) <= np.float32(0.1)
    squeezed[0, 0] = 0.1
    assert float(squeezed[0, 0]) > 0.1
    assert "lie outside" not in stops(inspect(model(lambda x: x / 0.1), data(squeezed), ((0.0,), (0.1,))))
    each = (tuple([0.0] * SIZE), tuple([1.0] * SIZE))
    assert inspect(model(), data(), each).findings == ()


def test_what_is_not_known_is_not_guessed() -> None:
    unlabelled = inspect(model(), data(y=None), UNIT)
    assert unlabelled.accuracy is None and stops(unlabelled) == "" and "no labels" in str(unlabelled.findings[0])
    single = inspect(Linear(PROTOTYPES[:1], torch.zeros(1)), data(), UNIT)
    assert single.accuracy is None and stops(single) == "" and "one output" in str(single.findings[0])
    assert "note" in single.lines()[-1]
    same = inspect(model(), data(X[Y == 2], Y[Y == 2]), UNIT)
    assert stops(same) == "" and "all 20 samples have the label 2" in str(same.findings[0])


def test_large_files_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly: files are often sorted by class."""
    monkeypatch.setattr("fathom.audits.preprocessing.MOST_SAMPLES", 24)
    order = np.argsort(Y, kind="stable")
    program = model()
    inspection = inspect(program, data(X[order], Y[order]), UNIT)
    assert inspection.samples == 24 and inspection.labels == (4,) * CLASSES and program.seen == 24


# Where something is wrong


def test_labels_that_count_from_one() -> None:
    found = stops(inspect(model(), data(y=Y + 1), UNIT))
    assert "labels run from 1 to 6, and the model's classes from 0 to 5" in found and "one less; save y - 1" in found
    assert "accuracy is 0.0% so, and 100.0% with" in found


def test_labels_that_count_from_one_without_the_last_class() -> None:
    keep = Y < CLASSES - 1
    found = stops(inspect(model(), data(X[keep], Y[keep] + 1), UNIT))
    assert "with every label one less: they seem to count from 1; save y - 1" in found


def test_a_model_with_a_class_for_the_background() -> None:
    weight = torch.cat([torch.zeros(1, SIZE), PROTOTYPES])
    bias = torch.cat([torch.tensor([-1e6]), -(PROTOTYPES**2).sum(1) / 2])
    found = stops(inspect(Linear(weight, bias), data(), UNIT))
    assert "100.0% with every label one more" in found and "save y + 1" in found


@pytest.mark.parametrize("y", [Y - 3, Y * 10])
def test_labels_that_are_no_classes(y: np.ndarray) -> None:
    found = stops(inspect(model(), data(y=y), UNIT))
    assert f"labels run from {y.min()} to {y.max()}, and the model's classes from 0 to 5" in found


def _last(x: Tensor) -> Tensor:
    return x.reshape(-1, *SHAPE).permute(0, 2, 3, 1)


def test_channels_last_for_a_model_of_channels_first() -> None:
    inspection = inspect(model(), data(_last(X), shape=(5, 4, 3)), UNIT)
    found = stops(inspection)
    assert "NHWC to NCHW" in found and "samples are 5 x 4 x 3, and the model takes 3 x 5 x 4" in found
    assert "save x.reshape(-1, 5, 4, 3).transpose(0, 3, 1, 2)" in found
    repaired = _last(X).numpy().reshape(-1, 5, 4, 3).transpose(0, 3, 1, 2)
    assert np.array_equal(repaired.reshape(N, -1), X.numpy()), "what it says to do is right"


def test_channels_first_for_a_model_of_channels_last() -> None:
    program = model(lambda x: x.reshape(-1, 5, 4, 3).permute(0, 3, 1, 2).flatten(1), (5, 4, 3))
    found = stops(inspect(program, data(), UNIT))
    assert "channels first turned into channels last" in found and "save x.reshape(-1, 3, 5, 4).transpose(0, 2, 3, 1)" in found


@pytest.mark.parametrize("shape", [SHAPE, (SIZE,)])
def test_channels_last_under_a_shape_that_hides_it(shape: tuple[int, ...]) -> None:
    """Reshaped where it should have been transposed, or flattened: the sizes agree."""
    found = stops(inspect(model(), data(_last(X), shape=shape), UNIT))
    assert "NHWC to NCHW" in found and "save x.reshape(-1, 5, 4, 3).transpose(0, 3, 1, 2)" in found


def test_channels_last_for_a_model_that_takes_flat_inputs() -> None:
    found = stops(inspect(model(shape=(SIZE,)), data(_last(X), shape=(5, 4, 3)), UNIT))
    assert "NHWC to NCHW" in found


def test_rows_and_columns_swapped() -> None:
    turned = X.reshape(-1, *SHAPE).transpose(2, 3)
    found = stops(inspect(model(), data(turned, shape=(3, 4, 5)), UNIT))
    assert "axes in the order (0, 2, 1)" in found


def test_another_shape_without_labels() -> None:
    found = stops(inspect(model(), data(_last(X), None, (5, 4, 3)), UNIT))
    assert "samples are 5 x 4 x 3, and the model takes 3 x 5 x 4: as many values, in another order" in found
    assert stops(inspect(model(), data(X, None, (1, 3, 5, 4)), UNIT)) == ""


def test_another_shape_that_the_model_reads_rightly_all_the_same() -> None:
    inspection = inspect(model(), data(shape=(5, 4, 3)), UNIT)
    assert inspection.accuracy == 1 and stops(inspection) == "" and "in another order" in str(inspection.findings[0])


def test_another_shape_stops_where_few_samples_show_nothing_else() -> None:
    few = replace(data(shape=(5, 4, 3)), x=data(shape=(5, 4, 3)).x[:6], y=np.roll(data().y, 1)[:6])
    assert "in another order" in stops(inspect(model(), few, UNIT))


def test_0_to_255_for_a_model_of_0_to_1() -> None:
    pixels = (X * 255).round()
    found = stops(inspect(model(), data(pixels), UNIT))
    assert "120 of 120 samples lie outside; if they are 0 .. 255, save x / 255" in found
    assert "100.0% after x / 255: the model seems to take values in [0, 1]" in found
    assert "100.0% after x / 255" in stops(inspect(model(), data(pixels))), "whatever range is declared"
    assert "100.0% after x / 255" in stops(inspect(model(), data(pixels), ((0.0,), (255.0,))))


def test_0_to_1_for_a_model_of_0_to_255() -> None:
    inspection = inspect(model(lambda x: x / 255), data(), ((0.0,), (255.0,)))
    assert "100.0% after x * 255: the model seems to take values in 0 .. 255" in stops(inspection)
    assert any("check that radius and range are in the unit" in str(finding) for finding in inspection.findings)


def test_minus_1_to_1_for_a_model_of_0_to_1() -> None:
    found = stops(inspect(model(), data(2 * X - 1), ((-1.0,), (1.0,))))
    assert "after (x + 1) / 2" in found


@pytest.mark.parametrize(
    ("mean", "deviation", "scale", "words"),
    [
        ([0.1307], [0.3081], 1, r"normalising by (x - 0.1307) / 0.3081"),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 1, "normalising by ImageNet's mean and deviation"),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 255, "normalising x / 255 by ImageNet's mean and deviation"),
        ([float(X.mean())], [float(X.std())], 1, "normalising by"),
    ],
)
def test_a_model_that_expects_normalised_inputs(mean: list[float], deviation: list[float], scale: float, words: str) -> None:
    means, deviations = (torch.tensor(part).repeat_interleave(SIZE // len(part)) for part in (mean, deviation))
    found = stops(inspect(model(lambda x: x * deviations + means), data(X * scale), ((0.0,), (float(scale),))))
    assert words in found and "make it the model's first layer" in found and "first layer" in found


def test_data_outside_the_range() -> None:
    x = X.clone()
    x[7, 3] = 1.5
    found = stops(inspect(model(), data(x), UNIT))
    assert "values span [0, 1.5], and the range is [0, 1]: 1 of 120 samples lie outside" in found
    lower = [0.0] * SIZE
    lower[2] = 0.9
    assert "samples lie outside" in stops(inspect(model(), data(), (lower, [1.0])))
    normalised = (X - X.mean()) / X.std()
    assert "if they were normalised" in stops(inspect(model(lambda x: x * X.std() + X.mean()), data(normalised), UNIT))


def test_a_range_of_another_size() -> None:
    assert "the range has 3 and 1 ends, and samples have 60 features" in stops(inspect(model(), data(), ([0.0] * 3, [1.0])))


@pytest.mark.parametrize(
    ("size", "hint"),
    [(SIZE + 1, "the label"), (SIZE * 3, "in colour"), (SIZE // 3, "are the samples grey"), (SIZE + 7, "reshape, crop or scale")],
)
def test_another_number_of_features(size: int, hint: str) -> None:
    program = model()
    inspection = inspect(program, data(torch.rand(N, size), shape=(size,)), UNIT)
    assert f"samples have {size} features ({size}), and the model takes 60 (3 x 5 x 4)" in stops(inspection)
    assert hint in stops(inspection) and program.seen == 0 and inspection.accuracy is None and inspection.lines()


@pytest.mark.parametrize("seed", range(5))
def test_labels_of_other_samples(seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(Y)
    found = stops(inspect(model(), data(y=shuffled), UNIT))
    assert "on 120 samples, and guessing among 6 classes would have 16.7%" in found and "in one order" in found


def test_one_class_for_all() -> None:
    stuck = Linear(PROTOTYPES, torch.tensor([0.0, 0.0, 1e6, 0.0, 0.0, 0.0]))
    assert "all 120 samples are read as class 2, and have 6 different labels" in stops(inspect(stuck, data(), UNIT))
    only = Y == 2
    assert stops(inspect(stuck, data(X[only], Y[only]), UNIT)) == "", "which is right where there is only one"


def test_outputs_that_hear_nothing() -> None:
    deaf = Linear(torch.zeros(CLASSES, SIZE), torch.arange(CLASSES).float())
    assert "outputs are the same on all 120 samples" in stops(inspect(deaf, data(), UNIT))
    assert "same on all" not in stops(inspect(model(), data(X[:1].expand(N, -1), np.zeros(N)), UNIT)), "equal samples"


def test_outputs_that_are_no_numbers() -> None:
    bias = torch.tensor([0.0, math.nan, 0.0, 0.0, 0.0, 0.0])
    inspection = inspect(Linear(PROTOTYPES, bias), data(), UNIT)
    assert "not a number on 120 of 120 samples" in stops(inspection) and inspection.accuracy == 0


def test_what_stops_can_be_overridden() -> None:
    inspection = inspect(model(), data(y=Y + 1), UNIT)
    with pytest.raises(PreprocessingError, match=r"(?s)expected .*got what looks like a mistake.*save y - 1.*--anyway") as caught:
        inspection.require()
    assert isinstance(caught.value, FathomError)
    inspection.require(anyway=True)


def test_two_runs_say_the_same() -> None:
    given = data(_last(X), shape=(5, 4, 3))
    assert inspect(model(), given, UNIT) == inspect(model(), given, UNIT)
