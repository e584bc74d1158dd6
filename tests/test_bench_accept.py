"""`just bench` and `just accept`: what their tables say, and that no recipe is left out of them."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))  # as Python does for a script that is run there
record, bench, accept = (importlib.import_module(name) for name in ("record", "bench", "accept"))
figures, recipes = (importlib.import_module(f"accept_{name}") for name in ("figures", "recipes"))

JUSTFILE = set(re.findall(r"^([a-z][a-z-]*)(?: [^\n]*)?:(?!=)", (ROOT / "justfile").read_text(), re.MULTILINE))


def test_every_recipe_with_figures_is_run_by_bench_or_accept():
    benches = {entry.recipe for entry in bench.BENCHES.values()}
    accepted = {entry.recipe for entry in recipes.RECIPES.values()}
    assert {name for name in JUSTFILE if name.startswith("bench-")} == {n for n in benches if n.startswith("bench-")}
    assert {name for name in JUSTFILE if name.startswith("accept-")} == {n for n in accepted if n.startswith("accept-")}
    assert benches | accepted <= JUSTFILE
    assert "bench" in accepted, "the figures beside peers are figures of READMEs, too"


READMES = [ROOT / "README.md", ROOT / "shared/README.md", *sorted(ROOT.glob("packages/*/README.md"))]


def test_a_ratio_says_how_many_times_better_each_turn_was():
    faster = record.beside_peer("t", "training", "s", "lower", [1.0, 2.0, 2.0], "peer", "1", [2.0, 8.0, 2.0], 1)
    assert faster.ratios == (2.0, 4.0, 1.0)
    assert faster.to_json() | {"ratio": 2.0, "least": 1.0, "most": 4.0, "repeats": 3} == faster.to_json()
    rate = record.beside_budget("t", "replies", "per s", "higher", [100.0], 200.0, 1)
    assert (rate.peer, rate.ratios) == ("budget", (0.5,))


def entry(ours, *, arguments=(), state="done", why=""):
    """What bench.json holds of a bench that found one thing."""
    compared = record.beside_peer("qa-train", "training", "stories/s", "higher", [ours], "Trainer", "5", [100.0], 1)
    return {"state": state, "why": why, "arguments": list(arguments), "comparisons": [compared.to_json()]}


def test_the_table_tells_what_moved_and_what_failed():
    old = {"benches": {"same": entry(200.0), "other": entry(200.0, arguments=["--quick"])}}
    failed = {"state": "failed", "why": "No module named 'vocos' (voices.log)", "arguments": [], "comparisons": []}
    new = {"same": entry(150.0), "other": entry(150.0), "fresh": entry(1.0), "voices": failed}
    told = bench.table(new, old).splitlines()
    assert [line.split("  ")[-1].strip() for line in told[1:4]] == ["-25%", "other settings", "new"]
    assert "Trainer 5" in told[1]
    assert "x1.50" in told[1]
    assert told[4] == "voices: failed: No module named 'vocos' (voices.log)"


FAILS = """#!/bin/sh
echo "{}" >&2
echo 'error: recipe `it` failed on line 7 with exit code 1' >&2
exit 1
"""


def test_a_bench_without_its_peer_fails_and_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    just = tmp_path / "just"
    just.write_text(FAILS.format("ModuleNotFoundError: No module named 'vocos'"))
    just.chmod(0o755)
    monkeypatch.setenv("JUST", str(just))
    monkeypatch.setattr(sys, "argv", ["bench.py", "--only", "pca"])
    assert bench.main() == 1
    assert "pca: failed: ModuleNotFoundError: No module named 'vocos' (runs/bench/pca.log)" in capsys.readouterr().out


TABLES = """
full, test, 3 seeds

| system | STOI | words |
| --- | ---: | ---: |
| conversion | 0.812 ± 0.004 | 1,200 |

Faults:

