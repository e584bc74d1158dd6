"""Training throughput of qa-train's Transformer beside the Hugging Face Trainer: same network, data and batch size.

    uv run --no-sync --with accelerate python tools/bench_stories.py --steps 200 --repeats 3

Both train the pointer Transformer on built-in stories, fp32, one process, with Adam and gradient clipping; the
trainers take turns, so that a busy machine slows both. Prints stories a second and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from record import add_json_option, beside_peer, write_comparisons
from torch import nn
from transformers import Trainer, TrainingArguments

from qa_train.config import TrainingConfig, TrainRecipe
from qa_train.encoding import Encoded, Vocabulary, encode
from qa_train.examples import Metadata
from qa_train.stories import StorySettings, generate
from qa_train.train import build_model
from qa_train.trainer import Loop
from qa_train.transformer_trainer import TransformerTrainer, direction_loss
from trainworks.checkpoint import Checkpoints
from trainworks.config import resolve
from trainworks.metrics import MetricsWriter
from trainworks.run import Run
from trainworks.signals import StopFlag

CONFIG = TrainingConfig()


class WithLoss(nn.Module):
    """The network as the Hugging Face Trainer wants it: it returns its loss."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, story: torch.Tensor, question: torch.Tensor, label: torch.Tensor, direction: Any) -> Any:
        logit, directions, match = self.network(story, question)
        loss = nn.functional.binary_cross_entropy_with_logits(logit, label) + CONFIG.match_weight * match.mean()
        return {"loss": loss + direction_loss(directions, direction) / (direction >= 0).sum()}


def collate(data: Encoded, rows: list[int]) -> dict[str, Any]:
    """A batch, padded to its longest story."""
    batch = data.take(np.array(rows))
    return {
        "story": torch.as_tensor(batch.story, dtype=torch.int64),
        "question": torch.as_tensor(batch.question, dtype=torch.int64),
        "label": torch.as_tensor(batch.label),
        "direction": batch.direction,
    }


def train_theirs(network: nn.Module, data: Encoded, batch_size: int, folder: Path) -> None:
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=batch_size,
        num_train_epochs=1,
        learning_rate=CONFIG.learning_rate,
        optim="adamw_torch",
        train_sampling_strategy="random",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    rows = range(len(data))
    Trainer(WithLoss(network), arguments, train_dataset=rows, data_collator=partial(collate, data)).train()


def train_ours(network: nn.Module, data: Encoded, valid: Encoded, metadata: Metadata, size: int, run: Run) -> None:
    config = TrainingConfig(epochs=1, batch_size=size)
    with MetricsWriter(run.metrics_path) as metrics, StopFlag() as stop:
        loop = Loop(run, metrics, Checkpoints(run.checkpoints_path), stop, "stories", 0)
        TransformerTrainer(TrainRecipe().network, loop).train(network, data, valid, metadata, metadata, config, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe, num_stories = TrainRecipe(), args.steps * args.batch_size
    examples = generate(StorySettings((2, 8), -(-num_stories // 35)), 0)[:num_stories]
    vocabulary = Vocabulary.of(examples)
    data, few = (encode(part, vocabulary, "stories", recipe.network.max_words) for part in (examples, examples[:64]))
    rates: dict[str, list[float]] = {"qa-train": [], "Hugging Face Trainer": []}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(args.repeats + 1):
            folder = Path(scratch) / str(repeat)
            run = Run.create(folder, tool="bench", version="0", resolved=resolve(TrainRecipe), seed=0, device="cpu",
                             threads=args.threads)  # fmt: skip
            with run:
                began = time.perf_counter()
                train_ours(build_model(recipe, vocabulary), data, few, Metadata.of(examples[:64]), args.batch_size, run)
                ours = len(data) / (time.perf_counter() - began)
            began = time.perf_counter()
            train_theirs(build_model(recipe, vocabulary), data, args.batch_size, folder)
            theirs = len(data) / (time.perf_counter() - began)
            if repeat:  # the first one warms up
                rates["qa-train"].append(ours)
                rates["Hugging Face Trainer"].append(theirs)
    for name, values in rates.items():
        print(f"{name}: {statistics.mean(values):,.0f} stories/s (min {min(values):,.0f}, max {max(values):,.0f})")
    ours, theirs = rates.values()
    found = beside_peer(
        "qa-train", f"training on {len(data):,} stories, batches of {args.batch_size}", "stories/s", "higher",
        ours, "transformers Trainer", transformers.__version__, theirs, args.threads,
    )  # fmt: skip
    write_comparisons(args.json, [found])
    ratios = found.ratios
    print(f"ratio: x{statistics.median(ratios):.2f} (min x{min(ratios):.2f}, max x{max(ratios):.2f})")


if __name__ == "__main__":
    main()
