"""Training: what each objective teaches, and runs that are stopped and go on."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from adapter_stage1.config import OBJECTIVES, TrainRecipe
from adapter_stage1.data import read_examples
from adapter_stage1.language_model import load_language_model
from adapter_stage1.losses import Balance
from adapter_stage1.memory import largest_batch
from adapter_stage1.run import load_trained, prepare
from adapter_stage1.train import backward, build_adapter, learning_rate, teacher_forced_loss, validate
from trainworks.metrics import read_metrics

PROGRAM = "from adapter_stage1.cli import main; main()"


@pytest.fixture(scope="module")
def language_model(tiny_model):
    return load_language_model(str(tiny_model), "float32", torch.device("cpu"))


def recipe_of(weights, *, balance="fixed", snap="soft", **training):
    objectives = dict.fromkeys([name.replace("-", "_") for name in OBJECTIVES], 0.0) | {"balance": balance}
    for name, weight in weights.items():
        objectives[name.replace("-", "_")] = weight
    small = {"examples": 16, "batch_size": 8, "vocabulary_rows": 32, "negatives": 64, "valid_share": 0.2}
    return TrainRecipe.model_validate(
        {
            "prompt": {"shots": 1, "max_new_tokens": 4},
            "compressor": {"ratio": 4},
            "adapter": {"snap": snap},
            "objectives": objectives,
            "training": {**small, **training},
        }
    )


def setting_of(language_model, recipe, examples):
    return prepare(language_model, recipe, examples)[0]


@pytest.fixture(scope="module")
def examples(train_json):
    return read_examples(train_json)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_alone_lowers_its_own_value(objective, language_model, examples):
    # Without the snap, which would put out the true row already, so that there is nothing left to learn.
    recipe = recipe_of({objective: 1.0}, snap="none", vocabulary_rows=0)
    setting = setting_of(language_model, recipe, examples)
    adapter = build_adapter(setting, recipe)
    balance = Balance("fixed", recipe.objectives.weights())
    optimizer = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], lr=1e-4)
    values = []
    for _ in range(12):
        optimizer.zero_grad()
        found = backward(setting, recipe, adapter, balance, range(8), step=0, num_parts=1)
        assert found.keys() == {"train/loss", f"train/{objective}/raw", f"train/{objective}/weighted"}
        values.append(found[f"train/{objective}/raw"])
        optimizer.step()
    assert values[-1] < 0.95 * values[0]


def gradients(setting, recipe, batch, num_parts):
    adapter = build_adapter(setting, recipe)
    with torch.no_grad():  # away from 0, where it starts, so that every layer has a gradient
        adapter.out.weight.normal_(std=1e-3, generator=torch.Generator().manual_seed(0))
    balance = Balance(recipe.objectives.balance, recipe.objectives.weights())
    balance.running = dict.fromkeys(OBJECTIVES, 2.0)
    found = backward(setting, recipe, adapter, balance, batch, step=0, num_parts=num_parts)
    balance.end_step()
    return found, [parameter.grad for parameter in adapter.parameters()], balance.running


@pytest.mark.parametrize("balance", ["fixed", "magnitude"])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(balance, language_model, examples):
    # "hidden" is relative to the states of its own part, so it alone differs a little.
    weights = {"recon": 1.0, "token-ce": 0.5, "prompt-ce": 1.0, "teacher-forced": 2.0, "distill": 1.5}
    recipe = recipe_of(weights, balance=balance)
    longer = [replace(e, context=" ".join([e.context] * (n % 3 + 1))) for n, e in enumerate(examples)]
    longer = [replace(e, answers=(e.context[: 3 + 5 * (n % 4)].strip(),)) for n, e in enumerate(longer)]
    setting = setting_of(language_model, recipe, longer)
    assert len({len(answer) for answer in setting.answers[:8]}) > 1
    assert len({len(prompt) for prompt in setting.prompts[:8]}) > 1
    (one, gradients_one, running_one), (three, gradients_three, running_three) = (
        gradients(setting, recipe, range(8), num_parts) for num_parts in (1, 3)
    )
    assert three == pytest.approx(one, rel=1e-4)
    assert running_three == pytest.approx(running_one, rel=1e-4)
    for first, second in zip(gradients_one, gradients_three, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


def test_teacher_forcing_judges_the_answer_alone(language_model, examples):
    recipe = recipe_of({"teacher-forced": 1.0})
    setting = setting_of(language_model, recipe, examples)
    batch = range(5)
    rows = torch.tensor(sorted({0, *(token for n in batch for token in setting.prompts[n])}))
    rebuilt = language_model.table[rows] + 0.02
    found = teacher_forced_loss(setting, batch, rebuilt, rows).item()
    losses = []
    for n in batch:
        prompt, answer = torch.tensor(setting.prompts[n]), torch.tensor(setting.answers[n])
        embeddings = torch.cat([language_model.table[prompt] + 0.02, language_model.table[answer]])
        logits = language_model.model(inputs_embeds=embeddings[None]).logits[0]
        losses += [-logits[len(prompt) - 1 + k].log_softmax(0)[token].item() for k, token in enumerate(answer)]
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_no_gold_answer_enters_a_validation(language_model, examples, monkeypatch):
    recipe = recipe_of({"recon": 1.0})
    setting = setting_of(language_model, recipe, examples)
    adapter = build_adapter(setting, recipe)
    forward = language_model.model.forward
    fed = []

    def watched(*arguments, **options):
        inputs = options.get("inputs_embeds")
        fed[-1].append((options["input_ids"] if inputs is None else inputs).clone())
        return forward(*arguments, **options)

    monkeypatch.setattr(language_model.model, "forward", watched)
    scores = []
    for golds in (setting.valid, [replace(example, answers=("elsewhere",)) for example in setting.valid]):
        fed.append([])
        scores.append(validate(replace(setting, valid=golds), adapter, recipe, lambda: None))
    assert scores[0]["valid/f1"] > 0
    assert len(fed[0]) == len(fed[1]) > 1
    assert all(torch.equal(first, second) for first, second in zip(*fed, strict=True))
    assert scores[1]["valid/f1"] == 0
    assert {name: value for name, value in scores[0].items() if "recovery" in name or "mse" in name} == {
        name: value for name, value in scores[1].items() if "recovery" in name or "mse" in name
    }


def test_the_learning_rate_warms_up_and_decays():
    rates = [learning_rate(1.0, step, 100) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.03, abs=0.01)
    assert all(np.diff(rates[10:]) < 0)


@pytest.mark.parametrize(("most", "limit", "found"), [(11, 32, 8), (99, 6, 6), (5, 6, 4), (0, 8, 1), (3, 1, 1)])
def test_the_batch_grows_until_it_no_longer_fits(most, limit, found):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= most

    assert largest_batch(fits, limit) == found
    assert tried == sorted(set(tried))
    assert sum(size > most for size in tried) <= 1


def test_training_with_more_rows_than_the_vocabulary_has_takes_them_all(language_model, examples):
    recipe = recipe_of({"token-ce": 1.0}, vocabulary_rows=1000, negatives=5000)
    setting = setting_of(language_model, recipe, examples)
    adapter = build_adapter(setting, recipe)
    found = backward(setting, recipe, adapter, Balance("fixed", recipe.objectives.weights()), [0, 1], 0, 1)
    assert 0 < found["train/loss"] < 20


def test_a_run_has_what_the_contract_asks_for(run, train_json, tiny_model):
    record = json.loads((run / "run.json").read_text())
    assert (record["tool"], record["status"]) == ("adapter-stage1", "finished")
    assert [entry["path"] for entry in record["inputs"]] == [str(train_json)]
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    for name in ("recon", "token-ce"):
        assert all(line[f"train/{name}/raw"] > 0 and line[f"train/{name}/weighted"] > 0 for line in lines)
    validated = [line for line in lines if "valid/f1" in line]
    assert [line["epoch"] for line in validated] == [1, 2]
    best = max(validated, key=lambda line: (line["valid/f1"], -line["valid/mse"]))
    assert record["result"]["valid/f1"] == best["valid/f1"]
    assert json.loads((run / "model.json").read_text())["path"] == str(tiny_model)
    assert (run / "plots" / "loss.png").exists()


def test_a_trained_run_validates_to_what_it_logged(run, language_model, examples):
    trained = load_trained(run, language_model=language_model, threads=1)
    setting, shots = prepare(language_model, trained.recipe, examples)
    assert shots == trained.shots
    found = validate(setting, trained.adapter, trained.recipe, lambda: None)
    result = json.loads((run / "run.json").read_text())["result"]
    assert found == pytest.approx(result, rel=1e-5)


def untimed(path):
    return [{**record, "time": None} for record in read_metrics(path / "metrics.jsonl")]


def weights(path, name):
    return (path / "checkpoints" / name / "adapter.safetensors").read_bytes()


def start(*arguments):
    """The command in a process of its own, forked from one that has imported torch and transformers."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["adapter_stage1.run", "torch._dynamo", "transformers.models.llama.modeling_llama"])
    command = ["adapter-stage1", *map(str, arguments)]
    process = forking.Process(target=exec, args=(f"import sys; sys.argv = {command!r}; {PROGRAM}",))
    process.start()
    return process


