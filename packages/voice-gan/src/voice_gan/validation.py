"""Cheap figures of a model in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainworks.seeding import rng
from voice_gan.convert import convert_wave, wave_voice
from voice_gan.data import Utterance
from voice_gan.judge import Voices
from voice_gan.metrics import mel_distance, stoi
from voice_gan.model import VoiceModel

LONGEST_SECONDS = 4.0
"""Of each utterance so much is looked at, from its beginning."""


@torch.no_grad()
def validate(model: VoiceModel, utterances: Sequence[Utterance], num_rebuilt: int = 12) -> dict[str, float]:
    """How well a model rebuilds and converts utterances that it wasn't trained on; in evaluation mode meanwhile.

    Args:
        utterances: all of them are embedded.
        num_rebuilt: so many, at even distances, are rebuilt and converted.

    Returns:
        `valid/mel_distance` and `valid/stoi` of what was rebuilt; `valid/separation`, centred, of the model's own
        speaker encoder; `valid/conversion`, the share of conversions that its own encoder finds nearer to the target
        than to the source. NaN where the utterances don't tell, such as those of one speaker.
    """
    was_training = model.training
    model.eval()
    audio = model.audio
    waves = [utterance.wave_T[: int(LONGEST_SECONDS * audio.rate)] for utterance in utterances]
    pitches = [utterance.f0_F[: len(wave_T) // audio.hop] for utterance, wave_T in zip(utterances, waves, strict=True)]
    voices = [wave_voice(model, wave_T, f0_F) for wave_T, f0_F in zip(waves, pitches, strict=True)]
    heard = Voices.of(
        np.stack([voice.embedding_D.float().cpu().numpy() for voice in voices]), [u.speaker for u in utterances]
    )
    count = min(num_rebuilt, len(utterances))
    distances, intelligibilities, successes = [], [], []
    for place in range(count):
        number = place * len(utterances) // count
        wave_T, f0_F, speaker = waves[number], pitches[number], utterances[number].speaker
        rebuilt_T = convert_wave(model, wave_T, voices[number], f0_F)
        distances.append(mel_distance(wave_T, rebuilt_T, audio))
        intelligibilities.append(stoi(wave_T, rebuilt_T, audio.rate))
        others = np.flatnonzero(heard.speakers != speaker)
        if len(others):
            target = int(rng(number, "validation").choice(others))
            converted = wave_voice(model, convert_wave(model, wave_T, voices[target], f0_F))
            said = converted.embedding_D.float().cpu().numpy()
            to_target = heard.similarity(said, str(heard.speakers[target]), without=[target])
            successes.append(to_target > heard.similarity(said, speaker, without=[number]))
    model.train(was_training)
    return {
        "valid/mel_distance": float(np.mean(distances)),
        "valid/stoi": float(np.mean([value for value in intelligibilities if np.isfinite(value)] or [np.nan])),
        "valid/separation": float(heard.bands()["separation"]),
        "valid/conversion": float(np.mean(successes)) if successes else float("nan"),
    }
