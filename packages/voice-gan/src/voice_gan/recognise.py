"""Are the words still there? Word error rates by a recogniser that carries its own English model."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from voice_gan.audio import resample
from voice_gan.extras import require

if TYPE_CHECKING:
    from pocketsphinx import Decoder

RATE = 16_000
"""Hz, of pocketsphinx's model en-us."""
EXTRA = ("words", "pocketsphinx", "jiwer")


def transcribe(wave_T: np.ndarray, rate: int) -> str:
    """What pocketsphinx hears in a sound [T]: lower-case words, "" for none.

    Raises:
        UserError: the extra "words" is not installed.
    """
    require(*EXTRA)
    if rate != RATE:
        wave_T = resample(wave_T, rate, RATE)
    decoder = _decoder()
    # Without this it would go on with the cepstral mean of the sound before, and the order would matter.
    decoder.reinit_feat(decoder.config)
    decoder.start_utt()
    decoder.process_raw((np.clip(wave_T, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return "" if found is None else found.hypstr


def word_error_rate(reference: str, heard: str) -> float:
    """Substitutions, deletions and insertions over the words of the reference, by jiwer; NaN for a reference without
    words. Case and punctuation don't count."""
    require(*EXTRA)
    import jiwer

    words = normalised(reference)
    return float(jiwer.wer(words, normalised(heard))) if words else math.nan


def normalised(text: str) -> str:
    """Lower case, nothing but letters, digits, apostrophes and single spaces."""
    return " ".join(re.sub(r"[^\w']+", " ", text.lower()).split())


@cache
def _decoder() -> Decoder:
    from pocketsphinx import Decoder

    return Decoder(samprate=RATE, loglevel="FATAL")
