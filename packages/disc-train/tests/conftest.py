"""A small table with planted dependencies, and one run trained on it, for all tests of this package."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

SIZE_OF = {"red": "S", "green": "M", "blue": "L"}
"""Planted: 95 % of the rows have the size of their color."""

RECIPE = """
target = "color"
[model]
dim = 32
depth = 1
[warm_start]
max_epochs = 1
min_steps = 150
batch_size = 64
learning_rate = 1e-2
[feedback]
cycles = 2
steps_per_cycle = 4
batch_size = 64
real_batch_size = 64
[discriminator]
dim = 16
depth = 1
max_epochs = 2
"""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str


@contextlib.contextmanager
def standard_streams(stdin: bytes, out, err):
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    finally:
        sys.stdin = before


def disc_train_command(*arguments: object, stdin: str | bytes = b"") -> Ended:
    """Run the console script's function in this process, so that torch is imported once for all tests."""
    from disc_train.cli import main

    stdin = stdin.encode() if isinstance(stdin, str) else stdin
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["disc-train", *map(str, arguments)]
    try:
        with standard_streams(stdin, out, err), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    return Ended(ended.value.code or 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def disc_train():
    """Call it with a command line; it gives back an `Ended`."""
    return disc_train_command


@pytest.fixture(scope="session")
def disc_train_process():
    """As `disc_train`, in a process of its own and with the given standard input and output."""

    def start(*arguments: object, program: str = "", **options) -> subprocess.Popen:
        code = f"{program}\nimport sys\nsys.argv[0] = 'disc-train'\nfrom disc_train.cli import main\nmain()"
        return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **options)

    return start


def planted_rows(count: int, seed: int) -> list[list[str]]:
    """color -> size (95 %), age -> income (100 a year, give or take 200), visits with a code -9, income with gaps."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        color = str(rng.choice(["red", "green", "blue"], p=[0.5, 0.3, 0.2]))
        size = SIZE_OF[color] if rng.random() < 0.95 else str(rng.choice(["S", "M", "L"]))
        age = int(rng.integers(18, 60))
        visits = -9 if rng.random() < 0.1 else int(rng.poisson(3))
        income = "" if rng.random() < 0.05 else f"{age * 100 + rng.normal() * 200:.2f}"
        rows.append([color, size, str(age), str(visits), income])
    return rows


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    path.write_text("".join(",".join(row) + "\n" for row in [header, *rows]))
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="session")
def table_csv(folder) -> Path:
    return write_csv(folder / "table.csv", ["color", "size", "age", "visits", "income"], planted_rows(200, seed=0))


@pytest.fixture(scope="session")
def fresh_csv(folder) -> Path:
    """Rows of the same distribution that training never saw."""
    return write_csv(folder / "fresh.csv", ["color", "size", "age", "visits", "income"], planted_rows(300, seed=1))


@pytest.fixture(scope="session")
def recipe_file(folder) -> Path:
    path = folder / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def run_dir(folder, table_csv, recipe_file) -> Path:
    """A finished run of `disc-train train`. Read it; to change it, change a copy."""
    ended = disc_train_command(
        "train", table_csv, "--out", folder / "run", "--config", recipe_file, "--threads", 1, "--device", "cpu"
    )
    assert ended.status == 0, ended.err
    return folder / "run"


@pytest.fixture(scope="session")
def trained(run_dir):
    from disc_train.run import load_trained

    return load_trained(run_dir, device="cpu", threads=1)


@pytest.fixture
def quick_validation(monkeypatch):
    """A cheap, deterministic stand-in for the forests of the two-sample test, where they are not what is tested."""
    monkeypatch.setattr("disc_train.train.validation_auc", lambda real, fake, seed: 0.5 + abs(fake.mean() % 1 - 0.5))
