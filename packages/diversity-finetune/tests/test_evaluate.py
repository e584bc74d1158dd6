"""Evaluation, baselines, comparison and the callback, around replies that a test knows beforehand."""

import csv
import json

import pytest

from diversity_finetune import compare, evaluate
from diversity_finetune.baselines import nearest_neighbour, random_of_intent
from diversity_finetune.callbacks import COLUMNS, DiversityQualityCallback
from diversity_finetune.data import Pair
from diversity_finetune.decoding import Decoding, Reply
from trainworks.config import resolve
from trainworks.console import UserError

TOPICS = {
    "password": "I have reset your password, please sign in again",
    "printer": "please turn the printer off and on once more",
    "network": "the network is being repaired and returns at noon",
}
TRAIN = [
    Pair(str(n), "how can I help?", f"my {topic} is broken {n}", f"{reply} {n}", topic)
    for n in range(4)
    for topic, reply in TOPICS.items()
]
PAIRS = [Pair(f"t{n}", "", f"is my {topic} broken?", TOPICS[topic], topic) for n, topic in enumerate(TOPICS)]


class Parrot:
    """A decoder that gives the reference at temperature 0, and one sentence to everybody above 1."""

    def __init__(self, trained):
        del trained

    def __call__(self, messages, decoding, rows):
        texts = ["we are sorry to hear of it" if decoding.temperature > 1 else pair.agent for pair in messages]
        return [Reply(text, len(text.split()), -1.0, True) for text in texts]


@pytest.fixture
def report(monkeypatch):
    monkeypatch.setattr(evaluate, "Decoder", Parrot)
    return evaluate.evaluate(object(), PAIRS, TRAIN, {"data": {"sha256": "1"}}, Decoding(), (0.5, 1.5), candidates=2)


def test_every_way_stands_in_one_table(report):
    names = ["references", "greedy", "sampled", "best-of-2", "temperature-0.5", "temperature-1.5", "nearest-neighbour",
             "random-of-intent"]  # fmt: skip
    assert list(report.systems) == names
    assert report.systems["greedy"]["bleu_4"] == 1
    assert report.systems["temperature-1.5"]["band"] == "POOR"
    assert "bleu_4" not in report.systems["references"]
    assert report.systems["references"]["corpus_distinct_2"] == report.systems["greedy"]["corpus_distinct_2"]
    table = report.table()
    assert all(name in table for name in names)
    assert "half the references'" in table


def test_minima_that_are_missed_are_told(report):
    assert report.missed(["greedy.bleu_4=0.9", "temperature-1.5.quality_score=0.1"]) == []
    [missed] = report.missed(["temperature-1.5.corpus_distinct_2=0.9"])
    assert "below 0.9" in missed
    for wrong in ("greedy.blue_4=1", "bleu_4=1", "greedy.bleu_4=much", "greedy.band=GOOD"):
        with pytest.raises(UserError):
            report.missed([wrong])


def test_the_report_is_written_with_replies_and_plot(report, tmp_path):
    evaluate.write_report(tmp_path / "r", report)
    lines = [json.loads(line) for line in (tmp_path / "r" / "replies.jsonl").read_text().splitlines()]
    assert lines[1]["message"] == PAIRS[1].customer
    assert lines[1]["replies"]["greedy"] == PAIRS[1].agent
    assert json.loads((tmp_path / "r" / "report.json").read_text())["systems"]["greedy"]["rouge_l"] == 1
    assert (tmp_path / "r" / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_without_training_data_there_are_no_baselines(monkeypatch):
    monkeypatch.setattr(evaluate, "Decoder", Parrot)
    found = evaluate.evaluate(object(), PAIRS, None, {}, Decoding(), (), candidates=1)
    assert list(found.systems) == ["references", "greedy", "sampled"]
    assert "copied" not in found.systems["greedy"]


def test_nearest_neighbour_takes_the_reply_to_the_likest_message():
    assert [text[:9] for text in nearest_neighbour(TRAIN, PAIRS)] == [pair.agent[:9] for pair in PAIRS]
    like = Pair("", "how can I help?", "my printer is broken 3", "")
    assert nearest_neighbour(TRAIN, [like]) == [f"{TOPICS['printer']} 3"]


def test_random_replies_keep_to_the_intent_and_the_seed():
    drawn = random_of_intent(TRAIN, PAIRS * 5, seed=0)
    assert all(text.startswith(pair.agent) for text, pair in zip(drawn, PAIRS * 5, strict=True))
    assert drawn == random_of_intent(TRAIN, PAIRS * 5, seed=0)
    assert len(set(drawn)) > 3
    assert random_of_intent(TRAIN, [Pair("", "", "hello", "hi")], seed=0) is None


def test_the_callback_appends_a_line_every_few_epochs_and_replaces_what_is_run_again(tmp_path):
    log = tmp_path / "logs" / "diversity_quality_log.csv"
    callback = DiversityQualityCallback(Parrot(None), PAIRS, log, every=5, examples=2)
    assert callback(4) == {}
    assert callback(5)["quality/bleu_4"] == 1
    callback(10)
    callback(5)  # resumed from a checkpoint before epoch 5
    callback(10)
    with open(log, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["5", "10"]
    assert tuple(rows[0]) == COLUMNS
    assert COLUMNS[:14] == (
        "epoch", "bleu_1", "bleu_2", "bleu_4", "rouge_1", "rouge_2", "rouge_l", "distinct_1", "distinct_2",
        "distinct_3", "repetition_rate", "entropy", "quality_score", "avg_length",
    )  # fmt: skip


def test_compare_pairs_the_seeds(monkeypatch, tmp_path):
    trained = []

    def train(resolved, data, path, device, threads):
        trained.append((path.name, resolved.recipe.model.architecture, resolved.recipe.seed))

    def judge(path, source, **_):
        figure = {"separate_0": 0.5, "combined_0": 0.4, "separate_1": 0.7, "combined_1": 0.3}[path.name]
        metrics = {metric: figure for _, metric in compare.METRICS}
        return evaluate.Report({}, {"greedy": metrics, "sampled": metrics}, {}, [])

    monkeypatch.setattr(compare, "_train", train)
    monkeypatch.setattr(compare, "evaluate_run", judge)

    def recipe(flags):
        return resolve(compare.TrainRecipe, flags=flags)

    found = compare.compare(tmp_path, tmp_path, recipe, seeds=(0, 1))
    assert trained == [("separate_0", "separate", 0), ("combined_0", "combined", 0),
                       ("separate_1", "separate", 1), ("combined_1", "combined", 1)]  # fmt: skip
    summary = found.summary()["greedy.bleu_4"]
    assert (summary["separate"], summary["combined"], summary["wins"]) == (pytest.approx(0.6), pytest.approx(0.35), 2)
    assert summary["difference_sd"] == pytest.approx(0.2121, abs=1e-4)
    assert "0.600 +- 0.141" in found.table()
    assert json.loads((tmp_path / "comparison.json").read_text())["values"]["greedy.bleu_4"]["combined"] == [0.4, 0.3]
    with pytest.raises(UserError):
        compare.compare(tmp_path, tmp_path, recipe, seeds=(1, 1))
