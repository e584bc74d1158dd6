"""One training step: forward passes, losses, gradients.

Reconstruction: content of a segment, voice of other sound of its speaker, back to the segment. Conversion: the same
content with another speaker's voice, judged by what the encoders hear in it. Keys, which voices are compared with, come
from a slow average of the encoder (He et al. 2020): with fast ones all voices end in one place. Every loss is a mean
over rows, so that a batch cut into parts or spread over processes has the gradients of the whole.

Shape legend: B batch, T samples, R samples that tell a voice, F frames, M mel bands, C content channels, D speaker
embedding, V voice, N negatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainworks.seeding import rng
from trainworks.torch import torch_generator
from voice_gan.audio import log_mel, shift_f0
from voice_gan.config import LossesConfig, VoiceRecipe
from voice_gan.data import Batch
from voice_gan.encoders import warp_bands
from voice_gan.losses import (
    accuracy,
    adversarial_loss,
    content_distance,
    contrastive_loss,
    discriminator_loss,
    diversity_ratio,
    feature_matching_loss,
    gradient_penalty,
)
from voice_gan.state import Loop, State, frozen

Values = dict[str, Tensor]
OF_CONVERSION = (
    "train/conversion_contrastive_loss",
    "train/content_loss",
    "similarity/converted_to_target",
    "similarity/converted_to_source",
)
"""What `convert` tells; a process or part without a row to convert adds 0 to each."""
HEARD_GAIN = 16.0
"""Brings sound, whose root mean square is some .06, to about 1 for the discriminators. With softer sound they hear
little but their own biases, and learn several times slower."""


@dataclass(frozen=True)
class Part:
    """Some rows of a batch on the device, as `data.Batch` has them, with the random numbers that belong to them."""

    wave_BT: Tensor
    f0_BF: Tensor
    reference_BR: Tensor
    target_BR: Tensor
    speakers_B: Tensor
    targets_B: Tensor
    f0_source_B2: Tensor
    f0_target_B2: Tensor
    warp_B: Tensor
    noise_BCF: Tensor
    random_BQ: Tensor
    mix_B1: Tensor
    converted_B: Tensor
    """Rows of this part that are converted, as indices."""

    def converted(self) -> Part:
        """Only the rows that are converted."""
        chosen = {field.name: getattr(self, field.name)[self.converted_B] for field in fields(self)[:-1]}
        return Part(**chosen, converted_B=torch.arange(len(self.converted_B)))


def cut(batch: Batch, recipe: VoiceRecipe, step: int, num_parts: int, device: torch.device) -> list[Part]:
    """A process's batch in parts. Random numbers are drawn for the whole batch, over all processes, so that a row gets
    the same ones wherever it is computed."""
    size, config = recipe.data.batch_size, recipe.model.content
    frames = batch.f0_BF.shape[1]
    rows = list(batch.rows)
    random = rng(recipe.seed, "warp", step)
    warp = np.exp(random.uniform(-1, 1, size) * math.log1p(config.warp)).astype(np.float32)
    generator = torch_generator(recipe.seed, "noise", step)
    noise = torch.randn(size, config.bottleneck, frames, generator=generator)[rows]
    any_of = torch.rand(size, recipe.losses.queue, generator=generator)[rows]
    mix = torch.rand(size, 1, generator=generator)[rows]
    share = recipe.losses.conversion_share
    chosen = torch.tensor([math.floor((row + 1) * share) > math.floor(row * share) for row in rows])
    tensors = {
        field.name: torch.from_numpy(getattr(batch, field.name)) for field in fields(batch) if field.name != "rows"
    }
    tensors |= {"warp_B": torch.from_numpy(warp[rows]), "noise_BCF": noise, "random_BQ": any_of, "mix_B1": mix}
    parts = []
    for index in torch.arange(len(rows)).chunk(num_parts):
        some = {name: tensor[index].to(device, non_blocking=True) for name, tensor in tensors.items()}
        parts.append(Part(**some, converted_B=torch.nonzero(chosen[index]).squeeze(1).to(device)))
    return parts


def backward(loop: Loop, state: State, part: Part, share: float, conversion_share: float) -> tuple[Values, Tensor]:
    """Add the gradients of a part to all parameters.

    Args:
        share: the part's rows over the process's rows.
        conversion_share: its converted rows over the mean number of converted rows of a process.

    Returns:
        The loss and its terms, each weighed with its share, so that they add up over parts; and the keys (B, D), for
        the queue.
    """
    config, model = loop.recipe.losses, state.model
    adversarial = state.step >= loop.first_adversarial_step
    with loop.autocast():
        mel_BMF = log_mel(part.wave_BT, loop.recipe.audio)
        heard_BMF = warp_bands(mel_BMF, part.warp_B, loop.recipe.audio)
        source_BCF, quantiser_loss = model.content(heard_BMF)
        content_BCF = noisy(source_BCF, part, loop.recipe)
        voice_BV = model.encode_voice(part.reference_BR)
        voice_BD = voice_BV[:, : model.speaker_dim]
        with torch.no_grad():
            key_BD = state.keys(part.wave_BT)
        share_of_generator = loop.recipe.model.speaker.generator_share
        made_BT = model.generate(content_BCF, part.f0_BF, voice_BV.detach().lerp(voice_BV, share_of_generator))
        probe_logits = state.probe(content_BCF)

    mel_loss, stft_loss = loop.spectral(made_BT, part.wave_BT)
    negatives_BND, present_BN = negatives(state, config, voice_BD, part.speakers_B, config.num_negatives, part)
    contrast = contrastive_loss(voice_BD, key_BD, negatives_BND, present_BN, config.temperature)
    probe_loss = F.cross_entropy(probe_logits.float(), part.speakers_B)
    values: Values = {
        "train/mel_loss": share * mel_loss,
        "train/stft_loss": share * stft_loss,
        "train/contrastive_loss": share * contrast,
        "train/probe_loss": share * probe_loss,
        "train/probe_accuracy": share * (probe_logits.argmax(1) == part.speakers_B).float().mean(),
        "similarity/positive": share * (voice_BD * key_BD).sum(1).mean(),
        "similarity/negative": share * negative_similarity(voice_BD, negatives_BND, present_BN),
    }
    loss = share * (config.mel * mel_loss + config.stft * stft_loss + config.contrastive * contrast + probe_loss)
    if model.content.codebook is not None:
        values["train/quantiser_loss"] = share * quantiser_loss
        loss = loss + share * quantiser_loss
    fake_RT = made_BT
    if loop.num_converted:
        values |= dict.fromkeys(OF_CONVERSION, loss.new_zeros(()))
    if len(part.converted_B):
        chosen = part.converted_B
        converted_CT, more, terms = convert(loop, state, part.converted(), source_BCF[chosen], key_BD[chosen])
        fake_RT = torch.cat([made_BT, converted_CT])
        loss = loss + conversion_share * more
        values |= {name: conversion_share * value for name, value in terms.items()}
    if adversarial:
        more, terms = play(loop, state, part, fake_RT, share, conversion_share)
        loss = loss + more
        values |= terms
        values["train/diversity"] = share * diversity_ratio(log_mel(made_BT.detach(), loop.recipe.audio), mel_BMF)
    loss.backward()
    return values | {"train/loss": loss}, key_BD


def noisy(content_BCF: Tensor, part: Part, recipe: VoiceRecipe) -> Tensor:
    """What passes the bottleneck in training: codes as they are, else content with noise."""
    config = recipe.model.content
    return content_BCF if config.quantiser == "vq" else content_BCF + config.noise * part.noise_BCF


def convert(
    loop: Loop, state: State, part: Part, content_BCF: Tensor, source_BD: Tensor
) -> tuple[Tensor, Tensor, Values]:
    """Give the content other speakers' voices; what the encoders hear in it must be the content and those voices.

    Args:
        content_BCF: of the rows of the part, before the bottleneck's noise.
        source_BD: keys of the voices that the content came from, which are negatives too.

    Returns:
        The converted sound (B, T), the loss and its terms.
    """
    config, model = loop.recipe.losses, state.model
    with loop.autocast():
        with torch.no_grad():
            voice_BV, target_BD = model.encode_voice(part.target_BR), state.keys(part.target_BR)
        f0_BF = shift_f0(part.f0_BF, part.f0_source_B2, part.f0_target_B2)
        made_BT = model.generate(noisy(content_BCF, part, loop.recipe), f0_BF, voice_BV)
        # The keys' encoder is asked, which this loss doesn't teach: taught by what is made, an encoder could agree with
        # the generator on a mark that no listener takes for a voice.
        heard_BD = state.keys(made_BT)
        again_BCF = model.encode_content(log_mel(made_BT, loop.recipe.audio))
    negatives_BND, present_BN = negatives(state, config, heard_BD, part.targets_B, config.num_negatives - 1, part)
    negatives_BND = torch.cat([source_BD[:, None], negatives_BND], 1)
    present_BN = F.pad(present_BN, (1, 0), value=True)
    contrast = contrastive_loss(heard_BD, target_BD, negatives_BND, present_BN, config.temperature)
    content = content_distance(again_BCF, content_BCF)
    values = {
        "train/conversion_contrastive_loss": contrast,
        "train/content_loss": content,
        "similarity/converted_to_target": (heard_BD * target_BD).sum(1).mean(),
        "similarity/converted_to_source": (heard_BD * source_BD).sum(1).mean(),
    }
    return made_BT, config.contrastive * contrast + config.content_consistency * content, values


def play(
    loop: Loop, state: State, part: Part, fake_RT: Tensor, share: float, conversion_share: float
) -> tuple[Tensor, Values]:
    """The adversarial game on a part: discriminator gradients are added here; the generator's loss is returned.

    What is rebuilt and what is converted count half each as fake; only what is rebuilt has a real sound whose features
    it should match. Both sides move at once, so that the discriminators hear the real sound only once.

    Args:
        fake_RT: the part's rows rebuilt, and after them those that are converted.
    """
    recipe, discriminators = loop.recipe, state.discriminators
    config, guard = recipe.losses, state.guard
    length = min(round(recipe.discriminators.segment_seconds * recipe.audio.rate), fake_RT.shape[1])
    start = int(rng(recipe.seed, "crop", state.step).integers(fake_RT.shape[1] - length + 1))
    real_BT, fake_RT = (HEARD_GAIN * wave[:, start : start + length] for wave in (part.wave_BT, fake_RT))
    rows, converted = len(real_BT), len(fake_RT) - len(real_BT)
    weight_R = real_BT.new_full((len(fake_RT),), (0.5 if loop.num_converted else 1.0) / rows)
    if converted:
        weight_R[rows:] = 0.5 * conversion_share / (share * converted)
    resting = guard.resting > 0
    with loop.autocast(), torch.set_grad_enabled(not resting):
        real, real_features = discriminators(real_BT)
        fake, _ = discriminators(fake_RT.detach())
        loss = discriminator_loss(config.adversarial, real, fake, weight_R)
    rebuilt = [part[:rows] for part in fake]
    values = {
        "disc/loss": share * loss,
        "disc/real": share * torch.stack([part.mean() for part in real]).mean(),
        "disc/fake": share * torch.stack([part.mean() for part in rebuilt]).mean(),
        "disc/accuracy": share * accuracy(config.adversarial, real, rebuilt),
    }
    if loop.num_converted:
        heard = torch.stack([part[rows:].sum() / part.shape[1] for part in fake]).mean() / max(converted, 1)
        values["disc/converted"] = conversion_share * heard
    if not resting:
        if config.lambda_gp and state.step % config.penalty_every == 0:
            made_BT = fake_RT[:rows].detach()
            penalty = gradient_penalty(config.penalty, discriminators, real_BT, made_BT, part.mix_B1)
            values["disc/gradient_penalty"] = share * penalty
            loss = loss + config.lambda_gp * guard.penalty * config.penalty_every * penalty
        (share * loss).backward()
    with loop.autocast(), frozen(discriminators):
        fake, fake_features = discriminators(fake_RT)
    fooling = adversarial_loss(config.adversarial, fake, weight_R)
    matching = feature_matching_loss(real_features, [[layer[:rows] for layer in part] for part in fake_features])
    values |= {"train/adversarial_loss": share * fooling, "train/feature_matching_loss": share * matching}
    weight = share * config.lambda_adv * guard.adversarial
    return weight * (fooling + config.feature_matching * matching), values


def negatives(
    state: State, config: LossesConfig, anchor_BD: Tensor, speakers_B: Tensor, count: int, part: Part
) -> tuple[Tensor, Tensor]:
    """The queue's negatives, as the recipe wants them."""
    pool = config.negative_pool if config.hard_negatives else count
    return state.queue.negatives(anchor_BD, speakers_B, count, part.random_BQ, max(pool, count))


def negative_similarity(anchor_BD: Tensor, negatives_BND: Tensor, present_BN: Tensor) -> Tensor:
    """Mean cosine similarity to the negatives that there are; NaN where there are none."""
    similarity_BN = torch.einsum("bd,bnd->bn", anchor_BD.float(), negatives_BND)
    return (similarity_BN * present_BN).sum() / present_BN.sum()
