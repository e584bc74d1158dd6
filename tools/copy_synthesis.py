"""What a Vocos rebuilds that may see the whole spectrogram: no bottleneck, no voice to put in, no discriminators.

    uv run --no-sync python tools/copy_synthesis.py data/ --steps 1500 --seeds 0 1 2 --out runs/copy-synthesis

DATA is what `voice-gan prepare` made. The generator of preset cpu without its conditions, 1.65 M parameters, learns by
the spectral losses of voice-gan to make the sound of a log-mel spectrogram, and is measured on the test split as
`voice-gan evaluate` measures reconstruction. --out gets a file a seed; what is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from trainworks.files import write_json
from trainworks.torch import seed_torch, set_threads
from voice_gan.audio import log_mel
from voice_gan.config import VoiceRecipe
from voice_gan.data import load_utterances
from voice_gan.generator import VocosGenerator
from voice_gan.losses import SpectralLoss
from voice_gan.metrics import compare, summary
from voice_gan.model import num_parameters
from voice_gan.run import load_data
from voice_gan.train import rate_factor


def train(data: Path, steps: int, seed: int) -> tuple[VocosGenerator, float]:
    """The network after `steps` batches of 8 segments of a second, and the CPU seconds that they took."""
    recipe = VoiceRecipe.model_validate({"seed": seed, "data": {"segment_seconds": 1.0}})
    segments, _ = load_data(data, recipe)
    seed_torch(seed, "weights")
    config, began = recipe.model.generator, time.process_time()
    network = VocosGenerator(recipe.audio.mels, config.dim, config.layers, recipe.audio)
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.8, 0.99), weight_decay=0.01)
    spectral = SpectralLoss(recipe.audio)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.training.learning_rate * rate_factor(step, steps)
        wave_BT = torch.from_numpy(segments.batch_of(step).wave_BT)
        mel_loss, stft_loss = spectral(network(log_mel(wave_BT, recipe.audio)), wave_BT)
        loss = recipe.losses.mel * mel_loss + recipe.losses.stft * stft_loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.training.clip_norm)
        optimizer.step()
        if step % 100 == 0:
            print(f"seed {seed}: step {step}, mel {mel_loss.item():.3f}", file=sys.stderr)
    return network.eval(), time.process_time() - began


@torch.no_grad()
def measure(network: VocosGenerator, data: Path) -> dict[str, float]:
    """Means of `metrics.compare` over the test split."""
    audio = VoiceRecipe().audio
    rows = []
    for utterance in load_utterances(data, "test"):
        rebuilt_BT = network(log_mel(torch.from_numpy(utterance.wave_T)[None], audio))
        rows.append(compare(utterance.wave_T, rebuilt_BT[0].numpy(), audio, utterance.f0_F))
    return {name: found["mean"] for name, found in summary(rows).items()}


def copy_synthesis(data: Path, steps: int, seed: int, out: Path) -> dict[str, float]:
    """The figures of one seed, from `out` if they are there."""
    finished = out / f"copy_synthesis_{seed}.json"
    if not finished.exists():
        network, seconds = train(data, steps, seed)
        found = {"steps": steps, "parameters": num_parameters(network), "cpu_s": seconds, **measure(network, data)}
        out.mkdir(parents=True, exist_ok=True)
        write_json(finished, found)
    return json.loads(finished.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="prepared folder")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    set_threads(args.threads)
    for seed in args.seeds:
        print(json.dumps({"seed": seed, **copy_synthesis(args.data, args.steps, seed, args.out)}))


if __name__ == "__main__":
    main()