| fault | seed | verdict |
| --- | ---: | --- |
| none | 0 | healthy |
| none | 1 | - |
"""


def test_figures_of_markdown_tables():
    assert figures.markdown(TABLES) == {
        "full, test, 3 seeds: conversion | STOI": "0.812 ± 0.004",
        "full, test, 3 seeds: conversion | words": 1200.0,
        "Faults: none 0 | verdict": "healthy",
        "Faults: none 1 | verdict": "-",
    }


def test_moved_figures_are_told_and_the_last_bits_are_not():
    old = {"f1": 0.9, "loss": 1.00001, "gone": "5 of 5"}
    assert figures.moved(old, {"f1": 0.8, "loss": 1.00002, "fresh": 3.0}) == [
        "f1: 0.9 -> 0.8",
        "gone: 5 of 5 -> nothing",
        "fresh: nothing -> 3",
    ]


JUST = """#!/bin/sh
mkdir -p runs/made && echo x >> runs/made/times
echo "| row | times |\n| --- | --- |\n| run | $(wc -l < runs/made/times) |"
"""


@pytest.fixture
def run_accept(tmp_path, monkeypatch, capsys):
    """`just accept` of one recipe that wants heloc.csv and counts its runs in its folder: exit status, printed text."""
    (tmp_path / "tabular").mkdir()
    (tmp_path / "tabular/heloc.csv").write_text("a,b\n")
    (tmp_path / "just").write_text(JUST)
    (tmp_path / "just").chmod(0o755)
    counts = recipes.Recipe("count", "disc-train", 1, ("{heloc}",), recipes.table_of("tabular"), "runs/made")
    monkeypatch.setattr(accept, "ROOT", tmp_path)
    monkeypatch.setattr(accept, "RECIPES", {"tabular": counts})
    monkeypatch.setenv("JUST", str(tmp_path / "just"))

    def run(*options, source="a commit"):
        monkeypatch.setattr(accept, "source", lambda: source)
        monkeypatch.setattr(sys, "argv", ["accept.py", str(tmp_path), *options])
        return accept.main(), capsys.readouterr().out

    return run


def times(folder):
    """The figure that `run_accept`'s recipe left."""
    entry = json.loads((folder / "runs/accept/accept.json").read_text())["recipes"]["tabular"]
    return entry["figures"]["run | times"]


def test_what_is_done_is_kept_until_code_or_data_change(run_accept, tmp_path):
    status, told = run_accept()
    assert (status, times(tmp_path)) == (0, 1)
    assert told.splitlines()[1].endswith("done")
    status, told = run_accept()
    assert (status, times(tmp_path)) == (0, 1)
    assert "kept from 20" in told
    # A recipe may go on with what lies in its folder; figures of other code are not to be made of it.
    run_accept(source="another commit")
    assert times(tmp_path) == 1
    assert len(list((tmp_path / "runs/accept/old").iterdir())) == 1
    (tmp_path / "tabular/heloc.csv").write_text("a,c\n")
    assert "code, data or arguments have changed" in run_accept("--list", source="another commit")[1]


def test_missing_data_and_failures_are_told(run_accept, tmp_path):
    (tmp_path / "just").write_text(FAILS.format("error: no space left"))
    status, told = run_accept()
    assert status == 1
    assert "failed: error: no space left (runs/accept/tabular.log)" in told
    (tmp_path / "tabular/heloc.csv").unlink()
    status, told = run_accept()
    assert status == 1
    assert f"not run: wants {tmp_path}/tabular/heloc.csv" in told


def test_an_earlier_acceptance_shows_what_moved(run_accept, tmp_path):
    run_accept()
    book = tmp_path / "runs/accept/accept.json"
    old = tmp_path / "old.json"
    old.write_text(book.read_text().replace('"run | times": 1.0', '"run | times": 7.0'))
    assert "  run | times: 7 -> 1" in run_accept("--against", str(old))[1].splitlines()


def test_a_stopped_recipe_goes_on_with_its_folder(run_accept, tmp_path):
    run_accept()
    book = tmp_path / "runs/accept/accept.json"
    book.write_text(book.read_text().replace('"state": "done"', '"state": "stopped"'))
    run_accept()
    assert times(tmp_path) == 2


def test_the_source_names_uncommitted_changes(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *arguments], cwd=tmp_path, check=True)

    assert record.source(tmp_path) == "unknown"
    git("init", "--quiet")
    (tmp_path / "a.py").write_text("a\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "m")
    commit = record.source(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "a.py").write_text("b\n")
    changed = record.source(tmp_path)
    (tmp_path / "new.py").write_text("c\n")
    assert len({commit, changed, record.source(tmp_path)}) == 3
    assert changed.startswith(f"{commit}+")


def test_speakers_of_a_manifest_stand_in_the_names_of_the_files(tmp_path):
    manifest = importlib.import_module("speech_manifest")
    for name in ("flat/103-1240-0000.flac", "1688/1688-142285-0000.flac", "wavs/p227/p227_019.wav", "SPEAKERS.TXT"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [speaker for _, speaker in manifest.recordings(tmp_path)] == ["1688", "103", "p227"]
