"""Voices of a whole corpus can be compared, all with all."""

import tracemalloc

import numpy as np

from voice_gan.judge import Voices


def test_pairs_take_a_number_each_and_not_two_embeddings() -> None:
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(40), 20)
    embeddings = rng.normal(size=(40, 256))[speakers] + 0.5 * rng.normal(size=(800, 256))
    voices = Voices.of(embeddings, [str(speaker) for speaker in speakers])
    tracemalloc.start()
    bands = voices.bands()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert bands["separation"] > 0.6
    assert bands["equal_error_rate"] < 0.01
