"""The command line as its users meet it: words, codes, what is printed where, and how much is started for it."""

from __future__ import annotations

import gc
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.main import get_command

from fathom.cli.memory import loading
from tests.command import ROOT, Outcome, arguments, environment, fathom, write_data, write_model, write_property

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
WALL_CLOCK = ("seconds", "recipe", "casebook")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four features and three classes, data for it, and properties: one that is met, one that is not."""
    folder = tmp_path_factory.mktemp("cli")
    model = write_model(folder / "model.onnx", [4, 8, 3])
    write_data(folder / "data.npz", model, 12, wrong=1)
    write_property(folder / "sat.vnnlib", 0, 1, 4, 3, "(<= Y_0 Y_1)")
    write_property(folder / "unsat.vnnlib", 0, 1, 4, 3, "(>= Y_0 1000.0)")
    return folder


def run_model(path: Path, x: np.ndarray) -> np.ndarray:
    """The model's flat output by onnxruntime, asked apart from Fathom."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0]).reshape(-1)


def commands() -> dict[str, Any]:
    from fathom.cli import app
    from fathom.cli import commands as room

    room.load()
    return dict(get_command(app).commands)  # type: ignore[attr-defined]


# Help and documents


def parameters() -> Iterator[tuple[str, Any, list[str]]]:
    """Every command's parameters, with the words by which they are known."""
    for name, command in commands().items():
        for parameter in command.params:
            yield name, parameter, [word for word in parameter.opts if word.startswith("--")]


def test_every_command_and_option_has_help() -> None:
    missing = [f"fathom {name} {parameter.name}" for name, parameter, _ in parameters() if not parameter.help]
    missing += [name for name, command in commands().items() if not command.help or not command.epilog]
    assert missing == []
    assert len(list(parameters())) > 20


def test_every_command_and_option_is_in_the_reference() -> None:
    """Under its own command's heading, in a table's first column."""
    text = (ROOT / "docs" / "command-line.md").read_text()
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = {part.split("\n", 1)[0].removeprefix("fathom "): part for part in parts}
    assert set(commands()) <= set(sections)
    missing = [
        f"fathom {name} {word}"
        for name, _, words in parameters()
        for word in words
        if not re.search(rf"\| `.*{word}\b", sections[name])
    ]
    assert missing == []


def test_the_reference_names_no_option_that_is_none() -> None:
    known = {word for _, _, words in parameters() for word in words} | {"--help", "--name", "--version"}
    from fathom.cli.commands.supports import CAPABILITIES

    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", (ROOT / "docs" / "command-line.md").read_text()))
    assert named - known - set(CAPABILITIES) == set()


def test_the_reference_has_every_exit_code() -> None:
    from fathom import cli

    text = (ROOT / "docs" / "command-line.md").read_text()
    for code in (0, cli.FAILED, 2, cli.BUG, cli.INTERRUPTED):
        assert re.search(rf"^\| {code} \|", text, re.MULTILINE), code


def test_examples_in_the_help_are_commands() -> None:
    """Each is parsed as the user's words would be; nothing is run."""
    found = 0
    for name, command in commands().items():
        for line in re.findall(r"^  fathom (.+)$", command.epilog, re.MULTILINE):
            first, *words = shlex.split(line.split("|")[0])
            assert first == name
            command.make_context(name, words)
            found += 1
    assert found >= 9


def test_the_help_tells_the_settings_defaults() -> None:
    from fathom.audits.settings import BudgetSettings, Settings

    defaults = {field.name: field.default for field in fields(Settings)} | {"seconds": BudgetSettings().total_seconds}
    helps = {parameter.name: parameter.help for name, parameter, _ in parameters() if name == "audit"}
    for name in ("seconds", "seed", "report", "casebook"):
        value = defaults[name]
        assert f"{value:g} if" in helps[name] if isinstance(value, float) else f"{value} if" in helps[name], name


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["audit", "--help"], ["bench", "-h"], ["verify", "--help"]])
def test_help_is_printed_on_standard_output(words: list[str]) -> None:
    result = fathom(*words)
    assert result.code == 0
    assert result.err == ""
    assert "Usage: fathom" in result.out
    assert not CONTROL.search(result.out)


