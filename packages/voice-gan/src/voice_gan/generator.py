"""Generators: a backbone with an inverse STFT (Vocos) or an upsampler (HiFi-GAN), both steered by a voice.

Shape legend: B batch, I input channels, C channels, F frames, K frequency bins, T = F * hop samples, V voice.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from voice_gan.audio import hann
from voice_gan.blocks import ConvNeXtBlock, CrossAttention, Film
from voice_gan.config import AudioConfig, GeneratorConfig

MAX_MAGNITUDE = 1e2


def build_condition(config: GeneratorConfig, voice_dim: int, channels: int) -> nn.Module:
    if config.conditioning == "film":
        return Film(voice_dim, channels)
    return CrossAttention(voice_dim, channels, config.tokens)


class VocosGenerator(nn.Module):
    """ConvNeXt blocks at frame rate, then an inverse STFT (Siuzdak 2023). Without a voice it is Vocos itself.

    Args:
        inputs: channels of the input.
        dim: channels of the blocks, whose networks are three times as wide.
        layers: blocks.
        audio: its n_fft and hop are the inverse STFT's.
        conditions: one module a block that puts the voice in, or none.
        harmonic: whether the head has a `harmonic_source` to filter; Vocos has none.
    """

    def __init__(
        self,
        inputs: int,
        dim: int,
        layers: int,
        audio: AudioConfig,
        conditions: list[nn.Module] | None = None,
        harmonic: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv1d(inputs, dim, 7, padding=3)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        each = conditions or [None] * layers
        self.convnext = nn.ModuleList(ConvNeXtBlock(dim, 3 * dim, 1 / layers, condition) for condition in each)
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = IstftHead(dim, audio.n_fft, audio.hop, harmonic)
        self.activation_checkpointing = False
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv1d | nn.Linear) and "condition" not in name.split("."):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, x_BIF: Tensor, voice_BV: Tensor | None = None, source: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(B, I, F) to sound (B, T); `source` is the `harmonic_source`, where the head filters one."""
        x_BFC = self.norm(self.embed(x_BIF).transpose(1, 2))
        for block in self.convnext:
            if self.activation_checkpointing and self.training:
                x_BFC = checkpoint(block, x_BFC, voice_BV, use_reentrant=False)
            else:
                x_BFC = block(x_BFC, voice_BV)
        return self.head(self.final_layer_norm(x_BFC), source)


