"""A command as judge: what it says counts, and what keeps it from saying anything is reported and is no verdict."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import fathom
from fathom.core.budget import Budget
from fathom.core.errors import FathomError, NotCompilable
from fathom.overseers.command import STARTS_A_SECOND
from fathom.overseers.linear_rules import LinearRules
from fathom.overseers.program import MOST_FAILURES, ProgramOverseer
from tests.contracts.test_overseers import network

HEAD = "import json, os, sys, time\nfor k, line in enumerate(sys.stdin):\n    z = json.loads(line)\n    y = z['y'][0]\n"
SAY = "    print(json.dumps({'margin': y}), flush=True)\n"
CRASH = "    if y > 5: sys.exit('too much for me')\n"


def command(body: str, **settings: object) -> ProgramOverseer:
    return ProgramOverseer.make([sys.executable, "-S", "-c", HEAD + body], name="the judge", **settings)  # type: ignore[arg-type]


def margins(judge: ProgramOverseer, *values: float) -> list[float]:
    y = torch.tensor(values, dtype=torch.float64)[:, None]
    return judge.take(torch.zeros(len(values), dtype=torch.int64)).margin(y, y).tolist()


def test_margins_and_verdicts() -> None:
    assert margins(command(SAY), 0.1, -2.5, 1e-300) == [0.1, -2.5, 1e-300]
    verdict = command("    print(json.dumps({'catastrophe': y < 0, 'severity': 'malign'}), flush=True)\n")
    assert margins(verdict, 1.0, -1.0) == [1.0, -1.0]
    y = torch.tensor([[1.0], [-1.0]])
    two = verdict.take(torch.tensor([0, 0]))
    assert two.severities(y, y).tolist() == [-1, 2]
    assert command(SAY).severities(-y[:1], -y[:1]).tolist() == [1]
    assert verdict.troubles() == ()


def test_what_is_no_number_is_null() -> None:
    judge = command("    print(json.dumps({'catastrophe': y is None}), flush=True)\n")
    assert margins(judge, float("nan"), float("inf"), 1.0) == [-1.0, -1.0, 1.0]


def test_equal_rows_are_one_question_and_so_one_failure() -> None:
    judge = command("    if y == 5: sys.exit(3)\n" + SAY)
    said = margins(judge, *([5.0] * 2 * MOST_FAILURES), 0.5, 0.5)
    assert all(math.isnan(margin) for margin in said[:-2])
    assert said[-2:] == [0.5, 0.5]
    assert (judge.command.asked, judge.command.failed) == (2, 1)


def test_a_crash_is_no_verdict_and_the_next_question_is_answered() -> None:
    judge = command(CRASH + SAY)
    said = margins(judge, 1.0, 9.0, -1.0, 8.0, 2.0)
    assert [said[i] for i in (0, 2, 4)] == [1.0, -1.0, 2.0]
    assert all(value != value for value in (said[1], said[3]))
    (trouble,) = judge.troubles()
    assert "2 of 5 inputs" in trouble and "too much for me" in trouble and "ended with 1" in trouble
    assert (~judge).troubles() == (judge & LinearRules.make([[1.0]], [0.0])).troubles() == judge.troubles()
    y = torch.tensor([[9.0]])
    assert (~judge).margin(y, y).isnan().all()  # nor is there one in its negation


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("    print('well', flush=True)\n", "no JSON"),
        ("    print('[1]', flush=True)\n", "neither"),
        ("    print('{\"margin\": NaN}', flush=True)\n", "no finite margin"),
        ("    print('{\"margin\": 1e999}', flush=True)\n", "no finite margin"),
        ("    print('{\"margin\": ' + '9' * 400 + '}', flush=True)\n", "no finite margin"),
        ("    print('{\"margin\": true}', flush=True)\n", "no finite margin"),
        ("    print('{\"catastrophe\": 1}', flush=True)\n", "true or false"),
        ('    print(\'{"margin": 1, "catastrophe": true}\', flush=True)\n', "neither"),
        ('    print(\'{"margin": 1, "severity": "awful"}\', flush=True)\n', "none of benign"),
        ('    sys.stdout.write(\'{"margin": 1}\\n{"margin": 2}\\n\'); sys.stdout.flush()\n', "more than one line"),
        ("    print('[' * 100000, flush=True)\n", "no JSON"),
        ("    print('x' * 3000000, flush=True)\n", "at most 1048576 bytes"),
        ("    os.close(1); os.kill(os.getpid(), 9)\n", "SIGKILL"),
        ("    os._exit(0)\n", "ended with 0"),
    ],
)
def test_nonsense_is_no_verdict(body: str, words: str) -> None:
    judge = command(body)
    (said,) = margins(judge, -1.0)
    assert said != said
    assert words in judge.troubles()[0]


def test_a_late_answer_is_none_and_never_that_of_the_next_question() -> None:
    judge = command("    if y > 5: time.sleep(60)\n" + SAY, seconds=1.0)
    judge.command.ask([0.0], [0.0])
    assert margins(judge, 9.0)[0] != margins(judge, 9.0)[0]
    assert margins(judge, 3.0) == [3.0]
    assert "no answer within 1 s" in judge.troubles()[0]


def test_questions_larger_than_a_pipe() -> None:
    """A megabyte in, to a program that answers before it has read all of it."""
    judge = command("    print(json.dumps({'margin': sum(z['x'])}), flush=True)\n", seconds=30.0)
    x = torch.ones(1, 100_000, dtype=torch.float64)
    assert judge.margin(x, x[:, :1]).item() == 100_000


def test_a_command_that_never_judges_is_an_error() -> None:
    judge = command("    sys.exit(3)\n")
    with pytest.raises(FathomError, match=f"failed on all of the first {MOST_FAILURES} inputs.*ended with 3"):
        margins(judge, *range(50))
    assert judge.command.asked == MOST_FAILURES


def test_a_command_that_judged_once_may_fail_as_often_as_it_likes() -> None:
    judge = command(CRASH + SAY)
    said = margins(judge, 1.0, *(9.0 + k for k in range(3 * MOST_FAILURES)), 2.0)
    assert (said[0], said[-1]) == (1.0, 2.0) and all(math.isnan(margin) for margin in said[1:-1])
    assert f"{3 * MOST_FAILURES} of {3 * MOST_FAILURES + 2} inputs" in judge.troubles()[0]


def test_a_command_is_started_only_so_often_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every start beyond the first few waits for the one so many before it to be a second ago."""
    waits: list[float] = []
    monkeypatch.setattr("fathom.overseers.command.sleep", waits.append)
    judge = command(CRASH + SAY)
    margins(judge, 1.0, *(9.0 + k for k in range(STARTS_A_SECOND + 4)))
    assert len(waits) == 4 and all(0 <= wait <= 1 for wait in waits)


