"""Objectives as pure functions; only `SpectralLoss` holds its resolutions.

Shape legend: B batch, R rows of fake sound, T samples, D speaker embedding, N negatives or logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from voice_gan.audio import mel_bank, stft_magnitude
from voice_gan.config import AudioConfig

FLOOR, MEL_FLOOR = 1e-3, 5e-5
"""Magnitudes of the rounding of 16-bit sound; the gradient of a logarithm explodes below."""
QUIET = 0.01
"""Root mean square that a pause may have, where training's speech has some .06: spectral convergence divides by what a
segment holds, and by no less than white noise of this, since an error in a silent segment would outweigh all speech."""


class SpectralLoss:
    """Distances of log-mel spectrograms and of spectra at several resolutions, from one STFT each.

    Args:
        audio: rate and frequencies of the mel bands.
        resolutions: (n_fft, mels) each; the hop is a quarter of n_fft.
    """

    def __init__(
        self, audio: AudioConfig, resolutions: tuple[tuple[int, int], ...] = ((512, 40), (1024, 80), (2048, 120))
    ):
        self.audio, self.resolutions = audio, resolutions

    def __call__(self, made_BT: Tensor, real_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(mel, stft): mean L1 distance of log-mels; and L1 distance of log magnitudes plus spectral convergence
        (Yamamoto et al. 2020, equations 3 to 5), both averaged over resolutions."""
        mel = stft = made_BT.new_zeros(())
        for n_fft, mels in self.resolutions:
            made, real = (stft_magnitude(wave.float(), n_fft, n_fft // 4) for wave in (made_BT, real_BT))
            bank = mel_bank(n_fft, mels, self.audio.rate, self.audio.fmin, self.audio.fmax, made.device)
            mel = mel + F.l1_loss(log(bank @ made, MEL_FLOOR), log(bank @ real, MEL_FLOOR))
            # A row at a time, so that a batch cut into parts has the same loss.
            error_B, size_B = (torch.linalg.vector_norm(x, dim=(1, 2)) for x in (made - real, real))
            least = QUIET * math.sqrt(0.375 * n_fft * real[0].numel())  # a Hann window's power is 3/8
            stft = stft + F.l1_loss(log(made, FLOOR), log(real, FLOOR)) + (error_B / size_B.clamp(min=least)).mean()
        return mel / len(self.resolutions), stft / len(self.resolutions)


def log(magnitude: Tensor, floor: float) -> Tensor:
    return magnitude.clamp(min=floor).log()


def contrastive_loss(
    anchor_BD: Tensor, positive_BD: Tensor, negatives_BND: Tensor, present_BN: Tensor, temperature: float
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, equation 4): cross-entropy of finding each anchor's own speaker among the
    positive and the negatives by cosine similarity over `temperature`. All embeddings have norm 1.

    It falls when the anchor comes nearer to the positive and when it moves away from the negatives.

    Args:
        present_BN: which negatives there are, bool; an anchor without any adds 0.
    """
    positive_B1 = (anchor_BD * positive_BD).sum(-1, keepdim=True)
    negative_BN = torch.einsum("bd,bnd->bn", anchor_BD, negatives_BND).masked_fill(~present_BN, -torch.inf)
    logits = torch.cat([positive_B1, negative_BN], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def discriminator_loss(kind: str, real: list[Tensor], fake: list[Tensor], weight_R: Tensor | None = None) -> Tensor:
    """Hinge: relu(1 - D(real)) + relu(1 + D(fake)); lsgan: (D(real) - 1)^2 + D(fake)^2; averaged over parts.

    Args:
        weight_R: of each row of fake sound; None is a mean over rows.
    """
    if kind == "hinge":
        each = [F.relu(1 - r).mean() + over_rows(F.relu(1 + f), weight_R) for r, f in zip(real, fake, strict=True)]
    else:
        each = [(r - 1).square().mean() + over_rows(f.square(), weight_R) for r, f in zip(real, fake, strict=True)]
    return torch.stack(each).mean()


def adversarial_loss(kind: str, fake: list[Tensor], weight_R: Tensor | None = None) -> Tensor:
    """The generator's side. Hinge: -D(fake); lsgan: (D(fake) - 1)^2; averaged over parts, rows weighed as above."""
    return torch.stack([over_rows(-f if kind == "hinge" else (f - 1).square(), weight_R) for f in fake]).mean()


def over_rows(values_RN: Tensor, weight_R: Tensor | None) -> Tensor:
    """The mean over all, or the weighted sum of the means over each row."""
    return values_RN.mean() if weight_R is None else values_RN.mean(1) @ weight_R


def accuracy(kind: str, real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Share of logits on the right side of the middle between what real and fake sound should get."""
    middle = 0.0 if kind == "hinge" else 0.5
    each = [((r > middle).float().mean() + (f < middle).float().mean()) / 2 for r, f in zip(real, fake, strict=True)]
    return torch.stack(each).mean()


def feature_matching_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """L1 distance of all features but the logits (Kumar et al. 2019), each over the mean size of the real one's in its
    row, averaged over parts and layers."""
    each = [
        ((f - r.detach()).abs().float().flatten(1).mean(1) / r.detach().abs().float().flatten(1).mean(1)).mean()
        for part_real, part_fake in zip(real, fake, strict=True)
        for r, f in zip(part_real[:-1], part_fake[:-1], strict=True)
    ]
    return torch.stack(each).mean()


def gradient_penalty(
    kind: str,
    discriminators: Callable[[Tensor], tuple[list[Tensor], object]],
    real_BT: Tensor,
    fake_BT: Tensor,
    mix_B1: Tensor,
) -> Tensor:
    """R1 (Mescheder et al. 2018, equation 9): half the squared norm of D's gradient at real sound. WGAN-GP (Gulrajani
    et al. 2017, equation 3): squared distance of that norm from 1 at `mix_B1` real + (1 - `mix_B1`) fake. Averaged
    over the batch.

    D is the mean over parts of the sum of a part's N logits over sqrt(N): the squared norm is then about that of one
    logit's gradient, where that of their mean would be N times smaller, since each logit hears another stretch.
    """
    point = real_BT if kind == "r1" else mix_B1 * real_BT + (1 - mix_B1) * fake_BT
    point = point.detach().requires_grad_(True)
    logits, _ = discriminators(point)
    scores_B = torch.stack([part.sum(1) / math.sqrt(part.shape[1]) for part in logits]).mean(0)
    (gradient_BT,) = torch.autograd.grad(scores_B.sum(), point, create_graph=True)
    if kind == "r1":
        return 0.5 * gradient_BT.square().sum(1).mean()
    return (torch.linalg.vector_norm(gradient_BT, dim=1) - 1).square().mean()


def content_distance(content_BCF: Tensor, source_BCF: Tensor) -> Tensor:
    """Mean squared distance of contents; the source's is taken as it is."""
    return F.mse_loss(content_BCF, source_BCF.detach())


def diversity_ratio(made_BMF: Tensor, real_BMF: Tensor) -> Tensor:
    """How much outputs differ from each other, over how much real ones do: the mean distance of each log-mel from the
    next one of the batch. Near 0 when everything comes out alike, 1 for a batch of one row, which tells nothing; a
    scalar."""
    if len(made_BMF) == 1:
        return made_BMF.new_ones(())
    distance = [(mel - mel.roll(1, 0)).abs().mean() for mel in (made_BMF, real_BMF)]
    return distance[0] / distance[1].clamp(min=1e-6)
