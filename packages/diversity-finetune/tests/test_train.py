"""Training through the real command."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from trainworks.metrics import read_metrics

PROGRAM = "import sys; from diversity_finetune.cli import main; sys.argv[0] = 'diversity-finetune'; main()"


def start(*arguments):
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def records(run):
    return [{**record, "time": None} for record in read_metrics(run / "metrics.jsonl")]


def weights(file):
    import h5py

    found = {}
    with h5py.File(file) as stored:
        stored.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "shape") else {}))
    return found


@pytest.fixture(scope="module")
def unbroken(tickets, recipe_file, tmp_path_factory):
    """A finished run of a process of its own: how many threads TensorFlow has in this one depends on other tests."""
    out = tmp_path_factory.mktemp("unbroken") / "tiny"
    ended = start("train", tickets, "--config", recipe_file, "--threads", 1, "--out", out)
    assert ended.wait() == 0, ended.stderr.read()
    return out


def test_a_run_has_what_the_contract_asks_for(run):
    record = json.loads((run / "run.json").read_text())
    assert (record["tool"], record["status"]) == ("diversity-finetune", "finished")
    epochs = [line for line in records(run) if "valid/loss" in line]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    for name in ("valid/kl_customer", "valid/active_units_agent", "train/diversity", "disc/loss", "train/adversarial"):
        assert name in epochs[-1], name
    assert "disc/loss" not in epochs[0]  # the first epoch learns by likelihood alone
    assert epochs[-1]["valid/loss"] < epochs[0]["valid/loss"]
    assert (run / "plots" / "loss.png").exists()
    with open(run / "logs" / "diversity_quality_log.csv") as file:
        (line,) = csv.DictReader(file)
    assert line["epoch"] == "3"


def test_the_step_size_holds_and_then_falls_to_nothing(run):
    epochs = [line for line in records(run) if "valid/loss" in line]
    steps = epochs[0]["step"]
    expected = [2e-3, 2e-3 * (steps + 1) / (1.5 * steps), 2e-3 / (1.5 * steps)]
    assert [line["train/learning_rate"] for line in epochs] == pytest.approx(expected)


def test_the_three_best_checkpoints_are_named_after_epoch_and_loss(run):
    epochs = {line["epoch"]: line["valid/loss"] for line in records(run) if "valid/loss" in line}
    names = {path.name for path in (run / "checkpoints").glob("step_*/*.weights.h5")}
    assert names == {f"best_model_epoch_{epoch:03d}_val_{loss:.4f}.weights.h5" for epoch, loss in epochs.items()}
    (best,) = (run / "checkpoints" / "best").glob("*.weights.h5")
    assert weights(best) == weights(run / "final_model.weights.h5")


def test_garbage_replies_change_nothing_at_inference(run, tickets, diversity_finetune, tmp_path):
    pairs = [json.loads(line) for line in (tickets / "test.jsonl").read_text().splitlines()[:8]]
    garbage = [{**pair, "agent": "qux " * 30, "intent": None} for pair in pairs]
    replies = []
    for asked in (pairs, garbage):
        lines = "".join(json.dumps(pair) + "\n" for pair in asked)
        ended = diversity_finetune("generate", run, "--set", "temperature=0.7", "--threads", 1, stdin=lines)
        assert ended.status == 0, ended.err
        replies.append(ended.out)
    assert replies[0] == replies[1]
    assert len(replies[0].splitlines()) == len(pairs)


def test_killed_and_resumed_a_run_ends_with_the_same_bits(unbroken, tickets, recipe_file, tmp_path, kills):
    broken = tmp_path / unbroken.name
    for kill in range(kills):
        again = ["--resume", broken] if kill else [tickets, "--config", recipe_file, "--threads", 1, "--out", broken]
        process = start("train", *again)
        while process.poll() is None and not list((broken / "checkpoints").glob(f"step_*/*epoch_00{kill + 1}*")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = start("train", "--resume", broken)
    assert ended.wait() == 0, ended.stderr.read()
    assert records(broken) == records(unbroken)
    assert weights(broken / "final_model.weights.h5") == weights(unbroken / "final_model.weights.h5")
    assert (broken / "logs" / "diversity_quality_log.csv").read_text() == (
        unbroken / "logs" / "diversity_quality_log.csv"
    ).read_text()


def test_an_interrupt_saves_the_step_and_resuming_ends_as_if_unbroken(unbroken, tickets, recipe_file, tmp_path):
    broken = tmp_path / unbroken.name
    process = start("train", tickets, "--config", recipe_file, "--threads", 1, "--out", broken)
    while process.poll() is None and not (broken / "checkpoints" / "last").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert "--resume" in process.stderr.read()
    assert json.loads((broken / "run.json").read_text())["status"] == "interrupted"
    ended = start("train", "--resume", broken)
    assert ended.wait() == 0, ended.stderr.read()
    assert records(broken) == records(unbroken)


def test_a_loss_that_is_not_finite_stops_before_the_step(tickets, recipe_file, tmp_path, diversity_finetune):
    ended = diversity_finetune(
        "train", tickets, "--config", recipe_file, "--threads", 1, "--out", tmp_path / "run",
        "--set", "training.learning_rate=1e38", "--set", "training.clip_norm=1e30",
    )  # fmt: skip
    assert ended.status == 3, ended.err
    assert "non-finite" in ended.err.splitlines()[-1]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_parts_of_a_batch_give_the_gradient_of_the_whole(tickets, tmp_path, diversity_finetune, recipe_file):
    still = [
        "model.dropout=0",
        "vae.enabled=false",
        "gan.enabled=false",
        "diversity.stride=1",
        "training.batch_size=1000",
    ]
    found = []
    for parts in (1, 3):
        options = [option for value in still for option in ("--set", value)]
        ended = diversity_finetune(
            "train", tickets, "--config", recipe_file, "--threads", 1, "--epochs", 1, *options,
            "--grad-accum", parts, "--out", tmp_path / str(parts),
        )  # fmt: skip
        assert ended.status == 0, ended.err
        (line,) = records(tmp_path / str(parts))
        found.append([line["train/grad_norm"], line["train/loss"], line["valid/loss"]])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_batches_hold_every_pair_once_and_little_padding(tickets):
    from diversity_finetune.data import SIDES, read_arrays
    from diversity_finetune.train import epoch_batches

    arrays = read_arrays(tickets, "train", 10_000)
    batches = epoch_batches(arrays, 16, seed=0, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(len(arrays)))
    assert all(len(batch) <= 16 for batch in batches)
    taken = [arrays.take(batch) for batch in batches]
    read = sum(getattr(batch, side).size for batch in taken for side in SIDES)
    words = sum(int((getattr(arrays, side) != 0).sum()) for side in SIDES)
    assert read < 1.5 * words
    again, other = epoch_batches(arrays, 16, 0, 0), epoch_batches(arrays, 16, 0, 1)
    assert all((one == two).all() for one, two in zip(batches, again, strict=True))
    assert {frozenset(batch) for batch in batches} != {frozenset(batch) for batch in other}


def test_a_tokenizer_of_another_model_is_refused(run, tmp_path, diversity_finetune):
    from diversity_finetune.run import load_weights
    from diversity_finetune.tokenizer import Tokenizer
    from trainworks.console import UserError

    Tokenizer.train(["hello hello"]).save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="not the tokenizer that"):
        load_weights(run / "final_model.weights.h5", tmp_path / "tokenizer.json", "cpu", 1)