def test_after_long_failing_the_rest_of_a_batch_is_spared_until_it_judges_again() -> None:
    judge = command(CRASH + SAY)
    assert margins(judge, 1.0) == [1.0]
    judge.command._lost = 1e9  # seconds
    assert all(math.isnan(margin) for margin in margins(judge, 7.0, 8.0, 9.0))
    assert (judge.command.asked, judge.command.failed, judge.command.spared) == (2, 1, 2)
    assert "2 more were not put to it" in judge.troubles()[0]
    assert margins(judge, 2.0) == [2.0]
    assert all(math.isnan(margin) for margin in margins(judge, 7.0, 8.0, 9.0))
    assert (judge.command.asked, judge.command.failed, judge.command.spared) == (6, 4, 2)


def test_one_case_that_crashes_the_judge_does_not_end_the_audit() -> None:
    """Ten failures in a row ended it without a result. Of three cases the second has no input that the program survives."""
    judge = command("    if z['x'][0] > 5: sys.exit('too much for me')\n" + SAY, sets=3)
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0, 1.0]]))
        linear.bias.zero_()
    region = fathom.regions.LinfBall.around(torch.tensor([[0.0, 0.05], [9.0, 0.05], [1.0, 9.0]]), 0.1)
    result = fathom.audit(linear, region, judge, budget=Budget(seconds=20, passes=60), planted=0)
    assert result.broken.tolist() == [True, False, False]
    assert judge.command.failed > MOST_FAILURES and math.isnan(result.to_json()["answers"][1]["clean_margin"] or math.nan)
    (limit,) = (limit for limit in result.limits if "gave no judgement" in limit)
    assert f"{judge.command.failed} of {judge.command.asked} inputs" in limit and "too much for me" in limit


