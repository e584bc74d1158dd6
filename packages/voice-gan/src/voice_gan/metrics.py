"""Measures of a sound beside the one that it should be.

Legend: T samples, F frames, M mel bands, K cepstral coefficients. A sound is [T] float32 in -1 .. 1 of one channel at
the recipe's rate; two that are compared are cut to the length of the shorter. A figure that cannot be told is NaN.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from trainworks.console import UserError
from voice_gan.audio import LOG_FLOOR, fundamental, log_mel, resample
from voice_gan.config import AudioConfig
from voice_gan.extras import require

STFT = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))
"""FFT, hop and window in samples of the multi-resolution STFT distance (Yamamoto et al. 2020, table 1)."""
CEPSTRA = 13
"""Coefficients of the mel-cepstral distortion, the zeroth (loudness) not counted."""
FEWEST_VOICED = 10
"""Frames that are voiced in both sounds, below which a correlation of F0 says nothing."""
JUDGED_RATE = 16_000
"""Rate in Hz that PESQ (wide band) and DistillMOS are defined for."""
LARGER_IS_BETTER = {
    "mel_distance": False,
    "stft_distance": False,
    "stoi": True,
    "pesq": True,
    "mos": True,
    "mcd": False,
    "f0_correlation": True,
    "voicing_error": False,
}


def compare(
    reference_T: np.ndarray, wave_T: np.ndarray, audio: AudioConfig, reference_f0_F: np.ndarray | None = None
) -> dict[str, float]:
    """Every measure of this module but `mos`; `pesq` where the package is installed.

    Args:
        reference_f0_F: what `audio.fundamental` says of the reference, if that is known.
    """
    size = min(len(reference_T), len(wave_T))
    reference_T, wave_T = reference_T[:size], wave_T[:size]
    mels = log_mels(reference_T, audio), log_mels(wave_T, audio)
    pitches = fundamental(reference_T, audio) if reference_f0_F is None else reference_f0_F, fundamental(wave_T, audio)
    correlation, voicing_error = f0_agreement(*pitches)
    found = {
        "mel_distance": float(np.abs(mels[0] - mels[1]).mean()),
        "stft_distance": stft_distance(reference_T, wave_T),
        "stoi": stoi(reference_T, wave_T, audio.rate),
        "mcd": mel_cepstral_distortion(*mels),
        "f0_correlation": correlation,
        "voicing_error": voicing_error,
    }
    if importlib.util.find_spec("pesq") is not None:
        found["pesq"] = pesq(reference_T, wave_T, audio.rate)
    return {name: found[name] for name in LARGER_IS_BETTER if name in found}


def log_mels(wave_T: np.ndarray, audio: AudioConfig) -> np.ndarray:
    """Natural logarithm of mel amplitudes, [M, F]."""
    return log_mel(torch.from_numpy(np.ascontiguousarray(wave_T))[None], audio)[0].numpy()


def mel_distance(reference_T: np.ndarray, wave_T: np.ndarray, audio: AudioConfig) -> float:
    """Mean absolute difference of log-mel amplitudes (natural logarithm)."""
    size = min(len(reference_T), len(wave_T))
    return float(np.abs(log_mels(reference_T[:size], audio) - log_mels(wave_T[:size], audio)).mean())


def stft_distance(reference_T: np.ndarray, wave_T: np.ndarray) -> float:
    """Multi-resolution STFT distance: spectral convergence and log-magnitude distance (Yamamoto et al. 2020, equations
    4 to 6), the mean over three resolutions."""
    distances = []
    for fft, hop, size in STFT:
        window = torch.hann_window(size)
        reference, spectrum = (
            torch.stft(torch.from_numpy(np.ascontiguousarray(wave)), fft, hop, size, window, return_complex=True)
            .abs()
            .clamp(min=LOG_FLOOR)
            for wave in (reference_T, wave_T)
        )
        convergence = torch.linalg.norm(reference - spectrum) / torch.linalg.norm(reference)
        distances.append(float(convergence + (reference.log() - spectrum.log()).abs().mean()))
    return float(np.mean(distances))


def stoi(reference_T: np.ndarray, wave_T: np.ndarray, rate: int) -> float:
    """Short-time objective intelligibility (Taal et al. 2011) by pystoi, 0 to 1.

    NaN for less than half a second, or less than 384 ms that isn't silent: it compares stretches of that length.
    """
    from pystoi import stoi as measure

    if len(reference_T) < rate // 2:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(measure(reference_T, wave_T, rate))
        except RuntimeWarning:
            return math.nan


def pesq(reference_T: np.ndarray, wave_T: np.ndarray, rate: int) -> float:
    """ITU-T P.862.2 (wide band) by the package pesq, 1 to 4.64; NaN where it hears no utterance.

    Raises:
        UserError: the extra "pesq" is not installed.
    """
    require("pesq", "pesq")
    from pesq import PesqError
    from pesq import pesq as measure

    try:
        return float(measure(JUDGED_RATE, _at_judged_rate(reference_T, rate), _at_judged_rate(wave_T, rate), "wb"))
    except PesqError:
        return math.nan


def mos(wave_T: np.ndarray, rate: int) -> float:
    """Mean opinion score that people would give, 1 to 5, as DistillMOS (Stahl and Gamper 2025) foretells it; it needs
    no reference.

    Raises:
        UserError: as `load_distillmos`.
    """
    with torch.no_grad():
        return float(load_distillmos()(torch.from_numpy(_at_judged_rate(wave_T, rate))[None]))


@functools.cache
def load_distillmos() -> Callable[[torch.Tensor], torch.Tensor]:
    """The network behind `mos`, from sound [1, T] at `JUDGED_RATE` to [1].

    Raises:
        UserError: the extra "evaluate" is not installed, or can't be imported.
    """
    require("evaluate", "distillmos")
    try:
        import distillmos
    except (ImportError, OSError) as error:  # torchaudio, which it imports, is missing or wants another PyTorch build
        raise UserError(
            f"distillmos can't be imported ({error}): install a torchaudio of the same build as torch, or leave it out"
        ) from None
    with contextlib.redirect_stdout(io.StringIO()):  # it tells where its weights are
        return distillmos.ConvTransformerSQAModel().eval()


def mel_cepstral_distortion(reference_MF: np.ndarray, mel_MF: np.ndarray) -> float:
    """Mel-cepstral distortion in dB (Kubichek 1993) of two log-mel spectrograms, frame by frame, without alignment.

    The cepstrum c_k of a log-amplitude spectrum is its cosine series, log|X| = c_0 + sum_k c_k cos(pi k (m + 1/2) / M),
    so that 10 / ln 10 * sqrt(2 * sum_k (difference of c_k)^2), the usual formula, is the root mean square difference in
    dB of the two spectra as far as `CEPSTRA` coefficients draw them.
    """
    difference = cepstra(reference_MF) - cepstra(mel_MF)
    return float((10 / math.log(10) * np.sqrt(2 * (difference**2).sum(axis=0))).mean())


def cepstra(mel_MF: np.ndarray) -> np.ndarray:
    """Coefficients 1 to `CEPSTRA` of the cosine series of a log spectrum, [K, F]."""
    bands = len(mel_MF)
    orders, centres = np.arange(1, CEPSTRA + 1)[:, None], np.arange(bands) + 0.5
    return 2 / bands * np.cos(np.pi * orders * centres / bands) @ mel_MF


def f0_agreement(reference_F: np.ndarray, f0_F: np.ndarray) -> tuple[float, float]:
    """Correlation (Pearson's) of log F0 over frames that are voiced in both; share of frames voiced in one only.

    Args:
        reference_F, f0_F: Hz, 0 where unvoiced; cut to the shorter.
    """
    frames = min(len(reference_F), len(f0_F))
    reference_F, f0_F = reference_F[:frames], f0_F[:frames]
    voicing_error = float(((reference_F > 0) != (f0_F > 0)).mean())
    both = (reference_F > 0) & (f0_F > 0)
    if both.sum() < FEWEST_VOICED:
        return math.nan, voicing_error
    logs = np.log(reference_F[both]), np.log(f0_F[both])
    if min(log.std() for log in logs) < 1e-6:
        return math.nan, voicing_error
    return float(np.corrcoef(*logs)[0, 1]), voicing_error


def summary(rows: list[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """By measure the mean, the standard deviation over utterances (n - 1) and their number, NaN left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {}
    for name in names:
        values = np.array([row[name] for row in rows if name in row and math.isfinite(row[name])])
        found[name] = {
            "mean": float(values.mean()) if len(values) else math.nan,
            "std": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
            "n": len(values),
        }
    return found


def _at_judged_rate(wave_T: np.ndarray, rate: int) -> np.ndarray:
    return np.ascontiguousarray(wave_T if rate == JUDGED_RATE else resample(wave_T, rate, JUDGED_RATE))
