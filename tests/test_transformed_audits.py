"""Audits of pictures that may be transformed: from settings to the report, and brackets against grids of parameters."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

import fathom
from fathom.audits import portfolio
from fathom.audits.keys import SettingsError
from fathom.audits.result import AuditResult
from fathom.audits.settings import read_settings
from fathom.audits.setup import make_parts, read_model, read_samples
from fathom.audits.transformation_keys import kinds
from fathom.bounds import affine
from fathom.core.answer import Claim
from fathom.core.arithmetic import Arithmetic
from fathom.core.errors import FathomError
from fathom.core.problem import Problem
from fathom.estimates.effort import Effort
from fathom.overseers.plausible import Plausible
from fathom.overseers.reference import OtherDecision, Reference
from fathom.prove.branch import halves_nimbly
from fathom.transforms.blur import Blur
from fathom.transforms.brightness import Brightness
from fathom.transforms.contrast import Contrast
from fathom.transforms.program import TransformedProgram, in_front
from fathom.transforms.region import Transformed
from fathom.transforms.rotation import Rotation
from fathom.transforms.scaling import Scaling
from fathom.transforms.transformation import Transformation
from fathom.transforms.translation import Translation
from fathom.transforms.warp import Warp
from tests.command import fathom as command

SHAPE = (1, 6, 6)


def small() -> nn.Module:
    """A network from pictures [n, 1, 6, 6] to three scores."""
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        layers[-1].weight *= 5
    return layers.eval()


def pictures(count: int = 4) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(2))


def labels(x: Tensor) -> Tensor:
    with torch.no_grad():
        return small()(x).argmax(1)


def audited(chain: list[Transformation], *, radius: float = 0.0, seconds: float = 20, count: int = 4) -> AuditResult:
    x = pictures(count)
    region = Transformed.around(x, chain, clip=(0, 1), radius=radius)
    overseer = fathom.Misclassification(label=labels(x), classes=3)
    return fathom.audit(small(), region, overseer, budget=fathom.Budget(seconds=seconds))


def on_a_grid(chain: list[Transformation], steps: int) -> Tensor:
    """[cases, points] margins of the deployed program at a grid over the parameters."""
    x = pictures()
    region = Transformed.around(x, chain, clip=(0, 1))
    spans = [p.span for step in chain for p in step.parameters]
    grid = torch.cartesian_prod(*(torch.linspace(low, high, steps if low < high else 1) for low, high in spans)).reshape(
        -1, len(spans)
    )
    generate, model = region.generator(), small()
    margins = []
    for image, label in zip(x, labels(x)):
        with torch.no_grad():
            y = model(generate(torch.cat([image.flatten().expand(len(grid), -1), grid], 1)).reshape(-1, *SHAPE))
        others = y.clone()
        others[:, label] = -torch.inf
        margins.append(y[:, label] - others.amax(1))
    return torch.stack(margins)


@pytest.mark.parametrize(
    ("chain", "steps"),
    [
        ([Rotation((-12, 12))], 2001),
        ([Brightness((-0.3, 0.3))], 2001),
        ([Contrast((0.5, 1.5))], 2001),
        ([Blur((0.1, 1.2), size=3)], 2001),
        ([Translation((-0.4, 0.4), (0, 0))], 2001),
        ([Warp((-0.3, 0.3))], 40),
        ([Scaling((0.8, 1.2)), Brightness((-0.1, 0.1))], 40),
    ],
)
def test_verdicts_and_brackets_are_those_of_a_fine_grid(chain: list[Transformation], steps: int) -> None:
    """Nothing is proved that a grid breaks; nothing is broken that a fine grid is far from breaking; brackets hold its least."""
    result = audited(chain)
    least = on_a_grid(chain, steps).amin(1)
    assert not (result.answers.lower > least.double() + 1e-6).any()
    assert result.counts.unknown == 0
    assert (result.broken == (least <= 0)).all(), f"{chain}: broken {result.broken} where a grid finds {least}"
    assert (result.answers.upper[result.broken] <= least.double()[result.broken] + 0.05).all()


@pytest.mark.parametrize(
    ("chain", "steps"),
    [
        ([Rotation((-12, 12))], 2001),
        ([Brightness((-0.3, 0.3)), Contrast((0.7, 1.3))], 60),
        ([Blur((0.1, 1.2), size=3)], 2001),
        ([Translation((-0.4, 0.4), (-0.4, 0.4))], 60),
        ([Warp((-0.3, 0.3))], 40),
    ],
)
def test_a_lean_search_says_what_a_fine_grid_says(
    chain: list[Transformation], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forms without symbols of their own, as larger networks are searched with, and no bounds of whole sets before it."""
    monkeypatch.setattr(affine, "ROWS", 1e6)
    asked: list[bool] = []
    monkeypatch.setattr(portfolio, "halves_nimbly", lambda problem: asked.append(halves_nimbly(problem)) or asked[-1])
    result = audited(chain)
    assert asked == [True]
    least = on_a_grid(chain, steps).amin(1)
    assert not (result.answers.lower > least.double() + 1e-6).any()
    assert result.counts.unknown == 0
    assert (result.broken == (least <= 0)).all(), f"{chain}: broken {result.broken} where a grid finds {least}"


