"""What the command line does beside passing its options on."""

import json
import shutil

import pytest


def test_a_dry_run_checks_the_data_and_writes_nothing(stories, tmp_path, qa_train):
    described = json.loads((stories / "data.json").read_text())["splits"]
    ended = qa_train("train", stories, "--out", tmp_path / "run", "--epochs", 2, "--dry-run")
    assert ended.status == 0, ended.err
    plan = json.loads(ended.out)
    assert [(entry["rows"], entry["sha256"]) for entry in plan["inputs"]] == [
        (described[name]["examples"], described[name]["sha256"]) for name in ("train", "valid")
    ]
    assert plan["config"]["training"]["epochs"] == 2
    assert f"{tmp_path / 'run'}/metrics.jsonl" in plan["would_write"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": "maybe"}, 'the answer is "maybe"'),
        ({"story": ["Ann sings."], "num_sentences": 1}, 'the model does not know the word "sings"'),
        ({"story": ["Ann walks north " * 20], "num_sentences": 1}, "60 words, and network.max_words is 32"),
    ],
)
def test_a_dry_run_refuses_the_data_that_training_would_refuse(changes, reason, stories, tmp_path, qa_train):
    data = shutil.copytree(stories, tmp_path / "data")
    line = json.loads((data / "valid.jsonl").read_text().splitlines()[0])
    (data / "valid.jsonl").write_text(json.dumps({**line, **changes}) + "\n")
    ended = qa_train("train", data, "--out", tmp_path / "run", "--dry-run")
    assert (ended.status, ended.out) == (2, "")
    assert f"{data / 'valid.jsonl'}, line 1: " in ended.err
    assert reason in ended.err


def test_a_dry_run_without_data_checks_the_recipe_and_says_so(tmp_path, qa_train):
    ended = qa_train("train", tmp_path / "nowhere", "--out", tmp_path / "run", "--dry-run")
    assert (ended.status, ended.err) == (
        0,
        f"warning: {tmp_path}/nowhere does not exist: only the recipe was checked\n",
    )
    assert json.loads(ended.out)["words"] is None
    assert qa_train("train", tmp_path / "nowhere", "--out", tmp_path / "run", "--dry-run", "--set", "x=1").status == 2


@pytest.mark.parametrize(
    ("first", "resumed", "options", "goes_on"),
    [
        (["--tracker", "neptune"], [], [], True),
        (["--tracker=neptune"], [["--resume", "run"]], [], True),
        (["--tracker", "neptune"], [], ["--tracker", "none"], False),
        (["--tracker", "neptune"], [["--resume", "run", "--tracker", "none"]], [], False),
        ([], [], [], False),
    ],
)
def test_a_resumed_run_keeps_its_tracker(first, resumed, options, goes_on, run, tmp_path, qa_train):
    pytest.importorskip("neptune")
    stopped = shutil.copytree(run, tmp_path / "run", symlinks=True)
    record = json.loads((run / "run.json").read_text())
    record |= {"status": "interrupted", "argv": [*record["argv"], *first], "resumed": [{"argv": r} for r in resumed]}
    (stopped / "run.json").write_text(json.dumps(record))
    ended = qa_train("train", "--resume", stopped, *options)
    assert ended.status == 0, ended.err
    assert (stopped / ".neptune").exists() == goes_on
