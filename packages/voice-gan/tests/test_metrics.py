"""Measures of sounds, each beside a reference implementation or a truth that is known."""

import importlib.util
import math
import sys

import numpy as np
import pytest

from trainworks.console import UserError
from voice_gan.config import AudioConfig
from voice_gan.metrics import (
    CEPSTRA,
    compare,
    f0_agreement,
    load_distillmos,
    log_mels,
    mel_cepstral_distortion,
    pesq,
    stft_distance,
    stoi,
    summary,
)

RATE, AUDIO = 16_000, AudioConfig()


def vowel(hertz: float = 150.0, seconds: float = 2.0) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(hertz * (1 + 0.1 * np.sin(2 * np.pi * 2 * time))) / RATE
    loudness = 0.55 + 0.45 * np.sin(2 * np.pi * 3 * time)
    return (loudness * sum(np.sin(h * phase) / h for h in range(1, 9)) / 8).astype(np.float32)


def noisy(level: float) -> np.ndarray:
    return vowel() + (level * np.random.default_rng(0).normal(size=2 * RATE)).astype(np.float32)


def test_a_sound_beside_itself_is_perfect_and_noise_makes_it_worse():
    same, near, far = (compare(vowel(), other, AUDIO) for other in (vowel(), noisy(0.001), noisy(0.05)))
    assert (same["mel_distance"], same["stft_distance"], same["mcd"], same["voicing_error"]) == (0, 0, 0, 0)
    assert same["stoi"] == pytest.approx(1)
    assert same["f0_correlation"] == pytest.approx(1)
    for measure in ("mel_distance", "stft_distance", "mcd"):
        assert 0 < near[measure] < far[measure]
    assert near["stoi"] > far["stoi"]


def test_an_octave_keeps_the_melody():
    found = compare(vowel(120), vowel(240), AUDIO)
    assert found["f0_correlation"] > 0.9
    assert found["mel_distance"] > 0.3


def test_stft_distance_is_that_of_its_equations():
    from scipy.signal import stft

    first, second = noisy(0.002), noisy(0.05)
    expected = []
    for fft, hop, size in ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200)):
        # torch.stft puts a short window in the middle of the FFT and reflects the edges; scale is SciPy's own.
        window = np.zeros(fft)
        start = (fft - size) // 2
        window[start : start + size] = np.hanning(size + 1)[:-1]
        padded = [np.pad(wave.astype(float), fft // 2, mode="reflect") for wave in (first, second)]
        spectra = [
            np.abs(stft(wave, window=window, nperseg=fft, noverlap=fft - hop, boundary=None, padded=False)[2])
            * window.sum()
            for wave in padded
        ]
        a, b = (np.maximum(spectrum, 1e-5) for spectrum in spectra)
        expected.append(np.linalg.norm(a - b) / np.linalg.norm(a) + np.abs(np.log(a) - np.log(b)).mean())
    assert stft_distance(first, second) == pytest.approx(np.mean(expected), rel=1e-3)


def test_cepstral_distortion_is_kubicheks():
    """The package mel-cepstral-distance sums cosines over the bands, M / 2 times a coefficient of the series, and
    leaves the factor that makes decibels to the logarithm that it is given."""
    package = pytest.importorskip("mel_cepstral_distance")
    first, second = log_mels(vowel(), AUDIO), log_mels(noisy(0.01), AUDIO)
    found, _ = package.compare_mel_spectrograms(first.T, second.T, s=0, D=CEPSTRA, aligning="pad", remove_silence="no")
    in_decibels = 10 * math.sqrt(2) / math.log(10) * 2 / AUDIO.mels
    assert mel_cepstral_distortion(first, second) == pytest.approx(found * in_decibels, rel=1e-4)


def test_cepstral_distortion_of_a_ripple_is_its_root_mean_square_in_decibels():
    bands = np.arange(80)[:, None] + 0.5
    ripple = 0.3 * np.cos(np.pi * 5 * bands / 80) * np.ones((1, 20))
    in_decibels = 20 / math.log(10) * ripple
    assert mel_cepstral_distortion(0 * ripple, ripple) == pytest.approx(np.sqrt((in_decibels**2).mean()))
    assert mel_cepstral_distortion(ripple, ripple + 3) == pytest.approx(0, abs=1e-9)  # loudness doesn't count


def test_f0_agreement_counts_frames():
    first = np.array([0, *range(100, 120), 0, 0], float)
    second = np.array([90, *range(200, 240, 2), 0, 0], float)
    correlation, error = f0_agreement(first, second)
    assert correlation == pytest.approx(1)
    assert error == pytest.approx(1 / 23)
    assert math.isnan(f0_agreement(np.zeros(30), second)[0])


def test_what_cannot_be_told_is_nan():
    assert math.isnan(stoi(vowel()[:2000], vowel()[:2000], RATE))


def test_summaries_leave_nan_out():
    found = summary([{"stoi": 0.5, "pesq": 2.0}, {"stoi": 0.7, "pesq": math.nan}, {"stoi": math.nan}])
    assert found["stoi"] == {"mean": pytest.approx(0.6), "std": pytest.approx(0.1 * math.sqrt(2)), "n": 2}
    assert (found["pesq"]["mean"], found["pesq"]["n"]) == (2, 1)
    assert math.isnan(found["pesq"]["std"])


def test_pesq_of_the_same_sound_is_the_best_there_is():
    pytest.importorskip("pesq")
    # 4.64 is P.862.2's best; noise makes it worse.
    assert pesq(vowel(), vowel(), RATE) == pytest.approx(4.64, abs=0.01)
    assert pesq(vowel(), noisy(0.05), RATE) < 4


@pytest.mark.skipif(importlib.util.find_spec("distillmos") is None, reason="it is an extra")
def test_opinion_scores_without_torchaudio_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "distillmos"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    load_distillmos.cache_clear()
    with pytest.raises(UserError, match=r"distillmos can't be imported .*torchaudio"):
        load_distillmos()
