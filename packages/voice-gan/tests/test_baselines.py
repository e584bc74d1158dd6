"""Griffin-Lim."""

import numpy as np
import pytest
import torch

from voice_gan.audio import mel_bank
from voice_gan.baselines import griffin_lim, unmix
from voice_gan.config import AudioConfig
from voice_gan.metrics import compare, log_mels

AUDIO = AudioConfig()


def test_a_sound_comes_back_from_its_spectrogram():
    time = np.arange(16_384) / 16_000
    phase = 2 * np.pi * np.cumsum(150 * (1 + 0.1 * np.sin(12 * time))) / 16_000
    wave = (sum(np.sin(h * phase) / h for h in range(1, 9)) / 8).astype(np.float32)
    wave += 0.003 * np.random.default_rng(0).normal(size=len(wave)).astype(np.float32)
    rebuilt = griffin_lim(torch.from_numpy(log_mels(wave, AUDIO)), AUDIO).numpy()
    assert rebuilt.shape == wave.shape
    found = compare(wave, rebuilt, AUDIO)
    assert found["mel_distance"] < 0.25
    assert found["f0_correlation"] > 0.95


def test_unmixed_magnitudes_have_the_mel_amplitudes_that_were_wanted():
    bank = mel_bank(AUDIO.n_fft, AUDIO.mels, AUDIO.rate, AUDIO.fmin, AUDIO.fmax, torch.device("cpu"))
    mel = bank @ torch.rand(AUDIO.n_fft // 2 + 1, 5, generator=torch.Generator().manual_seed(0))
    found = unmix(mel, AUDIO)
    assert (found >= 0).all()
    assert (bank @ found).numpy() == pytest.approx(mel.numpy(), rel=0.05, abs=1e-4)
