"""Settings: `audit.toml` and flags as one thing; every mistake named with its line, what came, and what was meant."""

from __future__ import annotations

import dataclasses
import random
import typing
from pathlib import Path
from typing import Any

import pytest

from fathom.audits.keys import SettingsError
from fathom.audits.model_keys import Factory
from fathom.audits.overseer_settings import OverseerSettings, Relation, Rule
from fathom.audits.settings import BudgetSettings, DataSettings, RegionSettings, Settings, make_settings, read_settings

PLAIN = """\
model = "model.onnx"
seed = 7

[data]
path = "test.npz"      # samples and labels
limit = 200

[region]
kind = "linf"
radius = 0.03
range = [0, 1]

[budget]
total_seconds = 120
case_seconds = 2.5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("model.onnx", "test.npz", "weights.pt"):
        (tmp_path / name).touch()
    (tmp_path / "out").mkdir()
    return tmp_path


def write(folder: Path, text: str) -> Path:
    (folder / "audit.toml").write_text(text, encoding="utf-8")
    return folder / "audit.toml"


# What is understood


def test_a_plain_file(folder: Path) -> None:
    assert read_settings(write(folder, PLAIN)) == Settings(
        model=folder / "model.onnx",
        region=RegionSettings("linf", 0.03, (0.0, 1.0)),
        data=DataSettings(folder / "test.npz", limit=200),
        budget=BudgetSettings(120.0, 2.5),
        casebook=folder / "casebook.db",
        report=folder / "report.html",
        seed=7,
    )


def test_everything_at_once(folder: Path) -> None:
    settings = read_settings(
        write(
            folder,
            """
            model = "package.module:make_model"
            input_shape = [3, 32, 32]
            casebook = "out/all.db"
            report = "out/page.html"
            [region]
            kind = "box"
            lower = [0.0, -1.0]
            upper = [1, 2]
            [overseer]
            kind = "rules"
            [[overseer.rules]]
            coefficients = [1.0, -1.0]
            offset = 0.25
            clause = 0
            [[overseer.rules]]
            coefficients = [0.0, 1.0]
            clause = 0
            strict = true
            """,
        )
    )
    assert settings.model == Factory("package.module", "make_model") and str(settings.model) == "package.module:make_model"
    assert settings.input_shape == (3, 32, 32) and settings.data is None
    assert settings.region.clip == ((0.0, -1.0), (1.0, 2.0))
    assert settings.overseer.rules == (Rule((1.0, -1.0), 0.25, 0), Rule((0.0, 1.0), 0.0, 0, strict=True))
    assert settings.casebook == folder / "out/all.db" and settings.report == folder / "out/page.html"


def test_paths_are_relative_to_the_file_and_those_of_flags_to_where_one_stands(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "other.npz").touch()
    monkeypatch.chdir(elsewhere)
    settings = read_settings(write(folder, PLAIN), {"data": {"path": "other.npz", "limit": None}, "report": "r.html"})
    assert settings.model == folder / "model.onnx" and settings.casebook == folder / "casebook.db"
    assert settings.data == DataSettings(elsewhere / "other.npz", limit=200) and settings.report == elsewhere / "r.html"


def test_flags_and_file_are_one_thing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    flags = {
        "model": "model.onnx",
        "seed": 7,
        "data": {"path": "test.npz", "limit": 200, "labels": None},
        "region": {"kind": "linf", "radius": 0.03, "range": (0, 1), "lower": None},
        "overseer": {"kind": None, "target": None},
        "budget": {"total_seconds": 120, "case_seconds": 2.5},
    }
    assert make_settings(flags) == read_settings(write(folder, PLAIN))


def test_flags_go_before_the_file(folder: Path) -> None:
    settings = read_settings(write(folder, PLAIN), {"region": {"kind": "l2", "radius": 0.5}, "seed": 0})
    assert settings.region == RegionSettings("l2", 0.5, (0.0, 1.0)) and settings.seed == 0


def test_a_range_may_be_given_an_end_an_input() -> None:
    assert RegionSettings("linf", 0.1).clip is None
    assert RegionSettings("linf", 0.1, (0.0, 1.0)).clip == ((0.0,), (1.0,))
    assert RegionSettings("l1", 0.1, lower=(0.0,), upper=(1.0, 2.0)).clip == ((0.0,), (1.0, 2.0))


def test_every_key_says_how_it_is_read() -> None:
    for kind in (Settings, DataSettings, RegionSettings, OverseerSettings, Rule, Relation, BudgetSettings):
        hints = typing.get_type_hints(kind, include_extras=True)
        assert all(callable(hints[f.name].__metadata__[0]) for f in dataclasses.fields(kind)), kind


# What is refused, and how


def changed(old: str, new: str) -> str:
    assert old in PLAIN
    return PLAIN.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # unknown keys
        (
            changed("radius =", "raduis ="),
            r"audit.toml, line 10, region.raduis: expected a key that is known, got 'raduis'; did you mean radius\?",
        ),
        (changed("[region]", "[regions]"), r"line 8, regions: .*did you mean region\?"),
        (changed("seed =", "sed ="), r"line 2, sed: .*did you mean seed\?"),
        (changed("limit =", "quantity ="), r"line 6, data.quantity: .*known here: path, inputs, labels, start, limit"),
        # missing keys
        (changed('model = "model.onnx"', ""), r"expected a key 'model', got none; add it at the top"),
        (changed('kind = "linf"', ""), r"line 8, region: expected a key 'kind', got none; add it under \[region\]"),
        (changed("radius = 0.03", ""), r"line 8, region.radius: expected the radius of the linf balls, got none"),
        (changed('path = "test.npz"', ""), r"line 4, data: expected a key 'path'"),
        (
            'model = "model.onnx"\n[region]\nkind = "l2"\nradius = 1\n',
            r"data: expected data, round whose samples the l2 sets are",
        ),
        # wrong types
        (
            changed("0.03", '"0.03"'),
            r"line 10, region.radius: expected a number of at least 0, got the text '0.03'; write it without quotes",
        ),
        (changed("0.03", "true"), r"line 10, region.radius: expected a number of at least 0, got true"),
        (changed("0.03", "nan"), r"region.radius: expected a number of at least 0, got nan"),
        (changed("0.03", "inf"), r"region.radius: .*got inf"),
        (changed("0.03", "-0.03"), r"region.radius: .*got -0.03"),
        (changed("0.03", "0x" + "f" * 5000), r"region.radius: .*got a whole number of more than 256 bits"),
        (changed("0.03", "[0.03, -1]"), r"region.radius\[1\]: expected a number of at least 0, got -1"),
        (changed("0.03", "[]"), r"region.radius: expected a list, got an empty one"),
        (
            changed("0.03", "[1, 2]").replace("linf", "l2"),
            r"line 10, region.radius: expected one radius for the kind l2, got a list of 2",
        ),
        (changed("0.03", "2020-01-01"), r"region.radius: .*got 2020-01-01"),
        (changed("200", "0"), r"line 6, data.limit: expected a whole number of at least 1, got 0"),
        (changed("200", "20.5"), r"data.limit: expected a whole number of at least 1, got 20.5"),
        (changed("seed = 7", "seed = -1"), r"line 2, seed: expected a whole number of at least 0, got -1"),
        (changed("seed = 7", "seed = 9223372036854775808"), r"line 2, seed: expected a whole number"),
        (changed("[0, 1]", "[0, 1, 2]"), r"line 11, region.range: expected a list of 2, got a list of 3"),
        (changed("[0, 1]", "[]"), r"region.range: expected a list of 2, got an empty one"),
        (changed("[0, 1]", "1"), r"region.range: expected a list of 2, got 1"),
        (
            changed("[0, 1]", '[0, "1"]'),
            r"line 11, region.range\[1\]: expected a number, got the text '1'; write it without quotes",
        ),
        (changed("[0, 1]", "[1, 0]"), r"line 11, region.range: expected lower <= upper, got 1 > 0 at input 0"),
        (changed("= 120", "= 0"), r"line 14, budget.total_seconds: expected a number above 0, got 0"),
        (
            changed('"linf"', '"linff"'),
            r"line 9, region.kind: expected one of linf, l2, l1, box, l0, .*got the text 'linff'; did you mean linf\?",
        ),
        (changed('"linf"', '["linf"]'), r"region.kind: expected one of .*got a list of 1"),
        (
            changed('[data]\npath = "test.npz"', 'data = "test.npz"\n[budgets]'),
            r"line 4, data: expected a table, \[data\], got the text|budgets",
        ),
        (changed('"model.onnx"', "3"), r"line 1, model: expected a path, got 3"),
        (changed('"model.onnx"', '""'), r"line 1, model: expected a path, got the text ''"),
        (changed('"model.onnx"', '"a\\u0000b"'), r"line 1, model: expected a path"),
        (changed('"model.onnx"', f'"{"a" * 5000}"'), r"line 1, model: expected a path"),
        # values that contradict
        (
            changed("range = [0, 1]", "range = [0, 1]\nlower = 0\nupper = 1"),
            r"line 11, region.range: expected either range, or lower and upper, got both",
        ),
        (changed("range = [0, 1]", "lower = 0"), r"line 11, region.lower: expected both lower and upper, got lower alone"),
        (
            changed("range = [0, 1]", "lower = [0, 0]\nupper = [1, 1, 1]"),
            r"line 12, region.upper: expected lower and upper of one length, got 2 and 3",
        ),
        (changed("range = [0, 1]", "lower = [0, 5]\nupper = 1"), r"region.upper: expected lower <= upper, got 5 > 1 at input 1"),
        (changed('"linf"', '"box"'), r"line 10, region.radius: expected no radius for a box"),
        (
            PLAIN + "[overseer]\ntarget = 3\n",
            r"line 17, overseer.target: expected a target where the kind is targeted, and only there, got 3 for",
        ),
        (PLAIN + "[overseer]\nkind = 'targeted'\n", r"line 16, overseer.target: .*got none"),
        (
            PLAIN + "[overseer]\nkind = 'rules'\n",
            r"line 16, overseer.rules: expected \[\[overseer.rules\]\] where the kind is rules, and only there, got 0",
        ),
        (
            PLAIN + "[overseer]\nkind='rules'\n[[overseer.rules]]\ncoefficients=[1]\n[[overseer.rules]]\ncoefficients=[1, 2]\n",
            r"overseer.rules: expected rules with one number of coefficients, got \[1, 2\]",
        ),
        (
            PLAIN
            + "[overseer]\nkind='rules'\n[[overseer.rules]]\ncoefficients=[1]\n[[overseer.rules]]\ncoefficients=[2]\nclause=0\n",
            r"overseer.rules: expected a clause for every rule or for none",
        ),
        (
            PLAIN
            + "[overseer]\nkind='rules'\n[[overseer.rules]]\ncoefficients=[1]\n[[overseer.rules]]\ncoefficients=[2]\noffest=0\n",
            r"line 22, overseer.rules\[1\].offest: .*did you mean offset\?",
        ),
        (
            'model = "m:f"\n[region]\nkind = "box"\nlower = [0]\nupper = [1]\n',
            r"overseer: expected an overseer without labels for a box",
        ),
        # paths
        (
            changed('"model.onnx"', '"modle.onnx"'),
            r"line 1, model: expected a file at .*modle.onnx, got nothing there; did you mean model.onnx\?",
        ),
        (changed('"test.npz"', '"none/test.npz"'), r"line 5, data.path: expected a file at .*paths are relative to"),
        (changed('"test.npz"', '"out"'), r"line 5, data.path: expected a file at .*got a folder"),
        (changed('"model.onnx"', '"weights.pt"'), r"line 1, model: expected an ONNX file.*may be a pickle.*torch.onnx.export"),
        (
            'casebook = "none/c.db"\n' + PLAIN,
            r"line 1, casebook: expected a folder .*none to write c.db in, got nothing there; make it first",
        ),
        ('casebook = "out"\n' + PLAIN, r"line 1, casebook: expected a file to write at .*got a folder; add the file's name"),
        (
            'report = "./test.npz"\n' + PLAIN,
            r"line 1, report: expected another file than that of data, got .*would be overwritten",
        ),
        ('report = "x"\ncasebook = "x"\n' + PLAIN, r"line 1, report: expected another file than that of casebook"),
        ('casebook = "~nobody-of-this-name/c.db"\n' + PLAIN, r"line 1, casebook: expected a path"),
        # no TOML
        ("model = ", r"audit.toml: expected TOML, got: Invalid value"),
        ("seed = 1\nseed = 2\n", r"expected TOML, got: Cannot overwrite a value \(at line 2"),
        ("a = " + "[" * 10000, r"expected TOML"),
        ("seed = " + "9" * 5000, r"expected TOML"),
    ],
)
def test_mistakes(folder: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(write(folder, text))


def test_files_that_are_none(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"none.toml: expected a file of settings, got: No such file"):
        read_settings(folder / "none.toml")
    with pytest.raises(SettingsError, match="expected a file of settings, got: Is a directory"):
        read_settings(folder / "out")
    (folder / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(SettingsError, match="UTF-8 text, got byte 0xe9 at 5"):
        read_settings(folder / "latin.toml")


def test_a_mistake_on_the_command_line_is_called_by_its_flag(folder: Path) -> None:
    path, flags = write(folder, PLAIN), {"region.radius": "--linf", "region.range": "--range"}
    with pytest.raises(SettingsError, match=r"^--linf: expected a number of at least 0, got -1") as caught:
        read_settings(path, {"region": {"radius": -1}}, flags)
    assert caught.value.key == "region.radius"
    with pytest.raises(SettingsError, match=r"^--range: expected a number, got the text 'a'"):
        read_settings(path, {"region": {"range": ["a", 1]}}, flags)
    with pytest.raises(SettingsError, match=r"^--range: expected lower <= upper"):
        read_settings(path, {"region": {"range": [1, 0]}}, flags)
    with pytest.raises(SettingsError, match=r"^model: expected a file at"):
        make_settings({"model": "none.onnx", "region": {"kind": "l2", "radius": 1}})
    with pytest.raises(SettingsError, match=r"^settings: expected a key 'model'"):
        make_settings({})


def test_values_made_in_python_contradict_in_the_same_words() -> None:
    with pytest.raises(SettingsError, match="expected the radius of the l2 balls"):
        RegionSettings("l2")
    with pytest.raises(SettingsError, match="expected data"):
        Settings(Factory("a", "b"), RegionSettings("l2", 1.0))


def test_random_edits_are_read_or_refused(folder: Path) -> None:
    """Whatever is typed: settings, or our error with the file's name."""
    generator, refused = random.Random(0), 0
    for _ in range(400):
        text = list(PLAIN)
        for _ in range(generator.randrange(1, 5)):
            at = generator.randrange(len(text))
            text[at : at + generator.randrange(4)] = generator.choice(
                ['"', "[", "]", "=", "\n", "x", "9", "-", ".", "{", "\\", "é", ""]
            )
        try:
            result: Any = read_settings(write(folder, "".join(text)))
            assert isinstance(result, Settings)
        except SettingsError as error:
            assert "audit.toml" in str(error)
            refused += 1
    assert refused > 100