def test_a_picture_that_varies_where_it_is_moved_is_searched_by_the_tighter_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes have no slope in it, so lean forms would need very many boxes: ten of twenty digits were left open by 7,655."""
    monkeypatch.setattr(affine, "ROWS", 1e6)
    captured = fathom.capture_module(small(), SHAPE)
    found = []
    for chain in ([Rotation((-3, 3)), Brightness((-0.1, 0.1))], [Brightness((-0.1, 0.1)), Rotation((-3, 3))]):
        region = Transformed.around(pictures(), chain, clip=(0, 1))
        found.append(affine.halvings(in_front(region, captured).network, region.box()))
    assert found[0] > 0 and found[1] == -torch.inf


def test_some_are_proved_and_some_broken() -> None:
    """So that the grid above has both to tell apart."""
    least = [on_a_grid(chain, 200).amin(1) for chain in ([Rotation((-12, 12))], [Contrast((0.5, 1.5))])]
    assert any((m > 0).any() for m in least) and any((m <= 0).any() for m in least)


def test_a_witness_is_the_picture_that_the_model_is_given() -> None:
    """Whoever gives it to the model alone gets the output that was judged, to the last bit."""
    result = audited([Rotation((-40, 40)), Brightness((-0.5, 0.5))])
    assert result.counts.broken
    x = pictures()
    for case in result.broken.nonzero()[:, 0].tolist():
        picture = result.answers.found.x[case]
        with torch.no_grad():
            y = small()(picture.reshape(1, *SHAPE))
        assert torch.equal(y[0].double(), result.answers.found.y[case])
        applied, mildest = result.applied[case], result.applied_simplest[case]
        assert applied is not None and mildest is not None
        assert abs(applied.parameters["rotation.degrees"]) <= 40 and abs(applied.parameters["brightness.added"]) <= 0.5
        assert len(mildest.words) <= len(applied.words) and mildest.words != "unchanged"
        assert torch.equal(result.x[case], x[case].flatten())


def test_pixel_noise_goes_on_top() -> None:
    with_noise, without = audited([Rotation((-3, 3))], radius=0.02), audited([Rotation((-3, 3))])
    assert (with_noise.answers.upper <= without.answers.upper + 1e-6).all()
    assert (without.proved | ~with_noise.proved).all()
    assert "noise of at most 0.02 a pixel" in with_noise.region


def test_the_model_must_take_the_picture() -> None:
    x = pictures()
    captured = fathom.capture_module(small(), SHAPE)
    region = Transformed.around(x[:, :, :5], [Rotation((-1, 1))])
    with pytest.raises(FathomError, match=r"expected a model of one input, a picture \[1, 5, 6\] like the samples, got"):
        in_front(region, captured)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_float32_is_refused_by_name(tmp_path: Path) -> None:
    x = pictures()
    path = tmp_path / "small.onnx"
    torch.onnx.export(small(), (x[:1],), str(path), dynamo=False)
    region = Transformed.around(x, [Rotation((-1, 1))])
    with pytest.raises(FathomError, match="expected real arithmetic for transformations"):
        fathom.audit(path, region, fathom.Misclassification(label=labels(x), classes=3), arithmetic=Arithmetic.FLOAT32)


def test_proofs_are_unchecked_and_say_so(tmp_path: Path) -> None:
    """The checker knows no pictures read between pixels: asked for a certificate, an audit says why there is none."""
    x = pictures(1)
    region = Transformed.around(x, [Rotation((-1, 1))], clip=(0, 1))
    judge = fathom.Misclassification(labels(x), 3)
    result = fathom.audit(small(), region, judge, budget=fathom.Budget(seconds=10), certificates=tmp_path)
    assert result.counts.proved == 1 and result.claim(0) is Claim.CERTIFICATE
    assert result.check is not None and not result.check.accepted and "got Cos" in result.check.words


def test_how_likely_a_failure_is_can_be_asked() -> None:
    """Of parameters drawn uniformly from their ranges; the region is a box to whoever draws."""
    x = pictures()
    region = Transformed.around(x, [Rotation((-40, 40)), Brightness((-0.3, 0.3))], clip=(0, 1))
    asked = Effort(draws=2000, evaluations=2000)
    found = fathom.estimate(
        small(), region, fathom.Misclassification(labels(x), 3), budget=fathom.Budget(seconds=20), effort=asked
    )
    sampled = found.parts[0]
    share = (on_a_grid([Rotation((-40, 40)), Brightness((-0.3, 0.3))], 60) <= 0).double().mean().item()
    assert sampled.lower is not None and sampled.upper is not None
    assert sampled.lower - 0.02 <= share <= sampled.upper + 0.02


def test_the_page_on_transformations_is_true(folder: Path) -> None:
    """Its settings are read, its Python runs, and its table names every kind and key."""
    text = (Path(__file__).parent.parent / "docs" / "transformations.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    numpy.savez(folder / "digits.npz", x=pictures().numpy(), y=numpy.zeros(4, dtype=numpy.int64))
    (folder / "audit.toml").write_text(settings, encoding="utf-8")
    assert read_settings(folder / "audit.toml").region.transform == (Rotation((-10.0, 10.0)), Brightness((-0.1, 0.1)))
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code.replace("seconds=5", "seconds=1"), "docs/transformations.md", "exec"), names)  # noqa: S102 (our own page)
    assert isinstance(names["result"], AuditResult)
    rows = dict(re.findall(r"^\| `(?!kind`)(\w+)` (\|.*)$", text, re.MULTILINE))
    assert rows.keys() == kinds().keys()
    for kind, made in kinds().items():
        assert all(f"`{field.name}`" in rows[kind] for field in fields(made)), kind


def test_problems_differ_where_their_transformations_do() -> None:
    """The casebook must not give the answers of one to the other."""
    x = pictures(1)
    captured = fathom.capture_module(small(), SHAPE)
    digests = set()
    for chain in ([Rotation((-1, 1))], [Brightness((-1, 1))], [Contrast((0, 1))], [Blur((0.1, 1))], [Blur((0.1, 1), size=3)]):
        region = Transformed.around(x, chain)
        made = in_front(region, captured)
        assert isinstance(made.program, TransformedProgram)
        digests.add(Problem.make(made.program, made.network, region, fathom.Misclassification(labels(x), 3)).digests()[0])
    assert len(digests) == 5


# What judges see


def test_judges_of_inputs_see_the_picture_that_the_model_sees() -> None:
    x, seen = pictures(2), []

    def judge(given: Tensor, y: Tensor) -> Tensor:
        seen.append(given)
        return y[:, 0] * 0 + given.mean(1) - 0.1

    region = Transformed.around(x, [Brightness((0.25, 0.25))], clip=(0, 1))
    result = fathom.audit(small(), region, fathom.overseers.PythonOverseer(judge, name="dark"), budget=fathom.Budget(seconds=5))
    expected = (x.flatten(1) + 0.25).clamp(0, 1)
    assert all(given.shape[1] == 36 for given in seen)
    assert any(torch.equal(given[0], expected[0]) for given in seen) and result.counts.cases == 2


def dark(limit: float) -> Plausible:
    """A picture whose mean is at most `limit`."""
    return Plausible.make([[1 / 36] * 36], [-limit], sets=4)


def test_a_bad_decision_on_a_plausible_picture_is_proved_away_and_found() -> None:
    """Brightness of up to 0.3 more either way: among dark results there are failures only where the bound admits them."""
    x, region = pictures(), Transformed.around(pictures(), [Brightness((-0.3, 0.3))], clip=(0, 1))
    wrong = fathom.Misclassification(label=labels(x), classes=3)
    plain = fathom.audit(small(), region, wrong, budget=fathom.Budget(seconds=20))
    assert plain.counts.broken
    never = fathom.audit(small(), region, wrong & dark(-0.5), budget=fathom.Budget(seconds=20))
    assert never.counts.proved == 4
    some = fathom.audit(small(), region, wrong & dark(0.45), budget=fathom.Budget(seconds=20))
    for case in some.broken.nonzero()[:, 0].tolist():
        picture = some.answers.found.x[case]
        assert picture.mean() <= 0.45 and small()(picture.reshape(1, *SHAPE)).argmax() != labels(x)[case]
    always = fathom.audit(small(), region, wrong & dark(1.5), budget=fathom.Budget(seconds=20))
    assert (always.broken == plain.broken).all() and (always.answers.proved == plain.answers.proved).all()


def test_a_slow_model_is_asked_about_the_transformed_picture() -> None:
    region = Transformed.around(pictures(), [Rotation((-12, 12))], clip=(0, 1))
    same = fathom.capture_module(small(), SHAPE)
    result = fathom.audit(small(), region, OtherDecision.make(same, sets=4), budget=fathom.Budget(seconds=3))
    assert not result.counts.broken and not result.counts.already_wrong
    torch.manual_seed(5)
    other = small()
    with torch.no_grad():
        other[-1].bias += torch.tensor([0.0, 0.4, -0.4])
    result = fathom.audit(
        small(), region, Reference.make(fathom.capture_module(other, SHAPE), 0.3, sets=4), budget=fathom.Budget(seconds=20)
    )
    assert result.counts.already_wrong == 4
    result = fathom.audit(
        small(), region, Reference.make(fathom.capture_module(other, SHAPE), 0.5, sets=4), budget=fathom.Budget(seconds=20)
    )
    assert result.counts.proved == 4


def test_inside_the_model_behind_a_transformation(folder: Path) -> None:
    (folder / "audit.toml").write_text(HEAD + ASKED, encoding="utf-8")
    with numpy.load(folder / "data.npz") as data:
        numpy.savez(folder / "natural.npz", x=data["x"].repeat(5, 0), y=data["y"].repeat(5))
    layers = command("latent", "audit.toml", "--layer", "nowhere", folder=folder)
    name = re.findall(r"relu\w*", layers.err)[-1]
    for within in ("reach", "ball"):
        flags = ("--natural", "natural.npz", *(("--radius", "0.01") if within == "ball" else ()))
        done = command("latent", "audit.toml", "--layer", name, "--within", within, "--json", *flags, folder=folder)
        assert done.code == 0, done.err
        assert json.loads(done.out)["containment"] is not None


def test_how_likely_a_random_rotation_is_to_fail(folder: Path) -> None:
    (folder / "audit.toml").write_text(HEAD + ASKED, encoding="utf-8")
    done = command("estimate", "audit.toml", "--draws", "500", "--seconds", "4", "--json", folder=folder)
    assert done.code == 0, done.err
    assert json.loads(done.out)["format"] == "fathom-estimate/1"


HEAD = 'model = "tests.test_transformed_audits:small"\n[data]\npath = "data.npz"\n[budget]\ntotal_seconds = 15\n[region]\n'
ASKED = """kind = "transformation"
range = [0, 1]
[[region.transform]]
kind = "rotation"
degrees = [-40, 40]
[[region.transform]]
kind = "blur"
sigma = [0.1, 0.6]
size = 3
[[region.transform]]
kind = "brightness"
added = 0.1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    x = pictures()
    numpy.savez(tmp_path / "data.npz", x=x.numpy(), y=labels(x).numpy())
    return tmp_path


