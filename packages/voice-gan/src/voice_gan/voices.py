"""Built-in voices: espeak-ng, whose plain variants sound too much alike, made to part as human voices do.

A voice here is a language variant, one of espeak-ng's own timbres, a range of pitch, a vocal tract's length and a
spectral tilt. The tract is what playing sound faster changes: all formants rise, and pitch and tempo, which are set
lower before, stay. What is said is drawn from a small grammar.
"""

from __future__ import annotations

import ctypes
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainworks.console import UserError, progress
from trainworks.files import atomic_write
from trainworks.seeding import rng
from voice_gan.audio import resample


@dataclass(frozen=True)
class Voice:
    """How a built-in speaker sounds.

    Attributes:
        name: of the folder of its sound.
        espeak: espeak-ng's language variant and timbre, such as "en-gb-scotland+m3".
        pitch: espeak-ng's pitch, 0 to 100, before the tract's length moves it.
        spread: how lively the pitch is, 0 to 100.
        tract: factor on all formants; above 1 is a shorter vocal tract.
        tilt: share of the sample before that is taken away; above 0 is brighter.
        words_a_minute: tempo.
    """

    name: str
    espeak: str
    pitch: int
    spread: int
    tract: float
    tilt: float
    words_a_minute: int


VOICES = (
    Voice("ada", "en-us+f2", 45, 45, 1.10, 0.3, 165),
    Voice("ben", "en-gb-x-rp+m3", 45, 30, 0.88, -0.3, 150),
    Voice("cleo", "en-gb-scotland+f4", 60, 60, 1.18, 0.0, 180),
    Voice("dov", "en-us+m7", 55, 20, 0.94, 0.5, 170),
    Voice("eve", "en-us-nyc+f5", 30, 70, 1.00, -0.2, 155),
    Voice("finn", "en-gb-scotland+m1", 60, 50, 1.02, 0.6, 190),
    Voice("gus", "en-029+m8", 40, 60, 1.05, -0.5, 140),
    Voice("hana", "en-us+f3", 60, 40, 1.24, 0.6, 175),
    Voice("ivo", "de+m4", 40, 40, 0.97, -0.4, 160),
    Voice("jun", "en-us+klatt4", 70, 30, 1.08, 0.4, 170),
    Voice("kai", "en-gb-x-gbclan+m2", 75, 60, 1.12, -0.1, 185),
    Voice("lena", "nl+f1", 50, 50, 1.06, 0.5, 170),
    Voice("max", "en-us+klatt2", 60, 20, 0.86, 0.6, 150),
    Voice("nia", "en-029+f4", 20, 40, 0.95, 0.3, 165),
    Voice("otto", "af+m6", 70, 35, 0.90, 0.4, 175),
    Voice("pia", "en-gb-x-gbcwmd+Andrea", 30, 70, 1.15, -0.3, 160),
)

# One a line would be a page.
# fmt: off
ADJECTIVES = (
    "quiet", "young", "heavy", "bright", "narrow", "gentle", "rough", "golden", "hollow", "eager", "frozen",
    "joyful", "modern", "thirsty", "yellow", "usual", "shallow", "famous", "royal", "curious", "violet", "empty",
    "major", "crisp", "fierce", "smooth", "tidy", "warm", "noisy", "vague",
)
NOUNS = (
    "baker", "garden", "village", "thunder", "pilot", "camera", "donkey", "measure", "judge", "chimney", "feather",
    "onion", "harbour", "zebra", "teacher", "ocean", "button", "leather", "voyage", "church", "shadow", "kitchen",
    "engine", "treasure", "whistle", "pigeon", "blanket", "doctor", "cousin", "jungle", "orange", "machine",
    "mirror", "poet", "quarry", "rabbit", "saddle", "tunnel", "uncle", "valley", "window", "youth",
)
VERBS = (
    "carries", "watches", "follows", "borrows", "touches", "chooses", "enjoys", "measures", "pulls", "teaches",
    "washes", "visits", "judges", "throws", "repairs", "hides", "paints", "sells", "reaches", "gathers", "avoids",
    "brings", "calls", "draws", "finds",
)
PLACES = (
    "near the old bridge", "in the early morning", "without a single word", "for the third time",
    "behind the big house", "after a long night", "under the blue sky", "before the show began",
    "along the dusty road", "with both hands", "against all advice", "every other Thursday", "on the way to school",
    "because nobody else would",
)
# fmt: on
OPENINGS = ("The", "Each", "That", "Another", "My", "Your", "Their", "No")


