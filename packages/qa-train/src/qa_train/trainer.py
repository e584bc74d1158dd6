"""What training and evaluating look like, whichever the framework."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qa_train.config import TrainingConfig
from qa_train.encoding import Encoded
from qa_train.examples import Metadata
from qa_train.metrics import Evaluation, evaluate_predictions
from trainworks.checkpoint import Checkpoints
from trainworks.console import UserError, info
from trainworks.metrics import MetricsWriter
from trainworks.run import Run
from trainworks.signals import StopFlag

MONITOR, TIE_BREAK = "metrics/valid/accuracy", "metrics/valid/loss"
"""The best epoch has the highest accuracy and, of several such, the lowest loss."""
TOP_EPOCHS = 3


class EpochLogger(Protocol):
    """A tracker's logger: hears of each epoch."""

    def on_epoch(self, epoch: int, values: Mapping[str, float]) -> None: ...

    def on_best(self, epoch: int, accuracy: float) -> None: ...

    def on_top_epochs(self, top: Sequence[tuple[int, float]]) -> None: ...

    def on_artifact(self, name: str, path: Path) -> None: ...

    def close(self) -> None: ...


@dataclass
class Loop:
    """Where training writes, and the book of the best epochs.

    Attributes:
        run, metrics, checkpoints, stop: of the core.
        dataset: the data directory's name, a part of the weights' names.
        seed: of the recipe.
        logger: a tracker's, or None.
        epoch: epochs finished.
        step: optimizer steps finished.
        scores: (epoch, validation accuracy, validation loss) of every finished epoch.
    """

    run: Run
    metrics: MetricsWriter
    checkpoints: Checkpoints
    stop: StopFlag
    dataset: str
    seed: int
    logger: EpochLogger | None = None
    epoch: int = 0
    step: int = 0
    scores: list[tuple[int, float, float]] = field(default_factory=list)

    def top(self) -> list[tuple[int, float]]:
        """The best epochs, best first, each with its validation accuracy."""
        best = sorted(self.scores, key=lambda score: (-score[1], score[2], score[0]))[:TOP_EPOCHS]
        return [(epoch, accuracy) for epoch, accuracy, _ in best]

    def weights_name(self, suffix: str) -> str:
        """Such as "stories_t_epoch_007.safetensors"."""
        return f"{self.dataset}_{self.run.path.resolve().name}_epoch_{self.epoch:03d}{suffix}"

    def no_better_since(self) -> int:
        """Epochs since the best one."""
        return self.epoch - self.top()[0][0] if self.scores else 0

    def save(self, write: Callable[[Path], None], values: Mapping[str, float], keep: bool = False) -> None:
        """Publish a checkpoint; `write` puts weights and optimizer state into the folder that it is given."""
        meta = {"epoch": self.epoch, "scores": self.scores, "metrics": dict(values), "keep": keep}
        self.checkpoints.publish(self.step, write, meta)

    def end_epoch(
        self,
        train: Mapping[str, float],
        evaluation: Evaluation,
        config: TrainingConfig,
        write: Callable[[Path], None],
    ) -> dict[str, float]:
        """Log the epoch that has just ended, mark it if it is among the best, publish its checkpoint.

        Args:
            train: the epoch's training metrics, such as "loss".
            evaluation: on the validation set.
            config: of the loop.
            write: as in `save`.

        Returns:
            All of the epoch's metrics by their tracked names.
        """
        values = {f"metrics/train/{name}": value for name, value in train.items()} | evaluation.flat("valid")
        accuracy = evaluation.overall["accuracy"]
        self.scores.append((self.epoch, accuracy, evaluation.overall["loss"]))
        rank = [epoch for epoch, _ in self.top()].index(self.epoch) + 1 if self._is_top() else 0
        mark = {0: "", 1: "  * new best"}.get(rank, f"  + top {TOP_EPOCHS}")
        info(
            f"epoch {self.epoch}/{config.epochs}: loss {train['loss']:.4f}, valid loss "
            f"{evaluation.overall['loss']:.4f}, valid accuracy {accuracy:.4f}{mark}"
        )
        self.metrics.write(self.step, values, epoch=self.epoch)
        self.save(write, values, keep=config.checkpoint_every > 0 and self.epoch % config.checkpoint_every == 0)
        if self.logger is not None:
            self.logger.on_epoch(self.epoch, values)
            if rank:
                self.log_best()
        return values

    def log_best(self) -> None:
        """Tell the logger of the best epochs so far."""
        if self.logger is not None and self.scores:
            self.logger.on_best(*self.top()[0])
            self.logger.on_top_epochs(self.top())

    def _is_top(self) -> bool:
        return self.epoch in [epoch for epoch, _ in self.top()]

    def resume(self) -> Path | None:
        """The last checkpoint's folder, with the book as it was then and later metrics cut off; None if there is
        none."""
        self.checkpoints.recover()
        if not (self.run.checkpoints_path / "last").exists():
            self.metrics.truncate_after(-1)
            return None
        folder, meta = self.checkpoints.load("last")
        self.epoch, self.step = meta["epoch"], meta["step"]
        self.scores = [(epoch, accuracy, loss) for epoch, accuracy, loss in meta["scores"]]
        self.metrics.truncate_after(self.step)
        self.log_best()  # the kill may have come between the checkpoint and the logger
        return folder


class ModelTrainer(ABC):
    """Trains, evaluates and asks a model of one framework."""

    def __init__(self, loop: Loop | None = None):
        """With a loop it can train; without, it only evaluates and predicts."""
        self.loop = loop

    @abstractmethod
    def train(
        self,
        model: Any,
        train_data: Encoded,
        val_data: Encoded,
        metadata_train: Metadata,
        metadata_val: Metadata,
        hyperparams: TrainingConfig,
        epochs: int = 100,
    ) -> dict[str, float]:
        """Train, from the run's last checkpoint if it has one; the model ends with the best epoch's weights.

        Returns:
            The best epoch's metrics by their tracked names.

        Raises:
            NonFinite: a loss or gradient became NaN or infinite.
            Interrupted: after SIGINT or SIGTERM; the last finished epoch's checkpoint stands.
        """

    @abstractmethod
    def predict(self, model: Any, data: Encoded) -> np.ndarray:
        """Probability of yes of each example, (N,) float64."""

    @abstractmethod
    def evaluate(
        self, model: Any, eval_data: Encoded, metadata_eval: Metadata, eval_set_name: str = "validation"
    ) -> Evaluation:
        """All metrics of the model's answers, by slice; the set's name goes into errors alone.

        Raises:
            UserError: an example has no answer.
        """

    @abstractmethod
    def load(self, model: Any, folder: Path) -> None:
        """Load a checkpoint's weights into the model."""


def score(probabilities: np.ndarray, data: Encoded, metadata: Metadata, set_name: str) -> Evaluation:
    """The metrics of probabilities, by slice.

    Raises:
        UserError: an example has no answer.
    """
    for place, label in enumerate(data.label):
        if math.isnan(label):
            raise UserError(f"{set_name}: id {metadata.ids[place]} has no answer to compare with")
    return evaluate_predictions(metadata.ids, probabilities, data.label.astype(int), metadata)