def steps_logged(path):
    file = path / "metrics.jsonl"
    return len(read_metrics(file)) if file.exists() else 0


LONG = ["--threads", 1, "--device", "cpu", "--set", "training.epochs=12", "--objective", "recon"]
LONG += ["--objective", "token-ce", "--objective", "distill"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, recipe_file, train_json, adapter_stage1):
    """A run of 48 steps."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    ended = adapter_stage1("train", "--data", train_json, "--config", recipe_file, *LONG, "--out", out)
    assert ended.status == 0, ended.err
    return out


def assert_same_run(path, unbroken):
    assert untimed(path) == untimed(unbroken)
    for name in ("last", "best"):
        assert weights(path, name) == weights(unbroken, name)
    results = [json.loads((folder / "run.json").read_text())["result"] for folder in (path, unbroken)]
    assert results[0] == results[1]


def test_killed_and_resumed_a_run_ends_with_the_same_bits(
    unbroken, recipe_file, train_json, tmp_path, kills, adapter_stage1
):
    out = tmp_path / "run"
    for kill in range(kills):
        new = ["--data", train_json, "--config", recipe_file, *LONG, "--out", out]
        process = start("train", *(new if kill == 0 else ["--resume", out]))
        wanted = (kill + 1) * steps_logged(unbroken) // (kills + 2)
        while process.is_alive() and steps_logged(out) < wanted:
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    ended = adapter_stage1("train", "--resume", out)
    assert (ended.status, ended.out) == (0, f"{out}\n"), ended.err
    assert_same_run(out, unbroken)


def test_killed_before_anything_but_run_json_was_written_a_run_can_be_resumed(unbroken, tmp_path, adapter_stage1):
    out = tmp_path / "run"
    out.mkdir()
    record = json.loads((unbroken / "run.json").read_text()) | {"status": "running", "result": None}
    (out / "run.json").write_text(json.dumps(record))
    (out / "metrics.jsonl").touch()
    ended = adapter_stage1("train", "--resume", out)
    assert ended.status == 0, ended.err
    assert_same_run(out, unbroken)
    for name in ("compressor.safetensors", "frequencies.npy", "model.json", "prompt.json"):
        assert (out / name).read_bytes() == (unbroken / name).read_bytes()


@pytest.mark.parametrize(
    ("signum", "where"),
    [(signal.SIGINT, "language_losses"), (signal.SIGTERM, "table_losses"), (signal.SIGINT, "answer_prompts")],
)
def test_a_signal_leaves_a_checkpoint_from_which_the_run_goes_on(
    signum, where, unbroken, recipe_file, train_json, tmp_path, adapter_stage1, monkeypatch
):
    import adapter_stage1.train as loop

    out, calls, real = tmp_path / "run", [], getattr(loop, where)

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == (6 if where != "answer_prompts" else 1):
            os.kill(os.getpid(), signum)
        return real(*arguments, **options)

    monkeypatch.setattr(loop, where, interrupted)
    ended = adapter_stage1("train", "--data", train_json, "--config", recipe_file, *LONG, "--out", out)
    assert ended.status == 128 + signum, ended.err
    assert "--resume" in ended.err
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert json.loads((out / "checkpoints" / "last" / "meta.json").read_text())["step"] == (
        6 if where != "answer_prompts" else 4
    )
    monkeypatch.undo()
    ended = adapter_stage1("train", "--resume", out)
    assert ended.status == 0, ended.err
    assert_same_run(out, unbroken)


def test_a_run_goes_on_with_the_prompt_format_that_it_began_with(
    recipe_file, train_json, tmp_path, adapter_stage1, monkeypatch
):
    import adapter_stage1.train as loop

    out, format = tmp_path / "run", tmp_path / "mine.json"
    query = "{context}\n{question}"
    format.write_text(json.dumps({"header": "", "shot": f"{query} {{answer}}\n", "query": query, "stop": ["\n"]}))
    real = loop.table_losses
    monkeypatch.setattr(loop, "table_losses", lambda *given: os.kill(os.getpid(), signal.SIGTERM) or real(*given))
    options = ["--config", recipe_file, "--set", f"prompt.format={format}", "--threads", 1, "--out", out]
    assert adapter_stage1("train", "--data", train_json, *options).status == 128 + signal.SIGTERM
    monkeypatch.undo()
    format.unlink()
    ended = adapter_stage1("train", "--resume", out)
    assert ended.status == 0, ended.err


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(recipe_file, train_json, tmp_path, adapter_stage1):
    out = tmp_path / "run"
    options = ["--config", recipe_file, "--set", "training.learning_rate=1e30", "--set", "training.clip_norm=1e6"]
    ended = adapter_stage1("train", "--data", train_json, *options, "--threads", 1, "--out", out)
    assert ended.status == 3, ended.err
    assert "non-finite" in ended.err.splitlines()[-1]
    assert json.loads((out / "run.json").read_text())["status"] == "failed"


def test_a_run_goes_on_only_with_its_own_data_and_model(unbroken, tmp_path, adapter_stage1, tiny_model, train_json):
    def broken(name, **changes):
        out = shutil.copytree(unbroken, tmp_path / name, symlinks=True)
        record = json.loads((out / "run.json").read_text()) | {"status": "interrupted"} | changes
        (out / "run.json").write_text(json.dumps(record))
        return out

    other = tmp_path / "other.json"
    other.write_text(train_json.read_text() + "\n")
    (data,) = json.loads((unbroken / "run.json").read_text())["inputs"]
    ended = adapter_stage1("train", "--resume", broken("a", inputs=[data | {"path": str(other)}]))
    assert ended.status == 2
    assert "is not the file that" in ended.err

    out = broken("b")
    changed = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    (out / "model.json").write_text(json.dumps(json.loads((out / "model.json").read_text()) | {"path": str(changed)}))
    ended = adapter_stage1("train", "--resume", out)
    assert ended.status == 2
    assert "is not the model of" in ended.err
    assert ended.err.count("\n") == 1
