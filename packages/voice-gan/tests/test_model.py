"""The networks: shapes, sizes and outputs of the papers they come from, and what a voice changes."""

import pytest
import torch

from trainworks.config import resolve
from voice_gan.audio import fundamental, log_mel
from voice_gan.config import PRESETS, AudioConfig, DiscriminatorsConfig, VoiceRecipe
from voice_gan.discriminators import Discriminators, MultiPeriodDiscriminator, MultiResolutionDiscriminator
from voice_gan.encoders import VectorQuantiser, band_levels, content_statistics, warp_bands
from voice_gan.generator import (
    HifiGanGenerator,
    IstftHead,
    VocosGenerator,
    harmonic_source,
    inverse_stft,
    source_phase,
)
from voice_gan.model import Probe, VoiceModel, num_parameters
from voice_gan.state import frozen

AUDIO = AudioConfig()


def recipe(*sets: str) -> VoiceRecipe:
    return resolve(VoiceRecipe, preset="small", presets=PRESETS, sets=sets).recipe


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("model.generator.conditioning=cross-attention",),
        ("model.generator.kind=hifigan", "model.generator.dim=64"),
        ("model.generator.kind=hifigan", "model.generator.dim=64", "model.generator.conditioning=cross-attention"),
        ("model.content.quantiser=vq",),
    ],
    ids=["film", "attention", "hifigan", "hifigan-attention", "vq"],
)
def test_content_f0_and_voice_become_sound(sets: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = VoiceModel(recipe(*sets)).eval()
    wave, f0 = 0.1 * torch.randn(2, 5120), torch.full((2, 20), 120.0)
    content = model.encode_content(log_mel(wave, AUDIO))
    voice = model.encode_voice(wave)
    assert content.shape == (2, 16, 20)
    torch.testing.assert_close(voice[:, : model.speaker_dim].norm(dim=1), torch.ones(2))
    sound = model.generate(content, f0, voice)
    assert sound.shape == (2, 5120)
    assert torch.isfinite(sound).all()
    assert not torch.allclose(sound, model.generate(content, f0, -voice), atol=1e-6)
    assert not torch.allclose(sound, model.generate(content, 1.5 * f0, voice), atol=1e-5)


def test_a_voice_keeps_the_level_and_filter_that_content_drops() -> None:
    model = VoiceModel(recipe()).eval()
    mel, filtered = torch.randn(2, 80, 30), torch.linspace(-1, 1, 80)[:, None]
    plain, changed = band_levels(mel), band_levels(mel + filtered)
    unit = 2.5 * 160**0.5
    torch.testing.assert_close(unit * (changed - plain)[:, :80], filtered.squeeze(1).expand(2, -1))
    torch.testing.assert_close(changed[:, 80:], plain[:, 80:])
    content, f0 = torch.randn(1, 16, 20), torch.full((1, 20), 120.0)
    voice, other = torch.randn(2, 1, model.voice_dim)
    other[:, : model.speaker_dim] = voice[:, : model.speaker_dim]
    assert not torch.allclose(model.generate(content, f0, voice), model.generate(content, f0, other), atol=1e-5)


def test_content_hears_no_level_and_no_filter() -> None:
    model = VoiceModel(recipe()).eval()
    mel = torch.randn(1, 80, 30)
    louder = 2 * mel + torch.linspace(-1, 1, 80)[None, :, None]
    torch.testing.assert_close(model.encode_content(louder), model.encode_content(mel), atol=1e-3, rtol=0)


def test_content_of_a_piece_with_the_whole_recordings_statistics_is_that_of_the_whole() -> None:
    model = VoiceModel(recipe()).eval()
    mel = torch.randn(1, 80, 200)
    statistics = content_statistics(mel)
    whole, piece = model.encode_content(mel), model.encode_content(mel[..., 50:150], statistics)
    torch.testing.assert_close(piece[..., 20:-20], whole[..., 70:130])


def test_vocos_has_the_published_size() -> None:
    audio = AudioConfig(rate=24000, fmax=12000.0)
    assert num_parameters(VocosGenerator(100, 512, 8, audio)) == 13_531_650


def test_hifigan_v1_has_the_published_size() -> None:
    """13.92 M in table 1 of Kong et al. 2020."""
    generator = HifiGanGenerator(80, 512, [8, 8, 2, 2], [3, 7, 11])
    assert num_parameters(generator) == 13_926_017


def test_full_discriminators_have_the_published_sizes() -> None:
    """41.1 M in five periods (Kong et al. 2020), 0.28 M in three resolutions (Jang et al. 2021)."""
    config = VoiceRecipe.model_validate(PRESETS["base"]).discriminators
    assert num_parameters(MultiPeriodDiscriminator(config.periods, config.mpd_channels)) == 41_092_165
    assert num_parameters(MultiResolutionDiscriminator(config.resolutions, config.mrd_channels)) == 280_419


def test_slim_discriminators_and_the_cpu_preset_are_small() -> None:
    slim = VoiceRecipe()
    assert round(num_parameters(Discriminators(slim.discriminators)) / 1e6, 1) == 0.7
    with torch.device("meta"):
        generator = VocosGenerator(26, slim.model.generator.dim, slim.model.generator.layers, slim.audio)
    assert num_parameters(generator) < 1.65e6


def test_vocos_gives_what_the_published_package_gives() -> None:
    """With its weights, which have the same names."""
    heads = pytest.importorskip("vocos.heads")
    models = pytest.importorskip("vocos.models")
    torch.manual_seed(0)
    backbone = models.VocosBackbone(input_channels=20, dim=32, intermediate_dim=96, num_layers=2)
    head = heads.ISTFTHead(dim=32, n_fft=256, hop_length=64)
    ours = VocosGenerator(20, 32, 2, AudioConfig(n_fft=256, hop=64))
    weights = backbone.state_dict() | {f"head.{name}": value for name, value in head.state_dict().items()}
    ours.load_state_dict({name: weights[name] for name in ours.state_dict()})
    features = torch.randn(2, 20, 30)
    torch.testing.assert_close(ours(features), head(backbone(features)))


def test_the_inverse_stft_undoes_the_stft() -> None:
    wave = torch.randn(1, 4096)
    padded = torch.nn.functional.pad(wave, (384, 384))
    window = torch.hann_window(1024)
    spectrum = torch.stft(padded, 1024, 256, window=window, center=False, return_complex=True)
    torch.testing.assert_close(inverse_stft(spectrum.transpose(1, 2), 1024, 256), wave)


def test_the_harmonic_source_has_its_f0() -> None:
    f0 = torch.linspace(110, 180, 200)[None]
    f0[:, 80:110] = 0
    source = harmonic_source(f0, source_phase(f0, AUDIO), AUDIO)
    sound = inverse_stft(torch.polar(*source), AUDIO.n_fft, AUDIO.hop)[0]
    heard = fundamental((0.5 * sound / sound.abs().max()).numpy(), AUDIO)
    steady = torch.cat([torch.arange(5, 75), torch.arange(115, 195)])
    torch.testing.assert_close(torch.from_numpy(heard)[steady], f0[0, steady], rtol=2e-3, atol=0)
    assert not sound[85 * 256 : 105 * 256].any()


def test_a_piece_with_its_part_of_the_phase_is_that_of_the_whole() -> None:
    model = VoiceModel(recipe()).eval()
    content, f0, voice = torch.randn(1, 16, 90), 100 + 80 * torch.rand(1, 90), torch.randn(1, model.voice_dim)
    phase = source_phase(f0, AUDIO)
    whole = model.generate(content, f0, voice)
    piece = model.generate(content[..., 20:70], f0[:, 20:70], voice, phase[:, 20:70])
    torch.testing.assert_close(piece[:, 20 * 256 : 30 * 256], whole[:, 40 * 256 : 50 * 256], atol=1e-5, rtol=0)


def test_magnitudes_are_bounded() -> None:
    head = IstftHead(4, 64, 16)
    assert torch.isfinite(head(torch.full((1, 8, 4), 1e4))).all()


@pytest.mark.parametrize("length", [4000, 4001])
def test_discriminators_give_logits_and_features_of_every_part(length: int) -> None:
    config = DiscriminatorsConfig(mpd_channels=[2, 4, 4], mrd_channels=2)
    logits, features = Discriminators(config)(torch.randn(2, length))
    assert len(logits) == len(features) == 5 + 3
    assert all(part.shape[0] == 2 and part.dim() == 2 for part in logits)
    assert [len(part) for part in features] == [4] * 5 + [6] * 3


def test_warping_moves_a_peak_up_and_leaves_the_rest() -> None:
    mel = torch.full((2, 80, 3), -10.0)
    mel[:, 30] = 0.0
    warped = warp_bands(mel, torch.tensor([1.0, 1.15]), AUDIO)
    torch.testing.assert_close(warped[0], mel[0])
    assert warped[1].mean(-1).argmax() > 30


def test_the_quantiser_gives_codes_and_passes_gradients_on() -> None:
    torch.manual_seed(0)
    quantiser = VectorQuantiser(8, 4)
    content = torch.randn(1, 5, 4, requires_grad=True)
    codes, loss = quantiser(content)
    assert all(any(torch.allclose(code, row, atol=1e-6) for row in quantiser.weight) for code in codes[0])
    codes.sum().backward(retain_graph=True)
    torch.testing.assert_close(content.grad, torch.ones_like(content))
    loss.backward()
    assert quantiser.weight.grad is not None


def test_the_probe_teaches_nobody_but_itself() -> None:
    content = torch.randn(2, 8, 10, requires_grad=True)
    probe = Probe(8, 3)
    probe(content).sum().backward()
    assert content.grad is None
    assert probe.linear.weight.grad is not None


def test_activation_checkpointing_changes_no_gradient() -> None:
    model = VoiceModel(recipe()).train()
    features, voice = torch.randn(1, 18, 12), torch.randn(1, model.voice_dim)
    gradients = []
    for keep in (False, True):
        model.generator.activation_checkpointing = keep
        model.generator.zero_grad()
        model.generator(features, voice).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.generator.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_frozen_parts_pass_gradients_through() -> None:
    layer = torch.nn.Linear(2, 2)
    entering = torch.ones(1, 2, requires_grad=True)
    with frozen(layer):
        layer(entering).sum().backward()
    assert entering.grad is not None
    assert layer.weight.grad is None
    assert layer.weight.requires_grad
