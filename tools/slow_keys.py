"""How slowly must the keys of voice-gan's contrastive loss follow the encoder? The speaker encoder alone, by momentum.

    uv run --no-sync python tools/slow_keys.py data/ --momenta 0.9 0.995 --seeds 0 1 2 --out runs/accept-keys

DATA is what `voice-gan prepare` made. Each training is that of preset cpu without generator and content encoder: the
same segments, queue, negatives and steps. Told are the loss at the beginning (the second tenth: in the first the queue
is filled) and at the end (the last tenth), and how well the encoder parts held-out utterances of the training speakers.
--out gets table.md and results.json.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from trainworks.files import atomic_write, write_json
from trainworks.torch import seed_torch, set_threads, torch_generator
from voice_gan.config import PRESETS, VoiceRecipe
from voice_gan.data import load_utterances
from voice_gan.encoders import SpeakerEncoder
from voice_gan.judge import Voices
from voice_gan.losses import contrastive_loss
from voice_gan.mining import SpeakerQueue
from voice_gan.run import load_data
from voice_gan.train import rate_factor


def train(data: Path, momentum: float, seed: int, steps: int) -> dict[str, float]:
    """Losses of one training, and the separation of held-out utterances by its encoder."""
    recipe = VoiceRecipe.model_validate({**PRESETS["cpu"], "seed": seed})
    config = recipe.losses
    segments, _ = load_data(data, recipe)
    seed_torch(seed, "weights")
    encoder = SpeakerEncoder(recipe.audio, recipe.model.speaker)
    keys = copy.deepcopy(encoder).requires_grad_(False)
    queue = SpeakerQueue(config.queue, recipe.model.speaker.dim)
    optimizer = torch.optim.AdamW(encoder.parameters(), betas=(0.8, 0.99), weight_decay=0.01)
    losses = []
    for step in range(steps):
        batch = segments.batch_of(step)
        wave_BT, reference_BR = torch.from_numpy(batch.wave_BT), torch.from_numpy(batch.reference_BR)
        speakers_B = torch.from_numpy(batch.speakers_B)
        for group in optimizer.param_groups:
            group["lr"] = recipe.training.learning_rate * rate_factor(step, steps)
        voice_BD = encoder(reference_BR)
        with torch.no_grad():
            key_BD = keys(wave_BT)
        random_BQ = torch.rand(len(voice_BD), config.queue, generator=torch_generator(seed, "negatives", step))
        negatives = queue.negatives(voice_BD, speakers_B, config.num_negatives, random_BQ, config.negative_pool)
        loss = contrastive_loss(voice_BD, key_BD, *negatives, config.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue.put(key_BD, speakers_B)
        with torch.no_grad():
            torch._foreach_lerp_([*keys.parameters()], [*encoder.parameters()], 1 - momentum)
        losses.append(loss.item())
    test = load_utterances(data, "test")
    with torch.no_grad():
        heard = torch.cat([encoder(torch.from_numpy(utterance.wave_T)[None]) for utterance in test]).numpy()
    bands = Voices.of(heard, [utterance.speaker for utterance in test]).bands()
    tenth = steps // 10
    return {
        "momentum": momentum,
        "seed": seed,
        "loss at the beginning": statistics.fmean(losses[tenth : 2 * tenth]),
        "loss at the end": statistics.fmean(losses[-tenth:]),
        "equal error rate": bands["equal_error_rate"],
        "different, raw": bands["raw_different"],
    }


def markdown(found: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, a row a momentum."""
    names = [name for name in found[0] if name not in ("momentum", "seed")]
    lines = ["| momentum | " + " | ".join(names) + " |", "| ---: |" + " ---: |" * len(names)]
    for momentum in dict.fromkeys(one["momentum"] for one in found):
        cells = []
        for name in names:
            values = [one[name] for one in found if one["momentum"] == momentum]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread}")
        lines.append(f"| {momentum:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="prepared folder")
    parser.add_argument("--momenta", type=float, nargs="+", default=[0.9, 0.995])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    set_threads(args.threads)
    found = []
    for momentum in args.momenta:
        for seed in args.seeds:
            print(f"momentum {momentum:g}, seed {seed}", file=sys.stderr)
            found.append(train(args.data, momentum, seed, args.steps))
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "results.json", found)
    atomic_write(args.out / "table.md", markdown(found))
    print(markdown(found), end="")


if __name__ == "__main__":
    main()
