"""What a training writes, refuses and reacts to."""

import json
import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from trainworks.checkpoint import Checkpoints
from trainworks.metrics import read_metrics
from voice_gan import train as training
from voice_gan.run import load_trained

STEPS = 24 * 3 // 8
EVERY_STEP = (
    "train/loss",
    "train/mel_loss",
    "train/stft_loss",
    "train/contrastive_loss",
    "train/conversion_contrastive_loss",
    "train/content_loss",
    "train/probe_accuracy",
    "similarity/positive",
    "similarity/converted_to_target",
    "grad_norm/content",
    "grad_norm/speaker",
    "grad_norm/generator",
    "param_norm/mpd",
    "lr/model",
    "train/audio_seconds_per_second",
)
ADVERSARIAL = ("disc/loss", "disc/real", "disc/fake", "disc/accuracy", "train/adversarial_loss", "grad_norm/mrd")


def test_every_step_is_logged_and_discriminators_start_after_the_warm_up(finished) -> None:
    records = read_metrics(finished / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    for record in records:
        assert all(math.isfinite(record[name]) for name in EVERY_STEP)
        assert all((name in record) == (record["step"] > round(0.8 * STEPS)) for name in ADVERSARIAL)
    assert "valid/mel_distance" in records[-1]


def test_the_used_model_is_the_average(finished) -> None:
    trained = load_trained(finished, device="cpu", threads=1)
    folder, _ = Checkpoints(finished / "checkpoints").load("last")
    latest = torch.load(folder / "state.pt", weights_only=True)["model"]
    used = trained.model.state_dict()
    assert used.keys() == latest.keys()
    assert any(not torch.equal(used[name], latest[name]) for name in used)


def test_it_learns_and_without_an_adversarial_weight_there_is_no_game(voice_gan, data, recipe_file, tmp_path) -> None:
    settings = (
        "training.learning_rate=0.01",
        "losses.lambda_adv=0",
        "losses.contrastive=0",
        "model.generator.conditioning=cross-attention",
    )
    ended = voice_gan(
        "train", data, "--out", tmp_path / "run", "--config", recipe_file, "--threads", 1, "--epochs", 5,
        *(part for setting in settings for part in ("--set", setting)),
    )  # fmt: skip
    assert ended.status == 0, ended.err
    assert ended.out == f"{tmp_path / 'run'}\n"
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert not any("disc/loss" in record for record in records)
    losses = [record["train/mel_loss"] for record in records]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10]), (np.mean(losses[-10:]), np.mean(losses[:10]))


@pytest.mark.parametrize(("total", "warm"), [(10_000, 100), (1_000, 100), (50, 5)])
def test_the_rate_warms_up_over_100_steps_but_at_most_a_tenth_of_all(total: int, warm: int) -> None:
    rates = [training.rate_factor(step, total) for step in range(total)]
    assert rates[0] == pytest.approx(1 / warm, rel=0.01)
    assert int(np.argmax(rates)) == warm - 1
    assert rates[-1] == pytest.approx(training.FINAL_RATE, rel=0.1)


def test_the_other_choices_train_too(voice_gan, data, recipe_file, tmp_path) -> None:
    settings = (
        "model.content.quantiser=vq",
        "losses.adversarial=lsgan",
        "losses.penalty=wgan-gp",
        "losses.penalty_every=2",
        "losses.hard_negatives=false",
        "training.warm_up=0.5",
        "training.activation_checkpointing=true",
    )
    ended = voice_gan(
        "train", data, "--out", tmp_path / "run", "--config", recipe_file, "--threads", 1, "--precision", "bf16",
        *(part for setting in settings for part in ("--set", setting)),
    )  # fmt: skip
    assert ended.status == 0, ended.err
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    for name in ("train/loss", "train/quantiser_loss", "disc/loss", "grad_norm/mpd"):
        assert math.isfinite(last[name])


