"""What is left of voices in the content, as an evaluation measures it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from voice_gan.config import AudioConfig
from voice_gan.data import load_utterances
from voice_gan.evaluate import content_summary
from voice_gan.judge import Voices


@pytest.mark.parametrize(
    ("encode", "least", "most"),
    [(lambda mel: mel, 0.6, 2.0), (lambda mel: mel.new_ones(1, 8, 20), -1e-6, 1e-6)],
    ids=["the spectrum itself", "nothing"],
)
def test_content_parts_speakers_as_far_as_it_holds_their_voices(
    data: Path, encode: Callable[[Tensor], Tensor], least: float, most: float
) -> None:
    model = SimpleNamespace(audio=AudioConfig(), encode_content=encode, parameters=lambda: iter([torch.zeros(1)]))
    utterances = load_utterances(data, "test")
    statistics = np.stack([content_summary(model, utterance.wave_T) for utterance in utterances])
    separation = Voices.of(statistics, [utterance.speaker for utterance in utterances]).bands()["separation"]
    assert least <= separation <= most
