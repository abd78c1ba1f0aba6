"""Stopping in the middle: by Ctrl-C with the brackets so far, by kill -9 with what was stored; and going on from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fathom.audits.interrupt import interruptible
from fathom.casebook.store import Case, Casebook
from fathom.core.answer import Verdict
from tests.command import fathom, finish, start, write_data, write_model, write_property

HARD = ("--linf", "0.025", "--range", "0", "1")


# The signals


def test_the_first_signal_asks_and_the_second_insists() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        stop = threading.Event()
        before = signal.getsignal(number)
        with interruptible(stop):
            signal.raise_signal(number)
            assert stop.is_set()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(number) is before


def test_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), interruptible(threading.Event()):
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_beside_the_main_thread_signals_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interruptible(threading.Event()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


# Processes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An audit that breaks and proves some cases soon, and would work on the others for minutes."""
    model = write_model(tmp_path / "model.onnx", [60, 150, 150, 150, 10])
    write_data(tmp_path / "data.npz", model, 12)
    return tmp_path


def known(folder: Path) -> dict[str, Case]:
    """What the casebook holds now, by digest; several may read while another writes."""
    if not (folder / "casebook.db").exists():
        return {}
    with Casebook.open(folder / "casebook.db") as book:
        return {case.digest: case for case in book.cases()}


