"""A fake trainer, suites that use it, and the command itself."""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TRAINER = Path(__file__).parent / "fake_trainer.py"
HEAD = f"""
command = '{sys.executable} {TRAINER}'
arguments = "--threads {{threads}}"
epochs = "training.steps"
[metrics]
"valid/accuracy" = {{ direction = "max", effect = 0.02 }}
"""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str


def ablate_command(*arguments: object) -> Ended:
    """Run `ablate` in this process, through its entry point."""
    from ablate.cli import main

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["ablate", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    return Ended(int(str(ended.value.code or 0)), out.getvalue(), err.getvalue())


@pytest.fixture
def ablate() -> Callable[..., Ended]:
    return ablate_command


@pytest.fixture(autouse=True)
def no_diag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are made where a test brings its own `diag`, whatever is installed."""
    import shutil

    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None if name == "diag" else which(name, path=path))


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., Path]:
    """Write a suite of the fake trainer: `suite(variants, name="suite")`, the rest of the file as TOML."""

    def write(body: str, name: str = "suite", head: str = HEAD) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(head + body)
        return path

    return write


@pytest.fixture
def head() -> str:
    """The part of a suite that every one has; `suite` writes it if no other is given."""
    return HEAD


@pytest.fixture
def record() -> Callable[..., dict[str, Any]]:
    """What is remembered of a run: `record(folder, variant, seed=0)`."""

    def read(folder: Path, variant: str, seed: int = 0) -> dict[str, Any]:
        return json.loads((folder / f"checkpoints_{variant}" / f"seed_{seed}.json").read_text())

    return read


@pytest.fixture
def run_json() -> Callable[..., dict[str, Any]]:
    """A run's run.json: `run_json(folder, variant, seed=0)`."""

    def read(folder: Path, variant: str, seed: int = 0) -> dict[str, Any]:
        return json.loads((folder / f"checkpoints_{variant}" / f"seed_{seed}" / "run.json").read_text())

    return read