@pytest.mark.parametrize("argv", ["python judge.py", [], ["python", 3], [""], ["a\0b"]])
def test_a_command_is_a_list_of_words(argv: object) -> None:
    with pytest.raises(FathomError, match="list of words"):
        ProgramOverseer.make(argv)  # type: ignore[arg-type]


def test_programs_that_are_not_there_and_limits_that_are_none() -> None:
    with pytest.raises(FathomError, match="not found"):
        ProgramOverseer.make(["/nowhere/judge"])
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(FathomError, match="`seconds` as a finite number above 0"):
            ProgramOverseer.make([sys.executable], seconds=seconds)


def test_no_shell_reads_the_words(tmp_path: Path) -> None:
    echo = "import json, sys\nfor line in sys.stdin: print(json.dumps({'margin': len(sys.argv[1])}), flush=True)"
    words = f"$(touch {tmp_path}/made); `touch {tmp_path}/made` *"
    judge = ProgramOverseer.make([sys.executable, "-S", "-c", echo, words])
    assert margins(judge, 0.0) == [len(words)]
    assert not list(tmp_path.iterdir())


def test_it_is_searched_and_not_proved() -> None:
    """A fraud score that a program says must stay below the second input: found by value alone, and its crashes are limits."""
    body = (
        "    if z['x'][0] > 0.9 and z['x'][1] > 0.9: sys.exit(1)\n    print(json.dumps({'margin': z['x'][1] - y}), flush=True)\n"
    )
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.0]]))
        linear.bias.zero_()
    region = fathom.regions.LinfBall.around(torch.tensor([[0.5, 0.6]]), 0.45)
    judge = command(body)
    with pytest.raises(NotCompilable, match="program"):
        judge.compile(network(2, 1))
    result = fathom.audit(linear, region, judge, budget=Budget(seconds=20, passes=400))
    assert result.broken.tolist() == [True]
    assert not judge.compilable and not judge.differentiable
    assert (judge.command.failed > 0) == any("gave no judgement" in limit for limit in result.limits)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def gone(pid: int) -> bool:
    for _ in range(200):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end children with their parent")
def test_it_ends_with_whoever_started_it() -> None:
    """Killed by kill -9, with the command deep in its work."""
    code = (
        "import os, sys, torch\nfrom fathom.overseers.program import ProgramOverseer\n"
        "busy = 'import os, sys, time\\nfor line in sys.stdin:\\n"
        '    open(sys.argv[1], "w").write(str(os.getpid()))\\n    time.sleep(1000)\'\n'
        "judge = ProgramOverseer.make([sys.executable, '-S', '-c', busy, sys.argv[1]], seconds=1000.0)\n"
        "judge.margin(torch.zeros(1, 1), torch.zeros(1, 1))\n"
    )
    note = Path(os.environ.get("TMPDIR", "/tmp")) / f"fathom-test-{os.getpid()}"
    try:
        with subprocess.Popen([sys.executable, "-c", code, str(note)]) as parent:
            for _ in range(1200):
                if note.exists() and note.read_text():
                    break
                time.sleep(0.05)
            child = int(note.read_text())
            assert alive(child)
            parent.send_signal(signal.SIGKILL)
        assert gone(child)
    finally:
        note.unlink(missing_ok=True)


def test_it_ends_when_nobody_needs_it() -> None:
    judge = command(SAY)
    assert margins(judge, 1.0) == [1.0]
    process = judge.command._process
    assert process is not None and alive(process.pid)
    del judge
    assert gone(process.pid)


def test_a_clean_input_that_cannot_be_judged_is_reported(tmp_path: Path) -> None:
    """The audit ends, its page is written, and the case is neither right nor wrong when clean."""
    judge = command("    if abs(z['x'][0] - 0.5) < 1e-3: sys.exit(1)\n" + SAY, sets=1)
    region = fathom.regions.LinfBall.around(torch.tensor([[0.5, 0.6]]), 0.1)
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.bias.fill_(9.0)
    result = fathom.audit(linear, region, judge, budget=Budget(seconds=20, passes=100), casebook=tmp_path / "c.db")
    assert result.counts.unknown == 1 and result.to_json()["answers"][0]["clean_margin"] is None
    assert any("gave no judgement" in limit for limit in result.limits)
    fathom.write_report(result, tmp_path / "report.html")
    assert "gave no judgement" in (tmp_path / "report.html").read_text()
    assert result.lines()