def wait_for_findings(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until some cases are broken, and branch and bound has begun on the others: their lower bounds are in."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        cases = known(folder).values()
        open_cases = [case for case in cases if case.verdict is Verdict.UNKNOWN]
        if len(open_cases) < len(cases) and open_cases and all(np.isfinite(case.lower) for case in open_cases):
            return
        time.sleep(0.2)
    pytest.fail(f"nothing to interrupt: {process.poll()}")


def answers(out: str) -> dict[str, dict[str, Any]]:
    return {answer["digest"]: answer for answer in json.loads(out)["answers"]}


def go_on(folder: Path) -> dict[str, dict[str, Any]]:
    """The same command again, with little time: what it knows it can only have from before, but for what is found at once."""
    result = fathom("audit", "model.onnx", "data.npz", *HARD, "--seconds", "2", "--json", folder=folder)
    assert result.code == 0
    return answers(result.out)


def expect_no_less(now: dict[str, dict[str, Any]], before: dict[str, Case]) -> None:
    assert set(now) == set(before)
    for digest, case in before.items():
        assert now[digest]["lower"] >= case.lower
        if case.verdict is not Verdict.UNKNOWN:
            assert now[digest]["verdict"] == case.verdict.value


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_prints_and_keeps_the_brackets_and_the_next_run_goes_on(number: signal.Signals, folder: Path) -> None:
    process = start("audit", "model.onnx", "data.npz", *HARD, "--seconds", "600", "--json", folder=folder)
    wait_for_findings(folder, process)
    process.send_signal(number)
    ended = finish(process)
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert "stopping at the next step" in ended.err
    told = answers(ended.out)
    stored = known(folder)
    assert {d: a["verdict"] for d, a in told.items()} == {d: c.verdict.value for d, c in stored.items()}
    assert {d: a["lower"] for d, a in told.items()} == {d: c.lower for d, c in stored.items()}
    left = [answer for answer in told.values() if answer["verdict"] == "unknown"]
    assert left
    assert {answer["reason"] for answer in left} == {"interrupted"}
    assert (folder / "report.html").exists()
    expect_no_less(go_on(folder), stored)


def test_kill_9_loses_nothing_that_was_stored(folder: Path) -> None:
    process = start("audit", "model.onnx", "data.npz", *HARD, "--seconds", "600", folder=folder)
    wait_for_findings(folder, process)
    before = known(folder)
    process.kill()
    assert finish(process).code == -signal.SIGKILL
    with Casebook.open(folder / "casebook.db") as book:
        book.check()
    expect_no_less(go_on(folder), before)


def test_two_in_a_row_stop_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes in the middle of a step that would not end."""
    from fathom.prove.branch import BranchAndBound

    def stuck(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(BranchAndBound, "solve", stuck)
    result = fathom("audit", "model.onnx", "data.npz", *HARD, "--seconds", "60", folder=folder)
    assert (result.code, result.out) == (130, "")
    assert "casebook.db" in result.err
    assert "Traceback" not in result.err
    assert any(case.verdict is Verdict.BROKEN for case in known(folder).values())


def test_known_failures_are_run_again_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no time at all, what was broken is broken again: by its witness, run on the model, and not because it is written."""
    first = go_on(folder)
    broken = {digest for digest, answer in first.items() if answer["verdict"] == "broken"}
    assert broken
    import fathom.audits.portfolio as room

    judged: list[np.ndarray[Any, Any]] = []
    confirm = room.confirm

    def watched(problem: Any, x: Any) -> Any:
        judged.append(x.numpy().copy())
        return confirm(problem, x)

    monkeypatch.setattr(room, "confirm", watched)
    words = ("audit", "model.onnx", "data.npz", *HARD, "--seconds", "0.000001", "--json")
    again = answers(fathom(*words, folder=folder).out)
    assert {digest for digest, answer in again.items() if answer["verdict"] == "broken"} == broken
    rows = np.concatenate(judged)
    for digest in broken:
        assert (rows == np.array(again[digest]["witness"]["x"], dtype=np.float32)).all(1).any()


def test_an_interrupt_before_the_work_is_no_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fathom.audits.setup as room

    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(room, "read_model", interrupted)
    result = fathom("audit", "model.onnx", "data.npz", *HARD, folder=folder)
    assert (result.code, result.out) == (130, "")
    assert "Traceback" not in result.err


# Certificates


CHECKER = """import os, pathlib, time
pathlib.Path("checker.new").write_text(str(os.getpid()))
pathlib.Path("checker.new").rename("checker.pid")
time.sleep(100)
"""


@pytest.fixture
def provable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A property and an audit that are proved at once, and for processes a checker that does not come to an end."""
    model = write_model(tmp_path / "model.onnx", [4, 8, 3])
    write_property(tmp_path / "unsat.vnnlib", 0, 1, 4, 3, "(>= Y_0 1000.0)")
    write_data(tmp_path / "data.npz", model, 2)
    stub = tmp_path / "stub" / "fathom_checker"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "__main__.py").write_text(CHECKER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(stub.parent), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def checker_of(process: subprocess.Popen[str], folder: Path) -> int:
    """Waits until a checker is at work, and gives its process."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "checker.pid").exists():
            return int((folder / "checker.pid").read_text())
        time.sleep(0.05)
    pytest.fail(f"no checker to interrupt: {finish(process)}")


def expect_gone(number: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


VERIFY = ("verify", "unsat.vnnlib", "--network", "model.onnx", "--certificate", "proof.npz")
AUDIT = ("audit", "model.onnx", "data.npz", "--linf", "0.0001", "--range", "0", "1", "--certificates", "proofs")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_verdict_outlives_its_interrupted_check_and_the_checker_does_not(number: signal.Signals, provable: Path) -> None:
    process = start(*VERIFY, folder=provable)
    checker = checker_of(process, provable)
    process.send_signal(number)
    ended = finish(process)
    assert (ended.code, ended.out) == (130, "unsat\n")
    assert "certificate (unchecked): interrupted before the checker was done; run `fathom check`" in ended.err
    assert "Traceback" not in ended.err
    expect_gone(checker)
    assert fathom("check", "model.onnx", "unsat.vnnlib", "proof.npz", folder=provable).code == 0
    assert not list(provable.glob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_audit_reports_though_its_check_was_interrupted(number: signal.Signals, provable: Path) -> None:
    process = start(*AUDIT, "--json", folder=provable)
    checker = checker_of(process, provable)
    process.send_signal(number)
    ended = finish(process)
    assert ended.code == 130
    assert {answer["verdict"] for answer in answers(ended.out).values()} == {"proved"}
    assert "Traceback" not in ended.err
    expect_gone(checker)
    assert (provable / "report.html").exists()
    names = {path.name for path in (provable / "proofs").iterdir()}
    assert names == {"model.onnx", "problem.json", "certificate.npz"}


def test_a_certificate_that_was_interrupted_is_not_there_by_half(provable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes when the temporary file is written and has not its name yet."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    result = fathom(*VERIFY, folder=provable)
    assert (result.code, result.out) == (130, "unsat\n")
    assert "certificate (unchecked): interrupted before the certificate was written" in result.err
    assert not [path.name for path in provable.iterdir() if "proof" in path.name]


def test_the_checker_is_not_taken_from_the_folder_where_the_user_works(tmp_path: Path) -> None:
    """Whoever gives away a model with such a folder beside it would have it run, and could call anything accepted."""
    write_model(tmp_path / "model.onnx", [4, 8, 3])
    write_property(tmp_path / "unsat.vnnlib", 0, 1, 4, 3, "(>= Y_0 1000.0)")
    (tmp_path / "numpy.py").write_text("import pathlib; pathlib.Path('run').touch()")
    result = fathom(*VERIFY, folder=tmp_path)
    assert "certificate (checked)" in result.err
    assert not (tmp_path / "run").exists()
