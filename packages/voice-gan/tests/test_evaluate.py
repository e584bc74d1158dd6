"""Evaluation, samples and embeddings of a finished run."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from trainworks.console import UserError
from voice_gan import evaluate as evaluating
from voice_gan.data import load_utterances
from voice_gan.embed import embed_run
from voice_gan.evaluate import Trial, by_pair, choose_trials, evaluate_run
from voice_gan.report import Report
from voice_gan.samples import samples_run
from voice_gan.snapshot import in_turns
from voice_gan.validation import validate


@pytest.fixture(scope="module")
def report(finished: Path, data: Path) -> Report:
    return evaluate_run(finished, data / "test", judge="statistics", utterances=3, conversions=15, threads=1)


def test_every_baseline_stands_in_the_table(report: Report):
    systems = report.systems
    assert list(systems) == ["original", "griffin-lim", "reconstruction", "unchanged", "conversion", "target"]
    # The model knows nothing yet; what needs no learning is better, and doing nothing converts nothing.
    assert systems["griffin-lim"]["mel_distance"]["mean"] < systems["reconstruction"]["mel_distance"]["mean"]
    assert systems["unchanged"]["success"]["mean"] == 0
    assert systems["target"]["success"]["mean"] == 1
    assert systems["unchanged"]["similarity_source"] == systems["target"]["similarity_target"] or (
        systems["unchanged"]["similarity_source"]["mean"] > 0.5 < systems["target"]["similarity_target"]["mean"]
    )
    assert "mel_distance" not in systems["conversion"]
    assert systems["conversion"]["stoi"]["n"] == 15
    table = report.table()
    for name in systems:
        assert name in table
    assert "judge: statistics" in table
    assert "of 4 speakers centring alone puts" in table
    assert report.voices["judge"]["separation"] > 0.6


def test_the_report_is_files_in_the_run(report: Report, finished: Path):
    folder = finished / "reports" / "test"
    told = json.loads((folder / "report.json").read_text())
    assert told["judged"]["judge"] == "statistics"
    assert told["systems"]["reconstruction"]["stoi"]["n"] == 3
    assert len(json.loads((folder / "utterances.json").read_text())["conversion"]) == 15
    for picture in ("similarity.png", "pairs.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_bounds_are_kept_or_told(report: Report):
    real_time = report.speed["times_real_time"]
    assert report.missed(["target.success=1", f"speed.times_real_time={real_time}"], ["unchanged.success=0"]) == []
    assert report.missed(["unchanged.success=0.9"], ["target.success=0.5"]) == [
        "unchanged.success is 0.0000, below 0.9",
        "target.success is 1.0000, above 0.5",
    ]
    with pytest.raises(UserError, match=r'"conversion\.sucess=1" names no figure; did you mean "conversion\.success"'):
        report.missed(["conversion.sucess=1"])


def test_a_figure_below_its_bound_is_exit_status_1(voice_gan, finished: Path, data: Path, tmp_path: Path):
    words = ("evaluate", finished, data / "test", "--judge", "statistics", "--out", tmp_path / "report", "--quiet")
    words = (*words, "--utterances", 1, "--conversions", 1, "--json")
    ended = voice_gan(*words, "--fail-under", "reconstruction.stoi=0.99")
    assert ended.status == 1
    assert ended.err.startswith("reconstruction.stoi is ")
    assert ended.err.endswith(", below 0.99\n")
    assert json.loads(ended.out)["systems"]["conversion"]["success"]["n"] == 1


def test_a_bound_that_is_none_is_told_before_the_work(voice_gan, tmp_path: Path):
    for bound in ("reconstruction.stoi", "reconstruction.stoi=high"):
        ended = voice_gan("evaluate", tmp_path / "run", tmp_path / "data", "--fail-over", bound)
        assert (ended.status, ended.out) == (2, "")
        assert "is not FIGURE=NUMBER" in ended.err


def test_words_and_opinions_are_measured_where_they_are_wanted(
    finished: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluating, "require", lambda *wanted: None)
    monkeypatch.setattr(evaluating, "load_distillmos", lambda: None)
    monkeypatch.setattr(evaluating, "mos", lambda wave, rate: 3.5)
    heard = iter(("one two three four", "one two three four", "one two four", "four", "one"))
    monkeypatch.setattr(evaluating, "transcribe", lambda wave, rate: next(heard))
    monkeypatch.setattr(evaluating, "word_error_rate", lambda said, got: 1 - len(got.split()) / len(said.split()))
    options = {"judge": "statistics", "utterances": 1, "conversions": 1, "words": True, "opinions": True}
    systems = evaluate_run(finished, data / "test", **options).systems
    errors = {name: systems[name]["word_error_rate"]["mean"] for name in ("griffin-lim", "reconstruction")}
    # No text is known, so the original's words are the truth, and it has no error of its own.
    assert errors == {"griffin-lim": 0, "reconstruction": 0.25}
    assert "word_error_rate" not in systems["original"]
    assert [systems[name]["mos"]["mean"] for name in ("original", "griffin-lim", "conversion")] == [3.5, 3.5, 3.5]


def test_a_report_of_other_data_is_not_replaced(report: Report, finished: Path, data: Path):
    with pytest.raises(UserError, match=r"holds the report of .*test; give --overwrite, or --out"):
        evaluate_run(finished, data / "valid", out=finished / "reports" / "test", judge="statistics")


def test_pairs_of_speakers_take_turns():
    speakers = ["a"] * 3 + ["b"] * 2 + ["c"]
    trials = choose_trials(speakers, 12, seed=0)
    assert len(set(trials)) == 12
    pairs = Counter((speakers[trial.source], speakers[trial.target]) for trial in trials)
    assert len(pairs) == 6
    assert set(pairs.values()) == {2}
    assert trials == choose_trials(speakers, 12, seed=0) != choose_trials(speakers, 12, seed=1)
    # There are 2 * (3 * 2 + 3 * 1 + 2 * 1) conversions in all.
    assert len(choose_trials(speakers, 100, seed=0)) == 22
    assert choose_trials(["a", "a"], 5, seed=0) == []
    assert choose_trials(["a", "b"], 5, seed=0).count(Trial(0, 1)) == 1


def test_figures_of_pairs_are_means():
    rows = [
        {"source": "a", "target": "b", "success": success, "similarity_target": 0.5, "similarity_source": 0.1}
        for success in (0.0, 1.0)
    ]
    assert by_pair(rows) == [
        {
            "source": "a",
            "target": "b",
            "conversions": 2,
            "success": 0.5,
            "similarity_target": 0.5,
            "similarity_source": pytest.approx(0.1),
        }
    ]


def test_validation_is_cheap_figures_of_the_model(finished: Path, data: Path):
    from voice_gan.run import load_trained

    model = load_trained(finished, device="cpu").model
    model.train()
    utterances = load_utterances(data, "valid")
    found = validate(model, utterances, num_rebuilt=2)
    assert list(found) == ["valid/mel_distance", "valid/stoi", "valid/separation", "valid/conversion"]
    assert found["valid/mel_distance"] > 0
    assert found["valid/conversion"] in (0, 0.5, 1)
    assert model.training
    alone = validate(model, utterances[:1])
    assert math.isnan(alone["valid/conversion"])


def test_samples_are_what_diag_reads(finished: Path, tmp_path: Path):
    out = samples_run(finished, out=tmp_path / "samples", num_samples=2, threads=1)
    told = {folder.name: json.loads((folder / "metadata.json").read_text()) for folder in sorted(out.iterdir())}
    assert list(told) == ["long_form", "many_voices", "sample_000", "sample_001"]
    for folder, metadata in told.items():
        targets = [target["speaker"] for target in metadata["converted_to"]]
        assert len(targets) == (3 if folder == "many_voices" else 1)
        assert metadata["speaker"] not in targets
        for name in ("original", "reconstruction", *(f"converted_to_{target}" for target in targets)):
            samples, rate = soundfile.read(out / folder / f"{name}.wav")
            assert (len(samples) / rate, rate) == (metadata["seconds"], 16_000)
            assert (out / folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert all((out / folder / f"voice_of_{target}.wav").is_file() for target in targets)
    assert told["sample_000"]["speaker"] != told["sample_001"]["speaker"]
    assert len(told["long_form"]["utterance"].split(" + ")) == 2  # all that the speaker with the most to say has here


def test_speakers_take_turns_in_samples(data: Path):
    chosen = in_turns(load_utterances(data, "train"), 8, seed=0)
    assert Counter(utterance.speaker for utterance in chosen) == dict.fromkeys(("alto", "bass", "soprano", "tenor"), 2)


def test_embeddings_are_what_diag_reads(finished: Path, data: Path, tmp_path: Path):
    told = embed_run(finished, data / "test", tmp_path / "emb.npz", threads=1)
    assert (told["utterances"], told["speakers"], told["dimensions"]) == (8, 4, 16)
    with np.load(tmp_path / "emb.npz", allow_pickle=False) as file:
        assert np.linalg.norm(file["embeddings"], axis=1) == pytest.approx(np.ones(8), abs=1e-5)
        assert Counter(file["labels"].tolist()) == dict.fromkeys(("alto", "bass", "soprano", "tenor"), 2)
        assert len(set(file["ids"].tolist())) == 8
    with pytest.raises(UserError, match=r"embeddings are written as \.npz"):
        embed_run(finished, data / "test", tmp_path / "emb.csv")
