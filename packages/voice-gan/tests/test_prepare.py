"""Sound files to a prepared folder: what is kept, how it is dealt, and what is said of the rest."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from trainworks.console import UserError
from voice_gan.data import Segments, load_utterances, read_index
from voice_gan.loudness import TARGET, gating_energies, integrated
from voice_gan.prepare import read_manifest


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def tone(seconds: float, rate: int = 16000, level: float = 0.1) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(size=len(time))
    return (level * (np.sin(2 * np.pi * 150 * time) * (1 + np.sin(2 * np.pi * 450 * time)) + 0.1 * noise)).astype("f4")


def test_a_folder_becomes_splits_without_overlap(data) -> None:
    splits = {split: load_utterances(data, split) for split in ("train", "valid", "test")}
    assert {split: len(found) for split, found in splits.items()} == {"train": 24, "valid": 8, "test": 8}
    assert all({u.speaker for u in found} == {"alto", "bass", "soprano", "tenor"} for found in splits.values())
    ids = [u.id for found in splits.values() for u in found]
    assert len(ids) == len(set(ids)) == 40
    assert [u.id for u in load_utterances(data / "test")] == [u.id for u in splits["test"]]


def test_what_is_kept_is_level_and_has_its_f0(data) -> None:
    hertz = {"alto": 190, "bass": 100, "soprano": 250, "tenor": 140}
    for utterance in load_utterances(data, "test"):
        wave, f0 = utterance.wave_T, utterance.f0_F
        assert len(wave) == len(f0) * 256
        assert integrated(gating_energies(wave, 16000)) == pytest.approx(TARGET, abs=0.3)
        assert np.median(f0[f0 > 0]) == pytest.approx(hertz[utterance.speaker], rel=0.15)


def test_unseen_speakers_are_in_no_other_split(voice_gan, corpus, tmp_path) -> None:
    assert voice_gan("prepare", corpus, "--out", tmp_path / "d", "--unseen", 1).status == 0
    unseen = {u.speaker for u in load_utterances(tmp_path / "d", "unseen")}
    assert len(unseen) == 1
    assert all(unseen.isdisjoint(u.speaker for u in load_utterances(tmp_path / "d", s)) for s in ("train", "test"))


@pytest.fixture(scope="module")
def mixed(voice_gan, tmp_path_factory):
    """Two usable speakers among all that goes wrong, at several rates; prepared."""
    folder = tmp_path_factory.mktemp("mixed")
    sound = folder / "sound"
    for speaker, rate in (("a", 16000), ("b", 44100)):
        (sound / speaker).mkdir(parents=True)
        soundfile.write(sound / speaker / "good.wav", tone(2, rate), rate)
    soundfile.write(sound / "a" / "wide.wav", np.stack([tone(2, 192000)] * 2, 1), 192000, subtype="FLOAT")
    (sound / "a" / "text.wav").write_text("this is no sound")
    soundfile.write(sound / "a" / "empty.wav", np.zeros(0), 16000)
    soundfile.write(sound / "a" / "short.flac", tone(0.4), 16000)
    soundfile.write(sound / "a" / "silent.wav", np.zeros(32000), 16000)
    soundfile.write(sound / "a" / "nan.wav", np.where(tone(2) > 0.1, np.nan, 0.1), 16000, subtype="FLOAT")
    soundfile.write(sound / "a" / "clipped.wav", np.clip(tone(2, level=5.0), -1, 1), 16000)
    soundfile.write(sound / "a" / "long.wav", np.zeros(8000 * 60 * 11, np.int16), 8000, subtype="PCM_U8")
    whole = (sound / "a" / "good.wav").read_bytes()
    (sound / "a" / "cut.wav").write_bytes(whole[:30])
    ended = voice_gan("prepare", sound, "--out", folder / "data")
    assert ended.status == 0, ended.err
    return folder / "data"


def test_everything_left_out_is_named_with_its_reason(mixed) -> None:
    reasons = {entry["path"].rpartition("/")[2]: entry["reason"] for entry in report_of(mixed)["left_out"]}
    expected = {
        "text.wav": "not a sound file",
        "cut.wav": "not a sound file",
        "empty.wav": "no samples",
        "short.flac": "less than --min-seconds",
        "silent.wav": "less than --min-seconds",
        "nan.wav": "NaN",
        "clipped.wav": "clipped",
        "long.wav": "more than --max-seconds",
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name]


def test_rates_and_channels_are_brought_together(mixed) -> None:
    found = {u.id: u for u in load_utterances(mixed, "train")}
    assert found.keys() == {"a/good", "a/wide", "b/good"}
    assert all(abs(u.seconds - 2) < 0.1 for u in found.values())
    assert report_of(mixed)["single_utterance_speakers"] == ["b"]


def test_a_manifest_brings_texts(voice_gan, corpus, tmp_path) -> None:
    rows = [f"{corpus}/{speaker}/{take}.wav,{speaker},take {take}" for speaker in ("alto", "bass") for take in (0, 1)]
    (tmp_path / "m.csv").write_text("\n".join(["path,speaker,text", *rows]))
    assert voice_gan("prepare", "--manifest", tmp_path / "m.csv", "--out", tmp_path / "d").status == 0
    assert sorted(u.text for u in load_utterances(tmp_path / "d", "train")) == ["take 0", "take 0", "take 1", "take 1"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a/1.wav": None, "b/1.wav": None}, "none of 2 files can be used"),
        ({"a/1.wav": 2.0, "a/2.wav": 2.0}, "one speaker"),
        ({"readme.txt": None}, "no sound files"),
    ],
)
def test_nothing_usable_is_one_line_and_leaves_nothing(voice_gan, tmp_path, files, said) -> None:
    for name, seconds in files.items():
        path = tmp_path / "sound" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no sound") if seconds is None else soundfile.write(path, tone(seconds), 16000)
    ended = voice_gan("prepare", tmp_path / "sound", "--out", tmp_path / "data", "--quiet")
    assert ended.status == 2
    assert said in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["sound"]


def test_a_prepared_folder_is_replaced_only_when_asked(voice_gan, corpus, data, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "exists" in voice_gan("prepare", corpus, "--out", data).err
    ended = voice_gan("prepare", corpus, "--out", tmp_path / "mine", "--overwrite")
    assert (ended.status, (tmp_path / "mine" / "thesis.txt").exists()) == (2, True)
    kept = tmp_path / "mine" / "corpus"
    shutil.copytree(corpus, kept)
    for name in ("report.json", "index.json", "train"):
        (tmp_path / "mine" / name).touch()
    ended = voice_gan("prepare", kept, "--out", tmp_path / "mine", "--overwrite")
    assert "which --overwrite would remove" in ended.err
    assert kept.exists()


@pytest.fixture(scope="module")
def segments(data) -> Segments:
    return Segments(
        load_utterances(data, "train"),
        read_index(data / "train")["f0"],
        frames=30,
        reference_frames=30,
        batch=4,
        seed=0,
    )


def test_a_step_always_reads_the_same(segments) -> None:
    for one, other in ((segments.batch_of(5), segments.batch_of(5)),):
        np.testing.assert_array_equal(one.wave_BT, other.wave_BT)
        np.testing.assert_array_equal(one.target_BR, other.target_BR)


def test_processes_share_a_step(segments) -> None:
    whole = segments.batch_of(7)
    halves = [segments.batch_of(7, rank, 2) for rank in (0, 1)]
    for name in ("wave_BT", "f0_BF", "reference_BR", "target_BR", "speakers_B", "targets_B"):
        np.testing.assert_array_equal(getattr(whole, name), np.concatenate([getattr(h, name) for h in halves]))


def test_an_epoch_has_every_utterance_and_targets_are_others(segments) -> None:
    batches = [segments.batch_of(step) for step in range(segments.steps_an_epoch)]
    counts = np.bincount(np.concatenate([batch.speakers_B for batch in batches]), minlength=4)
    assert segments.steps_an_epoch == 24 * 3 // 4
    assert counts.tolist() == [18, 18, 18, 18]
    assert all((batch.speakers_B != batch.targets_B).all() for batch in batches)


def test_the_voice_is_heard_in_other_sound_than_the_content(mixed) -> None:
    """Of a speaker with one utterance, in another part of it."""
    index = read_index(mixed / "train")["f0"]
    segments = Segments(load_utterances(mixed, "train"), index, frames=30, reference_frames=30, batch=2, seed=0)
    lone = next(n for n, u in enumerate(segments.utterances) if u.speaker == "b")
    utterance = segments.utterances[lone]
    for start in (0, 40, utterance.frames - 30):
        reference = segments._reference(lone, start, 0.5, 0.5)
        whole = utterance.wave_T
        place = next(n for n in range(0, len(whole), 256) if np.array_equal(whole[n : n + 2560], reference[:2560]))
        assert place >= (start + 30) * 256 or place + len(reference) <= start * 256


def test_a_damaged_folder_is_said_in_one_line(voice_gan, data, tmp_path) -> None:
    for name, said in (("nothing", "holds no prepared sound"), ("cut", "can't be read")):
        folder = tmp_path / name
        (folder / "train").mkdir(parents=True)
        if name == "cut":
            (folder / "train" / "index.json").write_text((data / "train" / "index.json").read_text())
            (folder / "train" / "wave_000.npy").write_bytes(b"not numpy")
        ended = voice_gan("train", folder, "--out", tmp_path / "run")
        assert (ended.status, ended.err.count("\n")) == (2, 1)
        assert said in ended.err


@pytest.mark.parametrize(
    "change", [{"start": 10**9}, {"samples": None}, {"start": "0"}, {"samples": -256}, {"speaker": 3}]
)
def test_an_index_that_is_not_of_this_sound_is_refused(data, tmp_path, change) -> None:
    split = tmp_path / "test"
    shutil.copytree(data / "test", split)
    index = json.loads((split / "index.json").read_text())
    index["utterances"][0] |= change
    (split / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json is damaged, or of other sound"):
        load_utterances(split)


@pytest.mark.parametrize("row", [{"path": 3, "speaker": "a"}, {"path": "a", "speaker": [1]}, {"path": "a"}, [1]])
def test_a_row_of_a_manifest_without_path_and_speaker_is_named(tmp_path, row) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps({"path": "a.wav", "speaker": "a"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError, match="row 2: path and speaker are wanted"):
        read_manifest(manifest)
