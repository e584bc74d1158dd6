"""What a training run holds: its rows, its surroundings, and the state that a checkpoint saves."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from disc_train.config import TrainRecipe
from disc_train.data import Table
from disc_train.discriminators import Discriminators
from disc_train.model import Generator
from disc_train.schema import Schema
from trainworks.checkpoint import Checkpoints
from trainworks.console import UserError
from trainworks.metrics import MetricsWriter
from trainworks.run import Run
from trainworks.seeding import rng
from trainworks.signals import StopFlag
from trainworks.torch import load_state, load_weights, save_state, save_weights
from trainworks.tracking import Sink

MIN_VALID_ROWS = 5
"""The two-sample test cuts the validation rows into five folds."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows, (N, C) int64 each."""

    train: Tensor
    """What the generator learns from."""
    critic: Tensor
    """What the discriminators learn from, which the generator never sees."""
    valid: Tensor
    """What chooses the checkpoint."""


@dataclass
class Loop:
    """What training reads and where it writes; nothing here changes from step to step."""

    run: Run
    recipe: TrainRecipe
    rows: Rows
    schema: Schema
    device: torch.device
    metrics: MetricsWriter
    sink: Sink
    stop: StopFlag
    checkpoints: Checkpoints

    def log(self, step: int, values: dict[str, Any], epoch: float | None = None) -> None:
        self.metrics.write(step, values, epoch=epoch)
        self.sink.log(step, values)

    def autocast(self) -> AbstractContextManager[Any]:
        if self.recipe.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@dataclass
class State:
    """All that changes while training, and so all that a checkpoint holds."""

    generator: Generator
    average: Generator
    """Exponential moving average of the generator's weights: the model that is used."""
    discriminators: Discriminators
    optimizer: torch.optim.Optimizer
    step: int = 0
    warm_steps: int = -1
    """Steps that the warm start took; -1 while it lasts."""
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """The average at the warm start's best validation likelihood."""
    evaluations_since_best: int = 0
    replay: Tensor = field(default_factory=lambda: torch.empty(0))
    """Rows generated in earlier cycles, (N, C)."""
    cycle: int = -1
    """The last cycle whose discriminators were taught and whose checkpoint was published."""
    best_auc: float = math.inf
    cycles_since_best: int = 0
    pulls: dict[str, float] = field(default_factory=dict)
    """Running mean of the norm of each level's gradient, where the weights adapt to it."""

    PLAIN = (
        "step",
        "warm_steps",
        "cycle",
        "best_loss",
        "evaluations_since_best",
        "best_auc",
        "cycles_since_best",
        "pulls",
    )

    def save(self, folder: Path) -> None:
        save_weights(folder / "model.safetensors", self.average)
        save_weights(folder / "discriminators.safetensors", self.discriminators)
        state = {name: getattr(self, name) for name in (*self.PLAIN, "best_weights", "replay")}
        state |= {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_state(folder / "state.pt", state)

    def load(self, folder: Path, device: torch.device, recipe: TrainRecipe) -> None:
        load_weights(folder / "model.safetensors", self.average)
        load_weights(folder / "discriminators.safetensors", self.discriminators)
        state = load_state(folder / "state.pt", device)
        self.generator.load_state_dict(state.pop("generator"))
        if state["warm_steps"] >= 0:
            self.optimizer = feedback_optimizer(self.generator, recipe)
        self.optimizer.load_state_dict(state.pop("optimizer"))
        for name, value in state.items():
            setattr(self, name, value)


def encode_rows(table: Table, schema: Schema, recipe: TrainRecipe, device: torch.device) -> Rows:
    """Tokens of the table's rows, dealt at random to generator, discriminators and validation."""
    codes = torch.as_tensor(schema.encode(table), dtype=torch.int64, device=device)
    train, critic, valid = (codes[torch.as_tensor(rows, device=device)] for rows in deal_rows(len(codes), recipe))
    return Rows(train, critic, valid)


def deal_rows(num_rows: int, recipe: TrainRecipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the rows that are for the generator, the discriminators and validation.

    Raises:
        UserError: too few rows for the recipe's `data.valid_fold`.
    """
    shuffled = rng(recipe.seed, "split").permutation(num_rows)
    num_valid = max(MIN_VALID_ROWS, round(recipe.data.valid_fraction * num_rows))
    if recipe.data.valid_fold and (recipe.data.valid_fold + 1) * num_valid > num_rows:
        raise UserError(f"{num_rows} rows hold no {recipe.data.valid_fold + 1} folds of {num_valid} validation rows")
    shuffled = np.roll(shuffled, -recipe.data.valid_fold * num_valid)
    num_critic = 0
    if recipe.feedback.schedule != "none":
        share = round(recipe.discriminator.real_share * (num_rows - num_valid))
        num_critic = min(max(1, share), recipe.discriminator.max_rows)
    valid, critic, train = np.split(shuffled, (num_valid, num_valid + num_critic))
    return train, critic, valid


def warm_start_optimizer(generator: Generator, recipe: TrainRecipe) -> torch.optim.Optimizer:
    warm = recipe.warm_start
    return torch.optim.AdamW(
        generator.parameters(), lr=warm.learning_rate, weight_decay=warm.weight_decay, betas=(0.9, 0.95)
    )


def feedback_optimizer(generator: Generator, recipe: TrainRecipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        generator.parameters(),
        lr=recipe.feedback.learning_rate,
        weight_decay=recipe.warm_start.weight_decay,
        betas=(0.9, 0.95),
    )
