"""Measures of a sound file, alone and against the sound that it should be.

Legend: n samples, t frames, f FFT bins, m mel bands. A sound is [n] float in -1 .. 1 of one channel.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np

from trainworks.console import UserError
from trainworks.files import atomic_write

FFT, HOP, MELS = 1024, 256, 80
"""Window and hop in samples, mel bands: what HiFi-GAN and most vocoders since compare."""
FLOOR = 1e-5
"""Smallest mel amplitude; the logarithm of less is noise."""
F0_LOW, F0_HIGH = 60.0, 500.0
"""Range in Hz in which a voice's pitch is looked for."""
VOICED = 0.15
"""YIN's threshold: a frame whose aperiodicity stays above has no pitch. (The paper uses .1 to .15.)"""
SILENT_DB = -50.0
"""A frame this far below the loudest one is silent."""
BLOCK = 4096
"""Frames that are transformed at once: the memory of an hour's sound stays that of a minute's."""
LONG_SECONDS, WINDOW_SECONDS = 15.0, 5.0
"""From the one length on, a sound is looked at in windows of the other, for drift."""


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Samples [n] (channels averaged) and sampling rate in Hz.

    Raises:
        UserError: no sound file that libsndfile reads.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path} is no sound file that can be read: {error}") from None
    if not 1_000 <= rate <= 768_000:  # resampling from a damaged header's would take any memory
        raise UserError(f"{path} says that it has {rate:,} samples a second; is it damaged?")
    return samples.mean(axis=1) if len(samples) else np.zeros(0, np.float32), int(rate)


def measure(samples: np.ndarray, rate: int) -> dict[str, Any]:
    """Figures of one sound; `problem` says why there are none.

    - `seconds`, `peak` and `rms_db` (dB below full scale), `dc` (mean over root mean square).
    - `clipped`: share of samples at full scale, in runs of three or more.
    - `silence`: share of frames `SILENT_DB` below the loudest.
    - `f0`: median pitch in Hz of voiced frames; `voiced`: their share.
    - `jitter`: mean change of the period from one voiced frame to the next, over the mean period.
    - `drift`, of long sounds: see `drift`.
    """
    if not len(samples):
        return {"seconds": 0.0, "problem": "it has no samples"}
    if not np.isfinite(samples).all():
        return {"seconds": len(samples) / rate, "problem": "it holds NaN or infinity"}
    power = float(np.mean(samples.astype(float) ** 2))
    if not power:
        return {"seconds": len(samples) / rate, "problem": "it is digital silence"}
    pitch = f0(samples, rate)
    voiced = np.isfinite(pitch)
    found: dict[str, Any] = {
        "seconds": len(samples) / rate,
        "peak": float(np.abs(samples).max()),
        "rms_db": 10 * float(np.log10(power)),
        "dc": float(samples.mean(dtype=float) / np.sqrt(power)),
        "clipped": clipped(samples),
        "silence": silence(samples),
        "f0": float(np.median(pitch[voiced])) if voiced.any() else None,
        "voiced": float(voiced.mean()),
        "jitter": jitter(pitch),
    }
    if found["seconds"] >= LONG_SECONDS:
        found["drift"] = drift(samples, rate)
    return found


def against(reference: np.ndarray, samples: np.ndarray, rate: int) -> dict[str, float | None]:
    """Figures of a sound beside the one that it should be, both of one rate, over the length of the shorter.

    - `mel_distance`: mean absolute difference of log-mel amplitudes (natural logarithm).
    - `stoi`: short-time objective intelligibility (Taal et al. 2011) by pystoi, 0 to 1.
    - `pesq`: ITU-T P.862.2 by the package pesq, 1 to 4.6; None where it is not installed or hears no utterance.
    - `f0_correlation`: Pearson's, of log F0 over frames that are voiced in both; `voicing_error`: share of frames
      that are voiced in one only.
    - `length_ratio`: length over the reference's.
    """
    n = min(len(reference), len(samples))
    first, second = reference[:n], samples[:n]
    pitches = np.log(f0(first, rate)), np.log(f0(second, rate))
    voiced = np.isfinite(pitches[0]), np.isfinite(pitches[1])
    both = voiced[0] & voiced[1]
    enough = both.sum() >= 10 and min(pitch[both].std() for pitch in pitches) > 0
    return {
        "mel_distance": float(np.abs(log_mel(first, rate) - log_mel(second, rate)).mean()),
        "stoi": _stoi(first, second, rate),
        "pesq": _pesq(first, second, rate),
        "f0_correlation": float(np.corrcoef(pitches[0][both], pitches[1][both])[0, 1]) if enough else None,
        "voicing_error": float((voiced[0] != voiced[1]).mean()),
        "length_ratio": len(samples) / len(reference),
    }


