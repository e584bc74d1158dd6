"""A small data directory of the built-in tickets and one finished run on it, for all tests of this package."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

RECIPE = """
[model]
embedding = 16
encoder = 16
decoder = 32
latent = 4
[gan]
warmup_epochs = 1
length = 2
width = 8
[training]
epochs = 3
batch_size = 64
quality_every = 3
quality_examples = 8
"""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str


def run_command(*arguments: object, stdin: str | bytes = "") -> Ended:
    """Run `diversity-finetune` in this process, through its entry point."""
    from diversity_finetune.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, sys.stdin
    content = stdin.encode() if isinstance(stdin, str) else stdin
    sys.argv, sys.stdin = ["diversity-finetune", *map(str, arguments)], io.TextIOWrapper(io.BytesIO(content))
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
def diversity_finetune():
    return run_command


@pytest.fixture(scope="session")
def tickets(tmp_path_factory) -> Path:
    """A data directory with a few hundred pairs."""
    out = tmp_path_factory.mktemp("tickets") / "tiny"
    ended = run_command("prepare", "--demo", "--dialogues", 100, "--out", out, "--length", 32)
    assert (ended.status, ended.out) == (0, f"{out}\n"), ended.err
    return out


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def run(tickets, recipe_file, tmp_path_factory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    ended = run_command("train", tickets, "--config", recipe_file, "--threads", 1, "--out", out)
    assert (ended.status, ended.out) == (0, f"{out}\n"), ended.err
    return out