class IstftHead(nn.Module):
    """Channels to the spectrum of every frame, then to sound.

    Magnitude and phase are free, as in Vocos; with a harmonic source there is another pair, a filter on that source.
    """

    def __init__(self, dim: int, n_fft: int, hop: int, harmonic: bool = False) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.out = nn.Linear(dim, (2 if harmonic else 1) * (n_fft + 2))

    def forward(self, x_BFC: Tensor, source: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, F, C) to sound (B, T)."""
        with torch.autocast(x_BFC.device.type, enabled=False):
            return inverse_stft(torch.complex(*self.spectrum(x_BFC.float(), source)), self.n_fft, self.hop)

    def spectrum(self, x_BFC: Tensor, source: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Real and imaginary part, (B, F, K) each."""
        log_magnitude, phase, *filtered = self.out(x_BFC).split(self.n_fft // 2 + 1, dim=2)
        magnitude = log_magnitude.exp().clamp(max=MAX_MAGNITUDE)
        real_BFK, imaginary_BFK = magnitude * phase.cos(), magnitude * phase.sin()
        if source is not None:
            (log_gain, turn), (size, angle) = filtered, source
            magnitude, phase = size * log_gain.exp().clamp(max=MAX_MAGNITUDE), angle + turn
            real_BFK = torch.addcmul(real_BFK, magnitude, phase.cos())
            imaginary_BFK = torch.addcmul(imaginary_BFK, magnitude, phase.sin())
        return real_BFK, imaginary_BFK


@torch.no_grad()
def source_phase(f0_BF: Tensor, audio: AudioConfig) -> Tensor:
    """Phase of the fundamental at the centre of every frame, in cycles within [0, 1), from (B, F) Hz.

    A network sees F0 alike in every frame of a held note, so it can't know where in its period a frame stands; this
    counts. It is a sum over all frames before: a piece of a recording needs its part of the whole's.
    """
    # Whole numbers, which are exact even where an exporter keeps them in single precision.
    advance_BF = (f0_BF[:, :-1].double() + f0_BF[:, 1:].double()) * audio.hop / (2 * audio.rate)
    return F.pad(advance_BF.cumsum(1), (1, 0)).remainder(1.0).float()


@torch.no_grad()
def harmonic_source(f0_BF: Tensor, phase_BF: Tensor, audio: AudioConfig) -> tuple[Tensor, Tensor]:
    """What an inverse STFT's frames hold of a tone with all harmonics: size and angle in radians, (B, F, K) each.

    In each bin the nearest harmonic alone: about the main lobe of the Hann window's transform at its distance, 1 on the
    spot, turned by the harmonic's phase. Size 0 where unvoiced.
    """
    bins_K = torch.arange(audio.n_fft // 2 + 1, device=f0_BF.device)
    f0_bins_BF1 = f0_BF.clamp(min=1.0)[..., None] * (audio.n_fft / audio.rate)
    harmonic_BFK = (bins_K / f0_bins_BF1).round()
    offset_BFK = bins_K - harmonic_BFK * f0_bins_BF1
    lobe_BFK = (1 - offset_BFK.square() / 4).clamp(min=0).square()
    sounds_BFK = (f0_BF > 0)[..., None] & (harmonic_BFK > 0)
    sign_K = 1 - 2 * (bins_K % 2)  # a frame's centre stands half a window after its beginning
    return lobe_BFK * sounds_BFK * sign_K, harmonic_BFK * (2 * math.pi * phase_BF)[..., None]


def inverse_stft(spectrum_BFK: Tensor, n_fft: int, hop: int) -> Tensor:
    """Overlap-add of windowed frames over the window's own overlap-add, (B, F, K) complex to (B, F * hop).

    Half a window less half a hop is cut at either end, so that frame f is centred at f * hop + hop / 2;
    torch.istft can't do that (Siuzdak 2023's "same" padding).
    """
    window = hann(n_fft, spectrum_BFK.device)
    frames, steps, cut = spectrum_BFK.shape[1], -(-n_fft // hop), (n_fft - hop) // 2

    def overlap_add(x_BFN: Tensor) -> Tensor:
        # An addition for each hop of a window, 2.5 times faster than F.fold on a CPU.
        x_BFN = F.pad(x_BFN, (0, steps * hop - n_fft))
        out = x_BFN.new_zeros(len(x_BFN), frames + steps - 1, hop)
        for step in range(steps):
            out[:, step : step + frames] += x_BFN[..., step * hop : (step + 1) * hop]
        return out.flatten(1)[:, cut : cut + frames * hop]

    parts = torch.fft.irfft(spectrum_BFK, n_fft) * window
    return overlap_add(parts) / overlap_add(window.square().expand(1, frames, -1))


class HifiGanGenerator(nn.Module):
    """Transposed convolutions with residual blocks of several kernel sizes (Kong et al. 2020, V1 at 512 channels).

    Args:
        inputs: channels of the input.
        channels: before the first upsampling; each halves them.
        rates: upsampling factors, whose product is the hop.
        kernels: of the residual blocks, which are averaged.
        conditions: one module an upsampling that puts the voice in, or none.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        rates: list[int],
        kernels: list[int],
        conditions: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.embed = weight_norm(nn.Conv1d(inputs, channels, 7, padding=3))
        self.upsamplings = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate in rates:
            kernel = 2 * rate
            self.upsamplings.append(
                weight_norm(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2))
            )
            channels //= 2
            self.resblocks.append(nn.ModuleList(ResBlock(channels, kernel) for kernel in kernels))
        self.conditions = nn.ModuleList(conditions or [])
        self.head = weight_norm(nn.Conv1d(channels, 1, 7, padding=3))
        self.activation_checkpointing = False

    def forward(self, x_BIF: Tensor, voice_BV: Tensor | None = None) -> Tensor:
        """(B, I, F) to sound (B, T)."""
        x_BCF = self.embed(x_BIF)
        for number in range(len(self.upsamplings)):
            if self.activation_checkpointing and self.training:
                x_BCF = checkpoint(self._stage, number, x_BCF, voice_BV, use_reentrant=False)
            else:
                x_BCF = self._stage(number, x_BCF, voice_BV)
        return torch.tanh(self.head(F.leaky_relu(x_BCF))).squeeze(1).float()

    def _stage(self, number: int, x_BCF: Tensor, voice_BV: Tensor | None) -> Tensor:
        if self.conditions:
            x_BCF = self.conditions[number](x_BCF.transpose(1, 2), voice_BV).transpose(1, 2)
        x_BCF = self.upsamplings[number](F.leaky_relu(x_BCF, 0.1))
        return torch.stack([block(x_BCF) for block in self.resblocks[number]]).mean(0)


class ResBlock(nn.Module):
    """Three pairs of convolutions, the first of each dilated by 1, 3 and 5."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2))
            for d in (1, 3, 5)
        )
        self.plain = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2)) for _ in range(3)
        )

    def forward(self, x_BCF: Tensor) -> Tensor:
        """(B, C, F) to (B, C, F)."""
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            x_BCF = x_BCF + plain(F.leaky_relu(dilated(F.leaky_relu(x_BCF, 0.1)), 0.1))
        return x_BCF


def build_generator(inputs: int, voice_dim: int, audio: AudioConfig, config: GeneratorConfig) -> nn.Module:
    """The recipe's generator for `inputs` channels at frame rate and voices of `voice_dim` numbers."""
    if config.kind == "vocos":
        conditions = [build_condition(config, voice_dim, config.dim) for _ in range(config.layers)]
        return VocosGenerator(inputs, config.dim, config.layers, audio, conditions, harmonic=True)
    rates = config.upsample_rates
    conditions = [build_condition(config, voice_dim, config.dim // 2**n) for n in range(len(rates))]
    return HifiGanGenerator(inputs, config.dim, rates, config.resblock_kernels, conditions)
