"""Loudness by the standard."""

import numpy as np
import pytest

from voice_gan.loudness import TARGET, gain_to_target, gating_energies, integrated


def test_a_full_scale_sine_of_1_khz_has_the_loudness_that_the_standard_says():
    # ITU-R BS.1770-4: -3.01 LKFS at 997 Hz.
    sine = np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000)
    assert integrated(gating_energies(sine, 48_000)) == pytest.approx(-3.01, abs=0.05)


def test_what_is_soft_is_gated_away():
    # torchaudio.functional.loudness of the same, torchaudio 2.11
    noise = np.random.default_rng(0).normal(size=32_000) / 2
    levels = np.concatenate([0.3 * np.ones(8000), 0.003 * np.ones(8000), 0.1 * np.ones(16_000)])
    assert integrated(gating_energies((levels * noise).astype(np.float32), 16_000)) == pytest.approx(-19.0792, abs=1e-3)


def test_the_gain_brings_a_sound_to_the_target_unless_it_would_clip():
    noise = 0.01 * np.random.default_rng(0).normal(size=32_000)
    energies = gating_energies(noise, 16_000)
    gain = gain_to_target(energies, float(np.abs(noise).max()))
    assert integrated(gating_energies(gain * noise, 16_000)) == pytest.approx(TARGET)
    assert gain_to_target(energies, peak=0.9) == pytest.approx(0.97 / 0.9)
    assert gain_to_target(np.zeros(3), peak=0.0) == 1