def sentence(random: np.random.Generator) -> str:
    """A sentence that parses and means little; its words cover the sounds of English."""

    def pick(words: tuple[str, ...]) -> str:
        return words[int(random.integers(len(words)))]

    start = f"{pick(OPENINGS)} {pick(ADJECTIVES)} {pick(NOUNS)} {pick(VERBS)} the {pick(ADJECTIVES)} {pick(NOUNS)}"
    return f"{start} {pick(PLACES)}."


def write_voices(folder: Path, voices: int, utterances: int, seed: int) -> Iterator[tuple[Path, str, str]]:
    """Speak sentences into FOLDER/VOICE/0000.wav; yields (path, voice, text) of each.

    Raises:
        UserError: more voices than there are, or espeak-ng is not installed.
    """
    import soundfile

    if voices > len(VOICES):
        raise UserError(f"--voices is at most {len(VOICES)}, not {voices}")
    with espeak() as (speak, rate), progress(voices * utterances, "speaking") as bar:
        for voice in VOICES[:voices]:
            (folder / voice.name).mkdir(parents=True)
            for number in range(utterances):
                text = sentence(rng(seed, "sentence", voice.name, number))
                wave = shape(speak(voice, text), voice, rate)
                buffer = io.BytesIO()
                soundfile.write(buffer, wave, 16000, format="WAV", subtype="PCM_16")
                path = folder / voice.name / f"{number:04d}.wav"
                atomic_write(path, buffer.getvalue())
                bar.advance(1)
                yield path, voice.name, text


def shape(wave: np.ndarray, voice: Voice, rate: int) -> np.ndarray:
    """Give what espeak-ng spoke the voice's tract and tilt: (T,) at `rate` to 16 kHz, peak 0.5."""
    wave = resample(wave, round(rate * voice.tract / 50) * 50, 16000)
    wave = wave - voice.tilt * np.concatenate([[0.0], wave[:-1]])
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


RATE_PARAMETER, PITCH_PARAMETER, RANGE_PARAMETER = 1, 3, 4
SYNCHRONOUS, UTF8 = 2, 1


@contextmanager
def espeak() -> Iterator[tuple]:
    """espeak-ng by its C interface: a function from (voice, text) to (T,) float32, and its rate in Hz.

    Raises:
        UserError: the package that carries it is not installed, or a voice is unknown to it.
    """
    try:
        import espeakng_loader
    except ImportError:
        raise UserError("the built-in voices come with an extra: pip install 'voice-gan[voices]'") from None
    library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
    data = str(espeakng_loader.get_data_path()).encode()
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
    heard: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples: ctypes._Pointer[ctypes.c_short], count: int, events: int) -> int:
        if samples and count:
            heard.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / 32768)
        return 0

    library.espeak_SetSynthCallback(collect)

    def speak(voice: Voice, text: str) -> np.ndarray:
        if library.espeak_SetVoiceByName(voice.espeak.encode()):
            raise UserError(f"espeak-ng has no voice {voice.espeak}")
        library.espeak_SetParameter(RATE_PARAMETER, round(voice.words_a_minute / voice.tract), 0)
        library.espeak_SetParameter(PITCH_PARAMETER, voice.pitch, 0)
        library.espeak_SetParameter(RANGE_PARAMETER, voice.spread, 0)
        heard.clear()
        encoded = text.encode()
        library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, UTF8, None, None)
        library.espeak_Synchronize()
        return np.concatenate(heard)

    try:
        yield speak, rate
    finally:
        library.espeak_Terminate()
