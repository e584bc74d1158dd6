"""What a training run holds: its surroundings, and the state that a checkpoint saves."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainworks.checkpoint import Checkpoints
from trainworks.metrics import MetricsWriter
from trainworks.run import Run
from trainworks.signals import StopFlag
from trainworks.torch import load_state, load_weights, save_state, save_weights, seed_torch
from trainworks.tracking import Sink
from voice_gan.config import VoiceRecipe
from voice_gan.data import Segments, Utterance
from voice_gan.discriminators import Discriminators
from voice_gan.distributed import Team
from voice_gan.guard import Guard
from voice_gan.losses import SpectralLoss
from voice_gan.mining import SpeakerQueue
from voice_gan.model import Probe, VoiceModel

STATEFUL = ("model", "keys", "probe", "queue", "optimizer", "discriminator_optimizer")
"""Attributes of `State` whose state_dict goes into a checkpoint's state.pt."""


@dataclass
class Loop:
    """What training reads and where it writes; nothing here changes from step to step.

    Attributes:
        metrics, sink: None but on the process that writes.
    """

    run: Run
    recipe: VoiceRecipe
    segments: Segments
    valid: Sequence[Utterance]
    spectral: SpectralLoss
    device: torch.device
    team: Team
    checkpoints: Checkpoints
    stop: StopFlag
    metrics: MetricsWriter | None
    sink: Sink | None

    @property
    def total_steps(self) -> int:
        return self.recipe.training.epochs * self.segments.steps_an_epoch

    @property
    def first_adversarial_step(self) -> int:
        """The step at which discriminators start; past the end without them."""
        if self.recipe.losses.lambda_adv == 0:
            return self.total_steps + 1
        return round(self.recipe.training.warm_up * self.total_steps)

    @property
    def num_converted(self) -> int:
        """Rows of a step's batch, over all processes, that are converted."""
        return math.floor(self.recipe.data.batch_size * self.recipe.losses.conversion_share)

    def log(self, step: int, values: dict[str, Any]) -> None:
        if self.metrics is not None and self.sink is not None:
            self.metrics.write(step, values, epoch=step / self.segments.steps_an_epoch)
            self.sink.log(step, values)

    def autocast(self) -> AbstractContextManager[Any]:
        if self.recipe.training.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@dataclass
class State:
    """All that changes while training, and so all that a checkpoint holds."""

    model: VoiceModel
    average: VoiceModel
    """Exponential moving average of the model's weights: the model that is used."""
    keys: nn.Module
    """The encoder of the keys, which voices are compared with: a slower average of the speaker encoder."""
    probe: Probe
    discriminators: Discriminators
    queue: SpeakerQueue
    optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    guard: Guard
    step: int = 0

    @classmethod
    def build(cls, recipe: VoiceRecipe, speakers: int, device: torch.device) -> State:
        """Fresh weights from the recipe's seed.

        Raises:
            UserError: the recipe wants GE2E and its weights are not installed.
        """
        seed_torch(recipe.seed, "weights")
        model = VoiceModel(recipe).to(device)
        probe = Probe(recipe.model.content.bottleneck, speakers).to(device)
        discriminators = Discriminators(recipe.discriminators).to(device)
        model.generator.activation_checkpointing = recipe.training.activation_checkpointing
        return cls(
            model=model,
            average=copy.deepcopy(model).eval().requires_grad_(False),
            keys=copy.deepcopy(model.speaker).eval().requires_grad_(False),
            probe=probe,
            discriminators=discriminators,
            queue=SpeakerQueue(recipe.losses.queue, model.speaker_dim).to(device),
            optimizer=build_optimizer(model, probe, recipe),
            discriminator_optimizer=torch.optim.AdamW(
                discriminators.parameters(), lr=recipe.discriminators.learning_rate, betas=(0.8, 0.99)
            ),
            guard=Guard(recipe.guard),
        )

    def save(self, folder: Path) -> None:
        save_weights(folder / "model.safetensors", self.average)
        save_weights(folder / "discriminators.safetensors", self.discriminators)
        state = {name: getattr(self, name).state_dict() for name in STATEFUL}
        save_state(folder / "state.pt", {**state, "guard": self.guard.state(), "step": self.step})

    def load(self, folder: Path, device: torch.device) -> None:
        load_weights(folder / "model.safetensors", self.average)
        load_weights(folder / "discriminators.safetensors", self.discriminators)
        state = load_state(folder / "state.pt", device)
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.guard = Guard(self.guard.config, **state["guard"])
        self.step = state["step"]

    def parts(self) -> dict[str, nn.Module]:
        """The modules whose norms are logged."""
        return {
            "content": self.model.content,
            "speaker": self.model.speaker,
            "generator": self.model.generator,
            "mpd": self.discriminators.mpd,
            "mrd": self.discriminators.mrd,
        }


def build_optimizer(model: VoiceModel, probe: Probe, recipe: VoiceRecipe) -> torch.optim.Optimizer:
    """AdamW; the groups' "peak" is what the schedule scales. A GE2E that is fine-tuned learns at its own rate."""
    slow = [p for p in model.speaker.parameters() if p.requires_grad] if recipe.model.speaker.kind == "ge2e" else []
    chosen = {id(p) for p in slow}
    fast = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    rate = recipe.training.learning_rate
    groups = [{"params": fast, "peak": rate}, {"params": list(probe.parameters()), "peak": rate}]
    if slow:
        groups.append({"params": slow, "peak": recipe.model.speaker.learning_rate})
    return torch.optim.AdamW(groups, lr=rate, betas=(0.8, 0.99), weight_decay=0.01)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """What is computed meanwhile gives no gradient to the module's parameters; it still passes through."""
    learning = [p for p in module.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
