"""The commands as a shell sees them: streams and exit statuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Diag = Callable[..., "subprocess.CompletedProcess[str]"]
Log = Callable[..., Path]


@pytest.fixture
def healthy(write_log: Log) -> Path:
    return write_log("healthy.jsonl", train__loss=1.0, valid__loss=1.0, steps=20)


@pytest.fixture
def critical(write_log: Log) -> Path:
    return write_log("critical.jsonl", train__feature_matching=0.0, steps=60)


def test_exit_statuses_for_a_shell_to_branch_on(healthy: Path, critical: Path, tmp_path: Path, diag: Diag) -> None:
    warns = tmp_path / "warns.jsonl"
    warns.write_text("")
    assert diag("health", healthy).returncode == 0
    assert diag("health", warns).returncode == 0
    assert diag("health", warns, "--strict").returncode == 1
    quiet = diag("health", critical, "--quiet")
    assert (quiet.returncode, quiet.stdout) == (1, "")
    assert "feature_matching_idle" in quiet.stderr


def test_critical_embeddings_and_samples_are_exit_status_1(tmp_path: Path, diag: Diag) -> None:
    for name, noise in (("collapsed", 1e-7), ("sound", 1.0)):
        embeddings = 1 + noise * np.random.default_rng(0).normal(size=(40, 8))
        np.savez(tmp_path / f"{name}.npz", embeddings=embeddings, labels=["a", "b"] * 20)
    ended = diag("embeddings", tmp_path / "collapsed.npz", "--json", "--no-plots")
    assert (ended.returncode, json.loads(ended.stdout)["findings"][0]["name"]) == (1, "collapse")
    assert ended.stderr.splitlines()[-1].endswith("collapsed.npz is not healthy: collapse")
    assert diag("embeddings", tmp_path / "sound.npz", "--no-plots").returncode == 0
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "original.wav").write_text("no sound")
    assert diag("samples", tmp_path / "samples").returncode == 1


def test_json_tells_what_the_table_tells(critical: Path, diag: Diag) -> None:
    table = diag("health", critical)
    told = json.loads(diag("health", critical, "--json").stdout)
    assert told["verdict"] == "critical"
    (finding,) = told["findings"]
    assert finding["metric"] == "train/feature_matching"
    for part in (finding["name"], finding["summary"], finding["why"], finding["try"][0]):
        assert part in " ".join(table.stdout.split())


def test_standard_input_and_thresholds_from_the_command_line(diag: Diag) -> None:
    log = "".join(json.dumps({"step": step, "fm_loss": 0.0}) + "\n" for step in range(60))
    assert diag("health", "-", stdin=log).returncode == 1
    assert diag("health", "-", "--set", "window.sustained_points=100", "--quiet", stdin=log).returncode == 0
    wrong = diag("health", "-", "--set", "names.loss=[", stdin=log)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith('error: names.loss = "[" (in --set): no regular expression')


def test_names_cannot_steer_a_terminal(tmp_path: Path, diag: Diag) -> None:
    log = tmp_path / "log.jsonl"
    hostile = "fm_loss\x1b[2J[red]x[/red]</script>/fm_loss"
    log.write_text("".join(json.dumps({"step": step, hostile: 0.0}) + "\n" for step in range(60)))
    shown = diag("health", log)
    assert shown.returncode == 1
    assert "\x1b" not in shown.stdout
    assert "[red]x[/red]</script>" in shown.stdout


@pytest.mark.parametrize("command", ["health", "watch", "report", "compare"])
def test_what_is_not_there_is_one_line(command: str, tmp_path: Path, diag: Diag) -> None:
    ended = diag(command, tmp_path / "none")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)


def test_the_other_commands_print_what_they_made(healthy: Path, critical: Path, tmp_path: Path, diag: Diag) -> None:
    assert [run["name"] for run in json.loads(diag("compare", healthy, critical, "--json").stdout)["runs"]] == [
        "healthy.jsonl",
        "critical.jsonl",
    ]
    page = tmp_path / "report.html"
    assert diag("report", healthy, critical, "--out", page).stdout == f"{page}\n"
    assert page.read_text().startswith("<!")
    assert "exploding_factor" in diag("thresholds").stdout
