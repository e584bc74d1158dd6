"""Evaluation of a run, and the two ends of the wire."""

import json
import shutil

import numpy as np
import pytest
import safetensors
import torch
from sklearn.linear_model import LinearRegression

from adapter_stage1 import evaluate
from adapter_stage1.data import read_examples
from adapter_stage1.evaluate import RUNGS, Rebuilders, band, evaluate_run
from adapter_stage1.run import load_trained

FLAGS = ["--threads", 1, "--device", "cpu"]


def no_constant(name):
    raise AssertionError(f"bare {name} in JSON")


def predictions(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def evaluated(run, dev_json, tmp_path_factory, adapter_stage1):
    """The folder of a report on all rungs, and what stood on stdout."""
    out = tmp_path_factory.mktemp("reports") / "dev"
    ended = adapter_stage1("evaluate", run, "--data", dev_json, "--out", out, "--json", *FLAGS)
    assert ended.status == 0, ended.err
    return out, json.loads(ended.out, parse_constant=no_constant)


@pytest.fixture(scope="module")
def trained(run):
    return load_trained(run, device="cpu", threads=1)


def test_stdout_is_the_report_as_json(evaluated, run, dev_json):
    folder, shown = evaluated
    assert shown == json.loads((folder / "report.json").read_text())
    assert list(shown["rungs"]) == list(RUNGS)
    assert shown["questions"] == 12
    assert shown["judged"]["run"] == json.loads((run / "run.json").read_text())["id"]
    assert shown["judged"]["data"]["path"] == str(dev_json)


def test_the_true_prompt_is_the_baseline(evaluated):
    raw = evaluated[1]["rungs"]["raw"]
    assert raw["f1"] > 0
    assert raw["retention"] == 1
    assert (raw["token_recovery"], raw["explained_variance"]) == (pytest.approx(1), 1)
    assert raw["cosine"] == pytest.approx(1, abs=1e-6)


def test_retention_is_f1_over_the_baselines(evaluated):
    rungs = evaluated[1]["rungs"]
    for rung in rungs.values():
        assert rung["retention"] == pytest.approx(rung["f1"] / rungs["raw"]["f1"])
        low, high = rung["f1_interval"]
        assert low <= rung["f1"] <= high


def test_bits_are_counted_on_the_wire(evaluated):
    bits = {name: rung["bits_per_token"] for name, rung in evaluated[1]["rungs"].items()}
    assert evaluated[1]["token_id_bits"] == 9  # 352 tokens
    assert bits["raw"] == 32 * 32
    latents = 16 * 32 // 4
    for name in ("decoded", "linear", "adapter", "adapter-snapped", "lookup", "random-projection"):
        assert bits[name] == latents
    assert all(bits[name] <= latents for name in RUNGS if name != "raw")


def test_a_snapped_rung_puts_out_rows_of_the_table(trained):
    rows = torch.arange(40)
    table = trained.language_model.table
    for name in ("adapter-snapped", "int4-snapped", "lookup"):
        rebuilt, _ = Rebuilders(trained, 0).rebuild(name, rows)
        assert all((table == row).all(1).any() for row in rebuilt)


def test_linear_is_weighted_least_squares_over_the_training_tokens(trained):
    latents, table = trained.vocabulary.latents_CK.numpy(), trained.language_model.table.numpy()
    fitted = LinearRegression().fit(latents, table, sample_weight=trained.frequencies_V)
    rebuilt, _ = Rebuilders(trained, 0).rebuild("linear", torch.arange(len(table)))
    np.testing.assert_allclose(rebuilt.numpy(), fitted.predict(latents), rtol=1e-3, atol=1e-4)


def test_what_rebuilds_the_same_embeddings_is_answered_once(trained, dev_json, monkeypatch):
    calls, real = [], evaluate.answer_prompts

    def counted(*arguments, **options):
        calls.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(evaluate, "answer_prompts", counted)
    report = evaluate_run(trained, dev_json, ["lookup", "decoded"], questions=6)
    assert torch.equal(Rebuilders(trained, 0).rebuild("lookup", torch.arange(352))[0], trained.language_model.table)
    assert list(report.rungs) == ["raw", "lookup", "decoded"]
    assert len(calls) == 2
    assert report.rungs["lookup"].answers == report.rungs["raw"].answers
    assert report.rungs["lookup"].bits_per_token < report.rungs["raw"].bits_per_token


def test_answers_are_the_same_whatever_the_gold_ones_are(run, dev_json, evaluated, tmp_path, adapter_stage1):
    other = tmp_path / "other.jsonl"
    lines = [
        {"id": e.id, "context": e.context, "question": e.question, "answers": [e.context.split()[-1]]}
        for e in read_examples(dev_json)
    ]
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ["--rung", "adapter", "--rung", "decoded", "--out", tmp_path / "out", *FLAGS]
    ended = adapter_stage1("evaluate", run, "--data", other, *options)
    assert ended.status == 0, ended.err
    for before, after in zip(predictions(evaluated[0]), predictions(tmp_path / "out"), strict=True):
        assert before["gold"] != after["gold"]
        assert {name: before["answers"][name] for name in ("raw", "adapter", "decoded")} == after["answers"]


def test_a_baseline_of_nothing_is_null_and_no_bare_nan(run, tmp_path, adapter_stage1):
    data = tmp_path / "zebra.jsonl"
    data.write_text('{"context": "Anna has a zebra.", "question": "What has Anna?", "answer": "zebra"}\n')
    options = ["--rung", "adapter", "--json", "--out", tmp_path / "out", *FLAGS]
    ended = adapter_stage1("evaluate", run, "--data", data, *options)
    assert ended.status == 0, ended.err
    shown = json.loads(ended.out, parse_constant=no_constant)
    assert shown["rungs"]["raw"]["f1"] == 0
    assert shown["rungs"]["adapter"]["retention"] is None


def test_fail_under_decides_the_exit_status(run, dev_json, evaluated, tmp_path, adapter_stage1):
    options = ["--data", dev_json, "--rung", "lookup", "--out", tmp_path, *FLAGS]
    retention = evaluated[1]["rungs"]["adapter"]["retention"]
    assert adapter_stage1("evaluate", run, *options, "--fail-under", retention - 0.01).status == 0
    ended = adapter_stage1("evaluate", run, *options, "--fail-under", retention + 0.01)
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == f"retention {retention:.3f} is below {retention + 0.01}"
    assert "verdict, scaled bands:" in ended.out


@pytest.mark.parametrize(
    ("f1", "scale", "name"),
    [(70, 1, "target"), (65, 1, "success"), (64.9, 1, "between"), (49.9, 1, "failure"), (28, 0.4, "target")],
)
def test_the_verdict_is_the_band_of_the_original_experiment(f1, scale, name):
    assert band(f1, scale) == name


def jsonl(path):
    lines = [{"id": e.id, "context": e.context, "question": e.question} for e in read_examples(path)]
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def latents(run, dev_json, adapter_stage1):
    """What `compress` writes about questions without answers."""
    ended = adapter_stage1("compress", run, *FLAGS, stdin=jsonl(dev_json))
    assert ended.status == 0, ended.err
    return ended.out.encode("utf-8", "surrogateescape")


def test_latents_are_one_float16_tensor_a_prompt(latents, tmp_path, dev_json):
    (tmp_path / "latents.safetensors").write_bytes(latents)
    with safetensors.safe_open(tmp_path / "latents.safetensors", "numpy") as file:
        assert set(file.keys()) == {example.id for example in read_examples(dev_json)}
        for name in file.keys():  # noqa: SIM118  (no mapping)
            tensor = file.get_tensor(name)
            assert (tensor.dtype, tensor.shape[1]) == (np.float16, 8)


def test_answers_from_latents_are_those_that_evaluation_judged(latents, run, evaluated, adapter_stage1):
    ended = adapter_stage1("answer", run, *FLAGS, stdin=latents)
    assert ended.status == 0, ended.err
    said = [json.loads(line) for line in ended.out.splitlines()]
    judged = [{"id": line["id"], "answer": line["answers"]["adapter"]} for line in predictions(evaluated[0])]
    assert said == judged


def test_latents_of_another_run_and_damaged_ones_are_refused(latents, run, tmp_path, adapter_stage1):
    file = tmp_path / "latents.safetensors"
    ended = adapter_stage1("compress", run, "--out", file, *FLAGS, stdin='{"context": "Ben.", "question": "Who?"}')
    assert (ended.status, ended.out) == (0, "")
    other = shutil.copytree(run, tmp_path / "other", symlinks=True)
    record = json.loads((other / "run.json").read_text()) | {"id": "20200101-000000-abcdef"}
    (other / "run.json").write_text(json.dumps(record))
    refused = {
        "their latents differ": adapter_stage1("answer", other, file, *FLAGS),
        "stdin is damaged": adapter_stage1("answer", run, *FLAGS, stdin=latents[:-9]),
        "or adapter-stage1 compress did not make it": adapter_stage1("answer", run, run / "compressor.safetensors"),
        "no such file": adapter_stage1("answer", run, tmp_path / "absent"),
    }
    for message, ended in refused.items():
        assert ended.status == 2, ended.err
        assert message in ended.err
        assert ended.err.count("\n") == 1
