"""Evaluating a finished run: what the report is of, and what it is compared with."""

import json
import shutil

import pytest


@pytest.fixture
def copied(run, tmp_path):
    """A copy of a finished run, to be evaluated without traces in other tests."""
    return shutil.copytree(run, tmp_path / "run", symlinks=True)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_report_names_run_checkpoint_and_data(copied, stories, qa_train):
    record = json.loads((copied / "run.json").read_text())
    last = json.loads((copied / "checkpoints" / "last" / "meta.json").read_text())
    described = json.loads((stories / "data.json").read_text())["splits"]["test"]
    ended = qa_train("evaluate", copied, stories / "test.jsonl", "--json", "--checkpoint", "last", "--threads", 1)
    assert ended.status == 0, ended.err
    report = json.loads(ended.out)
    assert report["judged"] == {
        "run": record["id"],
        "checkpoint": "last",
        "step": last["step"],
        "epoch": 3,
        "data": {
            "path": str((stories / "test.jsonl").resolve()),
            "sha256": described["sha256"],
            "rows": described["examples"],
        },
        "majority": "yes",
        "majority_of": "training data",
    }
    assert json.loads((copied / "reports" / "test" / "report.json").read_text()) == report


def test_the_report_of_training_says_what_it_judged(run):
    record = json.loads((run / "run.json").read_text())
    judged = json.loads((run / "reports" / "valid" / "report.json").read_text())["judged"]
    assert (judged["run"], judged["checkpoint"]) == (record["id"], "best")
    assert judged["epoch"] == record["result"]["best/epoch"]
    assert judged["data"] == record["inputs"][1]


def test_the_majority_is_the_training_datas_and_else_the_evaluated_sets(copied, stories, tmp_path, qa_train):
    no = written(tmp_path / "no.jsonl", [line for line in lines_of(stories / "test.jsonl") if line["answer"] == "no"])
    known = json.loads(qa_train("evaluate", copied, no, "--json", "--threads", 1).out)
    assert known["judged"]["majority_of"] == "training data"
    assert known["shortcuts"]["majority"]["overall"]["accuracy"] == 0  # as common in training, so it says yes
    record = json.loads((copied / "run.json").read_text())
    record["inputs"][0]["path"] = str(tmp_path / "moved" / "train.jsonl")
    (copied / "run.json").write_text(json.dumps(record))
    ended = qa_train("evaluate", copied, no, "--threads", 1)
    assert "BESIDE SHORTCUTS (majority of the evaluated data" in ended.out
    assert "  majority                    Accuracy=1.0000" in ended.out


def test_another_file_of_the_same_name_is_told_apart(copied, stories, tmp_path, qa_train):
    other = written(tmp_path / "other" / "test.jsonl", lines_of(stories / "test.jsonl")[:9])
    report = copied / "reports" / "test" / "report.json"
    for _ in range(2):  # the same file may be judged again
        assert qa_train("evaluate", copied, stories / "test.jsonl", "--threads", 1).status == 0
    before = report.read_bytes()
    ended = qa_train("evaluate", copied, other, "--threads", 1)
    assert (ended.status, ended.out) == (2, "")
    assert f"{stories / 'test.jsonl'}; give --overwrite, or --out {report.parent}-2" in ended.err
    assert report.read_bytes() == before
    assert qa_train("evaluate", copied, other, "--out", f"{report.parent}-2", "--threads", 1).status == 0
    assert qa_train("evaluate", copied, other, "--overwrite", "--threads", 1).status == 0
    assert json.loads(report.read_text())["judged"]["data"]["rows"] == 9
