"""Every kind of region in `audit.toml`: read, made and audited; and every mistake named."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy
import pytest
import torch

from fathom.audits.keys import SettingsError
from fathom.audits.overseer_settings import Relation
from fathom.audits.settings import read_settings
from fathom.audits.setup import make_parts, read_model, read_samples
from fathom.core.errors import FathomError
from fathom.core.region import Region

HEAD = 'model = "tests.test_threats:small"\n[data]\npath = "data.npz"\n{data}[region]\n'

KINDS = {
    "L0Ball": 'kind = "l0"\ncount = 2\nrange = [0, 1]\n',
    "L0Ball by pixels": 'kind = "l0"\ncount = 1\npixels = true\nradius = 0.2\n',
    "Patch": 'kind = "patch"\nsize = 2\nrange = [0, 1]\n',
    "Patch of two sides": 'kind = "patch"\nsize = [1, 2]\nrange = [0, 1]\nradius = 0.3\n',
    "WassersteinBall": 'kind = "wasserstein"\nradius = 0.1\nwindow = 1\nrange = [0, 1]\n',
    "FiniteSet": 'kind = "finite"\npoints = "corrupted"\n',
    "Tabular": 'kind = "tabular"\nrange = [0, 1]\nimmutable = [0]\nbudget = 2\nunit = ' + str([0.5] + [1] * 17) + "\n"
    "[[region.relations]]\ncoefficients = " + str([0, 1, 1] + [0] * 15) + "\nlimit = 2\n",
}


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(18, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    g = numpy.random.default_rng(0)
    x = g.random((6, 2, 3, 3), dtype=numpy.float32)
    noisy = x[:, None] + 0.1 * g.random((6, 4, 2, 3, 3), dtype=numpy.float32)
    y = small()(torch.from_numpy(x)).argmax(1).numpy()
    numpy.savez(tmp_path / "data.npz", x=x, y=y, corrupted=noisy)
    return tmp_path


def made(folder: Path, text: str, data: str = "inputs = 'x'\nlabels = 'y'\nstart = 1\nlimit = 3\n") -> Region:
    (folder / "audit.toml").write_text(HEAD.format(data=data) + text, encoding="utf-8")
    settings = read_settings(folder / "audit.toml")
    samples = read_samples(settings)
    return make_parts(settings, read_model(settings, samples), samples).region


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_can_be_asked_for(folder: Path, name: str) -> None:
    region = made(folder, KINDS[name])
    assert type(region).__name__ == name.split()[0]
    assert len(region) == 3 and region.size == 18
    with numpy.load(folder / "data.npz") as file:
        x, noisy = torch.from_numpy(file["x"][1:4]).flatten(1), torch.from_numpy(file["corrupted"][1:4]).flatten(2)
    if name == "FiniteSet":
        assert all(region.contains(noisy[:, j]).all() for j in range(4))
    else:
        assert region.contains(x).all()


def test_each_input_may_have_a_radius_of_its_own(folder: Path) -> None:
    """A budget per feature, in the user's own units: just what moves so far is inside, and nothing that moves further."""
    radii = [round(0.02 * k, 2) for k in range(18)]
    region = made(folder, f'kind = "linf"\nradius = {radii}\nrange = [0, 1]\n')
    with numpy.load(folder / "data.npz") as file:
        x = torch.from_numpy(file["x"][1:4]).flatten(1).double()
    far = torch.tensor(radii, dtype=torch.float64)
    for sign in (-1, 1):
        edge = (x + sign * far).clamp(0, 1)
        assert region.contains(edge).all()
        moved = x.clone()
        moved[:, 7] = x[:, 7] + sign * (radii[7] + 1e-9)
        assert not region.contains(moved)[(moved[:, 7] > 0) & (moved[:, 7] < 1)].any()
    box = region.box()
    for i in range(3):
        for c, r, low, high in zip(x[i].tolist(), far.tolist(), box.lower[i].tolist(), box.upper[i].tolist(), strict=True):
            assert Fraction(low) <= max(Fraction(c) - Fraction(r), Fraction(0))
            assert Fraction(high) >= min(Fraction(c) + Fraction(r), Fraction(1))


