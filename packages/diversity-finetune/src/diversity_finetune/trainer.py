"""The networks in training: one step of each kind, evaluation, checkpoints. Every random choice of a step follows from
the seed and the step's number, so a checkpoint needs no random state and training can go on from any step.

Shape legend: B pairs, S words read, T words of the reply, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diversity_finetune import discriminator as adversary
from diversity_finetune import losses
from diversity_finetune import model as generator
from diversity_finetune.config import TrainRecipe
from diversity_finetune.data import Arrays
from trainworks import keras as core
from trainworks.console import NonFinite
from trainworks.seeding import derive
from trainworks.signals import StopFlag

import keras  # isort: skip
import tensorflow as tf  # isort: skip

MONITOR = "valid/loss"
TOP_EPOCHS = 3
EVALUATION_BATCH = 256
ACTIVE = 0.01
"""Variance of a latent unit's posterior mean above which it is active (Burda et al. 2016, section 5.2)."""
TRAINING = "training"
"""Folder of a checkpoint that inference has no use for."""
IDS = tf.TensorSpec((None, None), tf.int32)
SEED, NUMBER = tf.TensorSpec((2,), tf.int32), tf.TensorSpec((), tf.float32)


@dataclass
class Progress:
    """Where training is; with the weights, all that a checkpoint needs.

    Attributes:
        epoch: epochs finished.
        step: optimizer steps finished.
        best: the lowest validation losses, lowest first, at most `TOP_EPOCHS`.
        best_epoch: of the lowest.
        plateau: epochs since the loss fell or the step size did.
        learning_rate: of the generator, before `training.decay_share` lowers it.
        sums: of metrics over the steps since the last record, with how many steps each counts.
    """

    epoch: int = 0
    step: int = 0
    best: list[float] = field(default_factory=list)
    best_epoch: int = 0
    plateau: int = 0
    learning_rate: float = 0.0
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + float(value), count + 1)

    def means(self) -> dict[str, float]:
        """The means since the last record, which begins anew."""
        found = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return found


