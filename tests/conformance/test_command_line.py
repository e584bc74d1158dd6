"""What holds for the command line of every tool (DESIGN section 3)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "tensorflow", "keras", "pandas", "transformers", "neptune", "sklearn", "matplotlib", "nltk", "scipy"}
ALL_HELP = """
import contextlib, io, json, sys, typer.main
from {module}.cli import app, main
def shown(name):
    sys.argv = [{command!r}, *name.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    return out.getvalue()
print(json.dumps({{name: shown(name) for name in ["", *typer.main.get_command(app).commands]}}))
print(*sys.modules, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def helps(tool, light):
    """What `--help` shows of each command of a tool, "" for its own, and what had to be imported for it."""
    process = light.start(ALL_HELP.format(module=tool.module, command=tool.command))
    assert process.wait() == 0, process.err
    return json.loads(process.out), set(process.err.split())


def test_every_help_opens_with_an_example(tool, helps) -> None:
    texts, _ = helps
    assert len(texts) > 1
    for name, text in texts.items():
        asked = f"{tool.command} {name}".rstrip()
        usage, _, rest = text.partition("\n")
        assert usage.startswith(f"Usage: {asked} ")
        assert re.match(rf"\s+Example: {re.escape(asked)}\b", rest), f"{asked} --help opens with {rest[:200]!r}"


def test_help_imports_nothing_heavy(helps) -> None:
    _, modules = helps
    assert "typer" in modules
    assert not modules & HEAVY


def test_help_is_a_command_too(tool, helps, call) -> None:
    texts, _ = helps
    command = list(texts)[-1]
    assert call(tool, "help").out == call(tool, "--help").out == texts[""]
    assert call(tool, "help", command).out == texts[command]
    wrong = call(tool, "help", "no-such-command")
    assert (wrong.status, wrong.out) == (2, "")
    assert wrong.err == f"error: No such command 'no-such-command'. Try '{tool.command} --help'.\n"


def test_no_command_shows_what_there_is_and_is_bad_usage(tool, helps, call) -> None:
    shown = call(tool)
    assert (shown.status, shown.out) == (2, "")
    assert shown.err.strip() == helps[0][""].strip()


def test_the_console_script_says_the_distributions_version(tool) -> None:
    script = Path(sys.executable).parent / tool.command
    shown = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.fullmatch(rf"{tool.command} \d+\.\d+\.\d+\n", shown.stdout)


@pytest.mark.parametrize("arguments", [("--no-such-option",), ("no-such-command",)])
def test_bad_usage_is_one_line_and_status_2(tool, call, arguments) -> None:
    ended = call(tool, *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert re.fullmatch(rf"error: .* Try '{tool.command} --help'\.\n", ended.err)


def test_bash_completes_commands_and_options(tool, helps, call) -> None:
    shell = {"SHELL": "/bin/bash", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    script = call(tool, "--show-completion", "bash", environment=shell)
    assert script.status == 0, script.err
    variable = f"_{tool.module.upper()}_COMPLETE"
    assert f"{variable}=complete_bash" in script.out
    assert script.out.rstrip().endswith(f" {tool.command}")
    first = list(helps[0])[1]
    for typed, completed in (([first[:-1]], first), ([first, "--hel"], "--help")):
        words = {"COMP_WORDS": " ".join([tool.command, *typed]), "COMP_CWORD": str(len(typed))}
        assert call(tool, environment={variable: "complete_bash", **words}).out.split() == [completed]


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_colour_is_for_a_terminal_that_wants_it(tool, call, no_color, colored) -> None:
    controller, terminal = os.openpty()
    environment = {"TERM": "xterm", "NO_COLOR": no_color}
    ended = call(tool, "no-such-command", stderr=os.ttyname(terminal), environment=environment)
    said = os.read(controller, 10_000).decode()
    os.close(controller)
    os.close(terminal)
    assert ended.status == 2
    assert ("\x1b[" in said) == colored
    assert "No such command" in said


def test_what_is_not_there_is_named_in_one_line(reader, call, tmp_path) -> None:
    ended = call(reader, {"ablate": "status", "diag": "health"}[reader.command], "absent", directory=tmp_path)
    assert (ended.status, ended.out) == (2, "")
    assert re.fullmatch(r"error: absent .*\n", ended.err)
    assert list(tmp_path.iterdir()) == []