def read(folder: Path, text: str, more: str = "") -> Transformed:
    (folder / "audit.toml").write_text(HEAD + text + more, encoding="utf-8")
    settings = read_settings(folder / "audit.toml")
    samples = read_samples(settings)
    region = make_parts(settings, read_model(settings, samples), samples).region
    assert isinstance(region, Transformed)
    return region


def test_settings_are_what_is_audited(folder: Path) -> None:
    region = read(folder, ASKED)
    assert region.chain == (Rotation((-40.0, 40.0)), Blur((0.1, 0.6), size=3), Brightness((0.1, 0.1)))
    assert region.ends == ((0.0,), (1.0,)) and region.radius == 0
    assert read(folder, ASKED.replace("range = [0, 1]", "range = [0, 1]\nradius = 0.01")).radius == 0.01


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "transformation"\n', "region.transform: expected transform where the kind of region is transformation"),
        (
            'kind = "linf"\nradius = 0.1\n[[region.transform]]\nkind = "rotation"\ndegrees = 3\n',
            "region.transform: expected transform where the kind",
        ),
        (
            ASKED.replace('"rotation"', '"rotaton"'),
            r"line \d+, .*\[0\].kind: expected one of .*did you mean rotation",
        ),
        (
            ASKED.replace("degrees", "degree"),
            r"transform\[0\].degree: expected a key that is known, .*did you mean degrees",
        ),
        (
            ASKED.replace("degrees = [-40, 40]\n", ""),
            r"transform\[0\]: expected a key 'degrees' for the kind rotation, got none",
        ),
        (
            ASKED.replace("[-40, 40]", "[40, -40]"),
            r"transform\[0\]: expected degrees as two finite numbers, the lesser first",
        ),
        (ASKED.replace("[-40, 40]", "[-40, 40, 50]"), r"transform\[0\].degrees: expected a list of 2"),
        (ASKED.replace("[-40, 40]", '"a lot"'), r"transform\[0\].degrees: expected a number"),
        (
            ASKED.replace("size = 3", "size = 4"),
            r"transform\[1\]: expected size, the side of the window, as an odd number",
        ),
        (ASKED + '[overseer]\nkind = "person"\n', "overseer: expected another overseer for the kind transformation, got person"),
    ],
)
def test_mistakes_in_settings_are_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read(folder, text)


def test_from_settings_to_the_report(folder: Path) -> None:
    (folder / "audit.toml").write_text(HEAD + ASKED, encoding="utf-8")
    done = command("audit", "audit.toml", "--json", folder=folder)
    result = json.loads(done.out)
    assert result["region"].startswith(
        "rotated by -40 to 40 degrees, then blurred with a sigma of 0.1 to 0.6 pixels, then brightness"
    )
    broken = [answer for answer in result["answers"] if answer["witness"]]
    assert broken
    for answer in broken:
        applied = answer["witness"]["applied"]
        assert set(applied["parameters"]) == {"rotation.degrees", "blur.sigma", "brightness.added"}
        assert len(answer["witness"]["x"]) == 36
        assert "brightness changed by 0.1" in applied["words"]
    assert result["worst"]["applied"].endswith("brightness changed by 0.1")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"The picture is {broken[0]['witness']['applied']['words']}" in page