class Trainer:
    """The networks with their optimizers, and one compiled function for each kind of step."""

    def __init__(self, recipe: TrainRecipe, vocabulary: int, total_steps: int) -> None:
        core.seed_keras(recipe.seed, "init")
        self.recipe, self.total_steps = recipe, total_steps
        self.model = generator.build(recipe.model, recipe.vae, vocabulary, recipe.precision)
        self.averaged = generator.build(recipe.model, recipe.vae, vocabulary, recipe.precision)
        self.averaged.set_weights(self.model.get_weights())
        self.discriminator = adversary.build(vocabulary, recipe.model.embedding, recipe.gan)
        for network, rate in (
            (self.model, recipe.training.learning_rate),
            (self.discriminator, recipe.gan.learning_rate),
        ):
            network.compile(keras.optimizers.Adam(rate), jit_compile=False)
            network.optimizer.build(network.trainable_variables)

        def compiled(function: Callable[..., Any], *signature: tf.TensorSpec) -> Callable[..., Any]:
            # Nothing here branches on a tensor, and rewriting the sources costs more than tracing them.
            return tf.function(function, input_signature=signature or None, autograph=False)

        self.likelihood = compiled(self._likelihood, IDS, IDS, IDS, SEED, *[NUMBER] * 4)
        self.discriminate = compiled(self._discriminate, IDS, IDS, IDS, SEED, NUMBER, NUMBER)
        self.deceive = compiled(self._deceive, IDS, IDS, IDS, SEED, NUMBER, NUMBER)
        self.count_words = compiled(self._count_words, IDS, IDS, IDS, SEED, NUMBER)
        self.measure = compiled(self._measure, IDS, IDS, IDS)
        self.learn = compiled(lambda gradients: self.model.optimizer.apply(gradients))
        self.learn_to_judge = compiled(lambda gradients: self.discriminator.optimizer.apply(gradients))
        self.average = compiled(self._average, NUMBER)

    def _likelihood(
        self, customer_BS: Any, previous_BS: Any, reply_BT: Any, seed: Any, words: Any, pairs: Any,
        kl_weight: Any, temperature: Any,
    ) -> tuple[list[Any], dict[str, Any]]:  # fmt: skip
        """Gradients and metrics of reconstruction, KL and diversity on a part of a batch that has `words` words in
        `pairs` pairs altogether; the parts' results add up to the batch's."""
        recipe, diversity = self.recipe, self.recipe.diversity
        with tf.GradientTape() as tape:
            taught = self.model.teach(customer_BS, previous_BS, reply_BT, seed)
            nll = -tf.reduce_sum(self.model.gold_log_p(taught.predictions, reply_BT)) / words
            metrics, loss = {"train/reconstruction": nll}, nll
            for name, (posterior, prior) in taught.latents.items():
                kl = losses.kl_divergence(posterior, prior)
                metrics[f"train/kl_{name}"] = tf.reduce_sum(kl) / pairs
                loss += kl_weight * tf.reduce_sum(losses.free_bits(kl, recipe.vae.free_bits)) / words
            if diversity.weight or diversity.unlikelihood:
                read_BT = reply_BT[:: diversity.stride]
                log_p = self.model.log_p(taught.predictions.every(diversity.stride))
                share = tf.cast(tf.shape(reply_BT)[0], tf.float32) / pairs
            if diversity.weight:
                tempered = log_p
                if diversity.temperature != 1.0 or diversity.temperature_end != 1.0:
                    tempered = tf.nn.log_softmax(log_p / temperature)
                parts = losses.diversity_parts(tempered, read_BT, diversity.entropy_floor)
                means = {name: share * tf.reduce_mean(part) for name, part in parts.items()}
                whole = tf.add_n([getattr(diversity, name) * mean for name, mean in means.items()])
                metrics |= {f"train/{name}_loss": mean for name, mean in means.items()}
                metrics["train/diversity"] = whole
                loss += diversity.weight * whole
            if diversity.unlikelihood:
                unlikelihood = share * tf.reduce_mean(losses.unlikelihood(log_p, read_BT))
                metrics["train/unlikelihood"] = unlikelihood
                loss += diversity.unlikelihood * unlikelihood
        return self._gradients(tape, loss, self.model), metrics | {"train/loss": loss}

    def _discriminate(
        self, customer_BS: Any, previous_BS: Any, reply_BT: Any, seed: Any, share: Any, temperature: Any
    ) -> tuple[list[Any], dict[str, Any]]:
        """The discriminator's gradients: gold replies from what the generator writes. The pairs stand for the
        `share` of the batch that they were taken from."""
        fake = adversary.roll_out(self.model, customer_BS, previous_BS, self.recipe.gan, temperature, seed)
        gold = adversary.one_hot(reply_BT, self.recipe.gan.length, self.model.vocabulary)
        with tf.GradientTape() as tape:
            fake_B, _ = self.discriminator.judge(*fake, customer_BS)
            real_B, _ = self.discriminator.judge(*gold, customer_BS)
            loss = share * tf.reduce_mean(losses.discriminator_loss(real_B, fake_B))
        right = tf.cast(real_B > 0, tf.float32) + tf.cast(fake_B < 0, tf.float32)
        accuracy = 0.5 * share * tf.reduce_mean(right)
        metrics = {"disc/loss": loss, "disc/accuracy": accuracy}
        metrics |= {
            f"disc/{side}": share * tf.reduce_mean(tf.sigmoid(logits))
            for side, logits in (("real", real_B), ("fake", fake_B))
        }
        return self._gradients(tape, loss, self.discriminator), metrics

    def _deceive(
        self, customer_BS: Any, previous_BS: Any, reply_BT: Any, seed: Any, share: Any, temperature: Any
    ) -> tuple[list[Any], dict[str, Any]]:
        """The generator's gradients of the adversarial loss and of feature matching; `share` as in `_discriminate`."""
        config = self.recipe.gan
        gold = adversary.one_hot(reply_BT, config.length, self.model.vocabulary)
        _, real_features = self.discriminator.judge(*gold, customer_BS)
        with tf.GradientTape() as tape:
            fake = adversary.roll_out(self.model, customer_BS, previous_BS, config, temperature, seed)
            fake_B, features = self.discriminator.judge(*fake, customer_BS)
            deceit = share * tf.reduce_mean(losses.adversarial_loss(fake_B))
            matching = share * losses.feature_matching(real_features, features)
            loss = config.weight * deceit + config.feature_weight * matching
        metrics = {"train/adversarial": deceit, "train/feature_matching": matching}
        return self._gradients(tape, loss, self.model), metrics

    def _count_words(
        self, customer_BS: Any, previous_BS: Any, reply_BT: Any, seed: Any, temperature: Any
    ) -> tuple[Any, Any]:
        """How often each word is in the gold replies and in those that the generator writes, (B, V) each, as far as the
        discriminator reads."""
        gold = adversary.one_hot(reply_BT, self.recipe.gan.length, self.model.vocabulary)
        fake = adversary.roll_out(self.model, customer_BS, previous_BS, self.recipe.gan, temperature, seed)
        real_BV, fake_BV = (tf.reduce_sum(words * mask[:, :, None], 1) for words, mask in (gold, fake))
        return real_BV, fake_BV

    def _gradients(self, tape: tf.GradientTape, loss: Any, network: Any) -> list[Any]:
        weights = network.trainable_variables
        found = zip(weights, tape.gradient(loss, weights), strict=True)
        # The adversarial loss doesn't reach the posterior: replies of one's own have none.
        return [tf.zeros(weight.shape) if each is None else tf.convert_to_tensor(each) for weight, each in found]

    def _measure(self, customer_BS: Any, previous_BS: Any, reply_BT: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Of the averaged weights: the replies' negative log-likelihood as at inference and their words (B,), and each
        latent's KL (B,) and posterior mean (B, Z)."""
        model = self.averaged
        nll = -tf.reduce_sum(model.gold_log_p(model.score(customer_BS, previous_BS, reply_BT), reply_BT), -1)
        latents = {}
        if self.recipe.vae.enabled:
            context = model.encode(customer_BS, previous_BS)
            prior = model.prior(context)
            pairs = {"agent": (model.posterior(context, reply_BT), prior["agent"])}
            if model.separate:
                pairs["customer"] = (prior["customer"], generator.standard_normal_like(prior["customer"]))
            for name, (posterior, before) in pairs.items():
                latents[name] = (tf.reduce_sum(losses.kl_divergence(posterior, before), -1), posterior.mean)
        return nll, tf.reduce_sum(losses.real_words(reply_BT), -1), latents

    def _average(self, momentum: Any) -> None:
        for mean, weight in zip(self.averaged.trainable_variables, self.model.trainable_variables, strict=True):
            mean.assign(momentum * mean + (1.0 - momentum) * weight)

    def step_size(self, learning_rate: float, step: int) -> float:
        """Of a step, at what the plateaus have left of the learning rate."""
        decay_steps = self.recipe.training.decay_share * self.total_steps
        return learning_rate * min(1.0, (self.total_steps - step) / decay_steps) if decay_steps else learning_rate

    def batch(
        self, arrays: Arrays, index: np.ndarray, step: int, progress: Progress, epoch_steps: int
    ) -> tuple[list[Any], dict[str, Any]]:
        """One optimizer step of the generator, with the turn of the discriminator or the adversarial loss if it is due.

        Returns:
            The generator's gradients, before they were clipped, and its metrics.

        Raises:
            NonFinite: before anything is changed.
        """
        recipe, config = self.recipe, self.recipe.gan
        seed = derive(recipe.seed, "step", step)
        parts = [part for part in np.array_split(index, recipe.grad_accum) if len(part)]
        batches = [arrays.take(part) for part in parts]
        seeds = [_pair(seed + n) for n in range(len(parts))]
        words = np.float32(sum((part.agent != 0).sum() for part in batches))
        pairs = np.float32(len(index))
        share = step / max(1, self.total_steps - 1)
        kl_weight = recipe.vae.kl_weight * min(1.0, step / max(1.0, recipe.vae.warmup_epochs * epoch_steps))
        temperature = _between(recipe.diversity.temperature, recipe.diversity.temperature_end, share)
        gradients, metrics = _add_up(
            self.likelihood(*_texts(part), seed, words, pairs, np.float32(kl_weight), np.float32(temperature))
            for part, seed in zip(batches, seeds, strict=True)
        )
        turn = step % config.interval if self.plays(progress.epoch) else -1
        gumbel = self._gumbel_temperature(step)
        if turn == config.interval // 2:
            more, told = _add_up(
                self.deceive(*_texts(part, config.stride), seed, np.float32(len(part) / len(index)), gumbel)
                for part, seed in zip(batches, seeds, strict=True)
            )
            gradients = [one + other for one, other in zip(gradients, more, strict=True)]
            metrics |= told
        clipped, norm = tf.clip_by_global_norm(gradients, recipe.training.clip_norm)
        if not np.isfinite(norm.numpy()):
            name = "gradient" if np.isfinite(metrics["train/loss"]) else "loss"
            raise NonFinite(f"non-finite {name} at step {step + 1}, epoch {progress.epoch + 1}")
        self.model.optimizer.learning_rate.assign(self.step_size(progress.learning_rate, step))
        self.learn(clipped)
        momentum = min(recipe.training.average, (1 + step) / (10 + step))
        self.average(np.float32(momentum))
        progress.add(metrics | {"train/grad_norm": norm, "train/kl_weight": kl_weight})
        if turn == 0:
            of_discriminator, told = _add_up(
                self.discriminate(*_texts(part, config.stride), seed, np.float32(len(part) / len(index)), gumbel)
                for part, seed in zip(batches, seeds, strict=True)
            )
            if not np.isfinite(told["disc/loss"]):
                raise NonFinite(f"non-finite discriminator loss at step {step + 1}, epoch {progress.epoch + 1}")
            self.learn_to_judge(of_discriminator)
            progress.add(told)
        return gradients, metrics

    def plays(self, epoch: int) -> bool:
        """Whether the adversarial game is on in an epoch, counted from 0."""
        return self.recipe.gan.enabled and epoch >= self.recipe.gan.warmup_epochs

    def look(self, pairs: Arrays, step: int) -> tuple[list[Any], dict[str, Any], tuple[Any, Any]]:
        """The adversarial game on some pairs, which nothing is learned from.

        Returns:
            The discriminator's gradients, both sides' metrics, and what `_count_words` finds.
        """
        seed, temperature = _pair(derive(self.recipe.seed, "look", step)), self._gumbel_temperature(step)
        gradients, metrics = self.discriminate(*_texts(pairs), seed, np.float32(1), temperature)
        _, told = self.deceive(*_texts(pairs), seed, np.float32(1), temperature)
        return gradients, metrics | told, self.count_words(*_texts(pairs), seed, temperature)

    def _gumbel_temperature(self, step: int) -> np.float32:
        share = step / max(1, self.total_steps - 1)
        return np.float32(_between(self.recipe.gan.temperature, self.recipe.gan.temperature_end, share))

    def evaluate(self, arrays: Arrays, stop: StopFlag) -> dict[str, float]:
        """Validation metrics of the averaged weights: loss in nats a word as at inference, and of each latent the KL in
        nats a reply and the active units."""
        order = np.argsort((arrays.agent != 0).sum(1), kind="stable")
        nll, words = 0.0, 0.0
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for begin in range(0, len(order), EVALUATION_BATCH):
            stop.raise_if_set("the epoch's evaluation was not finished; --resume does it again")
            batch = arrays.take(order[begin : begin + EVALUATION_BATCH])
            nll_B, words_B, latents = self.measure(*_texts(batch))
            nll, words = nll + float(tf.reduce_sum(nll_B)), words + float(tf.reduce_sum(words_B))
            for name, (kl, mean) in latents.items():
                found.setdefault(name, []).append((kl.numpy(), mean.numpy()))
        values = {MONITOR: nll / words, "valid/perplexity": math.exp(min(nll / words, 700.0))}
        for name, parts in found.items():
            kls, means = (np.concatenate(column) for column in zip(*parts, strict=True))
            values[f"valid/kl_{name}"] = float(kls.mean())
            values[f"valid/active_units_{name}"] = int((means.var(0) > ACTIVE).sum())
        return values

    def save(self, folder: Path, name: str) -> None:
        """Write the averaged weights, which inference uses, as `name`, and what training needs to go on."""
        core.save_weights(folder / name, self.averaged)
        (folder / TRAINING).mkdir()
        core.save_weights(folder / TRAINING / "model.weights.h5", self.model)
        core.save_weights(folder / TRAINING / "discriminator.weights.h5", self.discriminator)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self.load_averaged(folder)
        core.load_weights(folder / TRAINING / "model.weights.h5", self.model)
        core.load_weights(folder / TRAINING / "discriminator.weights.h5", self.discriminator)

    def load_averaged(self, folder: Path) -> None:
        core.load_weights(next(folder.glob("*.weights.h5")), self.averaged)


def _texts(batch: Arrays, stride: int = 1) -> tuple[Any, Any, Any]:
    """Those of every `stride`-th pair."""
    return batch.customer[::stride], batch.previous[::stride], batch.agent[::stride]


def _pair(seed: int) -> np.ndarray:
    """A seed as TensorFlow's stateless operations take it, (2,) int32."""
    return np.array([seed % 2**31, seed >> 32], np.int32)


def _add_up(results: Iterator[tuple[list[Any], dict[str, Any]]]) -> tuple[list[Any], dict[str, Any]]:
    """Sums of the parts' gradients and metrics."""
    gradients, metrics = next(results)
    for more, told in results:
        gradients = [one + other for one, other in zip(gradients, more, strict=True)]
        metrics = {name: metrics[name] + told[name] for name in metrics}
    return gradients, metrics


def _between(first: float, last: float, share: float) -> float:
    return first + (last - first) * share
