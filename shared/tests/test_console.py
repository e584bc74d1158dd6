import io
import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainworks import console

APP = """
import os, sys
from typing import Annotated
import typer
from trainworks.console import AnswerNo, Interrupted, NonFinite, UserError
from trainworks.console import entry, info, version_callback, warn

app = typer.Typer()

@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=version_callback("trainworks"), is_eager=True)
    ] = False
):
    pass

@app.command()
def end(how: str, number: int = 0):
    ends = {
        "user": UserError("rows.csv line 3: 4 fields, expected 5"),
        "no": AnswerNo("AUC 0.71 is above --fail-under 0.6"),
        "nan": NonFinite("non-finite loss at step 3"),
        "term": Interrupted(15, "saved step 7"),
        "ctrl-c": KeyboardInterrupt(),
        "bug": KeyError("x"),
        "space": OSError(28, "No space left on device", "runs/a"),
        "permission": PermissionError(13, "Permission denied", "runs/a"),
    }
    if how in ends:
        raise ends[how]
    info("for people")
    warn("careful")
    print("data")

@app.command()
def rows(count: int):
    for number in range(count):
        print("row", number)

entry(app)()
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("app") / "app.py"
    path.write_text(APP)
    return [sys.executable, str(path)]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.mark.parametrize(
    ("arguments", "status", "stderr"),
    [
        ("end user", 2, "error: rows.csv line 3: 4 fields, expected 5"),
        ("end no", 1, "AUC 0.71 is above --fail-under 0.6"),
        ("end nan", 3, "error: non-finite loss at step 3"),
        ("end term", 143, "interrupted by SIGTERM; saved step 7"),
        ("end bug", 70, "error: this is a bug: KeyError: 'x'; TRAINWORKS_DEBUG=1 shows where"),
        ("end space", 2, "error: no space left on device: runs/a; free some space and run it again"),
        ("end permission", 2, "error: Permission denied: runs/a"),
        ("end a --numbr 3", 2, "error: No such option: --numbr"),
        ("end a --number x", 2, "error: Invalid value for '--number'"),
        ("end", 2, "error: Missing argument"),
        ("rows 1 b", 2, "error: Got unexpected extra argument(s) (b). Try '"),
        ("edn", 2, "error: No such command 'edn'. Did you mean 'end'? Try '"),
    ],
)
def test_an_end_is_one_line_and_a_status(app: list[str], arguments: str, status: int, stderr: str) -> None:
    ended = run([*app, *arguments.split()])
    assert ended.returncode == status, ended.stderr
    assert ended.stderr.startswith(stderr)
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_ctrl_c_ends_with_130(app: list[str]) -> None:
    assert run([*app, "end", "ctrl-c"]).returncode == 130


def test_success_keeps_data_and_messages_apart(app: list[str]) -> None:
    ended = run([*app, "end", "well"])
    assert (ended.returncode, ended.stdout) == (0, "data\n")
    assert ended.stderr == "for people\nwarning: careful\n"


def test_version_is_data(app: list[str]) -> None:
    ended = run([*app, "--version"])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.fullmatch(r"trainworks \d+\.\d+\.\d+\n", ended.stdout)


def test_help_of_a_command_is_a_command_too(app: list[str]) -> None:
    shown = run([*app, "help", "rows"])
    assert shown.stdout == run([*app, "rows", "--help"]).stdout
    assert "COUNT" in shown.stdout.upper()


def test_debug_shows_the_traceback_before_the_line(app: list[str]) -> None:
    ended = run([*app, "end", "bug"], TRAINWORKS_DEBUG="1")
    assert ended.returncode == 70
    assert "Traceback" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: this is a bug")


def test_a_reader_that_goes_away_is_no_error(app: list[str]) -> None:
    piped = f"{' '.join(app)} rows 100000 | head -n 1; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", piped], capture_output=True, text=True)
    assert ended.stdout == f"row 0\n{128 + signal.SIGPIPE}\n"
    assert ended.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("count", ["1", "100000"])
def test_a_full_disk_under_stdout_is_told_once(app: list[str], count: str) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run([*app, "rows", count], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "error: no space left on device; free some space and run it again\n"


def test_importing_the_console_is_cheap() -> None:
    script = "import sys, trainworks.console; print(*sys.modules)"
    modules = run([sys.executable, "-c", script]).stdout.split()
    assert not {"rich", "typer", "pydantic", "numpy"} & set(modules)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    console.warn("careful")
    assert "\x1b[" in sys.stderr.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", Terminal())
    console.warn("careful")
    assert sys.stderr.getvalue() == "warning: careful\n"


def test_quiet_leaves_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    console.set_quiet(True)
    try:
        console.info("for people")
        console.warn("careful")
        with console.progress(3, "training", every=0) as bar:
            bar.advance()
    finally:
        console.set_quiet(False)
    assert capsys.readouterr().err == "warning: careful\n"


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = itertools.count(0.0, 4.0)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    with console.progress(2000, "training", start=1000) as bar:
        for _ in range(6):
            bar.advance(100, note="loss 0.5")
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "training: 1,300/2,000, 25/s, 0:00:28 left, loss 0.5",
        "training: 1,600/2,000, 25/s, 0:00:16 left, loss 0.5",
    ]
    assert captured.out == ""


def test_progress_of_unknown_length(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress(None, "sampling", every=0) as bar:
        bar.advance(5)
    assert capsys.readouterr().err.startswith("sampling: 5, ")


def test_on_a_terminal_messages_do_not_tear_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with console.progress(10, "training") as bar:
        bar.advance(10, note="loss 0.5")
        console.info("saved [step] 10")
    shown = sys.stderr.getvalue()
    assert "saved [step] 10\n" in shown
    assert "10/10" in shown
    assert capsys.readouterr().out == ""
