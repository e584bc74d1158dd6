"""Sounds and what is measured of them: known truths, a tool that makes samples, and files that are broken."""

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from diag.audio import against, drift, f0, log_mel, measure, mel_filters
from diag.samples import console_text, make_samples
from trainworks.console import UserError

RATE = 16_000

TOOL = """#!{python}
import json, pathlib, sys
import numpy as np, soundfile
assert sys.argv[1] == "samples" and sys.argv[3] == "--num-samples", sys.argv
run, count, out = pathlib.Path(sys.argv[2]), int(sys.argv[4]), pathlib.Path(sys.argv[6])
if (run / "fail").exists():
    sys.exit("error: no checkpoint in this run")
time = np.arange(16000) / 16000
for index in range(count):
    folder = out / f"sample_{{index}}"
    folder.mkdir(parents=True, exist_ok=True)
    voice = sum(np.sin(2 * np.pi * 150 * h * time + np.sin(9 * time)) / h for h in range(1, 9)) / 4
    soundfile.write(folder / "original.wav", voice, 16000, subtype="FLOAT")
    soundfile.write(folder / "reconstruction.wav", 0.9 * voice, 16000, subtype="FLOAT")
    soundfile.write(folder / "converted_to_p2.wav", np.clip(5 * voice, -1, 1), 16000)
    (folder / "metadata.json").write_text(json.dumps({{"speaker": "p1", "speaker_similarity": 0.8}}))
"""


ANSWERING_TOOL = """#!{python}
import json, sys
assert sys.argv[1] == "predict", sys.argv
for index, line in enumerate(sys.stdin):
    print(json.dumps({{"id": index, "answer": json.loads(line)["question"].upper()}}))
"""


