"""Training segments hold one voice."""

from pathlib import Path

import numpy as np

from voice_gan.data import Segments, load_utterances, read_index, tile


def test_an_utterance_shorter_than_a_segment_is_repeated_and_not_followed_by_another_voice(data: Path) -> None:
    utterances = load_utterances(data, "train")
    frames = 2 * max(utterance.frames for utterance in utterances)
    segments = Segments(utterances, read_index(data / "train")["f0"], frames, frames, batch=4, seed=0)
    whole = {name: [] for name in segments.speakers}
    for utterance in utterances:
        whole[utterance.speaker].append(tile(utterance.wave_T, frames * utterance.hop))
    batch = segments.batch_of(0)
    heard = [(batch.wave_BT, batch.speakers_B), (batch.reference_BR, batch.speakers_B)]
    for waves_BT, speakers_B in [*heard, (batch.target_BR, batch.targets_B)]:
        for wave_T, speaker in zip(waves_BT, speakers_B, strict=True):
            assert any(np.array_equal(wave_T, own_T) for own_T in whole[segments.speakers[speaker]])
    f0 = {tuple(tile(utterance.f0_F, frames)) for utterance in utterances}
    assert all(tuple(f0_F) in f0 for f0_F in batch.f0_BF)