def test_help_fits_a_narrow_terminal() -> None:
    ended = subprocess.run(
        arguments("audit", "--help"), env=environment(COLUMNS="38"), capture_output=True, text=True, check=True
    )
    assert max(len(line) for line in ended.stdout.splitlines()) <= 38
    assert "--linf" in ended.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["frobnicate"], "frobnicate"),
        (["--frobnicate"], "--frobnicate"),
        (["audit"], "MODEL"),
        (["audit", "model.onnx", "data.npz", "--linf", "much"], "--linf"),
        (["audit", "model.onnx", "data.npz", "--linf", "0.1", "--l2", "0.1"], "--l2"),
        (["audit", "model.onnx", "data.npz", "--range", "0"], "--range"),
        (["audit", "model.onnx", "data.npz"], "--linf"),
        (["audit", "model.onnx", "--linf", "0.1"], "DATA"),
        (["verify", "sat.vnnlib"], "--network"),
        (["verify", "sat.vnnlib", "--network", "model.onnx", "--network", "model.onnx"], "--network"),
        (["verify", "sat.vnnlib", "--network", "f="], "--network"),
        (["verify", "sat.vnnlib", "--network", "model.onnx", "--timeout", "nan"], "--timeout"),
        (["verify", "sat.vnnlib", "--network", "model.onnx", "--timeout", "-1"], "--timeout"),
        (["verify", "sat.vnnlib", "--network", "model.onnx", "--unsat-proofs", "p"], "--unsat-proofs"),
        (["bench", ".", "--limit", "0"], "--limit"),
        (["bench", ".", "--timeout", "inf"], "--timeout"),
        (["cases"], "CASEBOOK"),
    ],
)
def test_wrong_words_end_with_2_and_are_named(words: list[str], named: str, folder: Path) -> None:
    result = fathom(*words, folder=folder)
    assert result.code == 2
    assert result.out == ""
    assert named in result.err


def test_name_and_version_are_all_that_is_printed() -> None:
    from fathom.cli import version

    assert fathom("--name") == Outcome(0, "fathom\n", "")
    assert fathom("--version") == Outcome(0, f"{version()}\n", "")


# supports


def test_supports_answers_in_the_standards_form() -> None:
    from fathom.capture.onnx_model import OPSETS
    from fathom.capture.onnx_table import table

    expected = {
        "--onnx-opset-versions": [str(min(OPSETS)), str(max(OPSETS))],
        "--onnx-element-types": ["real", "float32"],
        "--onnx-operators": sorted(table()),
        "--vnnlib-versions": ["1.0", "2.0"],
        "--hidden-node-theories": ["NH", "H"],
        "--multiple-input-output-theories": ["SIO", "MIO"],
        "--multiple-network-theories": ["SNET", "MENET", "MINET", "MNET"],
        "--multiple-node-comparison-theories": ["SNC", "MNC"],
        "--arithmetic-complexity-theories": ["BND", "OUTC", "LIN", "POLY"],
        "--optimised-disjunctive-reasoning": ["true"],
        "--serialise-assignments": ["true"],
        "--unsat-proofs": ["false"],
    }
    for capability, lines in expected.items():
        assert fathom("supports", capability) == Outcome(0, "\n".join(lines) + "\n", ""), capability


@pytest.mark.parametrize("words", [[], ["--bogus"], ["real"], ["--vnnlib-versions", "--unsat-proofs"]])
def test_supports_lists_the_capabilities_to_who_names_none(words: list[str]) -> None:
    result = fathom("supports", *words)
    assert result.code == 2
    assert result.out == ""
    assert "--onnx-operators" in result.err
    assert "--unsat-proofs" in result.err


