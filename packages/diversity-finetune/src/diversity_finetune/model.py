"""The generator: a Separate Input Hybrid VAE with an attentive autoregressive decoder, in Keras on TensorFlow.

A customer encoder reads the message and an agent encoder the agent's previous turn; each has a latent space of its own.
The customer's latent has the posterior q(z_c | message) and the prior N(0, I). The agent's is conditional (Sohn et al.
2015): prior p(z_a | message, previous), posterior q(z_a | message, previous, reply), where the agent encoder reads the
reply as well. Only `teach` ever sees a reply; inference is `begin` and `step`, which have no argument for one.

Shape legend: B pairs, S words read (previous and message), T words of the reply, E embedding, M encoded summary,
D decoder width, Z both latents together, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diversity_finetune.config import ModelConfig, VAEConfig
from diversity_finetune.tokenizer import SPECIAL, Tokenizer
from trainworks import keras as _core  # noqa: F401  chooses the TensorFlow backend before Keras is imported

import keras  # isort: skip
import tensorflow as tf  # isort: skip
from keras import layers  # isort: skip

NEVER = -1e9
SMALLEST = 1e-9
"""Added to probabilities before their logarithm."""
LOG_VARIANCE_BOUND = 8.0
State = dict[str, Any]
"""Tensors of one decoding, rows first: memory_BSD, mask_BS, source_BS, latent_BE, h_BD, c_BD."""


@dataclass(frozen=True)
class Gaussian:
    """Diagonal normal distributions, (B, Z') each."""

    mean: Any
    log_variance: Any

    def at(self, noise: Any) -> Any:
        """The point that standard normal noise (B, Z') leads to; zeros lead to the mean."""
        return self.mean + tf.exp(0.5 * self.log_variance) * noise


@dataclass(frozen=True)
class Context:
    """What the encoders have read: memory (B, S, D), its mask and word ids (B, S), summaries (B, M) of the message and
    of the previous turn, which are the same tensor in the combined architecture."""

    memory: Any
    mask: Any
    source: Any
    customer: Any
    previous: Any


@dataclass(frozen=True)
class Predictions:
    """What follows each place of a reply, before the vocabulary: the output layer's input (B, T, E), the probability of
    copying each word read (B, T, S), None without copying, and the ids of those words (B, S). `ReplyModel.log_p` and
    `ReplyModel.gold_log_p` make probabilities of it."""

    output: Any
    copied: Any
    source: Any

    def every(self, stride: int) -> Predictions:
        """Those of every `stride`-th pair."""
        copied = None if self.copied is None else self.copied[::stride]
        return Predictions(self.output[::stride], copied, self.source[::stride])


@dataclass(frozen=True)
class Taught:
    """Teacher-forced predictions, and the latents that training compares: pairs of posterior and prior by the latent's
    name."""

    predictions: Predictions
    latents: dict[str, tuple[Gaussian, Gaussian]]


class ReplyModel(keras.Model):
    """Answers messages; `begin` and `step` decode, `teach` is for training."""

    def __init__(self, config: ModelConfig, vae: VAEConfig, vocabulary: int, precision: str = "fp32") -> None:
        super().__init__(dtype="mixed_bfloat16" if precision == "bf16" else "float32")
        self.config, self.vae, self.vocabulary = config, vae, vocabulary
        policy = self.dtype_policy
        E, D, Z = config.embedding, config.decoder, config.latent
        self.separate = config.architecture == "separate"

        def encoder(name: str) -> layers.Layer:
            # The combined text is padded in its middle, which cuDNN can't read.
            lstm = layers.LSTM(
                config.encoder,
                return_sequences=True,
                return_state=True,
                use_cudnn="auto" if self.separate else False,
                dtype=policy,
            )
            return layers.Bidirectional(lstm, dtype=policy, name=name)

        def dense(units: int, name: str, activation: str | None = None) -> layers.Layer:
            return layers.Dense(units, activation, dtype=policy, name=name)

        def embedding(name: str) -> layers.Layer:
            normal = keras.initializers.RandomNormal(stddev=E**-0.5)
            return layers.Embedding(vocabulary, E, embeddings_initializer=normal, dtype=policy, name=name)

        self.agent_embedding = embedding("agent_embedding")
        self.agent_encoder = encoder("agent_encoder")
        self.agent_memory = dense(D, "agent_memory")
        if self.separate:
            self.customer_embedding = embedding("customer_embedding")
            self.customer_encoder = encoder("customer_encoder")
            self.customer_memory = dense(D, "customer_memory")
        if vae.enabled:
            if self.separate:
                self.customer_posterior = dense(2 * Z, "customer_posterior")
            width = Z if self.separate else 2 * Z
            self.agent_prior = dense(2 * width, "agent_prior")
            self.agent_posterior = dense(2 * width, "agent_posterior")
            self.latent_input = dense(E, "latent_input")
        self.first_state = dense(2 * D, "first_state", "tanh")
        self.decoder = layers.LSTM(D, return_sequences=True, return_state=True, dtype=policy, name="decoder")
        self.query = dense(D, "query")
        self.output_hidden = dense(E if config.tied else D, "output_hidden", "tanh")
        if config.tied:
            self.output_bias = self.add_weight(shape=(vocabulary,), initializer="zeros", name="output_bias")
        else:
            self.output_layer = dense(vocabulary, "output_layer")
        if config.copy_words:
            self.copy_gate = dense(1, "copy_gate")

    @property
    def noise_width(self) -> int:
        """Z: numbers of noise that `begin` takes for each pair; the same for both architectures."""
        return 2 * self.config.latent

    def encode(self, customer_BS: Any, previous_BS: Any, seed: Any = None) -> Context:
        """Read messages and previous turns, int32 ids padded with 0; `seed` (2,) turns dropout on."""
        if not self.separate:
            source = tf.concat([previous_BS, customer_BS], 1)
            hidden, summary = self._read(self.agent_encoder, self.agent_embedding, source, _fold(seed, 0))
            return Context(self.agent_memory(hidden), source != Tokenizer.pad_id, source, summary, summary)
        hidden_c, customer = self._read(self.customer_encoder, self.customer_embedding, customer_BS, _fold(seed, 0))
        hidden_p, previous = self._read(self.agent_encoder, self.agent_embedding, previous_BS, _fold(seed, 1))
        memory = tf.concat([self.agent_memory(hidden_p), self.customer_memory(hidden_c)], 1)
        source = tf.concat([previous_BS, customer_BS], 1)
        return Context(memory, source != Tokenizer.pad_id, source, customer, previous)

    def _read(self, encoder: Any, embedding: Any, ids_BS: Any, seed: Any) -> tuple[Any, Any]:
        """Hidden states (B, S, 2 x encoder) and the final ones of both directions as one summary (B, M)."""
        words = drop(embedding(ids_BS), self.config.dropout, seed)
        hidden, left_to_right, _, right_to_left, _ = encoder(words, mask=ids_BS != Tokenizer.pad_id)
        return hidden, tf.concat([left_to_right, right_to_left], -1)

    def prior(self, context: Context) -> dict[str, Gaussian]:
        """Where the latents are drawn from at inference, by name; the customer's follows from the message."""
        found = {}
        if self.vae.enabled:
            if self.separate:
                found["customer"] = gaussian(self.customer_posterior(context.customer))
            found["agent"] = gaussian(self.agent_prior(self._summary(context)))
        return found

    def posterior(self, context: Context, reply_BT: Any, seed: Any = None) -> Gaussian:
        """Of the agent's latent, for training alone: it has read the reply."""
        _, reply = self._read(self.agent_encoder, self.agent_embedding, reply_BT, seed)
        return gaussian(self.agent_posterior(tf.concat([self._summary(context), reply], -1)))

    def _summary(self, context: Context) -> Any:
        return tf.concat([context.customer, context.previous], -1) if self.separate else context.customer

    def start(self, context: Context, latent_BZ: Any) -> State:
        """The decoder's state before its first word; `latent_BZ` is None without latents."""
        summary = self._summary(context)
        batch = tf.shape(summary)[0]
        if self.vae.enabled:
            latent_BZ = tf.cast(latent_BZ, self.compute_dtype)
            summary = tf.concat([summary, latent_BZ], -1)
            latent_BE = self.latent_input(latent_BZ)
        else:
            latent_BE = tf.zeros((batch, self.config.embedding), self.compute_dtype)
        h, c = tf.split(self.first_state(summary), 2, axis=-1)
        return {
            "memory": context.memory,
            "mask": context.mask,
            "source": context.source,
            "latent": latent_BE,
            "h": h,
            "c": c,
        }

    def begin(self, customer_BS: Any, previous_BS: Any, noise_BZ: Any) -> State:
        """The state from which replies are decoded.

        Args:
            customer_BS, previous_BS: int32 ids, padded with 0; each row has at least its end.
            noise_BZ: standard normal, `noise_width` wide; zeros take the prior's mean.
        """
        context = self.encode(customer_BS, previous_BS)
        return self.start(context, self._at(self.prior(context), noise_BZ))

    def _at(self, latents: dict[str, Gaussian], noise_BZ: Any) -> Any:
        if not latents:
            return None
        parts = tf.split(noise_BZ, len(latents), axis=-1)
        return tf.concat([latent.at(part) for latent, part in zip(latents.values(), parts, strict=True)], -1)

    def step(self, tokens_B: Any, state: State) -> tuple[Any, State]:
        """Logits (B, V) float32 of the word after `tokens_B` (int32; begin_id at first), and the state after it."""
        return self.step_embedded(self.agent_embedding(tokens_B), state)

    def step_embedded(self, words_BE: Any, state: State) -> tuple[Any, State]:
        """As `step`, on words that are mixtures of embeddings."""
        words_BE = tf.cast(words_BE, self.compute_dtype) + state["latent"]
        _, (h, c) = self.decoder.cell(words_BE, [state["h"], state["c"]])
        log_p, log_sum = self._vocabulary(self._predict(h[:, None], state))
        return (log_p + log_sum)[:, 0], {**state, "h": h, "c": c}

    def _predict(self, hidden_BTD: Any, state: State, seed: Any = None) -> Predictions:
        """Attention over the memory (Luong et al. 2015, "general"), and how much of each word is copied from it."""
        scores = tf.matmul(self.query(hidden_BTD), state["memory"], transpose_b=True)
        scores = tf.cast(scores, tf.float32) * self.config.decoder**-0.5
        attention_BTS = tf.nn.softmax(tf.where(state["mask"][:, None], scores, NEVER))
        read = tf.matmul(tf.cast(attention_BTS, self.compute_dtype), state["memory"])
        joined = tf.concat([hidden_BTD, read], -1)
        output = drop(self.output_hidden(joined), self.config.dropout, seed)
        if not self.config.copy_words:
            return Predictions(output, None, state["source"])
        gate = tf.sigmoid(tf.cast(self.copy_gate(joined), tf.float32))
        # What falls on special ids (ends, words out of the vocabulary) is given back to generating.
        is_word = tf.cast(state["source"] >= len(SPECIAL), tf.float32)[:, None]
        return Predictions(output, gate * attention_BTS * is_word, state["source"])

    def _logits(self, output: Any) -> Any:
        """Logits (..., V) float32 of generating each word, from `Predictions.output` (..., E)."""
        if not self.config.tied:
            return tf.cast(self.output_layer(output), tf.float32)
        table = tf.cast(self.agent_embedding.embeddings, self.compute_dtype)
        logits = tf.tensordot(output, table, [[-1], [1]])
        return tf.cast(logits, tf.float32) + tf.cast(self.output_bias, tf.float32)

    def _vocabulary(self, predictions: Predictions) -> tuple[Any, Any]:
        """Log-probabilities (B, T, V) float32, and the logarithm of the softmax's sum (B, T, 1), which makes logits of
        them again: a repetition penalty depends on where logits are 0."""
        logits = self._logits(predictions.output)
        log_sum = tf.reduce_logsumexp(logits, -1, keepdims=True)
        if predictions.copied is None:
            return logits - log_sum, log_sum
        mixed = mix_copies(tf.exp(logits - log_sum), predictions.copied, predictions.source)
        return tf.math.log(mixed + SMALLEST), log_sum

    def log_p(self, predictions: Predictions) -> Any:
        """Log-probabilities of every word, (B, T, V) float32."""
        return self._vocabulary(predictions)[0]

    def gold_log_p(self, predictions: Predictions, reply_BT: Any) -> Any:
        """Log-probabilities of the gold words alone, (B, T) float32, 0 at padding: what `log_p` has there, in less
        time."""
        place_N2 = tf.where(reply_BT != Tokenizer.pad_id)
        gold_N = tf.gather_nd(reply_BT, place_N2)
        logits_NV = self._logits(tf.gather_nd(predictions.output, place_N2))
        log_p_N = -tf.nn.sparse_softmax_cross_entropy_with_logits(gold_N, logits_NV)
        if predictions.copied is not None:
            copied_NS = tf.gather_nd(predictions.copied, place_N2)
            is_gold_NS = tf.cast(tf.gather(predictions.source, place_N2[:, 0]) == gold_N[:, None], tf.float32)
            generated_N = tf.exp(log_p_N) * (1.0 - tf.reduce_sum(copied_NS, -1))
            log_p_N = tf.math.log(generated_N + tf.reduce_sum(copied_NS * is_gold_NS, -1) + SMALLEST)
        return tf.scatter_nd(place_N2, log_p_N, tf.shape(reply_BT, tf.int64))

    def teach(self, customer_BS: Any, previous_BS: Any, reply_BT: Any, seed: Any) -> Taught:
        """Predict each word of the gold reply from those before it, with latents drawn as training does.

        Args:
            reply_BT: int32 ids, ended and padded.
            seed: (2,) int32, of dropout, word dropout and the latents' noise.
        """
        context = self.encode(customer_BS, previous_BS, _fold(seed, 1))
        prior, latents, latent_BZ = self.prior(context), {}, None
        if prior:
            posterior = self.posterior(context, reply_BT, _fold(seed, 2))
            latents["agent"] = (posterior, prior["agent"])
            if self.separate:
                latents["customer"] = (prior["customer"], standard_normal_like(prior["customer"]))
            batch = tf.shape(reply_BT)[0]
            from_prior = tf.random.stateless_uniform((batch, 1), _fold(seed, 3)) < self.vae.prior_share
            drawn = Gaussian(
                tf.where(from_prior, prior["agent"].mean, posterior.mean),
                tf.where(from_prior, prior["agent"].log_variance, posterior.log_variance),
            )
            noise = tf.random.stateless_normal((batch, self.noise_width), _fold(seed, 4))
            latent_BZ = self._at(prior | {"agent": drawn}, noise)
        return Taught(self._decode(self.start(context, latent_BZ), reply_BT, _fold(seed, 5)), latents)

    def score(self, customer_BS: Any, previous_BS: Any, reply_BT: Any) -> Predictions:
        """Predictions of gold replies with the latents at their prior's mean, as greedy inference has them: the reply
        is predicted, not read."""
        noise = tf.zeros((tf.shape(reply_BT)[0], self.noise_width))
        return self._decode(self.begin(customer_BS, previous_BS, noise), reply_BT, None)

    def _decode(self, state: State, reply_BT: Any, seed: Any) -> Predictions:
        begin = tf.fill((tf.shape(reply_BT)[0], 1), Tokenizer.begin_id)
        before = tf.concat([begin, reply_BT[:, :-1]], 1)
        if seed is not None and self.vae.enabled and self.vae.word_dropout:
            lost = tf.random.stateless_uniform(tf.shape(before), _fold(seed, 0)) < self.vae.word_dropout
            before = tf.where(lost & (before >= len(SPECIAL)), Tokenizer.unknown_id, before)
        words = drop(self.agent_embedding(before), self.config.dropout, _fold(seed, 1)) + state["latent"][:, None]
        hidden, _, _ = self.decoder(words, initial_state=[state["h"], state["c"]])
        return self._predict(hidden, state, _fold(seed, 2))


def build(config: ModelConfig, vae: VAEConfig, vocabulary: int, precision: str = "fp32") -> ReplyModel:
    """A model with all its weights, which has learned nothing yet."""
    model = ReplyModel(config, vae, vocabulary, precision)
    ids = tf.fill((1, 2), Tokenizer.end_id)
    model.log_p(model.teach(ids, ids, ids, tf.zeros(2, tf.int32)).predictions)
    model.built = True
    return model


def gaussian(parameters: Any) -> Gaussian:
    """Split a layer's output (B, 2Z') into mean and bounded log variance, float32."""
    mean, log_variance = tf.split(tf.cast(parameters, tf.float32), 2, axis=-1)
    return Gaussian(mean, LOG_VARIANCE_BOUND * tf.tanh(log_variance / LOG_VARIANCE_BOUND))


def standard_normal_like(latent: Gaussian) -> Gaussian:
    """N(0, I) of the same shape."""
    return Gaussian(tf.zeros_like(latent.mean), tf.zeros_like(latent.log_variance))


def mix_copies(generated_BTV: Any, copied_BTS: Any, source_BS: Any) -> Any:
    """Word probabilities of generating and copying together (See et al. 2017, equation 9).

    Args:
        generated_BTV: softmax over the vocabulary.
        copied_BTS: probability of copying the word at each place read.
        source_BS: the ids there.
    """
    generated_BTV *= 1.0 - tf.reduce_sum(copied_BTS, -1, keepdims=True)
    B, T, S = tf.unstack(tf.shape(copied_BTS))
    row, place = tf.meshgrid(tf.range(B), tf.range(T), indexing="ij")
    index = [tf.broadcast_to(part[:, :, None], (B, T, S)) for part in (row, place)]
    index.append(tf.broadcast_to(source_BS[:, None], (B, T, S)))
    return tf.tensor_scatter_nd_add(generated_BTV, tf.stack(index, -1), copied_BTS)


def drop(values: Any, rate: float, seed: Any) -> Any:
    """Dropout whose mask follows from the seed alone; none without a seed."""
    if seed is None or rate == 0:
        return values
    kept = tf.random.stateless_uniform(tf.shape(values), seed) >= rate
    return tf.where(kept, values / (1 - rate), tf.zeros_like(values))


def _fold(seed: Any, stream: int) -> Any:
    """A seed (2,) for another stream; None stays None."""
    return None if seed is None else tf.random.fold_in(seed, stream)
