"""What holds for the command line of every tool (DESIGN section 3)."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

HEAVY = {"torch", "tensorflow", "keras", "pandas", "transformers", "neptune", "sklearn", "matplotlib", "nltk", "scipy"}


@dataclass(frozen=True)
class Tool:
    """One command: how it is imported, how training with the built-in data is asked for (empty where it trains
    nothing) and, where that is in files, how they are made in the working directory."""

    command: str
    module: str
    train: tuple[str, ...] = ()
    make_data: tuple[str, ...] = ()


TOOLS = [
    Tool("adapter-stage1", "adapter_stage1", ("train", "--data", "builtin:facts", "--out")),
    Tool("disc-train", "disc_train", ("train", "builtin:fair", "--out")),
    Tool(
        "diversity-finetune",
        "diversity_finetune",
        ("train", "data", "--out"),
        ("prepare", "--demo", "--dialogues", "40", "--out", "data"),
    ),
    Tool("qa-train", "qa_train", ("train", "data", "--out"), ("make-stories", "--out", "data", "--train", "9")),
    Tool(
        "voice-gan",
        "voice_gan",
        ("train", "data", "--out"),
        ("prepare", "--demo", "--voices", "2", "--utterances", "2", "--out", "data"),
    ),
    Tool("ablate", "ablate", ("run", "qa-train", "--out")),
    Tool("diag", "diag"),
]


@pytest.fixture(params=TOOLS, ids=lambda tool: tool.command)
def tool(request: pytest.FixtureRequest) -> Tool:
    return request.param


def call(tool: Tool, *arguments: str, cwd: os.PathLike[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the tool through its console script's function, as its own process."""
    script = f"import sys; from {tool.module}.cli import main; sys.argv[0] = {tool.command!r}; main()"
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)


def subcommands(tool: Tool) -> list[str]:
    script = (
        f"import json, typer.main; from {tool.module}.cli import app\n"
        "print(json.dumps(list(getattr(typer.main.get_command(app), 'commands', {}))))"
    )
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(asked.stdout)


def test_every_help_opens_with_an_example(tool: Tool) -> None:
    for command in [(), *((name,) for name in subcommands(tool))]:
        shown = call(tool, *command, "--help")
        assert shown.returncode == 0, shown.stderr
        assert shown.stderr == ""
        usage, _, rest = shown.stdout.partition("Usage:")
        assert usage.strip() == ""
        first = rest.partition("\n")[2].split("─", 1)[0].strip()
        asked = " ".join([tool.command, *command])
        assert re.match(rf"Example:\s+\$?\s*{re.escape(asked)}", first), f"{asked} --help opens with {first!r}"


def test_help_imports_nothing_heavy(tool: Tool) -> None:
    script = (
        f"import sys\nfrom {tool.module}.cli import main\nsys.argv = ['{tool.command}', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    for command in [(), *((name,) for name in subcommands(tool))]:
        shown = subprocess.run(
            [sys.executable, "-c", script, *command, "--help"], capture_output=True, text=True, check=True
        )
        modules = set(shown.stderr.split())
        assert "typer" in modules
        assert not modules & HEAVY, command


def test_version_is_the_distributions(tool: Tool) -> None:
    shown = call(tool, "--version")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.fullmatch(rf"{tool.command} \d+\.\d+\.\d+\n", shown.stdout)


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool.train], ids=lambda tool: tool.command)
def test_an_unknown_key_names_the_nearest_and_leaves_no_run(tool: Tool, tmp_path: os.PathLike[str]) -> None:
    out = os.path.join(tmp_path, "run")
    if tool.make_data:
        assert call(tool, *tool.make_data, cwd=tmp_path).returncode == 0
    described = call(tool, *tool.train, out, "--dry-run", cwd=tmp_path)
    assert described.returncode == 0, described.stderr
    assert not os.path.exists(out)
    wrong = call(tool, *tool.train, out, "--set", "sed=3", cwd=tmp_path)
    assert wrong.returncode == 2
    assert re.fullmatch(r'error: unknown key "sed".*; did you mean ".*seed"\?\n', wrong.stderr)
    assert wrong.stdout == ""
    assert not os.path.exists(out)


@pytest.mark.parametrize("arguments", [("--no-such-option",), ("no-such-command",)])
def test_bad_usage_is_one_line_and_status_2(tool: Tool, arguments: tuple[str, ...]) -> None:
    ended = call(tool, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
