"""What is said, and by whom: content and speaker encoders.

Shape legend: B batch, T samples, F frames, M mel bands, C content channels, D speaker embedding.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainworks.console import UserError
from voice_gan.audio import hann, log_mel, mel_bank
from voice_gan.blocks import ConvNeXtBlock
from voice_gan.config import AudioConfig, ContentConfig, SpeakerConfig

STD_FLOOR = 1e-4


def content_statistics(mel_BMF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time of each band, (B, M, 1) each: what the content encoder takes out."""
    variance, mean = torch.var_mean(mel_BMF, dim=-1, keepdim=True, correction=0)
    return mean, (variance + STD_FLOOR).sqrt()


def band_levels(mel_BMF: Tensor) -> Tensor:
    """What the content encoder takes out, for the generator to put in: (B, 2 M), mean and standard deviation over time
    of each band, scaled so that speech has a norm of about 1, as an embedding has."""
    mean, std = content_statistics(mel_BMF)
    return torch.cat([(mean + 6) / 2.5, (std - 1.5) * 2], 1).squeeze(-1) / math.sqrt(2 * mel_BMF.shape[1])


class ContentEncoder(nn.Module):
    """Log-mel to what is said: instance normalisation, ConvNeXt blocks, a narrow bottleneck.

    The input's statistics over time are the only ones, so that a long recording can be encoded piece by piece.
    """

    def __init__(self, mels: int, config: ContentConfig, commitment: float) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Conv1d(mels, config.dim, 7, padding=3)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.dim, 3 * config.dim, 1 / config.layers) for _ in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.out = nn.Linear(config.dim, config.bottleneck)
        self.codebook = (
            VectorQuantiser(config.codes, config.bottleneck, commitment) if config.quantiser == "vq" else None
        )

    def forward(self, mel_BMF: Tensor, statistics: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, F) content and the quantiser's loss, a scalar, 0 without one.

        Args:
            mel_BMF: (B, M, F) log-mel.
            statistics: `content_statistics` of the whole recording, where the mel is a piece of one.
        """
        mean, std = content_statistics(mel_BMF) if statistics is None else statistics
        x_BFD = self.norm(self.embed((mel_BMF - mean) / std).transpose(1, 2))
        for block in self.blocks:
            x_BFD = block(x_BFD)
        z_BFC = self.out(self.final_norm(x_BFD))
        # Variance 1 in every frame: no scale can drown the noise, so that noise and width bound what passes.
        z_BFC = F.layer_norm(z_BFC.float(), z_BFC.shape[-1:])
        if self.codebook is not None:
            z_BFC, loss = self.codebook(z_BFC)
            return z_BFC.transpose(1, 2), loss
        return z_BFC.transpose(1, 2), z_BFC.new_zeros(())


class VectorQuantiser(nn.Module):
    """The nearest code for each frame, gradients straight through (van den Oord et al. 2017, equations 1 to 3)."""

    def __init__(self, codes: int, dim: int, commitment: float = 0.25) -> None:
        super().__init__()
        self.commitment = commitment
        self.weight = nn.Parameter(torch.randn(codes, dim))

    def forward(self, z_BFC: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, F, C) and the loss that draws codes to content and, `commitment` times, content to codes."""
        nearest = torch.cdist(z_BFC.detach().flatten(0, 1), self.weight.detach()).argmin(1)
        code_BFC = self.weight[nearest].view_as(z_BFC)
        loss = F.mse_loss(code_BFC, z_BFC.detach()) + self.commitment * F.mse_loss(z_BFC, code_BFC.detach())
        return z_BFC + (code_BFC - z_BFC).detach(), loss


def warp_bands(mel_BMF: Tensor, factor_B: Tensor, config: AudioConfig) -> Tensor:
    """Stretch the frequency axis of log-mel spectrograms (B, M, F) by a factor each: another vocal tract's length
    (Jaitly & Hinton 2013). Bands from beyond the top repeat the highest one."""
    mels = mel_BMF.shape[1]
    centres_M = mel_centres(config).to(mel_BMF.device)
    wanted_BM = centres_M / factor_B[:, None]
    upper_BM = torch.searchsorted(centres_M, wanted_BM.contiguous()).clamp(1, mels - 1)
    below, above = centres_M[upper_BM - 1], centres_M[upper_BM]
    share_BM1 = ((wanted_BM - below) / (above - below)).clamp(0, 1)[..., None]
    index_BMF = upper_BM[..., None].expand_as(mel_BMF)
    return mel_BMF.gather(1, index_BMF - 1) * (1 - share_BM1) + mel_BMF.gather(1, index_BMF) * share_BM1


