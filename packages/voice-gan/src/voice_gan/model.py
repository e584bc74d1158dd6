"""The whole model: content of one recording, voice of another, a sound that has both.

Shape legend: B batch, T = F * hop samples, F frames, M mel bands, C content channels, D speaker embedding,
V = D + 2 M voice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from voice_gan.audio import log_mel
from voice_gan.config import VoiceRecipe
from voice_gan.encoders import ContentEncoder, Ge2e, SpeakerEncoder, band_levels, content_statistics
from voice_gan.generator import build_generator, harmonic_source, source_phase

LOG_F0_CENTRE, LOG_F0_SCALE = math.log(150.0), 0.35
PHASES = 4
"""Harmonics whose phase goes into an upsampler, which has no spectrum to filter."""


class VoiceModel(nn.Module):
    """Content encoder, speaker encoder and generator.

    Raises:
        UserError: the recipe wants GE2E and its weights are not installed.
    """

    def __init__(self, recipe: VoiceRecipe) -> None:
        super().__init__()
        self.audio = recipe.audio
        config = recipe.model
        self.content = ContentEncoder(recipe.audio.mels, config.content, recipe.losses.commitment)
        self.speaker: nn.Module
        if config.speaker.kind == "own":
            self.speaker, self.speaker_dim = SpeakerEncoder(recipe.audio, config.speaker), config.speaker.dim
        else:
            self.speaker, self.speaker_dim = Ge2e(recipe.audio.rate), 256
            self.speaker.requires_grad_(config.speaker.unfreeze)
        self.harmonic = config.generator.kind == "vocos"
        inputs = config.content.bottleneck + 2 + (0 if self.harmonic else 2 * PHASES)
        self.voice_dim = self.speaker_dim + 2 * recipe.audio.mels
        self.generator = build_generator(inputs, self.voice_dim, recipe.audio, config.generator)

    def content_statistics(self, mel_BMF: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over time of each band, (B, M, 1) each."""
        return content_statistics(mel_BMF)

    def encode_content(self, mel_BMF: Tensor, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Log-mel (B, M, F) to content (B, C, F).

        Args:
            mel_BMF: of `audio.log_mel`.
            statistics: `content_statistics` of the whole recording, where the mel is a piece of one.
        """
        return self.content(mel_BMF, statistics)[0]

    def encode_voice(self, wave_BT: Tensor) -> Tensor:
        """Sound (B, T), at least n_fft samples, to what the generator knows of its voice, (B, V): D numbers of the
        speaker encoder, norm 1, and the `encoders.band_levels`.

        An encoder that learns to tell voices apart need not keep how loud each band of a voice is, and a generator
        that has to guess it guesses towards the mean of all voices.
        """
        mel_BMF = log_mel(wave_BT, self.audio)
        own = isinstance(self.speaker, SpeakerEncoder)
        embedding_BD = self.speaker.encode_mel(mel_BMF) if own else self.speaker(wave_BT)
        return torch.cat([embedding_BD, band_levels(mel_BMF)], 1)

    def generate(self, content_BCF: Tensor, f0_BF: Tensor, voice_BV: Tensor, phase_BF: Tensor | None = None) -> Tensor:
        """Sound (B, F * hop) from content, F0 and voice.

        Args:
            f0_BF: in Hz, 0 where unvoiced, in the range of the voice.
            voice_BV: of `encode_voice`.
            phase_BF: `generator.source_phase` of the whole recording, where these are frames of a piece of one.
        """
        voiced_BF = (f0_BF > 0).to(f0_BF.dtype)
        pitch_BF = voiced_BF * (f0_BF.clamp(min=1.0).log() - LOG_F0_CENTRE) / LOG_F0_SCALE
        features = [content_BCF, torch.stack([pitch_BF, voiced_BF], 1)]
        if phase_BF is None:
            phase_BF = source_phase(f0_BF, self.audio)
        if self.harmonic:
            source = harmonic_source(f0_BF, phase_BF, self.audio)
            return self.generator(torch.cat(features, 1), voice_BV, source)
        numbers_H1 = torch.arange(1, PHASES + 1, device=f0_BF.device)[:, None]
        angle_BHF = 2 * math.pi * numbers_H1 * phase_BF[:, None]
        features += [voiced_BF[:, None] * angle_BHF.cos(), voiced_BF[:, None] * angle_BHF.sin()]
        return self.generator(torch.cat(features, 1), voice_BV)

    def forward(self, wave_BT: Tensor, f0_BF: Tensor, voice_BT: Tensor) -> Tensor:
        """`wave_BT` spoken by the voice of `voice_BT`; the F0 (B, F) is in that voice's range."""
        content_BCF = self.encode_content(log_mel(wave_BT, self.audio))
        return self.generate(content_BCF, f0_BF, self.encode_voice(voice_BT))


class Probe(nn.Module):
    """Which speaker is it? A linear classifier on mean and spread of content over time, which shows what leaks."""

    def __init__(self, channels: int, speakers: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, speakers)

    def forward(self, content_BCF: Tensor) -> Tensor:
        """(B, C, F), taken without its gradient, to (B, speakers) logits."""
        content_BCF = content_BCF.detach().float()
        return self.linear(torch.cat([content_BCF.mean(-1), content_BCF.std(-1)], 1))


def num_parameters(module: nn.Module) -> int:
    """Numbers that training may change, with weight normalisation's length counted as part of its weight."""
    return sum(
        p.numel() for name, p in module.named_parameters() if not name.endswith("parametrizations.weight.original0")
    )
