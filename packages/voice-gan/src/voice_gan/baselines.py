"""What a model should be better than: Griffin-Lim, which makes sound of a spectrogram with nothing learned.

Legend: T samples, F frames, M mel bands, K frequency bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from voice_gan.audio import hann, mel_bank
from voice_gan.config import AudioConfig
from voice_gan.generator import inverse_stft

ITERATIONS, MOMENTUM = 60, 0.99
"""Of fast Griffin-Lim (Perraudin et al. 2013)."""
UNMIX_ITERATIONS = 100


@torch.no_grad()
def griffin_lim(mel_MF: Tensor, audio: AudioConfig) -> Tensor:
    """Sound [F * hop] whose log-mel spectrogram is near `mel_MF`, by fast Griffin-Lim (Perraudin et al. 2013) from
    phases that are drawn with a seed of its own."""
    magnitude_KF = unmix(mel_MF.exp(), audio)
    generator = torch.Generator().manual_seed(0)
    angles_KF = 2 * torch.pi * torch.rand(magnitude_KF.shape, generator=generator)
    phase_KF, before_KF = torch.polar(torch.ones_like(angles_KF), angles_KF), torch.zeros((), dtype=torch.complex64)
    for _ in range(ITERATIONS):
        wave_BT = inverse_stft((magnitude_KF * phase_KF).T[None], audio.n_fft, audio.hop)
        rebuilt_KF = _stft(wave_BT, audio)[0]
        ahead_KF = rebuilt_KF + MOMENTUM * (rebuilt_KF - before_KF)
        before_KF = rebuilt_KF
        phase_KF = ahead_KF / ahead_KF.abs().clamp(min=1e-12)
    return inverse_stft((magnitude_KF * phase_KF).T[None], audio.n_fft, audio.hop)[0]


def unmix(mel_MF: Tensor, audio: AudioConfig) -> Tensor:
    """Magnitudes [K, F], none negative, whose mel amplitudes are near `mel_MF`: least squares by multiplicative updates
    (Lee and Seung 2001)."""
    bank_MK = mel_bank(audio.n_fft, audio.mels, audio.rate, audio.fmin, audio.fmax, mel_MF.device)
    wanted_KF = bank_MK.T @ mel_MF
    magnitude_KF = wanted_KF.clone()
    for _ in range(UNMIX_ITERATIONS):
        magnitude_KF *= wanted_KF / (bank_MK.T @ (bank_MK @ magnitude_KF)).clamp(min=1e-12)
    return magnitude_KF


def _stft(wave_BT: Tensor, audio: AudioConfig) -> Tensor:
    """(B, K, F) complex, on the frames of `audio.log_mel`."""
    pad = (audio.n_fft - audio.hop) // 2
    padded_BT = F.pad(wave_BT[:, None], (pad, pad), mode="reflect")[:, 0]
    window = hann(audio.n_fft, wave_BT.device)
    return torch.stft(padded_BT, audio.n_fft, audio.hop, window=window, center=False, return_complex=True)
