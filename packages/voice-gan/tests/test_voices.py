"""The built-in voices speak, each in a range of its own."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from voice_gan.audio import fundamental, read_audio
from voice_gan.config import AudioConfig
from voice_gan.data import load_utterances
from voice_gan.voices import VOICES, write_voices

pytest.importorskip("espeakng_loader")


def test_every_voice_speaks(tmp_path) -> None:
    spoken = list(write_voices(tmp_path, len(VOICES), 1, seed=0))
    assert len({name for _, name, _ in spoken}) == len(VOICES) >= 12
    pitches = []
    for path, _, text in spoken:
        wave, rate = read_audio(path)
        assert rate == 16000
        assert 0.15 * len(text.split()) < len(wave) / rate < 0.8 * len(text.split())
        f0 = fundamental(wave, AudioConfig())
        pitches.append(np.median(f0[f0 > 0]))
    assert min(pitches) > 65
    assert max(pitches) > 2 * min(pitches)


@pytest.mark.skipif(find_spec("resemblyzer") is None, reason="its weights are an extra")
def test_voices_part_as_those_of_people_do(tmp_path) -> None:
    """GE2E's cosines of the same and of another speaker: .868 and .525 on LibriSpeech."""
    from voice_gan.encoders import Ge2e

    spoken = list(write_voices(tmp_path, len(VOICES), 2, seed=0))
    with torch.no_grad():
        encoder = Ge2e(16000).eval()
        voices = torch.cat([encoder(torch.from_numpy(read_audio(path)[0])[None]) for path, *_ in spoken])
    similarity = (voices @ voices.T).numpy()
    names = np.array([name for _, name, _ in spoken])
    same, other = names[:, None] == names, ~np.eye(len(names), dtype=bool)
    assert similarity[same & other].mean() > 0.868
    assert similarity[~same].mean() < 0.62
    assert similarity[~same].max() < 0.9


def test_sentences_follow_the_seed(tmp_path) -> None:
    texts = [[text for *_, text in write_voices(tmp_path / str(n), 1, 3, seed)] for n, seed in enumerate((0, 0, 1))]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 3


def test_demo_data_knows_its_texts(voice_gan, tmp_path) -> None:
    made = voice_gan("prepare", "--demo", "--voices", 4, "--utterances", 4, "--out", tmp_path / "data")
    assert (made.status, made.out) == (0, f"{tmp_path / 'data'}\n")
    utterances = load_utterances(tmp_path / "data", "train")
    assert all(utterance.text for utterance in utterances)


def test_more_voices_than_there_are(voice_gan, tmp_path) -> None:
    ended = voice_gan("prepare", "--demo", "--voices", 99, "--out", tmp_path / "data")
    assert ended.status == 2
    assert str(len(VOICES)) in ended.err
