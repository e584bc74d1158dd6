"""Runs side by side, as a user reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from diag.compare import ABSENT, compare_runs, console_text
from trainworks.console import UserError


def write_run(path: Path, records: list[dict[str, Any]], **changes: Any) -> Path:
    """A finished run directory."""
    path.mkdir(parents=True)
    record = {
        "schema": 1,
        "tool": "qa-train",
        "version": "0.1.0",
        "config": {},
        "seed": 0,
        "status": "finished",
        **changes,
    }
    (path / "run.json").write_text(json.dumps(record))
    (path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def curve(last: int, seconds: float, offset: float = 0.0) -> list[dict[str, Any]]:
    return [
        {"step": step, "epoch": None, "time": step * seconds, "loss": offset - step} for step in range(0, last + 1, 10)
    ]


def test_results_and_what_differs_stand_side_by_side(tmp_path: Path):
    first = write_run(
        tmp_path / "a", [], result={"acc": 0.9, "more": {"f1": 1}}, config={"lr": 0.1, "net": {"size": 8}}
    )
    second = write_run(
        tmp_path / "b", [], result={"acc": 0.8}, config={"lr": 0.2, "net": {"size": 8, "bias": True}}, seed=1
    )
    found = compare_runs([first, second])
    assert found["results"] == [{"name": "acc", "values": [0.9, 0.8]}, {"name": "more.f1", "values": [1, None]}]
    assert found["configuration"] == [
        {"name": "seed", "values": [0, 1]},
        {"name": "lr", "values": [0.1, 0.2]},
        {"name": "net.bias", "values": [ABSENT, True]},
    ]
    text = console_text(found)
    assert "acc" in text
    assert "net.bias" in text
    assert "net.size" not in text
    json.dumps(found)


def test_curves_are_compared_at_the_largest_common_step_and_time(tmp_path: Path):
    slow = write_run(tmp_path / "slow", curve(100, seconds=2.0))
    fast = write_run(tmp_path / "fast", curve(200, seconds=0.5, offset=1000.0))
    found = compare_runs([slow, fast])
    assert found["equal_step"] == {"at": 100, "metrics": [{"name": "loss", "values": [-100, 900]}]}
    assert found["equal_time"] == {"at": 100, "metrics": [{"name": "loss", "values": [-50, 800]}]}


def test_a_foreign_log_is_compared_by_what_it_has(tmp_path: Path):
    run = write_run(tmp_path / "run", curve(30, seconds=1.0))
    (tmp_path / "log.csv").write_text("step,loss\n10,5\n20,nan\n40,3\n")
    found = compare_runs([run, tmp_path / "log.csv"])
    assert found["equal_step"]["metrics"] == [{"name": "loss", "values": [-30, 5]}]
    assert found["equal_time"]["at"] is None
    assert found["configuration"] == []


def test_runs_of_one_name_are_told_apart(tmp_path: Path):
    paths = [write_run(tmp_path / parent / "run", []) for parent in ("x", "y")]
    names = [run["name"] for run in compare_runs([*paths, paths[0]])["runs"]]
    assert len(set(names)) == 3


def test_what_steers_a_terminal_is_not_printed(tmp_path: Path):
    runs = [write_run(tmp_path / name, [], config={"name": value}) for name, value in (("a", "x\x1b[2J"), ("b", "y"))]
    assert "\x1b" not in console_text(compare_runs(runs))


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        compare_runs([tmp_path / "none"])
