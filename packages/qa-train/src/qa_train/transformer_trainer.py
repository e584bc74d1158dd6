"""Training the Transformer: an explicit PyTorch loop."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qa_train.config import NetworkConfig, TrainingConfig
from qa_train.encoding import (
    UNKNOWN_DIRECTION,
    Encoded,
    learning_rate,
    reading_batches,
    running_words,
    training_batches,
)
from qa_train.examples import Metadata
from qa_train.metrics import Evaluation
from qa_train.trainer import Loop, ModelTrainer, score
from trainworks.console import progress
from trainworks.torch import check_finite, load_state, load_weights, save_state, save_weights, seed_torch

READING_BATCH = 256


class TransformerTrainer(ModelTrainer):
    """Trains `transformer.PointerTransformer` or `transformer.BaselineTransformer`."""

    def __init__(
        self,
        network: NetworkConfig,
        loop: Loop | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        grad_accum: int = 1,
    ):
        super().__init__(loop)
        self.network, self.device = network, torch.device(device)
        self.precision, self.grad_accum = precision, grad_accum

    def train(
        self,
        model: nn.Module,
        train_data: Encoded,
        val_data: Encoded,
        metadata_train: Metadata,
        metadata_val: Metadata,
        hyperparams: TrainingConfig,
        epochs: int = 100,
    ) -> dict[str, float]:
        loop = self.loop
        assert loop is not None, "a trainer without a loop only evaluates"
        model.to(self.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=hyperparams.learning_rate)
        folder = loop.resume()
        if folder is not None:
            self.load(model, folder)
            optimizer.load_state_dict(load_state(folder / "optimizer.pt", self.device))

        def write(folder: Path) -> None:
            save_weights(folder / loop.weights_name(".safetensors"), model)
            save_state(folder / "optimizer.pt", optimizer.state_dict())

        batches_an_epoch = -(-len(train_data) // hyperparams.batch_size)
        total = epochs * batches_an_epoch
        with progress(total, "training", start=loop.step) as bar:
            while loop.epoch < epochs and not 0 < hyperparams.patience <= loop.no_better_since():
                totals = dict.fromkeys(("loss", "accuracy", "direction_loss", "grad_norm"), 0.0)
                for batch in training_batches(train_data, hyperparams.batch_size, loop.seed, loop.epoch):
                    loop.stop.raise_if_set(f"epoch {loop.epoch + 1} was not finished; --resume starts it again")
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate(hyperparams.learning_rate, loop.step, total)
                    seed_torch(loop.seed, "dropout", loop.step)
                    values = self._step(model, optimizer, train_data.take(batch), hyperparams)
                    for name, value in values.items():
                        totals[name] += value * len(batch)
                    loop.step += 1
                    bar.advance(1, f"loss {values['loss']:.3f}")
                loop.epoch += 1
                train = {name: total / len(train_data) for name, total in totals.items()}
                if self.network.architecture == "baseline" or (train_data.direction == UNKNOWN_DIRECTION).all():
                    train["direction_loss"] = math.nan
                evaluation = self.evaluate(model, val_data, metadata_val)
                loop.end_epoch(train, evaluation, hyperparams, write)
        folder, meta = loop.checkpoints.load("best")
        self.load(model, folder)
        return meta["metrics"]

    def _step(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Encoded, config: TrainingConfig
    ) -> dict[str, float]:
        """One optimizer step; the batch's losses (nats), accuracy and gradient norm."""
        assert self.loop is not None
        model.train()
        optimizer.zero_grad()
        values = dict.fromkeys(("loss", "accuracy", "direction_loss"), 0.0)
        known = max(1, int((batch.direction != UNKNOWN_DIRECTION).sum()))
        for part in np.array_split(np.arange(len(batch)), min(self.grad_accum, len(batch))):
            data = batch.take(part)
            label = torch.as_tensor(data.label, device=self.device)
            with self._autocast():
                logit, direction, match = model(*self._inputs(data))
            share = len(part) / len(batch)
            losses = {"loss": nn.BCEWithLogitsLoss()(logit.float(), label) * share}
            total = losses["loss"]
            if direction is not None:
                losses["direction_loss"] = direction_loss(direction, data.direction) / known
                total = total + config.direction_weight * losses["direction_loss"]
                total = total + config.match_weight * share * match.mean()
            total.backward()
            losses["accuracy"] = ((logit > 0) == (label > 0.5)).float().mean() * share
            for name, value in losses.items():
                values[name] += value.item()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        last = self.loop.run.checkpoints_path / "last"
        for name, value in (("loss", values["loss"]), ("gradient norm", norm)):
            check_finite(value, name=name, step=self.loop.step, checkpoint=last if last.exists() else None)
        optimizer.step()
        return values | {"grad_norm": norm.item()}

    @torch.no_grad()
    def predict(self, model: nn.Module, data: Encoded) -> np.ndarray:
        model.to(self.device).eval()
        probabilities = np.empty(len(data))
        for batch in reading_batches(data, READING_BATCH):
            if self.loop is not None:
                self.loop.stop.raise_if_set("the epoch was not finished; --resume starts it again")
            with self._autocast():
                logit = model(*self._inputs(data.take(batch)))[0]
            probabilities[batch] = torch.sigmoid(logit.double()).cpu().numpy()
        return probabilities

    def evaluate(
        self, model: nn.Module, eval_data: Encoded, metadata_eval: Metadata, eval_set_name: str = "validation"
    ) -> Evaluation:
        return score(self.predict(model, eval_data), eval_data, metadata_eval, eval_set_name)

    def load(self, model: nn.Module, folder: Path) -> None:
        load_weights(next(folder.glob("*.safetensors")), model)

    def _inputs(self, data: Encoded) -> tuple[Tensor, Tensor]:
        story = data.story if self.network.architecture == "pointer" else running_words(data.story)
        return tuple(torch.as_tensor(words, dtype=torch.int64, device=self.device) for words in (story, data.question))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def direction_loss(logits_BSD: Tensor, direction_BS: np.ndarray) -> Tensor:
    """Summed cross-entropy (nats) of the sentences' directions that are known."""
    target = torch.as_tensor(direction_BS, dtype=torch.int64, device=logits_BSD.device).flatten()
    logits = logits_BSD.float().flatten(0, 1)
    return F.cross_entropy(logits, target, ignore_index=UNKNOWN_DIRECTION, reduction="sum")