def test_a_claimed_arithmetic_is_understood(folder: Path) -> None:
    """LIN and MNC: sums of several inputs and outputs in one comparison."""
    rule = "(<= (+ X_0 X_1 (* 2.0 Y_0)) (- Y_1 10.0))"
    write_property(folder / "lin.vnnlib", 0, 1, 4, 3, rule)
    assert fathom("verify", "lin.vnnlib", "--network", "model.onnx", folder=folder).verdict == "unsat"


# verify


def test_verify_prints_verdict_and_assignment(folder: Path) -> None:
    result = fathom("verify", "sat.vnnlib", "--network", "model.onnx", folder=folder)
    assert result.code == 0
    lines = result.out.splitlines()
    assert [lines[0], lines[1], lines[6]] == ["sat", "X float32 [1,4]", "Y float32 [1,3]"]
    x, y = (np.array(lines[a:b], dtype=np.float64) for a, b in ((2, 6), (7, 10)))
    assert (x == x.astype(np.float32)).all()
    assert ((x >= 0) & (x <= 1)).all()
    deployed = run_model(folder / "model.onnx", x.astype(np.float32).reshape(1, 4))
    assert deployed.tolist() == y.tolist()
    assert y[0] <= y[1]


def test_verify_says_how_much_memory_it_took(folder: Path) -> None:
    result = fathom("verify", "sat.vnnlib", "--network", "model.onnx", folder=folder)
    told = re.search(r"at most (\d+) MiB", result.err)
    assert told is not None and 20 < int(told[1]) < 10_000


def test_verify_prints_the_competitions_form(folder: Path) -> None:
    result = fathom("verify", "sat.vnnlib", "--network", "N=model.onnx", "--competition", folder=folder)
    verdict, text = result.out.split("\n", 1)
    assert verdict == "sat"
    assert re.findall(r"\((\w+) ", text) == [*(f"X_{i}" for i in range(4)), *(f"Y_{j}" for j in range(3))]
    assert text.count("(") == text.count(")") == 8


def test_verify_serialises_instead_of_printing(folder: Path) -> None:
    out = folder / "deep" / "out"
    result = fathom("verify", "sat.vnnlib", "--network", "model.onnx", "--serialise-assignments", out, folder=folder)
    assert (result.code, result.out) == (0, "sat\n")
    tensors = {path.name: TensorProto.FromString(path.read_bytes()) for path in out.iterdir()}
    assert {name: (t.name, tuple(t.dims)) for name, t in tensors.items()} == {"X.pb": ("X", (1, 4)), "Y.pb": ("Y", (1, 3))}
    x, y = (numpy_helper.to_array(tensors[name]) for name in ("X.pb", "Y.pb"))
    assert run_model(folder / "model.onnx", x).tolist() == y.reshape(-1).tolist()


def test_unsat_is_one_line(folder: Path) -> None:
    result = fathom("verify", "unsat.vnnlib", "--network", "model.onnx", "--timeout", "60", folder=folder)
    assert (result.code, result.out) == (0, "unsat\n")
    assert "real" in result.err


@pytest.mark.parametrize("limit", ["inf", "1e300", "1e-9"])
def test_any_number_of_seconds_is_a_limit(folder: Path, limit: str) -> None:
    """A limit that is over before it starts is answered by the watchdog, or by the search; never by an error."""
    result = fathom("verify", "unsat.vnnlib", "--network", "model.onnx", "--timeout", limit, folder=folder)
    assert result.code == 0
    assert result.verdict == ("timed-out" if limit == "1e-9" else "unsat")


