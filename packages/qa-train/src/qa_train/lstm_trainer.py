"""Training the LSTM: a compiled Keras model and `fit` with callbacks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

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
from trainworks import keras as core
from trainworks.console import Bar, NonFinite, progress
from trainworks.seeding import derive

import keras  # isort: skip
import tensorflow as tf  # isort: skip

READING_BATCH = 256


class LSTMTrainer(ModelTrainer):
    """Trains `lstm.PointerLSTM` or `lstm.BaselineLSTM`."""

    def __init__(self, network: NetworkConfig, loop: Loop | None = None):
        super().__init__(loop)
        self.network = network
        self._asked: keras.Model | None = None

    def train(
        self,
        model: keras.Model,
        train_data: Encoded,
        val_data: Encoded,
        metadata_train: Metadata,
        metadata_val: Metadata,
        hyperparams: TrainingConfig,
        epochs: int = 100,
    ) -> dict[str, float]:
        loop = self.loop
        assert loop is not None, "a trainer without a loop only evaluates"
        compile_model(model, self.network, hyperparams)
        self._make_variables(model, val_data.take(np.arange(1)))
        folder = loop.resume()
        if folder is not None:
            self.load(model, folder)
        total = epochs * -(-len(train_data) // hyperparams.batch_size)
        with progress(total, "training", start=loop.step) as bar:
            knows_directions = bool((train_data.direction != UNKNOWN_DIRECTION).any())
            end_of_epoch = EndOfEpoch(self, loop, val_data, metadata_val, hyperparams, total, knows_directions, bar)
            if not end_of_epoch.is_over():
                try:
                    model.fit(
                        self._dataset(train_data, hyperparams, loop),
                        initial_epoch=loop.epoch,
                        epochs=epochs,
                        shuffle=False,  # the batches are shuffled already
                        callbacks=[end_of_epoch],
                        verbose=0,
                    )
                except tf.errors.InvalidArgumentError as error:
                    if "is not finite" not in error.message:
                        raise
                    name = "loss" if "loss is" in error.message else "gradient"
                    raise NonFinite(
                        f"non-finite {name} at step {loop.step}; last good checkpoint: "
                        f"{loop.run.checkpoints_path / 'last'}; a lower learning rate may help"
                    ) from None
        folder, meta = loop.checkpoints.load("best")
        self.load(model, folder)
        return meta["metrics"]

    def _make_variables(self, model: keras.Model, question: Encoded) -> None:
        """Make those of optimizer, losses and metrics. Keras would do so in the first step, and trace it a second time
        for that, seconds of every start. What a question adds to the metrics `fit` clears when it begins an epoch."""
        model.optimizer.build(model.trainable_variables)
        targets, predicted = self._targets(question), model(self._inputs(question))
        model.compute_loss(y=targets, y_pred=predicted)
        model.compute_metrics(None, targets, predicted)

    def _dataset(self, data: Encoded, config: TrainingConfig, loop: Loop) -> tf.data.Dataset:
        """An epoch's batches; which, follows from the loop's epoch at the time when reading begins."""

        def batches() -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
            for index in training_batches(data, config.batch_size, loop.seed, loop.epoch):
                batch = data.take(index)
                yield self._inputs(batch), self._targets(batch)

        signature = (self._inputs_spec(), self._targets_spec())
        count = -(-len(data) // config.batch_size)
        return tf.data.Dataset.from_generator(batches, output_signature=signature).apply(
            tf.data.experimental.assert_cardinality(count)
        )

    def _inputs(self, data: Encoded) -> dict[str, np.ndarray]:
        story = data.story if self.network.architecture == "pointer" else running_words(data.story)
        return {"story": story, "question": data.question}

    def _inputs_spec(self) -> dict[str, tf.TensorSpec]:
        story = (None, None, None) if self.network.architecture == "pointer" else (None, None)
        return {"story": tf.TensorSpec(story, tf.int32), "question": tf.TensorSpec((None, None), tf.int32)}

    def _targets(self, data: Encoded) -> dict[str, np.ndarray]:
        answer = {"answer": data.label[:, None]}
        if self.network.architecture == "baseline":
            return answer
        return answer | {"direction": data.direction, "match": np.zeros_like(answer["answer"])}

    def _targets_spec(self) -> dict[str, tf.TensorSpec]:
        single = tf.TensorSpec((None, 1), tf.float32)
        if self.network.architecture == "baseline":
            return {"answer": single}
        return {"answer": single, "direction": tf.TensorSpec((None, None), tf.int32), "match": single}

    def predict(self, model: keras.Model, data: Encoded) -> np.ndarray:
        if self._asked is not model:
            # One graph for batches of all shapes.
            self._answer = tf.function(lambda inputs: model(inputs)["answer"], input_signature=[self._inputs_spec()])
            self._asked = model
        probabilities = np.empty(len(data))
        for index in reading_batches(data, READING_BATCH):
            if self.loop is not None:
                self.loop.stop.raise_if_set("the epoch was not finished; --resume starts it again")
            logit = self._answer(self._inputs(data.take(index))).numpy()[:, 0].astype(np.float64)
            probabilities[index] = 1 / (1 + np.exp(-logit))
        return probabilities

    def evaluate(
        self, model: keras.Model, eval_data: Encoded, metadata_eval: Metadata, eval_set_name: str = "validation"
    ) -> Evaluation:
        return score(self.predict(model, eval_data), eval_data, metadata_eval, eval_set_name)

    def load(self, model: keras.Model, folder: Path) -> None:
        core.load_weights(next(folder.glob("*.weights.h5")), model)


class EndOfEpoch(keras.callbacks.Callback):
    """What happens around batches and after epochs: step size, stopping, evaluation, checkpoint, the book of the
    best. It puts all metrics under their tracked names into `logs`, for the callbacks after it."""

    def __init__(
        self,
        trainer: LSTMTrainer,
        loop: Loop,
        val_data: Encoded,
        metadata_val: Metadata,
        config: TrainingConfig,
        total: int,
        knows_directions: bool,
        bar: Bar,
    ):
        """`total` is of steps; `knows_directions`, whether the training stories have any for the auxiliary loss."""
        super().__init__()
        self.knows_directions = knows_directions
        self.trainer, self.loop, self.config, self.total, self.bar = trainer, loop, config, total, bar
        self.val_data, self.metadata_val = val_data, metadata_val

    def is_over(self) -> bool:
        out_of_patience = 0 < self.config.patience <= self.loop.no_better_since()
        return self.loop.step >= self.total or out_of_patience

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.loop.stop.raise_if_set(f"epoch {self.loop.epoch + 1} was not finished; --resume starts it again")
        rate = learning_rate(self.config.learning_rate, self.loop.step, self.total)
        self.model.optimizer.learning_rate.assign(rate)
        if batch == 0:
            self._seed_dropout()

    def _seed_dropout(self) -> None:
        """Masks follow from seed and epoch: a layer's own generator is in no checkpoint."""
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
                state = derive(self.loop.seed, "dropout", self.loop.epoch)
                layer.seed_generator.state.assign([state % 2**32, state >> 32])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.loop.step += 1
        self.bar.advance(1, f"loss {answer_metric(logs, 'bce'):.3f}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.loop.epoch = epoch + 1
        evaluation = self.trainer.evaluate(self.model, self.val_data, self.metadata_val)
        train = {
            "loss": answer_metric(logs, "bce"),
            "accuracy": answer_metric(logs, "accuracy"),
            "direction_loss": logs.get("direction_loss", math.nan) if self.knows_directions else math.nan,
            "grad_norm": logs["grad_norm"],
        }
        logs.update(self.loop.end_epoch(train, evaluation, self.config, self._write))
        self.model.stop_training = self.is_over()

    def _write(self, folder: Path) -> None:
        core.save_weights(folder / self.loop.weights_name(".weights.h5"), self.model)


def answer_metric(logs: Mapping[str, float], name: str) -> float:
    """A metric of the answer: Keras puts the output's name before it where there are several outputs."""
    return logs[f"answer_{name}" if f"answer_{name}" in logs else name]


def compile_model(model: keras.Model, network: NetworkConfig, config: TrainingConfig) -> None:
    """Adam on the answer's binary cross-entropy and, for a pointer, the auxiliary loss of directions."""
    losses: dict[str, Any] = {"answer": keras.losses.BinaryCrossentropy(from_logits=True)}
    weights = {"answer": 1.0}
    if network.architecture == "pointer":
        losses["direction"], weights["direction"] = direction_loss, config.direction_weight
        losses["match"], weights["match"] = keras.losses.MeanAbsoluteError(), config.match_weight
    metrics = [
        keras.metrics.BinaryCrossentropy(from_logits=True, name="bce"),
        keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy"),
    ]
    optimizer = keras.optimizers.Adam(config.learning_rate, global_clipnorm=config.clip_norm)
    # Without XLA: it would compile anew for each shape of a batch.
    model.compile(optimizer, losses, loss_weights=weights, metrics={"answer": metrics}, jit_compile=False)


def direction_loss(direction_BS: Any, logits_BSD: Any) -> Any:
    """Mean cross-entropy (nats) of the sentences' directions that are known; 0 where none is."""
    direction_BS = tf.cast(direction_BS, tf.int32)  # Keras has made floats of them
    known = direction_BS != UNKNOWN_DIRECTION
    target = tf.where(known, direction_BS, 0)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target, logits=logits_BSD)
    mask = tf.cast(known, each.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(each * mask), tf.reduce_sum(mask))