def test_what_is_written_is_what_is_meant(folder: Path) -> None:
    (folder / "audit.toml").write_text(HEAD.format(data="") + KINDS["Tabular"], encoding="utf-8")
    region = read_settings(folder / "audit.toml").region
    assert region.immutable == (0,) and region.budget == 2.0 and region.unit is not None and region.unit[:2] == (0.5, 1.0)
    assert region.relations == (Relation((0.0, 1.0, 1.0, *[0.0] * 15), 2.0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'kind = "l0"\nrange = [0, 1]\n',
            "region.count: expected count where the kind of region is l0, and only there, got none",
        ),
        ('kind = "l0"\ncount = -1\nrange = [0, 1]\n', "region.count: expected a whole number of at least 0"),
        ('kind = "l0"\ncount = 2\n', "region.range: expected a range or a radius for the kind l0"),
        ('kind = "linf"\nradius = 1\ncount = 2\n', "region.count: .*got one for the kind linf"),
        ('kind = "patch"\nrange = [0, 1]\n', "region.size: .*got none"),
        ('kind = "patch"\nsize = [1, 2, 3]\nrange = [0, 1]\n', "region.size: expected height and width"),
        ('kind = "patch"\nsize = 0\nrange = [0, 1]\n', "region.size: expected a whole number of at least 1"),
        ('kind = "wasserstein"\nrange = [0, 1]\n', "region.radius: expected the radius of the wasserstein balls"),
        ('kind = "l2"\nradius = 1\nwindow = 2\n', "region.window: expected window only where the kind of region is wasserstein"),
        ('kind = "finite"\n', "region.points: .*got none"),
        ('kind = "finite"\npoints = "corrupted"\nrange = [0, 1]\n', "region.range: expected no range for finite sets"),
        ('kind = "finite"\npoints = "corrupted"\nradius = 1\n', "region.radius: expected no radius for the kind finite"),
        ('kind = "tabular"\n', "region.range: expected a range of the features"),
        ('kind = "tabular"\nrange = [0, 1]\nradius = 1\n', "region.radius: expected no radius for the kind tabular"),
        ('kind = "tabular"\nrange = [0, 1]\nunit = [1]\n', "region.unit: expected a budget"),
        ('kind = "tabular"\nrange = [0, 1]\ngroups = [1, 2]\n', r"region.groups\[0\]: expected a list, got 1"),
        ('kind = "tabular"\nrange = [0, 1]\nimmutable = [0.5]\n', r"region.immutable\[0\]: expected a whole number"),
        ('kind = "l1"\nradius = 1\nbudget = 1\n', "region.budget: expected budget only where the kind of region is tabular"),
        (
            'kind = "tabular"\nrange = [0, 1]\n[[region.relations]]\ncoefficients = [1]\n'
            "[[region.relations]]\ncoefficients = [1, 2]\n",
            r"region.relations: expected relations with one number of coefficients, got \[1, 2\]",
        ),
    ],
)
def test_every_mistake_is_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        made(folder, text, data="limit = 3\ninputs = 'x'\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "patch"\nsize = 4\nrange = [0, 1]\n', "fits into 3 x 3"),
        ('kind = "finite"\npoints = "y"\n', r"expected .*\[N, "),
        ('kind = "finite"\npoints = "x"\n', r"expected points \[N, k, \*shape\]"),
        ('kind = "finite"\npoints = "nothing"\n', "nothing"),
        ('kind = "tabular"\nrange = [0, 1]\nimmutable = [99]\n', "immutable features from 0 to 17"),
        ('kind = "tabular"\nrange = [0, 1]\n[[region.relations]]\ncoefficients = [1]\n', "relations with 18 coefficients"),
        ('kind = "wasserstein"\nradius = 1\nrange = [2, 3]\n', "clipping range"),
        ('kind = "linf"\nradius = [0.1, 0.2]\n', r"a radius for each of 18 inputs, got \[2\]"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(FathomError, match=message):
        made(folder, text)