def frames(samples: np.ndarray, size: int, hop: int) -> np.ndarray:
    """Frames [t, size] every `hop` samples, the last ones filled with zeros; views, not copies."""
    count = 1 + max(0, -(-(len(samples) - size) // hop))
    padded = np.pad(samples, (0, max(0, (count - 1) * hop + size - len(samples))))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]


def mel_filters(rate: int, fft: int = FFT, mels: int = MELS) -> np.ndarray:
    """Triangular filters [m, f] of equal area on Slaney's mel scale, 0 to rate / 2: librosa's default."""

    def to_mel(hertz: np.ndarray | float) -> np.ndarray:
        hertz = np.asarray(hertz, float)
        return np.where(hertz < 1000, hertz * 3 / 200, 15 + np.log(np.maximum(hertz, 1000) / 1000) * 27 / np.log(6.4))

    def to_hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    bins = np.fft.rfftfreq(fft, 1 / rate)
    corners = to_hertz(np.linspace(to_mel(0.0), to_mel(rate / 2), mels + 2))
    rising = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (corners[2:] - corners[:-2]))[:, None]


def log_mel(samples: np.ndarray, rate: int) -> np.ndarray:
    """Natural logarithm of mel amplitudes, [t, m]."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
    framed, filters = frames(samples, FFT, HOP), mel_filters(rate).T
    parts = (framed[start : start + BLOCK] for start in range(0, len(framed), BLOCK))
    mel = np.concatenate([np.abs(np.fft.rfft(part * window, axis=1)) @ filters for part in parts])
    return np.log(np.maximum(mel, FLOOR))


def f0(samples: np.ndarray, rate: int) -> np.ndarray:
    """Pitch in Hz of a frame every 10 ms, [t], NaN where it is not voiced, by YIN (de Cheveigné and Kawahara 2002).

    The difference function (equation 6) by FFT, its cumulative mean normalisation (8), the absolute threshold (step
    4) and parabolic interpolation (step 5).
    """
    longest, shortest = int(np.ceil(rate / F0_LOW)), max(2, int(rate / F0_HIGH))
    size = 2 * longest + 2
    framed = frames(samples, size, max(1, rate // 100))
    parts = range(0, len(framed), BLOCK)
    return np.concatenate(
        [_yin(framed[start : start + BLOCK].astype(float), rate, shortest, longest) for start in parts]
    )


def _yin(framed: np.ndarray, rate: int, shortest: int, longest: int) -> np.ndarray:
    """Pitch [t] of frames [t, 2 * longest + 2]; lags in samples."""
    size = framed.shape[1]
    half = size // 2
    # d(lag) = energy of the first half + energy of the half that begins at the lag - 2 * their correlation
    length = 1 << int(np.ceil(np.log2(size + half)))
    spectra = np.fft.rfft(framed, length, axis=1) * np.conj(np.fft.rfft(framed[:, :half], length, axis=1))
    correlation = np.fft.irfft(spectra, length, axis=1)[:, : longest + 2]
    energies = np.concatenate([np.zeros((len(framed), 1)), np.cumsum(framed**2, axis=1)], axis=1)
    lagged = energies[:, half : half + longest + 2] - energies[:, : longest + 2]
    difference = np.maximum(lagged[:, :1] + lagged - 2 * correlation, 0)
    running = np.cumsum(difference[:, 1:], axis=1) / np.arange(1, longest + 2)
    normal = np.ones_like(difference)
    np.divide(difference[:, 1:], running, out=normal[:, 1:], where=running > 1e-12)
    middle = normal[:, shortest : longest + 1]
    is_dip = (middle <= normal[:, shortest - 1 : longest]) & (middle < normal[:, shortest + 1 : longest + 2])
    good = is_dip & (middle < VOICED)
    pitch = np.full(len(framed), np.nan)
    rows = np.flatnonzero(good.any(axis=1))
    lags = good[rows].argmax(axis=1) + shortest
    before, at, after = (normal[rows, lags + shift] for shift in (-1, 0, 1))
    bend = before - 2 * at + after
    pitch[rows] = rate / (lags + np.where(bend > 0, 0.5 * (before - after) / np.where(bend > 0, bend, 1), 0))
    return pitch


def clipped(samples: np.ndarray) -> float:
    """Share of samples at full scale (.999 and more), in runs of three or more."""
    full = np.abs(samples) >= 0.999
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[False], full, [False]]))).reshape(-1, 2), axis=1)
    return float(runs[runs >= 3].sum() / len(samples))


def silence(samples: np.ndarray) -> float:
    """Share of frames `SILENT_DB` or more below the loudest."""
    energies = (frames(samples, FFT, HOP).astype(float) ** 2).mean(axis=1)
    return float((energies <= energies.max() * 10 ** (SILENT_DB / 10)).mean())


def jitter(pitch: np.ndarray) -> float | None:
    """Mean change of the period between neighbouring voiced frames over the mean period; None with fewer than 2.

    Local jitter as Praat defines it, of frames in place of glottal pulses: smaller than Praat's, and comparable
    between sounds that are measured here. As in Praat, a period that is 1.3 times its neighbour is no jitter but an
    error of the pitch, and left out.
    """
    periods = 1 / pitch
    before, after = periods[:-1], periods[1:]
    alike = np.maximum(before, after) < 1.3 * np.minimum(before, after)  # False where one is not voiced
    return float(np.abs(after - before)[alike].mean() / np.nanmean(periods)) if alike.any() else None


def drift(samples: np.ndarray, rate: int) -> dict[str, Any]:
    """How a long sound changes from window to window of `WINDOW_SECONDS`.

    - `level_db`: standard deviation of the windows' levels; `jitter`: each window's.
    - `timbre`: each window's distance to the first, mean absolute difference of mean log-mel spectra of its frames
      that are not silent.
    """
    size = int(WINDOW_SECONDS * rate)
    windows = [samples[start : start + size] for start in range(0, len(samples) - size // 2, size)]
    levels = np.array([10 * np.log10(max(float(np.mean(window.astype(float) ** 2)), 1e-12)) for window in windows])
    spectra = []
    for window in windows:
        mel = log_mel(window, rate)
        loudness = mel.max(axis=1)
        spectra.append(mel[loudness >= np.median(loudness)].mean(axis=0))
    return {
        "windows": len(windows),
        "level_db": float(levels.std()),
        "jitter": [jitter(f0(window, rate)) for window in windows],
        "timbre": [float(np.abs(spectrum - spectra[0]).mean()) for spectrum in spectra],
    }


def _stoi(reference: np.ndarray, samples: np.ndarray, rate: int) -> float | None:
    import warnings

    from pystoi import stoi

    if len(reference) < rate // 2:
        return None  # it compares stretches of 30 frames, 384 ms
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(stoi(reference, samples, rate))
        except RuntimeWarning:  # fewer than 30 frames are not silent
            return None


def _pesq(reference: np.ndarray, samples: np.ndarray, rate: int) -> float | None:
    if importlib.util.find_spec("pesq") is None:
        return None
    from pesq import PesqError, pesq

    try:
        return float(pesq(16_000, resampled(reference, rate, 16_000), resampled(samples, rate, 16_000), "wb"))
    except PesqError:
        return None


def speaker_embedding(samples: np.ndarray, rate: int) -> np.ndarray | None:
    """The voice as GE2E (Wan et al. 2018) hears it, [256] of length 1, by the package resemblyzer; None where that or
    what it needs is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("resemblyzer", "librosa", "webrtcvad")):
        return None
    return np.asarray(_speaker_encoder().embed_utterance(resampled(samples, rate, 16_000)))


@functools.cache
def _speaker_encoder() -> Any:
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The sound at another rate, by SciPy's polyphase filter."""
    from scipy.signal import resample_poly

    return samples if rate == wanted else resample_poly(samples, wanted, rate).astype(np.float32)


def draw_spectrogram(path: Path, samples: np.ndarray, rate: int) -> None:
    """Publish a PNG of the log-mel spectrogram with the pitch on it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.4), layout="constrained")
    axes = figure.add_subplot()
    mel = log_mel(samples, rate)
    seconds = len(samples) / rate
    axes.imshow(
        mel.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=(0, seconds, 0, MELS),
        vmin=-8,
        vmax=max(mel.max(), -7),
    )
    axes.set_xlabel("seconds")
    axes.set_ylabel("mel band")
    pitch = f0(samples, rate)
    over = axes.twinx()
    over.plot(np.arange(len(pitch)) / 100, pitch, color="#4fd1ff", linewidth=1.2)
    over.set_ylim(0, F0_HIGH)
    over.set_xlim(0, seconds)
    over.set_ylabel("F0, Hz")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=100)
    atomic_write(path, image.getvalue())
