"""Training through the real command."""

import csv
import json
import multiprocessing
import time
import tomllib

import numpy as np
import pytest

from trainworks.metrics import read_metrics

PROGRAM = """
import os, sys
os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
sys.argv = {argv!r}
from diversity_finetune import cli
cli.main()
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start `diversity-finetune` in a process that has TensorFlow loaded already; gives back the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diversity_finetune.cli", "diversity_finetune.train", "matplotlib.pyplot"])
    started = []

    def call(*arguments):
        log = tmp_path_factory.mktemp("log") / "stderr.txt"
        program = PROGRAM.format(log=str(log), argv=["diversity-finetune", *map(str, arguments)])
        process = context.Process(target=exec, args=(program, {}))
        process.start()
        process.log = log
        started.append(process)
        return process

    yield call
    for process in started:
        if process.is_alive():
            process.kill()


def finish(process):
    process.join()
    assert process.exitcode == 0, process.log.read_text()[-2000:]


def records(run):
    return [{**record, "time": None} for record in read_metrics(run / "metrics.jsonl")]


def weights(file):
    import h5py

    found = {}
    with h5py.File(file) as stored:
        stored.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "shape") else {}))
    return found


@pytest.fixture(scope="module")
def unbroken(start, tickets, recipe_file, tmp_path_factory):
    """A finished run of a process of its own: how many threads TensorFlow has in this one depends on other tests."""
    out = tmp_path_factory.mktemp("unbroken") / "tiny"
    finish(start("train", tickets, "--config", recipe_file, "--threads", 1, "--out", out))
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
    decay = 0.3 * 3 * steps
    expected = [3e-3, 3e-3, 3e-3 / decay]
    assert [line["train/learning_rate"] for line in epochs] == pytest.approx(expected)


def test_the_three_best_checkpoints_are_named_after_epoch_and_loss(run):
    epochs = {line["epoch"]: line["valid/loss"] for line in records(run) if "valid/loss" in line}
    names = {path.name for path in (run / "checkpoints").glob("step_*/*.weights.h5")}
    assert names == {f"best_model_epoch_{epoch:03d}_val_{loss:.4f}.weights.h5" for epoch, loss in epochs.items()}
    (best,) = (run / "checkpoints" / "best").glob("*.weights.h5")
    assert weights(best) == weights(run / "final_model.weights.h5")


def test_samples_of_the_end_are_validation_pairs_with_replies(run, tickets):
    shown = [json.loads(line) for line in (run / "samples" / "final" / "replies.jsonl").read_text().splitlines()]
    pairs = [json.loads(line) for line in (tickets / "val.jsonl").read_text().splitlines()[:10]]
    assert [{**pair, "response": row["response"]} for pair, row in zip(pairs, shown, strict=True)] == shown
    assert all(isinstance(row["response"], str) for row in shown)


def test_diagnostics_are_written_and_change_nothing(start, unbroken, tickets, recipe_file, tmp_path):
    asked = ("--run-diagnostics", "--diagnostics-interval", 3, "--sample-interval", 2)
    out = tmp_path / "run"
    finish(start("train", tickets, "--config", recipe_file, "--threads", 1, "--out", out, *asked))
    assert weights(out / "final_model.weights.h5") == weights(unbroken / "final_model.weights.h5")
    watched = records(out)
    plain = [{key: value for key, value in record.items() if "diagnostics/" not in key} for record in watched]
    assert plain == records(unbroken)
    assert any("diagnostics/grad_norm/model" in record for record in watched)
    reports = read_metrics(out / "diagnostics" / "diagnostics.jsonl")
    assert [report["step"] for report in reports] == list(range(3, plain[-1]["step"] + 1, 3))
    alone, game = reports[0], reports[-1]
    assert "disc/loss" not in alone  # likelihood alone comes first
    assert alone["grad_norm/model.decoder"] > 0 < game["grad_norm/discriminator.words"]
    assert 0 < game["disc/fake"] < 1 > game["disc/real"] > 0
    assert game["diversity/input"] > 0 < game["param_norm/model.own"]
    assert {path.name for path in (out / "samples").iterdir()} == {"epoch_0002", "final"}


def test_a_discriminator_that_dominates_and_idle_features_are_found(tickets, recipe_file, tmp_path):
    from diversity_finetune.config import TrainRecipe
    from diversity_finetune.data import read_arrays
    from diversity_finetune.tokenizer import Tokenizer
    from diversity_finetune.train import diagnose
    from diversity_finetune.trainer import Progress, Trainer

    recipe = tomllib.loads(recipe_file.read_text()) | {"diagnostics": {"enabled": True, "interval": 100}}
    recipe["model"]["copy_words"] = False
    vocabulary = Tokenizer.load(tickets / "tokenizer.json").size
    trainer = Trainer(TrainRecipe.model_validate(recipe), vocabulary, total_steps=1000)
    arrays = read_arrays(tickets, "train", vocabulary)
    index = np.arange(16)
    pairs = arrays.take(index)
    texts = (pairs.customer, pairs.previous, pairs.agent)
    no_gradients = [None] * len(trainer.model.trainable_variables)
    # The generator writes one word and nothing else, and only the discriminator learns.
    trainer.model.output_bias.assign(1e4 * np.eye(vocabulary)[Tokenizer.unknown_id])
    trainer.discriminator.optimizer.learning_rate.assign(0.01)
    for number in range(60):
        seed = np.array([number, 0], np.int32)
        trainer.learn_to_judge(trainer.discriminate(*texts, seed, np.float32(1), np.float32(1))[0])
    found = []
    for number in range(2):
        if number:  # no filter reaches above 0 any more: features are the same for all replies
            for filters in trainer.discriminator.filters:
                filters.bias.assign(filters.bias - 1e3)
        for step in (100, 200, 300):
            at = Progress(epoch=1, step=step)
            diagnose(trainer, arrays, index, no_gradients, {}, at, tmp_path / str(number))
        findings = json.loads((tmp_path / str(number) / "diagnostics.json").read_text())["findings"]
        found.append({finding["name"] for finding in findings})
    assert "discriminator_dominates" in found[0]
    assert "feature_matching_idle" not in found[0]
    assert "feature_matching_idle" in found[1]


def test_diagnostics_that_are_not_installed_are_named_before_anything_is_written(
    tickets, tmp_path, diversity_finetune, monkeypatch
):
    monkeypatch.setattr("diversity_finetune.run.importlib.util.find_spec", lambda name: None)
    ended = diversity_finetune("train", tickets, "--out", tmp_path / "run", "--run-diagnostics")
    wanted = "error: --run-diagnostics needs an extra: pip install 'diversity-finetune[diagnostics]'"
    assert (ended.status, ended.err.strip()) == (2, wanted)
    assert not (tmp_path / "run").exists()


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


def test_killed_and_resumed_a_run_ends_with_the_same_bits(start, unbroken, tickets, recipe_file, tmp_path, kills):
    broken = tmp_path / unbroken.name
    for kill in range(kills):
        again = ["--resume", broken] if kill else [tickets, "--config", recipe_file, "--threads", 1, "--out", broken]
        process = start("train", *again)
        while process.is_alive() and not list((broken / "checkpoints").glob(f"step_*/*epoch_00{kill + 1}*")):
            time.sleep(0.02)
        process.kill()
        process.join()
    finish(start("train", "--resume", broken))
    assert records(broken) == records(unbroken)
    assert weights(broken / "final_model.weights.h5") == weights(unbroken / "final_model.weights.h5")
    assert (broken / "logs" / "diversity_quality_log.csv").read_text() == (
        unbroken / "logs" / "diversity_quality_log.csv"
    ).read_text()


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
