"""Training through the real command, in both frameworks."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainworks.metrics import read_metrics

PROGRAM = "import sys; from qa_train.cli import main; sys.argv[0] = 'qa-train'; main()"


def start(*arguments):
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def untimed(path):
    return [{**record, "time": None} for record in read_metrics(path / "metrics.jsonl")]


def epochs_logged(path):
    file = path / "metrics.jsonl"
    return len(read_metrics(file)) if file.exists() else 0


def weights(path, name):
    (file,) = (path / "checkpoints" / name).glob("*_epoch_*")
    if file.suffix == ".safetensors":
        return file.read_bytes()
    import h5py

    found = {}
    with h5py.File(file) as stored:
        stored.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "shape") else {}))
    return found


def top_epochs(path):
    folders = [folder for folder in (path / "checkpoints").glob("step_*")]
    metas = [json.loads((folder / "meta.json").read_text()) for folder in folders]
    return sorted((meta["epoch"], meta["metrics"]["metrics/valid/accuracy"]) for meta in metas)


def test_a_run_has_what_the_contract_asks_for(run):
    record = json.loads((run / "run.json").read_text())
    assert (record["tool"], record["status"]) == ("qa-train", "finished")
    assert [Path(entry["path"]).name for entry in record["inputs"]] == ["train.jsonl", "valid.jsonl"]
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert len({frozenset(line) for line in lines}) == 1
    for name in ("train/grad_norm", "valid/ece", "category/dense/noun_8/count"):
        assert f"metrics/{name}" in lines[0]
    assert (run / "plots" / "accuracy.png").exists()


def test_best_is_the_best_epoch_and_evaluates_to_the_logged_figures(run, stories, qa_train):
    lines = read_metrics(run / "metrics.jsonl")
    best = max(lines, key=lambda line: (line["metrics/valid/accuracy"], -line["metrics/valid/loss"]))
    record = json.loads((run / "run.json").read_text())
    assert record["result"]["best/epoch"] == best["epoch"]
    ended = qa_train("evaluate", run, stories / "valid.jsonl", "--json", "--threads", 1)
    assert ended.status == 0, ended.err
    overall = json.loads(ended.out)["overall"]
    assert overall["accuracy"] == best["metrics/valid/accuracy"] == record["result"]["metrics/valid/accuracy"]
    assert overall["loss"] == pytest.approx(best["metrics/valid/loss"], rel=1e-6)


def test_weights_are_named_after_data_run_and_epoch(run):
    (file,) = (run / "checkpoints" / "last").glob("*_epoch_*")
    suffix = ".weights.h5" if run.name == "lstm" else ".safetensors"
    assert file.name == f"tiny_{run.name}_epoch_003{suffix}"


def test_predict_answers_every_question_in_its_order(run, stories, qa_train):
    asked = [json.loads(line) for line in (stories / "test.jsonl").read_text().splitlines()[::-1]]
    bare = [{"id": f"q{n}", "story": line["story"], "question": line["question"]} for n, line in enumerate(asked)]
    ended = qa_train("predict", run, "--threads", 1, stdin="".join(json.dumps(line) + "\n" for line in bare))
    answers = [json.loads(line) for line in ended.out.splitlines()]
    assert [answer["id"] for answer in answers] == [line["id"] for line in bare]
    for answer in answers:
        assert answer["answer"] == ("yes" if answer["probability"] >= 0.5 else "no")


def test_fail_under_decides_the_exit_status(run, stories, qa_train):
    assert qa_train("evaluate", run, stories / "valid.jsonl", "--fail-under", 1.0).status == 1
    ended = qa_train("evaluate", run, stories / "valid.jsonl", "--fail-under", 0.01)
    assert ended.status == 0
    assert "EVALUATION RESULTS BY CATEGORY:\n  - dense/noun_2: Accuracy=" in ended.out


def test_an_unknown_actor_and_another_tools_run_are_one_line(run, tmp_path, qa_train):
    line = {"story": ["Xerxes walks north.", "Ann walks south."], "question": "Do Xerxes and Ann face the same way?"}
    ended = qa_train("predict", run, stdin=json.dumps(line))
    assert ended.status == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert '"xerxes"' in ended.err
    other = json.loads((run / "run.json").read_text()) | {"tool": "voice-gan"}
    (tmp_path / "run.json").write_text(json.dumps(other))
    assert qa_train("predict", tmp_path, stdin="").status == 2


@pytest.mark.parametrize(("model", "extra"), [("lstm", "keras"), ("transformer", "torch")])
def test_a_missing_framework_names_the_extra(model, extra, stories, tmp_path, qa_train, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == extra else find(name, *rest))
    ended = qa_train("train", stories, "--model", model, "--out", tmp_path / "run")
    assert ended.status == 2
    assert f"install qa-train[{model}]" in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["transformer", "lstm"])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(model, stories, recipe_file, tmp_path, qa_train):
    options = ["--model", model, "--config", recipe_file, "--threads", 1]
    ended = qa_train(
        "train", stories, *options, "--out", tmp_path / "run", "--set", "training.learning_rate=1e38",
        "--set", "training.clip_norm=1e6",
    )  # fmt: skip
    assert ended.status == 3, ended.err
    assert "non-finite" in ended.err.splitlines()[-1]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("model", "architecture"), [("transformer", "pointer"), ("lstm", "pointer"), ("lstm", "baseline")]
)
def test_killed_and_resumed_a_run_ends_with_the_same_bits(model, architecture, stories, recipe_file, tmp_path, kills):
    options = ["--model", model, "--config", recipe_file, "--threads", 1, "--epochs", kills + 2]
    options += ["--set", f"network.architecture={architecture}", "--set", "network.dropout=0.1"]
    unbroken, broken = tmp_path / "a" / "run", tmp_path / "b" / "run"
    ended = start("train", stories, *options, "--out", unbroken)
    assert ended.wait(300) == 0, ended.stderr.read()
    for kill in range(kills):
        resume = kill > 0
        process = start("train", *(["--resume", broken] if resume else [stories, *options, "--out", broken]))
        wanted = kill + 1
        while process.poll() is None and epochs_logged(broken) < wanted:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = start("train", "--resume", broken)
    assert ended.wait(300) == 0, ended.stderr.read()
    assert untimed(broken) == untimed(unbroken)
    assert top_epochs(broken) == top_epochs(unbroken)
    for name in ("last", "best"):
        assert weights(broken, name) == weights(unbroken, name)


@pytest.mark.parametrize("model", ["transformer", "lstm"])
def test_the_baseline_trains_and_logs_the_same_metrics_as_the_pointer(model, run, stories, tmp_path, qa_train):
    options = ["--model", model, "--preset", "baseline", "--epochs", 1, "--threads", 1]
    ended = qa_train("train", stories, *options, "--set", "network.dim=16", "--out", tmp_path / "run")
    assert ended.status == 0, ended.err
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert line.keys() == read_metrics(run / "metrics.jsonl")[0].keys()
    assert line["metrics/train/direction_loss"] is None
    assert line["metrics/train/loss"] > 0


def test_parts_of_a_batch_give_the_gradient_of_the_whole(stories, tmp_path, qa_train):
    norms = []
    for parts in (1, 4):
        out = tmp_path / str(parts)
        options = ["--epochs", 1, "--set", "training.batch_size=336", "--grad-accum", parts, "--threads", 1]
        ended = qa_train("train", stories, *options, "--set", "network.dim=16", "--out", out)
        assert ended.status == 0, ended.err
        (line,) = read_metrics(out / "metrics.jsonl")
        norms.append([line["metrics/train/grad_norm"], line["metrics/train/loss"]])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
