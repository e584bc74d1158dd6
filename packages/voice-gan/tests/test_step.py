"""One step from the inside: what discriminators judge, what processes tell each other, what a penalty weighs."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from trainworks.checkpoint import Checkpoints
from trainworks.config import resolve
from trainworks.run import Run
from trainworks.signals import StopFlag
from voice_gan.config import PRESETS, GuardConfig, VoiceRecipe
from voice_gan.discriminators import MultiPeriodDiscriminator, MultiResolutionDiscriminator
from voice_gan.distributed import LostProcess, Team
from voice_gan.encoders import Ge2e, VectorQuantiser
from voice_gan.guard import Guard
from voice_gan.losses import SpectralLoss, diversity_ratio, gradient_penalty
from voice_gan.model import VoiceModel
from voice_gan.run import load_data
from voice_gan.state import Loop, State
from voice_gan.step import OF_CONVERSION, backward, cut, play
from voice_gan.train import train_step

CPU = torch.device("cpu")


class BrokenTeam(Team):
    """Another process dies after the gradients were shared."""

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        raise LostProcess("connection closed by peer")


def build(data: Path, recipe_file: Path, folder: Path, team: Team, *sets: str) -> tuple[Loop, State]:
    recipe = resolve(VoiceRecipe, file=recipe_file, sets=sets).recipe
    segments, valid = load_data(data, recipe)
    state = State.build(recipe, len(segments.speakers), CPU)
    checkpoints, run = Checkpoints(folder / "checkpoints"), Run(folder, {})
    return Loop(
        run, recipe, segments, valid, SpectralLoss(recipe.audio), CPU, team, checkpoints, StopFlag(), None, None
    ), state


@pytest.fixture
def training(data, recipe_file, tmp_path) -> tuple[Loop, State]:
    return build(data, recipe_file, tmp_path, Team(), "training.warm_up=0", "data.batch_size=4")


def test_discriminators_judge_what_is_converted_as_well(training) -> None:
    loop, state = training
    (part,) = cut(loop.segments.batch_of(0), loop.recipe, 0, 1, CPU)
    rows, samples = part.wave_BT.shape
    fake = (0.1 * torch.randn(rows + len(part.converted_B), samples)).requires_grad_(True)
    loss, values = play(loop, state, part, fake, 1.0, 1.0)
    loss.backward()
    assert fake.grad is not None
    rebuilt, converted = fake.grad[:rows], fake.grad[rows:]
    assert rebuilt.abs().sum() > 0
    assert converted.abs().sum() > 0
    assert torch.isfinite(values["disc/converted"])


def test_discriminators_hear_sound_at_unit_level(training, monkeypatch) -> None:
    """Softer, they would hear little but their own biases, and call half of all right for hundreds of steps."""
    loop, state = training
    heard = []
    forward = state.discriminators.forward
    monkeypatch.setattr(state.discriminators, "forward", lambda wave: heard.append(wave) or forward(wave))
    train_step(loop, state, {})
    assert 0.3 < heard[0].std() < 3


def test_keys_follow_the_speaker_encoder_slowly(training) -> None:
    """Fast ones tell their age, which is then all that the encoder learns: its loss rises while it is trained."""
    loop, state = training
    train_step(loop, state, {})  # fills the queue: without a negative nothing is learnt
    before = [weight.clone() for weight in state.keys.parameters()]
    train_step(loop, state, {})
    moved = zip(state.keys.parameters(), before, state.model.speaker.parameters(), strict=True)
    for key, old, new in moved:
        torch.testing.assert_close(key, old.lerp(new, 0.005))
    assert any(not torch.equal(key, old) for key, old in zip(state.keys.parameters(), before, strict=True))


@pytest.mark.parametrize("share", [0, 1])
def test_the_generator_teaches_the_speaker_encoder_if_it_is_asked_to(share, data, recipe_file, tmp_path) -> None:
    sets = ("losses.contrastive=0", f"model.speaker.generator_share={share}", "losses.conversion_share=0")
    loop, state = build(data, recipe_file, tmp_path, Team(), *sets)
    (part,) = cut(loop.segments.batch_of(0), loop.recipe, 0, 1, CPU)
    backward(loop, state, part, 1.0, 0.0)
    assert any(weight.grad is not None and weight.grad.any() for weight in state.model.speaker.parameters()) == share


def test_a_part_without_a_row_to_convert_tells_the_same_as_the_others(training) -> None:
    """Or else processes that share a small batch would add up different things."""
    loop, state = training
    told, converted = [], []
    for part in cut(loop.segments.batch_of(0), loop.recipe, 0, 4, CPU):
        values, _ = backward(loop, state, part, 0.25, 0.5 * len(part.converted_B))
        told.append(set(values))
        converted.append(len(part.converted_B))
    assert sorted(converted) == [0, 0, 1, 1]
    assert all(names == told[0] for names in told)
    assert told[0].issuperset({*OF_CONVERSION, "disc/converted"})


def test_a_process_that_is_lost_leaves_the_step_untaken(data, recipe_file, tmp_path) -> None:
    loop, state = build(data, recipe_file, tmp_path, BrokenTeam())
    before = {name: weight.clone() for name, weight in state.model.state_dict().items()}
    with pytest.raises(LostProcess):
        train_step(loop, state, {})
    assert state.step == 0
    assert all(torch.equal(weight, before[name]) for name, weight in state.model.state_dict().items())


def test_a_gradient_that_grew_for_good_is_believed_within_a_window() -> None:
    guard = Guard(GuardConfig(window=10))
    for _ in range(20):
        guard.clip("model", 1.0)
    allowed = [guard.clip("model", 100.0) for _ in range(20)]
    assert allowed[0] == 1.0
    assert allowed[-1] == 100.0


def test_one_row_is_no_sign_of_a_collapse() -> None:
    mel = torch.randn(1, 80, 20)
    assert diversity_ratio(mel, mel) == 1


@pytest.mark.parametrize("logits", [1, 1000])
def test_the_penalty_is_that_of_one_logit_however_many_there_are(logits: int) -> None:
    sound = torch.randn(2, logits)
    penalty = gradient_penalty("r1", lambda wave: ([3 * wave], []), sound, sound, torch.rand(2, 1))
    torch.testing.assert_close(penalty.item(), 4.5)


def test_commitment_draws_content_to_its_code() -> None:
    content = torch.randn(1, 5, 4)
    torch.manual_seed(0)
    free, bound = VectorQuantiser(8, 4, 0.0), VectorQuantiser(8, 4, 1.0)
    bound.load_state_dict(free.state_dict())
    torch.testing.assert_close(bound(content)[1], 2 * free(content)[1])


def test_the_recipes_commitment_arrives() -> None:
    sets = ("model.content.quantiser=vq", "losses.commitment=0.7")
    model = VoiceModel(resolve(VoiceRecipe, preset="small", presets=PRESETS, sets=sets).recipe)
    assert model.content.codebook is not None
    assert model.content.codebook.commitment == 0.7


def published_mpd(part: torch.nn.Module, wave: torch.Tensor, period: int) -> torch.Tensor:
    """Kong et al. 2020, appendix: kernels of 5, strides of 3 but in the last, a slope of 0.1."""
    x = F.pad(wave[:, None], (0, -wave.shape[1] % period), mode="reflect").view(len(wave), 1, -1, period)
    for number, layer in enumerate(part.convolutions):
        stride = 3 if number < 4 else 1
        x = F.leaky_relu(F.conv2d(x, layer.weight, layer.bias, (stride, 1), (2, 0)), 0.1)
    return F.conv2d(x, part.out.weight, part.out.bias, padding=(1, 0)).flatten(1)


def published_mrd(part: torch.nn.Module, wave: torch.Tensor, resolution: tuple[int, int, int]) -> torch.Tensor:
    """Jang et al. 2021: kernels of 3 by 9 over frequency and time, strides of 2 in time, a slope of 0.2."""
    n_fft, hop, window = resolution
    edge = (n_fft - hop) // 2
    padded = F.pad(wave[:, None], (edge, edge), mode="reflect")[:, 0]
    x = torch.stft(padded, n_fft, hop, window, torch.hann_window(window), center=False, return_complex=True).abs()
    x = x[:, None]
    for number, layer in enumerate(part.convolutions):
        stride = 2 if number in (1, 2, 3) else 1
        x = F.leaky_relu(F.conv2d(x, layer.weight, layer.bias, (1, stride), (1, 4 if number < 4 else 1)), 0.2)
    return F.conv2d(x, part.out.weight, part.out.bias, padding=1).flatten(1)


def test_discriminators_give_what_the_papers_layers_give() -> None:
    config = VoiceRecipe.model_validate(PRESETS["base"]).discriminators
    wave = 0.1 * torch.randn(1, 6000)
    with torch.no_grad():
        mpd = MultiPeriodDiscriminator(config.periods, [4, 8, 8, 8, 8])
        mrd = MultiResolutionDiscriminator(config.resolutions, 4)
        for part, period, found in zip(mpd.parts, config.periods, mpd(wave)[0], strict=True):
            torch.testing.assert_close(found, published_mpd(part, wave, period))
        for part, resolution, found in zip(mrd.parts, config.resolutions, mrd(wave)[0], strict=True):
            torch.testing.assert_close(found, published_mrd(part, wave, resolution), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(find_spec("resemblyzer") is None, reason="its weights are an extra; the package is not imported")
def test_a_ge2e_that_only_judges_can_still_be_gone_back_through() -> None:
    """cuDNN's LSTM refuses a backward pass in evaluation mode, in which the average is."""
    encoder = Ge2e(16_000).eval()
    assert encoder.lstm.training
    assert not encoder.training
