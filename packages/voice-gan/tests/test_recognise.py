"""Word error rates."""

import math

import numpy as np
import pytest

from voice_gan.recognise import normalised, transcribe, word_error_rate

pytest.importorskip("jiwer", reason="extra words")


def test_word_errors_are_counted_over_the_words_of_the_reference():
    assert word_error_rate("The cat sat, on the mat.", "the cat sat on the mat") == 0
    assert word_error_rate("the cat sat on the mat", "a cat sat on mat") == pytest.approx(2 / 6)
    assert word_error_rate("yes", "no no") == 2
    assert math.isnan(word_error_rate(" ... ", "anything"))
    assert normalised("Don't  shout!") == "don't shout"


def test_what_is_heard_does_not_depend_on_what_was_heard_before():
    pytest.importorskip("pocketsphinx", reason="extra words")
    rng = np.random.default_rng(0)
    rustle, hum = 0.1 * rng.normal(size=8000), 0.2 * np.sin(2 * np.pi * 200 * np.arange(8000) / 16_000)
    first = transcribe(rustle, 16_000)
    transcribe(hum, 16_000)
    assert transcribe(rustle, 16_000) == first