def test_every_intervention_is_logged(voice_gan, data, recipe_file, tmp_path, monkeypatch) -> None:
    # Discriminators that are always right: what a dominant one looks like to the guard.
    monkeypatch.setattr("voice_gan.step.accuracy", lambda *_: torch.ones(()))
    options = ("--set", "training.warm_up=0", "--set", "guard.window=2", "--set", "guard.rest=3")
    ended = voice_gan("train", data, "--out", tmp_path / "run", "--config", recipe_file, "--threads", 1, *options)
    assert ended.status == 0, ended.err
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    rests = [number for number, record in enumerate(records) if "guard/rest" in record]
    assert rests
    resting = records[rests[0] + 1]
    assert "grad_norm/mpd" not in resting  # it learns nothing meanwhile,
    assert "train/adversarial_loss" in resting  # and the generator still learns from it
    assert min(record["lr/discriminators"] for record in records) < records[0]["lr/discriminators"]


def test_a_non_finite_loss_stops_before_the_step(voice_gan, data, recipe_file, tmp_path, monkeypatch) -> None:
    whole = training.backward

    def broken(loop, state, *arguments):
        values, keys = whole(loop, state, *arguments)
        return values | {"train/loss": values["train/loss"] * (math.nan if state.step == 3 else 1)}, keys

    monkeypatch.setattr(training, "backward", broken)
    ended = voice_gan("train", data, "--out", tmp_path / "run", "--config", recipe_file, "--threads", 1, "--quiet")
    assert ended.status == 3
    assert "step 3" in ended.err
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_diagnostics_are_written_by_diag(voice_gan, data, recipe_file, tmp_path) -> None:
    pytest.importorskip("diag")
    asked = ("--run-diagnostics", "--diagnostics-interval", 5, "--sample-interval", 1)
    ended = voice_gan("train", data, "--out", tmp_path / "run", "--config", recipe_file, "--threads", 1, *asked)
    assert ended.status == 0, ended.err
    lines = (tmp_path / "run" / "diagnostics" / "diagnostics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 5]
    assert (tmp_path / "run" / "samples" / "epoch_0001").is_dir()


def test_diagnostics_without_diag_say_what_to_install(voice_gan, data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("voice_gan.run.importlib.util.find_spec", lambda name: None)
    ended = voice_gan("train", data, "--out", tmp_path / "run", "--run-diagnostics")
    assert (ended.status, "voice-gan[diagnostics]" in ended.err) == (2, True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("audio.hop=128",), "prepared with audio.hop=256"),
        (("losses.contrastiv=1",), 'did you mean "losses.contrastive"'),
        (("model.generator.kind=hifigan", "model.generator.upsample_rates=[8, 8]"), "multiply to 64"),
        (("audio.fmax=9000.0",), "above half the rate"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line_and_leaves_no_run(voice_gan, data, tmp_path, settings, said) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    ended = voice_gan("train", data, "--out", tmp_path / "run", *options)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert said in ended.err
    assert not (tmp_path / "run").exists()


def test_resume_refuses_other_data(voice_gan, data, finished, tmp_path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    record = json.loads((run / "run.json").read_text())
    record["status"], record["inputs"][0]["sha256"] = "interrupted", "0" * 64
    (run / "run.json").write_text(json.dumps(record))
    ended = voice_gan("train", "--resume", run)
    assert (ended.status, "SHA-256 differs" in ended.err) == (2, True)


@pytest.mark.skipif(find_spec("resemblyzer") is None, reason="its weights are an extra")
def test_a_fine_tuned_ge2e_learns_at_its_own_rate() -> None:
    from voice_gan.config import VoiceRecipe
    from voice_gan.state import State

    recipe = VoiceRecipe.model_validate({"model": {"speaker": {"kind": "ge2e", "unfreeze": True}}})
    state = State.build(recipe, 3, torch.device("cpu"))
    peaks = {id(p): group["peak"] for group in state.optimizer.param_groups for p in group["params"]}
    assert {peaks[id(p)] for p in state.model.speaker.parameters()} == {1e-5}
    assert {peaks[id(p)] for p in state.model.generator.parameters()} == {1e-3}
    frozen = VoiceRecipe.model_validate({"model": {"speaker": {"kind": "ge2e"}}})
    model = State.build(frozen, 3, torch.device("cpu")).model
    assert not any(p.requires_grad for p in model.speaker.parameters())
    voice = model.encode_voice(torch.from_numpy(np.random.default_rng(0).normal(size=(2, 30000)).astype("f4")))
    torch.testing.assert_close(voice[:, : model.speaker_dim].norm(dim=1), torch.ones(2))
