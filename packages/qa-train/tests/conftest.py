"""A small data set of stories and one run of each framework, for all tests of this package."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

RECIPE = """
[network]
dim = 32
num_rounds = 4
[training]
epochs = 3
batch_size = 32
learning_rate = 3e-3
"""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str


def run_command(*arguments: object, stdin: str = "") -> Ended:
    """Run `qa-train` in this process, through its entry point."""
    from qa_train.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["qa-train", *map(str, arguments)], io.TextIOWrapper(io.BytesIO(stdin.encode()))
    status: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        sys.argv, sys.stdin = before
    return Ended(int(str(status)), out.getvalue(), err.getvalue())


@pytest.fixture
def qa_train():
    return run_command


@pytest.fixture(scope="session")
def stories(tmp_path_factory) -> Path:
    """A data directory with a few hundred stories."""
    out = tmp_path_factory.mktemp("stories") / "tiny"
    sizes = ["--train", 24, "--valid", 6, "--valid-b", 1, "--test", 2]
    ended = run_command("make-stories", "--out", out, "--category", "simple", "--category", "dense", *sizes)
    assert (ended.status, ended.out) == (0, f"{out}\n"), ended.err
    return out


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session", params=["transformer", "lstm"])
def run(request, stories, recipe_file, tmp_path_factory) -> Path:
    """A finished run, of each framework in turn."""
    out = tmp_path_factory.mktemp("runs") / request.param
    options = ["--model", request.param, "--config", recipe_file, "--threads", 1, "--out", out]
    ended = run_command("train", stories, *options)
    assert (ended.status, ended.out) == (0, f"{out}\n"), ended.err
    return out
