"""Whatever is wrong with the files and words of a command: a clear error on standard error, the documented code, no traceback,
nothing on standard output, and every file that was there as it was."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.command import Outcome, fathom, write_data, write_model, write_property

BALL = ("--linf", "0.05", "--range", "0", "1", "--seconds", "20", "--case-boxes", "20")
FACTORIES = """
import torch

def make():
    return torch.nn.Linear(4, 3)

def raises():
    raise ValueError("no weights here")

def nothing():
    return None

def needs(path):
    return torch.nn.Linear(4, 3)

def leaves():
    raise SystemExit(7)

def interrupted_import():
    import not_there_at_all

number = 3
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything is right: model, data, settings, property, and the casebook of an audit."""
    folder = tmp_path_factory.mktemp("good")
    model = write_model(folder / "model.onnx", [4, 8, 3])
    write_data(folder / "data.npz", model, 6)
    write_property(folder / "p.vnnlib", 0, 1, 4, 3, "(<= Y_0 Y_1)")
    (folder / "audit.toml").write_text(
        'model = "model.onnx"\n[data]\npath = "data.npz"\n[region]\nkind = "linf"\nradius = 0.05\n'
    )
    assert fathom("audit", "model.onnx", "data.npz", *BALL, folder=folder).code == 0
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    for path in good.iterdir():
        if path.name != "report.html":
            shutil.copy(path, tmp_path / path.name)
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def refused(folder: Path, *words: object) -> Outcome:
    """Runs a command that must fail cleanly, and lose or write nothing."""
    before = contents(folder)
    result = fathom(*words, folder=folder)
    assert result.code == 1, result
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.err.rstrip().splitlines()[0] != ""
    assert "fathom: " in result.err
    assert contents(folder) == before
    return result


def audit(folder: Path, model: str = "model.onnx", data: str = "data.npz", *more: object) -> Outcome:
    return refused(folder, "audit", model, data, *BALL, *more)


# Paths


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audit", "nope.onnx", "data.npz", *BALL], "nope.onnx"),
        (["audit", "model.onnx", "nope.npz", *BALL], "nope.npz"),
        (["audit", ".", "data.npz", *BALL], "a folder"),
        (["audit", "model.onnx", ".", *BALL], "a folder"),
        (["audit", "data.npz", "model.onnx", *BALL], "the order is"),
        (["audit", "model.onnx", "p.vnnlib", *BALL], ".npz or .safetensors"),
        (["audit", "nope.toml"], "nope.toml"),
        (["audit", "model.onnx", "x" * 5000, *BALL], "DATA"),
        (["verify", "nope.vnnlib", "--network", "model.onnx"], "nope.vnnlib"),
        (["verify", "p.vnnlib", "--network", "nope.onnx"], "nope.onnx"),
        (["verify", ".", "--network", "model.onnx"], "directory"),
        (["verify", "p.vnnlib", "--network", "."], "directory"),
        (["verify", "model.onnx", "--network", "p.vnnlib"], "is this a property file"),
        (["bench", "nope"], "instances.csv"),
        (["cases", "nope.db"], "nope.db"),
        (["cases", "."], "a folder"),
        (["cases", "data.npz"], "no SQLite database"),
    ],
)
def test_a_path_that_leads_nowhere(words: list[str], said: str, folder: Path) -> None:
    assert said in refused(folder, *words).err


def test_a_folder_that_cannot_be_written_is_found_out_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fathom.audits.setup as room

    monkeypatch.setattr(room, "read_model", lambda *_: pytest.fail("the work has begun"))
    assert "make it first" in audit(folder, "model.onnx", "data.npz", "--report", "missing/r.html").err
    assert "report" in audit(folder, "model.onnx", "data.npz", "--report", "/proc/r.html").err
    assert "casebook" in audit(folder, "model.onnx", "data.npz", "--casebook", "/proc/c.db").err
    assert "a folder" in audit(folder, "model.onnx", "data.npz", "--report", ".").err
    assert (
        "assignment"
        in refused(folder, "verify", "p.vnnlib", "--network", "model.onnx", "--serialise-assignments", "data.npz").err
    )
    assert (
        "assignment" in refused(folder, "verify", "p.vnnlib", "--network", "model.onnx", "--serialise-assignments", "/proc/x").err
    )


@pytest.mark.parametrize("option", ["--report", "--casebook"])
@pytest.mark.parametrize("target", ["model.onnx", "data.npz"])
def test_an_input_is_never_overwritten(option: str, target: str, folder: Path) -> None:
    assert "overwritten" in audit(folder, "model.onnx", "data.npz", option, target).err


def test_a_report_that_cannot_be_written_in_the_end_does_not_lose_the_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fathom.report.page as room
    from fathom.core.errors import FathomError

    def full(*_: object) -> None:
        raise FathomError("cannot write the report: the disk is full")

    monkeypatch.setattr(room, "write_report", full)
    result = fathom("audit", "model.onnx", "data.npz", *BALL, folder=folder)
    assert result.code == 1
    assert "proved" in result.out
    assert "report.html" not in result.out
    assert "the disk is full" in result.err


# Numbers


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--linf", "-0.1"], "at least 0"),
        (["--linf", "nan"], "nan"),
        (["--linf", "inf"], "inf"),
        (["--linf", "0.1", "--range", "1", "0"], "1 > 0"),
        (["--linf", "0.1", "--range", "nan", "1"], "--range"),
        (["--linf", "0.1", "--seconds", "0"], "--seconds"),
        (["--linf", "0.1", "--seconds", "nan"], "--seconds"),
        (["--linf", "0.1", "--case-seconds", "-1"], "--case-seconds"),
        (["--linf", "0.1", "--limit", "0"], "--limit"),
        (["--linf", "0.1", "--seed", "-1"], "--seed"),
        (["--linf", "0.1", "--range", "0.4", "0.6"], "lie outside"),
    ],
)
def test_a_number_that_cannot_be_meant(words: list[str], said: str, folder: Path) -> None:
    assert said in refused(folder, "audit", "model.onnx", "data.npz", *words).err


# Data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: {"x": x[:, :3], "y": y}, "3 features"),
        (lambda x, y: {"x": x, "y": y + 5}, "labels run from"),
        (lambda x, y: {"x": x, "y": y - y.max() - 1}, "labels run from"),
        (lambda x, y: {"x": x * 255, "y": y}, "lie outside"),
        (lambda x, y: {"x": x}, "labels"),
        (lambda x, y: {"x": x, "y": y[:3]}, "filtered apart"),
        (lambda x, y: {"x": x, "y": y + 0.5}, "whole numbers"),
        (lambda x, y: {"x": x, "y": np.eye(3)[y]}, "one-hot"),
        (lambda x, y: {"x": x * np.nan, "y": y}, "finite"),
        (lambda x, y: {"x": x.astype("U8"), "y": y}, "real numbers"),
        (lambda x, y: {"x": np.array([{}] * len(y)), "y": y}, "unpickled"),
        (lambda x, y: {"x": x[:0], "y": y[:0]}, "to be some"),
        (lambda x, y: {"q": x, "r": x, "s": y}, "rename them"),
        (lambda x, y: {}, "no array"),
    ],
)
def test_data_that_do_not_fit(change: object, said: str, folder: Path) -> None:
    data = np.load(folder / "data.npz")
    np.savez(folder / "wrong.npz", **change(data["x"], data["y"]))  # type: ignore[operator]
    assert said in audit(folder, "model.onnx", "wrong.npz").err


def test_a_start_behind_the_end_of_the_data(folder: Path) -> None:
    settings = (folder / "audit.toml").read_text().replace('path = "data.npz"', 'path = "data.npz"\nstart = 6')
    (folder / "audit.toml").write_text(settings)
    assert "leave none" in refused(folder, "audit", "audit.toml").err


# Models out of Python


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("factories:raises", "no weights here"),
        ("factories:nothing", "None"),
        ("factories:needs", "path"),
        ("factories:number", "int"),
        ("factories:missing", "missing"),
        ("factories:leaves", "ends the process"),
        ("factories:interrupted_import", "not_there_at_all"),
        ("nowhere:make", "nowhere"),
        ("unfinished:make", "unfinished"),
        ("careless:make", "not_there_at_all"),
    ],
)
def test_a_factory_that_makes_no_module(name: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (folder / "factories.py").write_text(FACTORIES)
    (folder / "unfinished.py").write_text("def make(:\n")
    (folder / "careless.py").write_text("import not_there_at_all\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for module in ("factories", "unfinished", "careless"):
        sys.modules.pop(module, None)
    assert said in audit(folder, name).err


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.pkl", "m.ckpt", "m.bin"])
def test_pickles_are_refused_unread(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert "pickle" in audit(folder, name).err
    assert not (folder / "owned").exists()


def test_weights_alone_are_no_model(folder: Path) -> None:
    (folder / "w.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert "the order is" in audit(folder, "w.safetensors").err


# Files cut short, random or changed


def spoiled(raw: bytes) -> Iterator[bytes]:
    """The file empty, cut in some places, and random."""
    chance = random.Random(0)
    for share in (0, 0.01, 0.2, 0.5, 0.8, 0.99):
        yield raw[: int(share * len(raw))]
    yield raw[:-1]
    yield chance.randbytes(64)
    yield chance.randbytes(5000)
    yield bytes(300)


def test_a_spoiled_model(folder: Path) -> None:
    raw = (folder / "model.onnx").read_bytes()
    for k, bad in enumerate(spoiled(raw)):
        (folder / "bad.onnx").write_bytes(bad)
        assert audit(folder, "bad.onnx").err, k
        refused(folder, "verify", "p.vnnlib", "--network", "bad.onnx")


def test_a_spoiled_archive_of_a_model(folder: Path) -> None:
    (folder / "bad.pt2").write_bytes(random.Random(0).randbytes(400))
    assert "bad.pt2" in audit(folder, "bad.pt2").err


@pytest.mark.parametrize("name", ["bad.npz", "bad.safetensors"])
def test_spoiled_data(name: str, folder: Path) -> None:
    for bad in spoiled((folder / "data.npz").read_bytes()):
        (folder / name).write_bytes(bad)
        assert name in audit(folder, "model.onnx", name).err


def test_a_spoiled_property(folder: Path) -> None:
    raw = (folder / "p.vnnlib").read_bytes()
    for k, bad in enumerate(spoiled(raw)):
        if bad == raw[:-1]:  # the last line break is of no account
            continue
        (folder / "bad.vnnlib").write_bytes(bad)
        assert "bad.vnnlib" in refused(folder, "verify", "bad.vnnlib", "--network", "model.onnx").err, k


def test_spoiled_settings(folder: Path) -> None:
    raw = b'model = "model.onnx"\n[data]\npath = "data.npz"\n[region]\nkind = "linf"\nradius = [0.05\n'
    for bad in spoiled(raw):
        (folder / "bad.toml").write_bytes(bad)
        assert "bad.toml" in refused(folder, "audit", "bad.toml").err


def test_changed_bytes_are_answered_or_refused_and_never_a_bug(folder: Path) -> None:
    """A byte changed here and there may leave a file that means something: then that is what is answered."""
    chance = random.Random(1)
    codes = []
    for name, words in (
        ("p.vnnlib", ["verify", "bad.vnnlib", "--network", "model.onnx", "--timeout", "10"]),
        ("audit.toml", ["audit", "bad.toml", "--seconds", "2", "--anyway", "--casebook", "new.db", "--limit", "1"]),
        ("data.npz", ["audit", "model.onnx", "bad.npz", *BALL, "--anyway", "--casebook", "new.db", "--limit", "1"]),
    ):
        raw = (folder / name).read_bytes()
        for _ in range(25):
            bad = bytearray(raw)
            for _ in range(chance.choice((1, 1, 3))):
                bad[chance.randrange(len(bad))] = chance.randrange(256)
            (folder / f"bad{Path(name).suffix}").write_bytes(bytes(bad))
            result = fathom(*words, folder=folder)
            assert result.code in (0, 1), (bytes(bad), result)
            assert "Traceback" not in result.err
            codes.append(result.code)
    assert {0, 1} <= set(codes)


# Casebooks


def test_a_spoiled_casebook_is_refused_and_kept(folder: Path) -> None:
    raw = (folder / "casebook.db").read_bytes()
    for bad in spoiled(raw):
        if not bad:  # what is left of one killed while being made
            continue
        (folder / "bad.db").write_bytes(bad)
        before = (folder / "bad.db").read_bytes()
        result = fathom("audit", "model.onnx", "data.npz", *BALL, "--casebook", "bad.db", folder=folder)
        assert result.code in (0, 1)
        assert "Traceback" not in result.err
        if result.code:
            assert "bad.db" in result.err
            assert result.out == ""
            assert (folder / "bad.db").read_bytes() == before
        for name in ("bad.db-wal", "bad.db-shm"):
            (folder / name).unlink(missing_ok=True)


def test_a_casebook_of_a_later_version_is_refused_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fathom.audits.setup as room

    shutil.copy(folder / "casebook.db", folder / "later.db")
    connection = sqlite3.connect(folder / "later.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    monkeypatch.setattr(room, "read_model", lambda *_: pytest.fail("the work has begun"))
    assert "upgrade" in audit(folder, "model.onnx", "data.npz", "--casebook", "later.db").err
    assert "upgrade" in refused(folder, "cases", "later.db").err


def test_another_programs_database_is_left_alone(folder: Path) -> None:
    connection = sqlite3.connect(folder / "other.db")
    connection.execute("CREATE TABLE letters (text)")
    connection.close()
    assert "another program's" in audit(folder, "model.onnx", "data.npz", "--casebook", "other.db").err
    assert "another program's" in refused(folder, "cases", "other.db").err