@pytest.mark.parametrize(("shape", "shown"), [(["batch", 2, 2], "[1,2,2]"), ([2, 2], "[2,2]"), ([1, 1, 4], "[1,1,4]")])
def test_variables_have_the_shapes_that_the_model_takes(shape: list[Any], shown: str, tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.float32([[1], [2], [3], [4]]), "w"), numpy_helper.from_array(np.int64([1, 4]), "s")]
    nodes = [helper.make_node("Reshape", ["x", "s"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.save(model, tmp_path / "m.onnx")
    write_property(tmp_path / "p.vnnlib", 0, 1, 4, 1, "(>= Y_0 9.5)")
    lines = fathom("verify", "p.vnnlib", "--network", "m.onnx", folder=tmp_path).out.splitlines()
    assert lines[:2] == ["sat", f"X float32 {shown}"]
    assert lines[6] == "Y float32 [1,1]"


def test_several_inputs_are_numbered_through(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("a", "b", "y")]
    graph = helper.make_graph([helper.make_node("Sub", ["a", "b"], ["y"])], "g", ends[:2], ends[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    write_property(tmp_path / "p.vnnlib", 0, 1, 4, 2, "(>= Y_0 0.9)")
    lines = fathom("verify", "p.vnnlib", "--network", "m.onnx", folder=tmp_path).out.splitlines()
    assert lines[:2] == ["sat", "X float32 [4]"]
    assert float(lines[2]) - float(lines[4]) >= 0.9


SLOW = """
import sys, time
import fathom.audits.verify as room
room.verify = lambda *a: (a[-1]("unsat"), {step}) if {known} else {step}
sys.argv = ["fathom", "verify", "p", "--network", "n", "--timeout", "1"]
from fathom.cli import main
main()
"""


@pytest.mark.parametrize("step", ["time.sleep(100)", "all(iter(lambda: 1, 0))"])
def test_a_limit_holds_in_the_middle_of_a_step(step: str) -> None:
    """Whether the step waits, or computes and never looks up."""
    command = [sys.executable, "-c", SLOW.format(step=step, known=False)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment())
    assert ended.stdout == "timed-out\n"
    assert "give more seconds" in ended.stderr


def test_a_limit_within_the_work_on_a_certificate_leaves_the_verdict() -> None:
    command = [sys.executable, "-c", SLOW.format(step="time.sleep(100)", known=True)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment())
    assert ended.stdout == "unsat\n"
    assert "before there was a certificate" in ended.stderr


@pytest.mark.public
@pytest.mark.parametrize(
    ("model", "prop"),
    [
        ("cora/onnx/mnist-set.onnx", "cora/vnnlib/mnist-img2.vnnlib"),
        (
            "cgan_2023/onnx/cGAN_imgSz32_nCh_1.onnx",
            "cgan_2023/vnnlib/cGAN_imgSz32_nCh_1_prop_0_input_eps_0.010_output_eps_0.015.vnnlib",
        ),
    ],
)
def test_a_limit_holds_on_a_large_model(model: str, prop: str, vnncomp: Path) -> None:
    """The process ends by itself; it would need minutes."""
    files = [path if path.exists() else path.with_name(path.name + ".gz") for path in (vnncomp / model, vnncomp / prop)]
    command = arguments("verify", files[1], "--network", files[0], "--timeout", "3")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=environment())
    assert ended.stdout.split("\n")[0] in ("sat", "unsat", "timed-out")


# What is started


STARTED = """
import sys
sys.argv = ["fathom", *{words!r}]
from fathom.cli import main
try:
    main()
except SystemExit as end:
    print("code", end.code or 0, file=sys.stderr)
print("loaded", *sys.modules, file=sys.stderr)
"""


def loaded(words: list[str], folder: Path) -> set[str]:
    command = [sys.executable, "-c", STARTED.format(words=words)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment())
    assert "code 0" in ended.stderr
    return set(ended.stderr.rsplit("loaded", 1)[1].split())


def test_verify_starts_only_what_it_needs(folder: Path) -> None:
    modules = loaded(["verify", "sat.vnnlib", "--network", "model.onnx"], folder)
    heavy = {"sqlalchemy", "scipy", "sklearn", "jinja2", "rich", "sympy", "torch._dynamo", "torch._inductor", "torch.onnx"}
    assert heavy & modules == set()
    assert "torch" in modules


def test_what_knows_its_answer_starts_nothing(folder: Path) -> None:
    assert {"torch", "onnx", "numpy", "rich"} & loaded(["supports", "--arithmetic-complexity-theories"], folder) == set()
    assert {"torch", "onnx", "numpy", "rich"} & loaded(["--version"], folder) == set()


# audit


def audit(folder: Path, *words: object, casebook: str = "cases.db") -> Outcome:
    base = ["audit", "model.onnx", "data.npz", "--linf", "0.05", "--range", "0", "1", "--seconds", "60", "--casebook", casebook]
    return fathom(*base, *words, folder=folder)


@pytest.fixture(scope="module")
def audited(folder: Path) -> Outcome:
    return audit(folder, "--json")


def test_json_is_all_on_standard_output_and_exact(audited: Outcome, folder: Path) -> None:
    assert audited.code == 0
    result = json.loads(audited.out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert audited.out == json.dumps(result) + "\n"
    assert result["cases"] == 12 == sum(result[word] for word in ("proved", "broken", "unknown", "already_wrong"))
    assert result["already_wrong"] == 1
    for answer in result["answers"]:
        if answer["witness"] is not None:
            x = np.array(answer["witness"]["x"])
            assert (x == x.astype(np.float32)).all()
            y = run_model(folder / "model.onnx", x.astype(np.float32).reshape(1, 4))
            assert y.tolist() == answer["witness"]["y"]


def test_an_audit_says_first_what_it_sees(audited: Outcome) -> None:
    assert "accuracy  91.7% (11 of 12 samples, untouched)" in audited.err
    assert not CONTROL.search(audited.err)


def test_the_same_seed_gives_the_same_result(audited: Outcome, folder: Path) -> None:
    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(part) for key, part in value.items() if key not in WALL_CLOCK}
        return [timeless(part) for part in value] if isinstance(value, list) else value

    again = audit(folder, "--json", casebook="again.db")
    assert timeless(json.loads(audited.out)) == timeless(json.loads(again.out))


def test_the_same_for_people(audited: Outcome, folder: Path) -> None:
    result = audit(folder)
    counts = json.loads(audited.out)
    assert result.code == 0
    assert f"proved {counts['proved']}   broken {counts['broken']}   unknown {counts['unknown']}" in result.out
    assert result.out.endswith("report.html   cases.db\n")
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_factory_in_the_working_folder_is_a_model(folder: Path) -> None:
    text = "import torch\n\ndef make():\n    torch.manual_seed(0)\n    return torch.nn.Sequential(torch.nn.Linear(4, 3))\n"
    (folder / "nearby.py").write_text(text)
    words = ("--linf", "0.01", "--range", "0", "1", "--anyway", "--casebook", "torch.db", "--json")
    result = fathom("audit", "nearby:make", "data.npz", *words, folder=folder)
    assert result.code == 0
    assert json.loads(result.out)["title"] == "nearby:make"


def test_flags_go_before_the_file(folder: Path) -> None:
    text = 'model = "model.onnx"\ncasebook = "t.db"\n[data]\npath = "data.npz"\n'
    text += '[region]\nkind = "linf"\nradius = 0.05\nrange = [0, 1]\n'
    (folder / "audit.toml").write_text(text)
    result = json.loads(fathom("audit", "audit.toml", "--limit", "3", "--linf", "0.25", "--json", folder=folder).out)
    assert (result["cases"], result["region"]) == (3, "Linf 0.25 in [0, 1]")


def test_cases_lists_what_the_casebook_knows(audited: Outcome, folder: Path) -> None:
    told = json.loads(audited.out)["answers"]
    shown = json.loads(fathom("cases", "cases.db", "--json", folder=folder).out)
    assert shown["format"] == "fathom-cases/1"
    assert {case["digest"]: case["verdict"] for case in shown["cases"]} == {one["digest"]: one["verdict"] for one in told}
    lower = {one["digest"]: one["lower"] for one in told}
    assert all(case["lower"] >= lower[case["digest"]] for case in shown["cases"])
    lines = fathom("cases", "cases.db", folder=folder).out.splitlines()
    assert len(lines) == 13
    assert lines[-1].startswith("12 cases: ")
    for line, case in zip(lines, shown["cases"]):
        assert line.split()[0] == case["verdict"]
        assert case["digest"][:12] in line


# Terminals


def drawn(words: list[str], folder: Path, columns: int, **more: str) -> str:
    """All that a terminal of so many columns is sent."""
    leader, follower = pty.openpty()
    import fcntl
    import termios

    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = environment(TERM="xterm-256color", **more)
    process = subprocess.Popen(arguments(*words), cwd=folder, env=env, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    chunks = []
    while True:
        try:
            chunk = os.read(leader, 1 << 16)
        except OSError:  # Linux says so when the last writer is gone
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(leader)
    assert process.wait() == 0
    return b"".join(chunks).decode()


WORDS = ["audit", "model.onnx", "data.npz", "--linf", "0.05", "--range", "0", "1", "--casebook", "terminal.db"]


def test_a_terminal_shows_how_far_the_work_is(folder: Path) -> None:
    text = drawn(WORDS, folder, 100)
    assert "reading the model" in text
    assert "/12" in text
    assert "attack" in text
    assert "\x1b[?25h" in text[text.rindex("\x1b[?25l") :], "the cursor is shown again"


def test_no_color_is_respected_on_a_narrow_terminal(folder: Path) -> None:
    text = drawn(WORDS, folder, 44, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-7])[0-9;]*m", text)
    assert "/12" in text


def test_no_terminal_gets_no_control_characters(folder: Path) -> None:
    command = arguments(*WORDS)
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    assert not CONTROL.search(ended.stdout)
    assert not CONTROL.search(ended.stderr)
    assert "accuracy" in ended.stderr


def test_a_reader_who_leaves_is_no_error(folder: Path) -> None:
    command = shlex.join(arguments("verify", "sat.vnnlib", "--network", "model.onnx")) + " | true"
    ended = subprocess.run(command, shell=True, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    assert "Traceback" not in ended.stderr


def test_names_out_of_files_cannot_drive_a_terminal(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    model.graph.node[1].op_type = "Evil\x1b[2J\x1b]0;owned\x07"
    onnx.save(model, folder / "evil.onnx")
    result = fathom("verify", "sat.vnnlib", "--network", "evil.onnx", folder=folder)
    assert result.code == 1
    assert "Evil" in result.err
    assert not CONTROL.search(result.err)
    (folder / "evil.onnx").unlink()


def test_a_bug_is_told_apart_from_a_mistake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fathom.audits.verify as room

    def broken(*_: object) -> None:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr(room, "verify", broken)
    result = fathom("verify", "sat.vnnlib", "--network", "model.onnx", folder=folder)
    assert (result.code, result.out) == (3, "")
    assert "a bug in Fathom" in result.err.splitlines()[-1]
    assert "what nobody thought of" in result.err


def test_too_little_memory_is_said_in_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fathom.audits.verify as room

    def full(*_: object) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr(room, "verify", full)
    result = fathom("verify", "sat.vnnlib", "--network", "model.onnx", folder=folder)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("fathom: there is not enough memory")


def test_the_collector_rests_while_modules_load_and_no_longer() -> None:
    assert gc.isenabled()
    try:
        with pytest.raises(ImportError), loading():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
        gc.disable()
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


def test_what_was_printed_is_whole_though_nothing_is_collected_at_the_end(folder: Path) -> None:
    command = arguments("verify", "sat.vnnlib", "--network", "model.onnx")
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["sat", "X float32 [1,4]"]
    assert lines[6] == "Y float32 [1,3]"
    assert len(lines) == 10
