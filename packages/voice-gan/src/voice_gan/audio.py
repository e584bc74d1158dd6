"""Sound: files, resampling, log-mel spectrograms, fundamental frequency.

Shape legend: B batch, T samples, F frames, M mel bands. F = T // hop, and frame f is centred at sample
f * hop + hop / 2, in spectrograms, in F0 and in what the generator makes.
"""

from __future__ import annotations

import functools
import io
import math
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from trainworks.console import UserError
from trainworks.files import atomic_write
from voice_gan.config import AudioConfig

LOG_FLOOR = 1e-5
"""Magnitudes below this are silence: a log-mel is never under log(LOG_FLOOR) = -11.5."""

Array = TypeVar("Array", np.ndarray, Tensor)


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """A sound file (WAV, FLAC, OGG and what else libsndfile reads) as (T,) float32 in [-1, 1], channels averaged, and
    its rate in Hz.

    Raises:
        UserError: there is no such file, or it holds no sound that can be read, or nothing, or NaN.
    """
    import soundfile

    if not Path(path).is_file():
        raise UserError(f"there is no sound file {path}")
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} is not a sound file that can be read: {error.error_string.rstrip('.')}") from None
    if not len(wave):
        raise UserError(f"{path} holds no samples")
    if not np.isfinite(wave).all():
        raise UserError(f"{path} holds samples that are NaN or infinite")
    if not is_rate_of_sound(rate):
        raise UserError(f"{path} says that it has {rate:,} samples a second; is it damaged?")
    return wave.mean(axis=1), int(rate)


def is_rate_of_sound(rate: int) -> bool:
    """Whether recordings have such rates, in Hz: to resample from what a damaged header says would take any memory."""
    return 1_000 <= rate <= 768_000


def write_wav(path: str | Path, wave_T: np.ndarray | Tensor, rate: int) -> None:
    """Publish mono sound in [-1, 1] as 16-bit WAV; what is beyond is clipped."""
    import soundfile

    samples = np.clip(np.asarray(wave_T, dtype=np.float32), -1.0, 1.0)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    atomic_write(path, buffer.getvalue())


