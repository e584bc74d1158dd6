"""Logs of trainings, made of numbers: what they show is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Log = Callable[..., Path]


@pytest.fixture
def write_log(tmp_path: Path) -> Log:
    """Writes metrics.jsonl with a record a step; a value is a number or None for every step, or an array of them."""

    def write(name: str = "metrics.jsonl", steps: int = 400, **metrics: Any) -> Path:
        columns = {key.replace("__", "/"): np.broadcast_to(value, steps) for key, value in metrics.items()}
        records = [
            {"step": step + 1, **{key: plain(column[step]) for key, column in columns.items()}} for step in range(steps)
        ]
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write


def plain(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def diag() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command as a process of its own; `stdin` is what is piped into it."""

    def call(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from diag.cli import main; main()", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            env=os.environ | {"COLUMNS": "120", "NO_COLOR": "1"},
        )

    return call
