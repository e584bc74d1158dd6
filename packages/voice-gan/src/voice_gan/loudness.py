"""Loudness by ITU-R BS.1770-4, of one channel: K-weighting, blocks of 400 ms that overlap by three quarters, two gates.

Legend: T samples, N gating blocks.
"""

from __future__ import annotations

import math

import numpy as np

TARGET = -24.0
"""LUFS that recordings are brought to."""
PEAK = 0.97
"""Largest sample that a recording is brought to, however soft it is."""
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0
BIAS = -0.691
STEPS_A_SECOND, STEPS_A_BLOCK = 10, 4
WARM_UP_SECONDS = 1
"""The weighting's filters have forgotten what was before that."""


def gain_to_target(energies_N: np.ndarray, peak: float) -> float:
    """The factor that brings a recording to `TARGET`, or as near as `PEAK` allows; 1 for silence."""
    loudness = integrated(energies_N)
    if not math.isfinite(loudness):
        return 1.0
    return float(min(10 ** ((TARGET - loudness) / 20), PEAK / peak))


def integrated(energies_N: np.ndarray) -> float:
    """Loudness in LUFS of gating blocks; minus infinity where none is above the absolute gate."""
    for gate in (ABSOLUTE_GATE, None):
        with np.errstate(divide="ignore"):
            levels_N = BIAS + 10 * np.log10(energies_N)
        if gate is None:
            gate = BIAS + 10 * math.log10(energies_N.mean()) + RELATIVE_GATE
        energies_N = energies_N[levels_N > gate]
        if not len(energies_N):
            return -math.inf
    return BIAS + 10 * math.log10(energies_N.mean())


def gating_energies(wave_T: np.ndarray, rate: int) -> np.ndarray:
    """Mean squares of the K-weighted sound in its gating blocks, [N]; of a sound shorter than one, of the whole."""
    from scipy.signal import sosfilt

    step = rate // STEPS_A_SECOND
    squares_T = sosfilt(k_weighting(rate), wave_T.astype(np.float64)) ** 2
    num_steps = len(wave_T) // step
    if num_steps < STEPS_A_BLOCK:
        return squares_T.mean(keepdims=True)
    sums = squares_T[: num_steps * step].reshape(num_steps, step).sum(axis=1)
    return np.convolve(sums, np.ones(STEPS_A_BLOCK), mode="valid") / (STEPS_A_BLOCK * step)


def k_weighting(rate: int) -> np.ndarray:
    """The two filters of K-weighting as second-order sections, [2, 6]: a high shelf of 4 dB for the head, a high pass.

    Designed for any rate by the audio cookbook's formulas (Bristow-Johnson), as the standard's own are for 48 kHz.
    """
    shelf, angle = 10 ** (4 / 40), 2 * math.pi * 1500 / rate
    cosine, alpha = math.cos(angle), math.sin(angle) / math.sqrt(2)
    root = 2 * math.sqrt(shelf) * alpha
    high_shelf = [
        shelf * (shelf + 1 + (shelf - 1) * cosine + root),
        -2 * shelf * (shelf - 1 + (shelf + 1) * cosine),
        shelf * (shelf + 1 + (shelf - 1) * cosine - root),
        shelf + 1 - (shelf - 1) * cosine + root,
        2 * (shelf - 1 - (shelf + 1) * cosine),
        shelf + 1 - (shelf - 1) * cosine - root,
    ]
    angle = 2 * math.pi * 38 / rate
    cosine, alpha = math.cos(angle), math.sin(angle)  # of quality 1/2: sin / (2 * 1/2)
    high_pass = [(1 + cosine) / 2, -1 - cosine, (1 + cosine) / 2, 1 + alpha, -2 * cosine, 1 - alpha]
    return np.array([[number / section[3] for number in section] for section in (high_shelf, high_pass)])