def mel_centres(config: AudioConfig) -> Tensor:
    """(M,) frequency in Hz at the centre of gravity of each band."""
    bank_MK = mel_bank(config.n_fft, config.mels, config.rate, config.fmin, config.fmax, torch.device("cpu"))
    hz_K = torch.linspace(0, config.rate / 2, bank_MK.shape[1])
    centres = (bank_MK @ hz_K) / bank_MK.sum(1).clamp(min=1e-9)
    return torch.cummax(centres + 1e-3 * torch.arange(config.mels), 0).values


class SpeakerEncoder(nn.Module):
    """Log-mel to an embedding of the voice: convolutions, then attentive statistics pooling (Okabe et al. 2018)."""

    def __init__(self, audio: AudioConfig, config: SpeakerConfig) -> None:
        super().__init__()
        self.audio, channels = audio, config.channels
        widths = [audio.mels, *[channels] * config.layers]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, channels, 5, padding=2 * 2**n, dilation=2**n) for n, width in enumerate(widths[:-1])
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(config.layers))
        self.attention = nn.Sequential(
            nn.Conv1d(channels, channels // 2, 1), nn.Tanh(), nn.Conv1d(channels // 2, channels, 1)
        )
        self.out = nn.Linear(2 * channels, config.dim)

    def forward(self, wave_BT: Tensor) -> Tensor:
        """(B, T) sound to (B, D) embeddings of norm 1."""
        return self.encode_mel(log_mel(wave_BT, self.audio))

    def encode_mel(self, mel_BMF: Tensor) -> Tensor:
        """(B, M, F) log-mel to (B, D) embeddings of norm 1."""
        x_BCF = mel_BMF / 4 + 1  # about zero mean and unit variance for speech
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y_BCF = F.gelu(norm(convolution(x_BCF).transpose(1, 2))).transpose(1, 2)
            x_BCF = x_BCF + y_BCF if number else y_BCF
        weight_BCF = self.attention(x_BCF).softmax(-1)
        mean = (weight_BCF * x_BCF).sum(-1)
        variance = (weight_BCF * x_BCF.square()).sum(-1) - mean.square()
        pooled = torch.cat([mean, variance.clamp(min=1e-6).sqrt()], 1)
        return F.normalize(self.out(pooled).float(), dim=1)


class Ge2e(nn.Module):
    """The speaker encoder of Wan et al. 2018 with the weights that the resemblyzer package carries.

    Three LSTM layers over 40-band mel power spectra at 16 kHz, in windows of 1.6 s whose embeddings are averaged.
    """

    RATE, WINDOW, STEP = 16000, 160, 77

    def __init__(self, rate: int) -> None:
        super().__init__()
        if rate != self.RATE:
            raise UserError(f"model.speaker.kind=ge2e hears {self.RATE} Hz, not {rate}: set audio.rate={self.RATE}")
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        weights = torch.load(ge2e_weights(), map_location="cpu", weights_only=True)["model_state"]
        self.load_state_dict({name: weights[name] for name in self.state_dict()})

    def train(self, mode: bool = True) -> Self:
        """As of any module, but for the LSTM, which has no dropout: cuDNN goes backward in training mode alone."""
        super().train(mode)
        self.lstm.train()
        return self

    def forward(self, wave_BT: Tensor) -> Tensor:
        """(B, T) sound to (B, 256) embeddings of norm 1, all numbers positive."""
        with torch.autocast(wave_BT.device.type, enabled=False):
            mel_BFM = ge2e_mel(wave_BT.float()).transpose(1, 2)
            short = self.WINDOW - mel_BFM.shape[1]
            if short > 0:
                mel_BFM = F.pad(mel_BFM, (0, 0, 0, short))
            windows_BNFM = mel_BFM.unfold(1, self.WINDOW, self.STEP).transpose(2, 3)
            hidden = self.lstm(windows_BNFM.flatten(0, 1))[1][0][-1]
            each = F.normalize(self.linear(hidden).relu(), dim=1).view(*windows_BNFM.shape[:2], -1)
            return F.normalize(each.mean(1), dim=1)


def ge2e_mel(wave_BT: Tensor) -> Tensor:
    """(B, 40, T // 160 + 1) mel power spectra, as librosa makes them for resemblyzer."""
    spectrum = torch.stft(
        wave_BT, 400, 160, window=hann(400, wave_BT.device), center=True, pad_mode="constant", return_complex=True
    )
    power = spectrum.real.square() + spectrum.imag.square()
    return mel_bank(400, 40, Ge2e.RATE, 0.0, Ge2e.RATE / 2, wave_BT.device) @ power


def ge2e_weights() -> Path:
    """Where the installed resemblyzer package keeps its weights; the package itself is not imported.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec("resemblyzer")
    if found is None or not found.submodule_search_locations:
        raise UserError("the GE2E speaker encoder comes with an extra: pip install 'voice-gan[ge2e]'")
    return Path(found.submodule_search_locations[0]) / "pretrained.pt"