def voice(hertz: float | np.ndarray = 150.0, seconds: float = 1.0) -> np.ndarray:
    """A vowel-like sound whose pitch rises and falls by a tenth."""
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(hertz * (1 + 0.1 * np.sin(2 * np.pi * 2 * time))) / RATE
    return (sum(np.sin(h * phase) / h for h in range(1, 9)) / 4).astype(np.float32)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of `voice-gan`, which is on PATH as a command that makes samples; `qa-train` is there as well."""
    (tmp_path / "bin").mkdir()
    for name, script in (("voice-gan", TOOL), ("qa-train", ANSWERING_TOOL)):
        tool = tmp_path / "bin" / name
        tool.write_text(script.format(python=sys.executable))
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps({"schema": 1, "tool": "voice-gan", "config": {}}))
    return tmp_path / "run"


def test_mel_filters_are_librosas():
    # librosa.filters.mel(sr=16000, n_fft=1024, n_mels=80), librosa 0.11
    filters = mel_filters(RATE)
    assert filters.shape == (80, 513)
    assert filters.sum() == pytest.approx(5.1186576, rel=1e-5)
    assert filters[40, filters[40].argmax()] == pytest.approx(0.014444176, rel=1e-5)
    assert filters.argmax(axis=1)[[0, 20, 40, 79]].tolist() == [2, 50, 110, 493]


@pytest.mark.parametrize("hertz", [80, 150, 330])
def test_pitch_of_a_voice_is_found(hertz: float):
    pitch = f0(voice(hertz), RATE)
    expected = hertz * (1 + 0.1 * np.sin(2 * np.pi * 2 * (np.arange(len(pitch)) * 0.01 + 1 / 60)))
    inner = slice(2, -6)
    assert np.isfinite(pitch[inner]).mean() > 0.95
    assert np.nanmedian(np.abs(pitch[inner] / expected[inner] - 1)) < 0.01


def test_noise_has_no_pitch():
    assert np.isfinite(f0(np.random.default_rng(0).normal(size=RATE).astype(np.float32), RATE)).mean() < 0.05


def test_a_sound_beside_itself_is_perfect_and_noise_makes_it_worse():
    sound = voice(seconds=2)
    rng = np.random.default_rng(0)
    light, heavy = (sound + level * rng.normal(size=len(sound)).astype(np.float32) for level in (0.003, 0.1))
    same, near, far = (against(sound, other, RATE) for other in (sound, light, heavy))
    assert (same["mel_distance"], same["voicing_error"], same["length_ratio"]) == (0, 0, 1)
    assert same["stoi"] == pytest.approx(1)
    assert same["f0_correlation"] == pytest.approx(1)
    assert 0 < near["mel_distance"] < far["mel_distance"]
    assert near["stoi"] > far["stoi"]


def test_another_voice_with_the_melody_keeps_the_pitch_correlation():
    found = against(voice(120), voice(240), RATE)
    assert found["f0_correlation"] > 0.95
    assert found["mel_distance"] > 0.5


def test_faults_of_a_signal_are_measured():
    sound = voice()
    assert measure(sound, RATE)["clipped"] == 0
    assert measure(np.clip(5 * sound, -1, 1), RATE)["clipped"] > 0.1
    assert measure(sound + 0.2, RATE)["dc"] > 0.4
    assert measure(np.concatenate([sound, np.zeros(3 * RATE, np.float32)]), RATE)["silence"] == pytest.approx(
        0.75, abs=0.03
    )
    rough = voice(150 * (1 + 0.04 * np.random.default_rng(0).normal(size=100).repeat(RATE // 100)))
    assert measure(rough, RATE)["jitter"] > 2 * measure(sound, RATE)["jitter"]


def test_drift_of_a_long_form_shows_where_the_voice_changes():
    steady, other = voice(seconds=10), np.sign(voice(seconds=10)) * 0.1
    found = drift(np.concatenate([steady, other]).astype(np.float32), RATE)
    assert found["windows"] == 4
    assert found["timbre"][1] < 0.1 < found["timbre"][2]
    assert measure(np.concatenate([steady, steady]), RATE)["drift"]["level_db"] < 0.1


def test_the_tool_of_the_run_makes_the_samples(run: Path, tmp_path: Path):
    result = make_samples(run, num_samples=2, out=tmp_path / "out")
    sounds = result["samples"]["sample_1"]["sounds"]
    assert list(sounds) == ["converted_to_p2.wav", "original.wav", "reconstruction.wav"]
    assert sounds["reconstruction.wav"]["against_original"]["stoi"] > 0.99
    assert "stoi" not in sounds["converted_to_p2.wav"]["against_original"]
    assert result["samples"]["sample_0"]["metadata"]["speaker_similarity"] == 0.8
    assert {(found["name"], found["where"]) for found in result["findings"]} == {
        ("clipping", "sample_0/converted_to_p2.wav"),
        ("clipping", "sample_1/converted_to_p2.wav"),
    }
    assert (tmp_path / "out/sample_0/original.png").read_bytes().startswith(b"\x89PNG")
    html = (tmp_path / "out/samples.html").read_text()
    assert html.count("<audio") == 6
    assert html.count('type="checkbox"') == 8
    assert "sample_1/reconstruction.wav" in console_text(result)
    assert json.loads((tmp_path / "out/samples.json").read_text())["out"] == str(tmp_path / "out")


def test_a_tool_that_answers_gets_questions_and_both_are_shown(run: Path, tmp_path: Path):
    questions = tmp_path / "data/test.jsonl"
    record = {"schema": 1, "tool": "qa-train", "config": {}, "inputs": [{"path": str(questions.parent / "train.npz")}]}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"data/test\.jsonl: No such file or directory; .*/run was trained beside it"):
        make_samples(run)
    questions.parent.mkdir()
    questions.write_text("".join(f'{{"question": "is it {colour}?"}}\n' for colour in ("red", "green", "blue")))
    make_samples(run, num_samples=2, out=tmp_path / "out")
    shown = [json.loads(line) for line in (tmp_path / "out/answers.jsonl").read_text().splitlines()]
    assert [row["question"] for row in shown] == ["is it red?", "is it green?"]
    assert shown[1]["answer"] == "IS IT GREEN?"


def test_a_tool_that_fails_or_is_not_there_is_one_line(run: Path):
    (run / "fail").touch()
    with pytest.raises(UserError, match="voice-gan samples failed with exit status 1: no checkpoint in this run"):
        make_samples(run)
    (run / "run.json").write_text(json.dumps({"schema": 1, "tool": "no-such-tool", "config": {}}))
    with pytest.raises(UserError, match="no-such-tool, which is not on PATH"):
        make_samples(run)
    with pytest.raises(UserError, match="does not exist"):
        make_samples(run / "none")


def test_a_conversion_that_keeps_the_old_voice_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sounds = {"original": 120.0, "reconstruction": 120.0, "voice_of_p2": 240.0, "converted_to_p2": 125.0}
    for folder, converted in (("kept", 125.0), ("changed", 235.0)):
        (tmp_path / folder).mkdir()
        for name, hertz in {**sounds, "converted_to_p2": converted}.items():
            soundfile.write(tmp_path / folder / f"{name}.wav", voice(hertz), RATE)

    def pitch_as_voice(samples: np.ndarray, rate: int) -> np.ndarray:
        angle = np.nanmedian(f0(samples, rate)) / 200
        return np.array([np.cos(angle), np.sin(angle)])

    monkeypatch.setattr("diag.samples.speaker_embedding", pitch_as_voice)
    result = make_samples(tmp_path)
    assert [(found["where"], found["name"]) for found in result["findings"]] == [
        ("kept/converted_to_p2.wav", "conversion")
    ]
    changed = result["samples"]["changed"]["sounds"]
    assert changed["converted_to_p2.wav"]["speaker"]["similarity_target"] > 0.99
    assert changed["reconstruction.wav"]["speaker"] == {"similarity_source": pytest.approx(1)}
    assert "against_original" not in changed["voice_of_p2.wav"]  # it says something else


def test_rows_and_texts_get_a_page_too(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("city,n\n<script>,1\nBern,2\n")
    (tmp_path / "replies.jsonl").write_text('{"reply": "hello"}\nnot json\n')
    (tmp_path / "note.txt").write_text("once <b> upon")
    result = make_samples(tmp_path)
    html = (tmp_path / "samples.html").read_text()
    assert result["findings"] == []
    for shown in ("&lt;script&gt;", "Bern", "hello", "once &lt;b&gt; upon"):
        assert shown in html
    assert "<td><script>" not in html


def test_broken_sounds_are_findings(tmp_path: Path):
    for name, samples in {
        "original": np.zeros(0),
        "converted_to_x": np.zeros(100),
        "reconstruction": np.full(100, np.nan),
    }.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("this is no sound")
    soundfile.write(tmp_path / "short.wav", voice()[:50], RATE)
    soundfile.write(tmp_path / "header.wav", voice()[:50], 2**31 - 1)
    result = make_samples(tmp_path)
    assert {
        (found["where"], found["summary"].split(" ")[-1])
        for found in result["findings"]
        if found["level"] == "critical"
    } >= {
        ("./original.wav", "samples"),
        ("./converted_to_x.wav", "silence"),
        ("./reconstruction.wav", "infinity"),
    }
    assert result["samples"]["."]["sounds"]["text.wav"]["problem"].startswith(str(tmp_path))
    assert "2,147,483,647 samples a second" in result["samples"]["."]["sounds"]["header.wav"]["problem"]
    assert result["samples"]["."]["sounds"]["short.wav"]["seconds"] == 50 / RATE


def test_log_mel_of_a_short_sound_is_one_frame():
    assert log_mel(voice()[:50], RATE).shape == (1, 80)
