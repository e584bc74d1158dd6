"""Speed of voice-gan: conversion beside the published Vocos package, and a training step beside a plain loop.

    uv run --no-sync --with vocos python tools/bench_voices.py data/ --threads 1

Conversion: a minute of sound, from samples to samples (F0, loudness, both encoders, generator), as times faster than
real time; and the network alone, spectrogram included, beside a Vocos with as many parameters, which does no more than
rebuild. Training: `train_step` beside a loop that calls the same modules and losses and logs nothing, and the share of
a step that it waits for data. All take turns, so that a busy machine slows all of them; medians of the repeats are
told, by the clock or, with --clock cpu, in seconds of processor. Speed doesn't depend on weights, so all are random.
DATA is what voice-gan prepare made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
import torch.nn.functional as F
from record import Comparison, add_json_option, beside_budget, beside_peer, write_comparisons

from trainworks.checkpoint import Checkpoints
from trainworks.config import resolve
from trainworks.metrics import MetricsWriter
from trainworks.run import Run
from trainworks.signals import StopFlag
from voice_gan.audio import log_mel, shift_f0
from voice_gan.config import PRESETS, VoiceRecipe
from voice_gan.convert import convert_wave, wave_voice
from voice_gan.distributed import Team
from voice_gan.encoders import warp_bands
from voice_gan.losses import SpectralLoss, content_distance, contrastive_loss
from voice_gan.model import VoiceModel, num_parameters
from voice_gan.run import load_data
from voice_gan.state import Loop, State
from voice_gan.step import cut, negatives, noisy
from voice_gan.train import rate_factor, train_step, update_averages

BUDGET_SPEED = 50
"""Times faster than real time, samples to samples, on one thread."""
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(work: Callable[[], Any], clock: Clock) -> float:
    """Seconds of one call."""
    began = clock()
    work()
    return clock() - began


def speech_like(seconds: float, rate: int) -> np.ndarray:
    """A vowel whose pitch wanders, with pauses: F0 trackers take as long as for speech."""
    time_T = np.arange(int(seconds * rate)) / rate
    phase_T = 2 * np.pi * np.cumsum(150 * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * time_T))) / rate
    rhythm_T = np.clip(np.sin(2 * np.pi * 1.5 * time_T) + 0.5, 0, 1)
    noise_T = 0.003 * np.random.default_rng(0).normal(size=len(time_T))
    return (0.1 * rhythm_T * sum(np.sin(h * phase_T) / h for h in range(1, 12)) + noise_T).astype(np.float32)


class Published(torch.nn.Module):
    """The package's Vocos over this tool's spectrogram, as wide as gives it a number of parameters."""

    def __init__(self, recipe: VoiceRecipe, parameters: int) -> None:
        super().__init__()
        try:
            import torchaudio  # noqa: F401
        except (ImportError, OSError):  # PyPI's build needs CUDA's libraries; the two networks don't need it
            for name in ("", ".functional", ".functional.functional", ".transforms"):
                sys.modules[f"torchaudio{name}"] = MagicMock()
        from vocos.heads import ISTFTHead
        from vocos.models import VocosBackbone

        self.audio = recipe.audio
        layers = recipe.model.generator.layers

        def build(dim: int) -> tuple[torch.nn.Module, torch.nn.Module]:
            head = ISTFTHead(dim, recipe.audio.n_fft, recipe.audio.hop, padding="same")
            return VocosBackbone(recipe.audio.mels, dim, 3 * dim, layers), head

        def miss(dim: int) -> int:
            return abs(sum(map(num_parameters, build(dim))) - parameters)

        self.backbone, self.head = build(min(range(64, 640, 8), key=miss))

    def forward(self, wave_BT: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(log_mel(wave_BT, self.audio)))


def bench_conversion(
    preset: str, seconds: float, repeats: int, clock: Clock
) -> tuple[dict[str, float], list[Comparison]]:
    """Times faster than real time, and the parameters of both networks."""
    recipe = VoiceRecipe.model_validate(PRESETS[preset])
    torch.manual_seed(0)
    model = VoiceModel(recipe).eval().requires_grad_(False)
    size = num_parameters(model.content) + num_parameters(model.generator)
    published = Published(recipe, size).eval().requires_grad_(False)
    wave_T = speech_like(seconds, recipe.audio.rate)
    wave_T = wave_T[: len(wave_T) // recipe.audio.hop * recipe.audio.hop]
    voice = wave_voice(model, speech_like(5, recipe.audio.rate))
    wave_BT, f0_BF = torch.from_numpy(wave_T)[None], torch.full((1, len(wave_T) // recipe.audio.hop), 150.0)

    def network() -> None:
        model.generate(model.encode_content(log_mel(wave_BT, recipe.audio)), f0_BF, voice.vector_BV)

    ways = {
        "file": lambda: convert_wave(model, wave_T, voice),
        "network": network,
        "vocos": lambda: published(wave_BT),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for number in range(repeats + 1):
            for name, work in ways.items():
                took = timed(work, clock)
                if number:  # the first round warms up
                    times[name].append(took)
    length, threads = len(wave_T) / recipe.audio.rate, torch.get_num_threads()
    speeds = {name: [length / each for each in took] for name, took in times.items()}
    network_speed = beside_peer(
        "voice-gan", f"network, {length:.0f} s of sound", "x real time", "higher", speeds["network"],
        "Vocos of equal size", version("vocos"), speeds["vocos"], threads,
    )  # fmt: skip
    whole = f"conversion, {length:.0f} s of sound"
    file_speed = beside_budget("voice-gan", whole, "x real time", "higher", speeds["file"], BUDGET_SPEED, threads)
    ratio = statistics.median(network_speed.ratios)
    found = {name: statistics.median(speed) for name, speed in speeds.items()}
    found |= {"network_over_vocos": ratio, "parameters": size, "vocos_parameters": num_parameters(published)}
    return found, [file_speed, network_speed]


def plain_step(loop: Loop, state: State) -> None:
    """What `train_step` does before the discriminators start, without anything that is logged or guarded."""
    recipe, model, config = loop.recipe, state.model, loop.recipe.losses
    (part,) = cut(loop.segments.batch_of(state.step), recipe, state.step, 1, loop.device)
    for group in state.optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor(state.step, loop.total_steps)
    state.optimizer.zero_grad()
    mel_BMF = log_mel(part.wave_BT, recipe.audio)
    source_BCF, _ = model.content(warp_bands(mel_BMF, part.warp_B, recipe.audio))
    content_BCF = noisy(source_BCF, part, recipe)
    voice_BV = model.encode_voice(part.reference_BR)
    voice_BD = voice_BV[:, : model.speaker_dim]
    with torch.no_grad():
        key_BD = state.keys(part.wave_BT)
    made_BT = model.generate(content_BCF, part.f0_BF, voice_BV.detach())
    mel_loss, stft_loss = loop.spectral(made_BT, part.wave_BT)
    negatives_BND, present_BN = negatives(state, config, voice_BD, part.speakers_B, config.num_negatives, part)
    contrast = contrastive_loss(voice_BD, key_BD, negatives_BND, present_BN, config.temperature)
    probe_loss = F.cross_entropy(state.probe(content_BCF), part.speakers_B)
    loss = config.mel * mel_loss + config.stft * stft_loss + config.contrastive * contrast + probe_loss

    some = part.converted()
    with torch.no_grad():
        target_BV, target_BD = model.encode_voice(some.target_BR), state.keys(some.target_BR)
    f0_BF = shift_f0(some.f0_BF, some.f0_source_B2, some.f0_target_B2)
    clean_BCF = source_BCF[part.converted_B]
    converted_BT = model.generate(noisy(clean_BCF, some, recipe), f0_BF, target_BV)
    heard_BD = state.keys(converted_BT)
    again_BCF = model.encode_content(log_mel(converted_BT, recipe.audio))
    negatives_BND, present_BN = negatives(state, config, heard_BD, some.targets_B, config.num_negatives, some)
    contrast = contrastive_loss(heard_BD, target_BD, negatives_BND, present_BN, config.temperature)
    loss = loss + config.contrastive * contrast
    loss = loss + config.content_consistency * content_distance(again_BCF, clean_BCF)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.training.clip_norm)
    state.optimizer.step()
    state.queue.put(key_BD, part.speakers_B)
    update_averages(state, recipe.training.ema, config.key_momentum)
    state.step += 1


def bench_training(
    data: Path, preset: str, steps: int, repeats: int, clock: Clock, folder: Path
) -> tuple[dict[str, float], list[Comparison]]:
    """Seconds a step of both loops, their ratio, and the share of a step that data take."""
    resolved = resolve(VoiceRecipe, file=None, preset=preset, presets=PRESETS, flags={}, sets=(), env_prefix="NONE")
    recipe = resolved.recipe
    segments, valid = load_data(data, recipe)
    threads = torch.get_num_threads()
    run = Run.create(
        folder, tool="voice-gan", version="bench", resolved=resolved, seed=0, inputs=[], device="cpu", threads=threads
    )
    device = torch.device("cpu")
    times: dict[str, list[float]] = {"step": [], "plain": []}
    waits: list[float] = []
    with run, MetricsWriter(run.metrics_path) as metrics, StopFlag() as stop:
        loop = Loop(
            run=run,
            recipe=recipe,
            segments=segments,
            valid=valid,
            spectral=SpectralLoss(recipe.audio),
            device=device,
            team=Team(),
            checkpoints=Checkpoints(run.checkpoints_path),
            stop=stop,
            metrics=metrics,
            sink=None,
        )
        states = {name: State.build(recipe, len(segments.speakers), device) for name in times}
        for number in range(repeats + 1):
            for name, state in states.items():
                for _ in range(steps):
                    began = clock()
                    if name == "step":
                        values, _ = train_step(loop, state, {})
                        metrics.write(state.step, values)
                    else:
                        plain_step(loop, state)
                    if number:  # the first round warms up
                        times[name].append(clock() - began)
                        if name == "step":
                            waits.append(values["time/data_seconds"])
        run.finish({})
    step, plain = (statistics.median(took) for took in times.values())
    found = {
        "step": step,
        "plain": plain,
        "step_over_plain": step / plain,
        "data_share": sum(waits) / sum(times["step"]),
    }
    measure, peer = f"training step, preset {preset}", "the same modules in a plain loop"
    beside = beside_peer("voice-gan", measure, "s", "lower", times["step"], peer, "", times["plain"], threads)
    return found, [beside]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="prepared folder")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of sound that is converted")
    parser.add_argument("--steps", type=int, default=5, help="training steps a turn")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    converted, speeds = bench_conversion(args.preset, args.seconds, args.repeats, CLOCKS[args.clock])
    print(
        f"conversion, {args.threads} threads, {converted['parameters'] / 1e6:.2f} M parameters: samples to samples "
        f"{converted['file']:.0f} times real time, networks {converted['network']:.0f}; Vocos of "
        f"{converted['vocos_parameters'] / 1e6:.2f} M {converted['vocos']:.0f}: ratio "
        f"x{converted['network_over_vocos']:.2f}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        trained, steps = bench_training(
            args.data, args.preset, args.steps, args.repeats, CLOCKS[args.clock], Path(folder) / "run"
        )
    print(
        f"training step {trained['step']:.3f} s, plain loop {trained['plain']:.3f} s: ratio "
        f"x{trained['step_over_plain']:.2f}; data {trained['data_share']:.1%} of a step"
    )
    print(json.dumps({"conversion": converted, "training": trained}))
    write_comparisons(args.json, [*speeds, *steps])


if __name__ == "__main__":
    main()