def resample(wave: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """(..., T) at another rate, float32, by a symmetric windowed-sinc filter (Kaiser, scipy.signal.resample_poly)."""
    if rate == new_rate:
        return wave
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, new_rate)
    return resample_poly(wave, new_rate // divisor, rate // divisor, axis=-1).astype(np.float32)


def frame_powers(wave_T: np.ndarray, config: AudioConfig) -> np.ndarray:
    """(T // hop,) float64 mean squares of the frames."""
    frames = len(wave_T) // config.hop
    return np.square(wave_T[: frames * config.hop].reshape(frames, config.hop), dtype=np.float64).mean(axis=1)


def stft_magnitude(wave_BT: Tensor, n_fft: int, hop: int) -> Tensor:
    """(B, n_fft / 2 + 1, T // hop) magnitudes, Hann window, reflected edges; T at least n_fft."""
    pad = (n_fft - hop) // 2
    padded = torch.nn.functional.pad(wave_BT.unsqueeze(1), (pad, pad), mode="reflect").squeeze(1)
    spectrum = torch.stft(padded, n_fft, hop, window=hann(n_fft, wave_BT.device), center=False, return_complex=True)
    # The gradient of a magnitude is infinite at 0.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


def log_mel(wave_BT: Tensor, config: AudioConfig) -> Tensor:
    """Log-mel spectrogram as HiFi-GAN takes it: log of at least `LOG_FLOOR`.

    Args:
        wave_BT: (B, T) float32, T at least n_fft.

    Returns:
        (B, M, T // hop) float32.
    """
    with torch.autocast(wave_BT.device.type, enabled=False):
        magnitude = stft_magnitude(wave_BT.float(), config.n_fft, config.hop)
        bank = mel_bank(config.n_fft, config.mels, config.rate, config.fmin, config.fmax, wave_BT.device)
        return (bank @ magnitude).clamp(min=LOG_FLOOR).log()


@functools.cache
def hann(size: int, device: torch.device) -> Tensor:
    return torch.hann_window(size, device=device)


@functools.cache
def mel_bank(n_fft: int, mels: int, rate: int, fmin: float, fmax: float, device: torch.device) -> Tensor:
    """(M, n_fft / 2 + 1) triangles on Slaney's mel scale, each of unit area."""
    edges_M = mel_to_hz(torch.linspace(hz_to_mel(fmin), hz_to_mel(fmax), mels + 2, dtype=torch.float64))
    bins_K = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    widths_M = edges_M.diff()
    rising_MK = (bins_K - edges_M[:-2, None]) / widths_M[:-1, None]
    falling_MK = (edges_M[2:, None] - bins_K) / widths_M[1:, None]
    bank_MK = torch.minimum(rising_MK, falling_MK).clamp(min=0) * (2 / (edges_M[2:] - edges_M[:-2]))[:, None]
    return bank_MK.float().to(device)


def hz_to_mel(hz: float) -> float:
    """Slaney's scale: linear up to 1 kHz, logarithmic above."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def mel_to_hz(mel: Tensor) -> Tensor:
    """The inverse of `hz_to_mel`."""
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


def fundamental(wave_T: np.ndarray, config: AudioConfig) -> np.ndarray:
    """Fundamental frequency by Praat's autocorrelation method (Boersma 1993).

    Args:
        wave_T: (T,) at `config.rate`.

    Returns:
        (T // hop,) float32 in Hz, 0 where unvoiced.
    """
    import parselmouth

    frames = len(wave_T) // config.hop
    f0_F = np.zeros(frames, dtype=np.float32)
    if len(wave_T) <= 3 * config.rate / config.f0_min:  # Praat wants three periods of the lowest pitch
        return f0_F
    sound = parselmouth.Sound(wave_T.astype(np.float64), sampling_frequency=config.rate)
    pitch = sound.to_pitch_ac(
        time_step=config.hop / config.rate, pitch_floor=config.f0_min, pitch_ceiling=config.f0_max
    )
    found = pitch.selected_array["frequency"]
    times = (np.arange(frames) + 0.5) * config.hop / config.rate
    index = np.rint((times - pitch.x1) / pitch.dx).astype(int)
    inside = (index >= 0) & (index < len(found))
    f0_F[inside] = found[index[inside]]
    return f0_F


def f0_statistics(f0_F: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of log F0 (Hz) over voiced frames; (log 150, 0.2) where none is voiced."""
    voiced = np.log(f0_F[f0_F > 0], dtype=np.float64)
    return (float(voiced.mean()), float(voiced.std())) if len(voiced) else (float(np.log(150.0)), 0.2)


def shift_f0(f0: Array, source: tuple[float, float] | Tensor, target: tuple[float, float] | Tensor) -> Array:
    """Move F0 to another voice's range: mean and spread of log F0 become the target's; unvoiced frames stay 0.

    Args:
        f0: (F,) or (B, F) in Hz, 0 where unvoiced.
        source, target: mean and standard deviation of log F0 as `f0_statistics` gives them; (B, 2) tensors for
            batches. The spread grows or shrinks by at most a factor of 2.
    """
    library = np if isinstance(f0, np.ndarray) else torch
    if isinstance(source, Tensor) and isinstance(target, Tensor):
        (source_mean, source_std), (target_mean, target_std) = (
            source[..., None].unbind(-2),
            target[..., None].unbind(-2),
        )
        ratio = (target_std / source_std.clamp(min=0.02)).clamp(0.5, 2.0)
    else:
        (source_mean, source_std), (target_mean, target_std) = source, target
        ratio = min(max(target_std / max(source_std, 0.02), 0.5), 2.0)
    shifted = library.exp((library.log(f0.clip(1.0)) - source_mean) * ratio + target_mean)
    return library.where(f0 > 0, shifted, 0 * f0)
