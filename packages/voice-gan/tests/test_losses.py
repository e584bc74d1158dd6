"""What each objective rewards."""

import pytest
import torch
import torch.nn.functional as F

from voice_gan.config import AudioConfig
from voice_gan.discriminators import MultiPeriodDiscriminator
from voice_gan.losses import (
    SpectralLoss,
    accuracy,
    adversarial_loss,
    contrastive_loss,
    discriminator_loss,
    diversity_ratio,
    feature_matching_loss,
    gradient_penalty,
)


def unit(*numbers: float) -> torch.Tensor:
    return F.normalize(torch.tensor([numbers]), dim=1)


def test_contrast_rewards_the_right_speaker() -> None:
    me, other = unit(1.0, 0.0), unit(0.0, 1.0)
    present = torch.ones(1, 1, dtype=torch.bool)
    right = contrastive_loss(me, me, other[None], present, 0.1)
    wrong = contrastive_loss(me, other, me[None], present, 0.1)
    assert right < 0.01 < 5 < wrong


def test_contrast_pulls_to_the_positive_and_pushes_from_the_negatives() -> None:
    anchor = unit(1.0, 1.0).requires_grad_(True)
    present = torch.ones(1, 1, dtype=torch.bool)
    contrastive_loss(anchor, unit(1.0, 0.0), unit(0.0, 1.0)[None], present, 0.1).backward()
    assert anchor.grad is not None
    downhill = -anchor.grad[0]
    assert downhill[0] > 0 > downhill[1]


def test_contrast_is_cross_entropy_over_the_negatives_that_there_are() -> None:
    anchor, positive, near, far = unit(1.0, 0.2), unit(1.0, 0.0), unit(0.5, 1.0), unit(-1.0, 0.0)
    both = torch.stack([near, far], 1)
    present = torch.tensor([[True, False]])
    similarity = torch.tensor([[(anchor * positive).sum(), (anchor * near).sum()]])
    expected = F.cross_entropy(similarity / 0.1, torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(contrastive_loss(anchor, positive, both, present, 0.1), expected)
    assert contrastive_loss(anchor, positive, both, torch.zeros(1, 2, dtype=torch.bool), 0.1) == 0


@pytest.mark.parametrize("kind", ["hinge", "lsgan"])
def test_discriminator_and_generator_want_opposite_things(kind: str) -> None:
    high, low = [torch.full((2, 3), 2.0 if kind == "hinge" else 1.0)], [torch.full((2, 3), -2.0)]
    assert discriminator_loss(kind, high, low) < discriminator_loss(kind, low, high)
    assert adversarial_loss(kind, high) < adversarial_loss(kind, low)
    assert accuracy(kind, high, low) == 1
    assert accuracy(kind, low, high) == 0


def test_spectral_loss_is_zero_for_equal_sound_and_grows_with_noise() -> None:
    loss = SpectralLoss(AudioConfig())
    wave = torch.sin(torch.arange(8000) * 0.1)[None]
    noise = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    distances = [sum(loss(wave + size * noise, wave)).item() for size in (0.0, 0.01, 0.1)]
    assert distances[0] == 0
    assert distances[0] < distances[1] < distances[2]


def test_spectral_loss_is_a_mean_over_rows() -> None:
    loss = SpectralLoss(AudioConfig())
    made, real = torch.randn(2, 4, 4096, generator=torch.Generator().manual_seed(0))
    whole = torch.stack(loss(made, real))
    halves = torch.stack([torch.stack(loss(made[n : n + 2], real[n : n + 2])) for n in (0, 2)]).mean(0)
    torch.testing.assert_close(whole, halves)


def test_an_error_in_a_pause_does_not_outweigh_all_speech() -> None:
    """Over the size of a pause, spectral convergence is without bound: few silent segments would take over a batch."""
    loss, noise = SpectralLoss(AudioConfig()), torch.randn(2, 8000)
    slopes = []
    for level in (0.06, 1e-5):
        real = level * noise[:1]
        made = (real + 0.01 * noise[1:]).requires_grad_(True)
        loss(made, real)[1].backward()
        assert made.grad is not None
        slopes.append(made.grad.norm())
    in_speech, in_pause = slopes
    assert in_speech < in_pause < 10 * in_speech


def test_feature_matching_is_a_mean_over_rows_and_leaves_the_real_side_alone() -> None:
    real = torch.randn(4, 3, 5, requires_grad=True)
    fake = torch.randn(4, 3, 5, requires_grad=True)
    logits = torch.zeros(4, 1)
    whole = feature_matching_loss([[real, logits]], [[fake, logits]])
    halves = [feature_matching_loss([[real[n : n + 2], logits]], [[fake[n : n + 2], logits]]) for n in (0, 2)]
    torch.testing.assert_close(whole, torch.stack(halves).mean())
    whole.backward()
    assert real.grad is None
    assert fake.grad is not None


def linear(weight: torch.Tensor):
    return lambda wave: ([wave @ weight], [])


def test_penalties_measure_the_norm_of_the_gradient() -> None:
    weight = torch.tensor([[3.0], [4.0]], requires_grad=True)
    real, fake, mix = torch.randn(5, 2), torch.randn(5, 2), torch.rand(5, 1)
    r1 = gradient_penalty("r1", linear(weight), real, fake, mix)
    torch.testing.assert_close(r1.item(), 12.5)
    torch.testing.assert_close(gradient_penalty("wgan-gp", linear(weight), real, fake, mix).item(), 16.0)
    r1.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


def test_a_penalty_reaches_every_layer_of_a_discriminator() -> None:
    mpd = MultiPeriodDiscriminator([2, 3], [4, 8])
    wave = torch.randn(2, 512)
    gradient_penalty("r1", mpd, wave, wave, torch.rand(2, 1)).backward()
    weights = [p for name, p in mpd.named_parameters() if name.endswith("original1")]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in weights)


def test_diversity_falls_when_everything_comes_out_alike() -> None:
    real = torch.randn(4, 80, 20)
    assert diversity_ratio(real, real) == 1
    assert diversity_ratio(real[:1].expand(4, -1, -1), real) == 0
