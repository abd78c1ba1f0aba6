"""Folders of instances: rows, resuming, what is kept when a run is killed, and fresh processes."""

from __future__ import annotations

import csv
import io
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fathom.audits import bench as room
from fathom.audits.bench import HEADER, NO_TIME, Bench, Row, read_rows, summary
from fathom.audits.checking import check
from fathom.cli import version
from tests.command import Outcome, fathom, finish, start, write_model, write_property


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Instances: one sat, against what is expected; one unsat; four that cannot be run."""
    folder = tmp_path_factory.mktemp("bench")
    write_model(folder / "m.onnx", [4, 8, 3])
    (folder / "cut.onnx").write_bytes((folder / "m.onnx").read_bytes()[:200])
    write_property(folder / "sat.vnnlib", 0, 1, 4, 3, "(<= Y_0 Y_1)")
    write_property(folder / "unsat.vnnlib", 0, 1, 4, 3, "(>= Y_0 1000.0)")
    write_property(folder / "other.vnnlib", 0, 1, 5, 3, "(>= Y_0 1000.0)")
    pairs = [
        *(("m.onnx", "sat.vnnlib"), ("m.onnx", "unsat.vnnlib"), ("m.onnx", "other.vnnlib")),
        *(("cut.onnx", "sat.vnnlib"), ("none.onnx", "sat.vnnlib"), ("../m.onnx", "sat.vnnlib")),
    ]
    (folder / "instances.csv").write_text("".join(f"{onnx},{vnnlib},10\n" for onnx, vnnlib in pairs))
    (folder / "expected.csv").write_text(
        "onnx,vnnlib,verdict,tools_sat,tools_unsat\nm.onnx,sat.vnnlib,unsat,0,1\nm.onnx,unsat.vnnlib,unsat,0,3\n"
    )
    return folder


VERDICTS = ["sat", "unsat", "error", "error", "error", "error"]


def answered(path: Path) -> list[list[str]]:
    """The verdicts in an output file, by an independent reading."""
    with path.open(newline="") as file:
        return [[row["onnx"], row["vnnlib"], row["verdict"]] for row in csv.DictReader(file)]


# Rows


def test_every_instance_is_a_row_and_mistakes_are_counted(source: Path) -> None:
    result = fathom("bench", source, "--timeout", "20")
    assert result.code == 1
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == VERDICTS
    assert lines[0].endswith("EXPECTED unsat")
    assert "../m.onnx" in lines[5]
    assert "decided 2 / 6: sat 1, unsat 1, error 4" in result.out
    assert "disagreements with 2 expected verdicts: 1" in result.out
    assert result.err == ""


def test_a_folder_without_mistakes_ends_with_0(source: Path, tmp_path: Path) -> None:
    for name in ("m.onnx", "unsat.vnnlib"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    (tmp_path / "instances.csv").write_text("m.onnx,unsat.vnnlib,10\n")
    result = fathom("bench", tmp_path)
    assert (result.code, result.out.split("\n")[1]) == (0, "decided 1 / 1: unsat 1")


def test_what_nobody_thought_of_is_a_row_too(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fathom.audits.verify

    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(fathom.audits.verify, "verify", broken)
    rows = list(Bench(source, limit=2).run())
    assert [row.verdict for row in rows] == ["error", "error"]
    assert rows[0].note == "a bug in Fathom: RuntimeError: two lines"


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "got none"), ("only-one-column\n", "at least 2 columns"), ("\x00\xff", "instances.csv"), (None, "instances.csv")],
)
def test_a_folder_that_is_none_is_refused(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "instances.csv").write_bytes(text.encode("latin1"))
    result = fathom("bench", tmp_path)
    assert (result.code, result.out) == (1, "")
    assert said in result.err


# Resuming


def test_a_second_run_goes_on_from_the_first(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.csv"
    first = fathom("bench", source, "--csv", out, "--limit", "1")
    assert first.code == 1
    asked: list[str] = []
    import fathom.audits.verify as real

    verify = real.verify
    monkeypatch.setattr(real, "verify", lambda network, prop, *rest: (asked.append(prop.name), verify(network, prop, *rest))[1])
    second = fathom("bench", source, "--csv", out)
    assert asked == ["unsat.vnnlib", "other.vnnlib", "sat.vnnlib"]
    assert "1 of 6 instances are taken over" in second.err
    assert "decided 2 / 6" in second.out
    third = fathom("bench", source, "--csv", out)
    assert asked[3:] == ["other.vnnlib", "sat.vnnlib"], "errors may have been mended, and are tried again"
    assert "decided 2 / 6" in third.out
    assert [row[2] for row in answered(out)] == [*VERDICTS, *VERDICTS[2:]]


def test_rows_of_another_question_do_not_count(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    list(Bench(source, seconds=20, limit=2, out=out).run())
    assert len(Bench(source, seconds=20, out=out).rows) == 2
    for other in (Bench(source, seconds=21, out=out), Bench(source, seconds=20, seed=1, out=out)):
        assert other.rows == []
    assert Bench(source, seconds=20, isolated=True, out=out).rows == []
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in source.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert Bench(moved, seconds=20, out=out).rows == []
    out.write_text(out.read_text().replace(f",{version()},", ",0.0.0,"))
    assert Bench(source, seconds=20, out=out).rows == []


def made_up(count: int) -> list[Row]:
    notes = ["", 'a "quoted", note', "naïve ☃", ""]
    return [
        Row("f", f"n{i}.onnx", "p.vnnlib", "sat", "", 0.1 * i, 0, 60.0, 0, i % 2 == 0, "1", notes[i % 4]) for i in range(count)
    ]


def test_a_line_torn_anywhere_costs_that_line_alone(tmp_path: Path) -> None:
    """Cut at every byte, as a killed write may leave it: the rows before the cut are read, and the next is written whole."""
    rows, out = made_up(3), tmp_path / "out.csv"
    for row in rows:
        room._append(out, row)
    raw = out.read_bytes()
    ends = [place + 1 for place, byte in enumerate(raw) if byte == ord("\n")]
    for cut in range(len(raw) + 1):
        out.write_bytes(raw[:cut])
        whole = max(sum(end <= cut for end in ends) - 1, 0)
        assert read_rows(out) == rows[:whole], cut
        room._append(out, rows[-1])
        assert read_rows(out) == [*rows[:whole], rows[-1]], cut


@pytest.mark.parametrize(
    "text",
    [
        "name,age\nann,3\n",
        "m.onnx,sat.vnnlib,10\n",
        "no line end",
        ",".join(HEADER) + "\nshort,row\n",
        ",".join(HEADER) + "\nshort,row\ntorn",
        ",".join(HEADER) + "\n" + ",".join("x" * len(HEADER)) + "\n",
        "\x00\x00\x00",
        "PK\x03\x04\n",
    ],
)
def test_a_file_that_is_no_output_is_left_as_it_is(text: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "precious.csv"
    out.write_text(text)
    result = fathom("bench", source, "--csv", out)
    assert (result.code, result.out) == (1, "")
    assert "left as it was" in result.err or "left as it is" in result.err
    assert out.read_text() == text


@pytest.mark.parametrize("out", ["missing/out.csv", "."])
def test_output_that_cannot_be_written_is_found_out_first(out: str, source: Path, tmp_path: Path) -> None:
    result = fathom("bench", source, "--csv", out, folder=tmp_path)
    assert (result.code, result.out) == (1, "")
    assert "rows" in result.err


def slow_folder(source: Path, folder: Path, count: int) -> Path:
    """A folder of many small instances."""
    folder.mkdir()
    for name in ("m.onnx", "unsat.vnnlib"):
        (folder / name).write_bytes((source / name).read_bytes())
    for i in range(count):
        (folder / f"p{i}.vnnlib").write_bytes((source / "unsat.vnnlib").read_bytes())
    (folder / "instances.csv").write_text("".join(f"m.onnx,p{i}.vnnlib,10\n" for i in range(count)))
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_run_has_kept_what_it_did(number: signal.Signals, code: int, source: Path, tmp_path: Path) -> None:
    folder, out = slow_folder(source, tmp_path / "many", 400), tmp_path / "out.csv"
    process = start("bench", folder, "--csv", out, folder=tmp_path)
    deadline = time.monotonic() + 60
    while (not out.exists() or out.read_bytes().count(b"\n") < 4) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    ended = finish(process)
    assert ended.code == code
    done = len(read_rows(out))
    assert 3 <= done < 400
    if number == signal.SIGINT:
        assert f"decided {done} / {done}" in ended.out
        assert "Traceback" not in ended.err
    more = Bench(folder, limit=done + 2, out=out)
    assert [row.vnnlib for row in more.run()] == [f"p{done}.vnnlib", f"p{done + 1}.vnnlib"]


# Fresh processes


def test_a_fresh_process_answers_and_its_memory_is_measured(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = fathom("bench", source, "--isolated", "--limit", "2", "--csv", out, "--timeout", "30")
    assert [row.verdict for row in read_rows(out)] == ["sat", "unsat"]
    assert all(20 < (row.peak_mib or 0) < 10_000 for row in read_rows(out))
    assert "memory of one process" in result.out


def test_memory_that_was_not_measured_is_no_number(source: Path, tmp_path: Path) -> None:
    """Instances that share a process share its peak: of one of them nothing can be said, and least of all that it is 0."""
    out = tmp_path / "out.csv"
    result = fathom("bench", source, "--limit", "1", "--csv", out, "--timeout", "30")
    header, cells = csv.reader(io.StringIO(out.read_text(), newline=""))
    assert cells[header.index("peak_mib")] == ""
    assert [row.peak_mib for row in read_rows(out)] == [None]
    assert "MiB" not in result.out
    assert "memory: not measured; --isolated measures it" in result.out


@pytest.mark.parametrize("isolated", [False, True])
def test_certificates_of_unsat_instances_are_checked(source: Path, tmp_path: Path, *, isolated: bool) -> None:
    bench = Bench(source, seconds=30, limit=2, certificates=tmp_path, isolated=isolated)
    rows = {row.verdict: row for row in bench.run()}
    assert rows["unsat"].certificate == "accepted"
    assert rows["unsat"].checking > 0
    assert rows["unsat"].certificate_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert rows["sat"].certificate == ""
    assert "certificates: 1 of 1 unsat accepted" in summary(bench.rows)


def test_a_row_without_the_certificate_that_is_asked_for_does_not_count(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    list(Bench(source, seconds=20, limit=2, out=out).run())
    again = Bench(source, seconds=20, limit=2, out=out, certificates=tmp_path)
    assert [row.verdict for row in again.rows] == ["sat"]


def stand_in(path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program in place of `fathom verify`."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize(
    ("body", "verdict", "note"),
    [
        ("echo unsat", "unsat", ""),
        ("echo sat; echo '((X_0 1.0))'", "sat", ""),
        ("echo holds", "error", "exit code 0: no word"),
        ("echo unsat; echo 'out of luck' >&2; exit 3", "error", "exit code 3: out of luck"),
        ("kill -SEGV $$", "error", "exit code -11: no word"),
        ("true", "error", "exit code 0: no word"),
    ],
)
def test_only_a_clean_answer_counts(
    body: str, verdict: str, note: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "stand-in", body, monkeypatch)
    row = next(iter(Bench(source, isolated=True).run()))
    assert (row.verdict, row.note) == (verdict, note)


def test_a_process_that_does_not_end_is_ended(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "stand-in", f"echo $$ > {tmp_path}/pid; echo unsat; exec sleep 300", monkeypatch)
    monkeypatch.setattr(room, "GRACE", 0.5)
    row = next(iter(Bench(source, seconds=0.5, isolated=True).run()))
    assert row.verdict == "timed-out"
    assert "ended from outside" in row.note
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_interrupt_leaves_no_process_behind(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "stand-in", f"echo $$ > {tmp_path}/pid; exec sleep 300", monkeypatch)
    real = room._look

    def interrupted(pid: int) -> tuple[int | None, int]:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt
        return real(pid)

    monkeypatch.setattr(room, "_look", interrupted)
    result = fathom("bench", source, "--isolated")
    assert result.code == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# Words


def test_the_summary_adds_up() -> None:
    rows = made_up(4)
    rows[1] = replace(rows[1], verdict="unsat", expected="sat")
    rows[2] = replace(rows[2], verdict="timed-out", expected="unsat", peak_mib=123)
    text = summary(rows)
    assert "decided 3 / 4: sat 2, unsat 1, timed-out 1" in text
    assert "disagreements with 2 expected verdicts: 1" in text
    assert "at most 123 MiB" in text
    assert summary([]) == "no instance was run"


@pytest.mark.public
def test_a_public_folder_runs(vnncomp: Path) -> None:
    result: Outcome = fathom("bench", vnncomp / "acasxu", "--limit", "2", "--timeout", "60")
    assert "disagreements with 2 expected verdicts: 0" in result.out
    assert result.code == 0


def test_rows_are_written_as_any_reader_of_csv_reads_them(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    for row in made_up(4):
        room._append(out, row)
    cells = list(csv.reader(io.StringIO(out.read_text(), newline="")))
    assert cells[0] == HEADER
    assert [line[HEADER.index("note")] for line in cells[1:]] == [row.note for row in made_up(4)]


def test_a_check_that_was_cut_off_says_so_in_the_words_that_a_bench_looks_for() -> None:
    folder = Path(__file__).parent / "certificates" / "accepted" / "one_leaf"
    assert NO_TIME in check(folder / "model.onnx", folder / "property.vnnlib", folder / "certificate.npz", 0.001).line()
