"""Discriminators: by period (HiFi-GAN) and by resolution (UnivNet).

Each gives, for sound (B, T), a list of logits, one tensor a part, and a list of the parts' features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from voice_gan.config import DiscriminatorsConfig

Judged = tuple[list[Tensor], list[list[Tensor]]]


class PeriodDiscriminator(nn.Module):
    """Convolutions over every `period`-th sample (Kong et al. 2020)."""

    def __init__(self, period: int, channels: list[int]) -> None:
        super().__init__()
        self.period = period
        widths = [1, *channels]
        strides = [3] * (len(channels) - 1) + [1]
        self.convolutions = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, (5, 1), (stride, 1), padding=(2, 0)))
            for before, after, stride in zip(widths, channels, strides, strict=False)
        )
        self.out = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, T) to logits (B, N) and features."""
        short = -wave_BT.shape[1] % self.period
        x = F.pad(wave_BT.unsqueeze(1), (0, short), mode="reflect").squeeze(1) if short else wave_BT
        x = x.view(len(x), 1, -1, self.period)
        features = []
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.1)
            features.append(x)
        x = self.out(x)
        return x.flatten(1), [*features, x]


class ResolutionDiscriminator(nn.Module):
    """Convolutions over a magnitude spectrogram, whose strides shorten time (Jang et al. 2021)."""

    def __init__(self, resolution: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.n_fft, self.hop, window = resolution
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        shapes = [(1, (3, 9), (1, 1)), *[(channels, (3, 9), (1, 2))] * 3, (channels, (3, 3), (1, 1))]
        self.convolutions = nn.ModuleList(
            weight_norm(nn.Conv2d(before, channels, kernel, stride, padding=(1, kernel[1] // 2)))
            for before, kernel, stride in shapes
        )
        self.out = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, wave_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, T) to logits (B, N) and features."""
        x = self.magnitude(wave_BT).unsqueeze(1)
        features = []
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.2)
            features.append(x)
        x = self.out(x)
        return x.flatten(1), [*features, x]

    def magnitude(self, wave_BT: Tensor) -> Tensor:
        """(B, n_fft / 2 + 1, frames)."""
        with torch.autocast(wave_BT.device.type, enabled=False):
            pad = (self.n_fft - self.hop) // 2
            padded = F.pad(wave_BT.float().unsqueeze(1), (pad, pad), mode="reflect").squeeze(1)
            spectrum = torch.stft(
                padded, self.n_fft, self.hop, len(self.window), self.window, center=False, return_complex=True
            )
            return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


class MultiPeriodDiscriminator(nn.Module):
    """One `PeriodDiscriminator` for each period."""

    def __init__(self, periods: list[int], channels: list[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(PeriodDiscriminator(period, channels) for period in periods)

    def forward(self, wave_BT: Tensor) -> Judged:
        return judge(self.parts, wave_BT)


class MultiResolutionDiscriminator(nn.Module):
    """One `ResolutionDiscriminator` for each resolution."""

    def __init__(self, resolutions: list[tuple[int, int, int]], channels: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(ResolutionDiscriminator(resolution, channels) for resolution in resolutions)

    def forward(self, wave_BT: Tensor) -> Judged:
        return judge(self.parts, wave_BT)


def judge(parts: nn.ModuleList, wave_BT: Tensor) -> Judged:
    logits, features = zip(*(part(wave_BT) for part in parts), strict=True)
    return [part.float() for part in logits], list(features)


class Discriminators(nn.Module):
    """Both kinds, as the recipe wants them."""

    def __init__(self, config: DiscriminatorsConfig) -> None:
        super().__init__()
        self.mpd = MultiPeriodDiscriminator(config.periods, config.mpd_channels)
        self.mrd = MultiResolutionDiscriminator(config.resolutions, config.mrd_channels)

    def forward(self, wave_BT: Tensor) -> Judged:
        (logits, features), (more_logits, more_features) = self.mpd(wave_BT), self.mrd(wave_BT)
        return logits + more_logits, features + more_features
