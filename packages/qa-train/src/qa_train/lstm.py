"""The LSTMs of `qa-train`, in Keras on TensorFlow.

Shape legend: B stories, S sentences, W words of a sentence, Q words of the question, N = S + 2 readers (sentences and
the question's two), R roles, D width, T words of a whole story.
"""

from __future__ import annotations

from typing import Any

from qa_train.config import NetworkConfig
from trainworks import keras as _core  # noqa: F401  chooses the TensorFlow backend before Keras is imported

import keras  # isort: skip
import tensorflow as tf  # isort: skip
from keras import layers, ops  # isort: skip

NUM_ASKED = 2
"""Words of a question that are looked up in the story: two actors, or an actor and a place."""
NUM_DIRECTIONS = 4
NEVER = -1e4
WORD_NORM, MATCH_BIAS = 4.0, -2.0
"""At first, equal words match with odds e^14 to 1, and sentences that are not read apart yet now and then."""


def normal(deviation: float) -> keras.initializers.Initializer:
    """An initializer of its own for each weight: one that is used twice gives both the same numbers."""
    return keras.initializers.RandomNormal(stddev=deviation)


class RoleReader(layers.Layer):
    """Reads a sentence as a few roles: each is an attention over the words, by what they are and where they stand.

    The learned queries settle on such things as subject, verb and object.
    """

    def __init__(self, num_roles: int, config: NetworkConfig):
        super().__init__()
        places = (config.max_words, config.dim)
        self.from_start = self.add_weight(shape=places, initializer=normal(0.5), name="from_start")
        self.from_end = self.add_weight(shape=places, initializer=normal(0.5), name="from_end")
        self.query = self.add_weight(shape=(num_roles, config.dim), initializer=normal(0.03), name="query")
        self.key = layers.Dense(config.dim)

    def call(self, words_D: Any, is_word: Any) -> Any:
        """Vectors of words (..., W, D) and which of them are words (..., W) to one vector a role, (..., R, D)."""
        W = ops.shape(words_D)[-2]
        count = ops.sum(ops.cast(is_word, "int32"), -1, keepdims=True)
        left = ops.maximum(count - 1 - ops.arange(W), 0)
        key = self.key(words_D + self.from_start[:W] + ops.take(self.from_end, left, axis=0))
        score = ops.einsum("rd,...wd->...rw", self.query, key)
        # A padded sentence has no word; its weights are even and nobody reads it.
        weights = ops.softmax(ops.where(ops.expand_dims(is_word, -2), score, NEVER), axis=-1)
        return ops.matmul(weights, words_D)


def nearest_match(score: Any, allowed: Any) -> Any:
    """Attention to the nearest earlier sentence that matches.

    Stick-breaking (Csordas et al. 2022, "The Neural Data Router", equation 7, geometric attention): with match
    probabilities p = sigmoid(score), sentence j gets p_j times the probability that none between it and the reader
    matches. Weights don't shrink as non-matching sentences are added, which softmax weights do.

    Args:
        score: (..., N, S) logits, keys in story order.
        allowed: the same shape or broadcastable, the keys before each reader.

    Returns:
        (..., N, S) weights, whose sum is at most 1.
    """
    score = ops.where(allowed, score, NEVER)
    miss = ops.log_sigmoid(-score)
    nearer = ops.flip(ops.cumsum(ops.flip(miss, -1), -1), -1) - miss
    return ops.exp(ops.log_sigmoid(score) + nearer)


class ReferenceLSTM(layers.Layer):
    """An LSTM whose previous state is not that of the sentence before, but of the sentence that this one refers to.

    Sentence t goes on from the states at earlier sentences, weighted by attention: "Bob follows Ann" from where Ann
    was last heard of. As in a tree LSTM (Tai et al. 2015, section 3) the recurrence runs along the structure, so its
    depth is that of the references and not the length of the story.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.cell = layers.LSTMCell(dim)
        self.cell.build((None, dim))  # not inside the loop, where no weights can be made

    def call(self, x_BSD: Any, weights_BSS: Any) -> Any:
        """Sentences and, for each, its weights over earlier sentences; returns states, hidden then cell, (B, S, 2D)."""
        B, S = ops.shape(x_BSD)[0], ops.shape(x_BSD)[1]
        states = tf.zeros((B, S, 2 * self.dim), x_BSD.dtype)

        def step(t: Any, states: Any) -> tuple[Any, Any]:
            before = tf.squeeze(tf.matmul(weights_BSS[:, t : t + 1], states), 1)
            _, after = self.cell(x_BSD[:, t], tf.split(before, 2, axis=1))
            here = tf.one_hot(t, S, dtype=x_BSD.dtype)[None, :, None]
            return t + 1, states + here * tf.concat(after, 1)[:, None]

        return tf.while_loop(lambda t, _: t < S, step, (0, states))[1]


class CheckedModel(keras.Model):
    """Keras' own training step, but it stops before the optimizer's if loss or gradient is not finite, and knows the
    gradient's norm."""

    def __init__(self) -> None:
        super().__init__()
        self.grad_norm = keras.metrics.Mean(name="grad_norm")

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, training=True)
        gradients = tape.gradient(loss, self.trainable_variables)
        norm = tf.linalg.global_norm(gradients)
        tf.debugging.Assert(tf.math.is_finite(loss), ["the loss is not finite"])
        tf.debugging.Assert(tf.math.is_finite(norm), ["the gradient is not finite"])
        self.optimizer.apply(gradients, self.trainable_variables)
        self.grad_norm.update_state(norm)
        return {**self.compute_metrics(x, y, y_pred), "grad_norm": self.grad_norm.result()}


def agreements(first_BD: Any, second_BD: Any, question_BD: Any) -> Any:
    """Three vectors and their products two by two, (B, 6D): whether two agree is a sum over a product."""
    three = [first_BD, second_BD, question_BD]
    return ops.concatenate([*three, first_BD * second_BD, first_BD * question_BD, second_BD * question_BD], 1)


class PointerLSTM(CheckedModel):
    """Sentences read as roles, an LSTM along their references, and the question's two words looked up at the end.

    A sentence refers to the nearest earlier one that is about the word it refers to: both words are learned readings
    of the sentence, and they match by the product of their embeddings. Those begin orthogonal: two names that happen
    to lie near each other would be taken for one another in large casts, and training on small ones can't tell.
    """

    def __init__(self, vocabulary_size: int, config: NetworkConfig):
        super().__init__()
        self.config = config
        D = config.dim
        orthogonal = keras.initializers.Orthogonal(gain=WORD_NORM)
        self.embedding = layers.Embedding(vocabulary_size, D, embeddings_initializer=orthogonal)
        self.sentence_roles = RoleReader(config.num_roles, config)
        self.sentence = layers.Dense(D)
        self.about, self.refers_to = RoleReader(1, config), RoleReader(1, config)
        self.question_roles = RoleReader(NUM_ASKED, config)
        bias = keras.initializers.Constant(MATCH_BIAS)
        self.match_scale = self.add_weight(shape=(), initializer="ones", name="match_scale")
        self.match_bias = self.add_weight(shape=(), initializer=bias, name="match_bias")
        self.reference_lstm = ReferenceLSTM(D)
        self.direction = layers.Dense(NUM_DIRECTIONS, name="direction_head")
        self.question, self.found = layers.Dense(D), layers.Dense(D)
        self.hidden, self.answer = layers.Dense(4 * D, activation="relu"), layers.Dense(1, name="answer_head")
        self.drop = layers.Dropout(config.dropout)

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """By name: logits "answer" of yes (B, 1) and "direction" of each sentence's subject (B, S, 4); and "match", how
        probable a match is, mean over each story's pairs (B, 1)."""
        story_BSW, question_BQ = inputs["story"], inputs["question"]
        B, S, D = ops.shape(story_BSW)[0], ops.shape(story_BSW)[1], self.sentence.units
        is_word, is_question_word = ops.not_equal(story_BSW, 0), ops.not_equal(question_BQ, 0)
        words_BSWD = self.drop(self.embedding(story_BSW), training=training)
        words_BQD = self.drop(self.embedding(question_BQ), training=training)
        roles = self.sentence_roles(words_BSWD, is_word)
        x_BSD = self.sentence(ops.reshape(roles, (B, S, roles.shape[-2] * D)))
        referred_BND = ops.concatenate(
            [self.refers_to(words_BSWD, is_word)[:, :, 0], self.question_roles(words_BQD, is_question_word)], 1
        )
        about_BSD = self.about(words_BSWD, is_word)[:, :, 0]
        weights_BNS, match_B1 = self._attention(referred_BND, about_BSD, ops.any(is_word, 2), training)
        states = self.reference_lstm(x_BSD, weights_BNS[:, :S])
        hidden = states[..., :D]
        found = self.found(ops.matmul(weights_BNS[:, S:], hidden))
        mask = ops.cast(ops.expand_dims(is_question_word, -1), words_BQD.dtype)
        question = self.question(ops.sum(words_BQD * mask, 1) / ops.sum(mask, 1))
        answer = self.answer(self.hidden(agreements(found[:, 0], found[:, 1], question)))
        return {"answer": answer, "direction": self.direction(hidden), "match": match_B1}

    def _attention(self, referred_BND: Any, about_BSD: Any, is_sentence_BS: Any, training: bool) -> tuple[Any, Any]:
        score = ops.matmul(referred_BND, ops.swapaxes(about_BSD, 1, 2)) * self.match_scale
        score = (score + self.match_bias) * (1.0 if training else self.config.hardness)
        place = ops.arange(ops.shape(referred_BND)[1])
        allowed = place[: ops.shape(about_BSD)[1]] < ops.expand_dims(place, 1)
        allowed = ops.logical_and(allowed, ops.expand_dims(is_sentence_BS, 1))
        pairs = ops.cast(allowed, score.dtype)
        match = ops.sum(ops.sigmoid(score) * pairs, (1, 2)) / ops.sum(pairs, (1, 2))
        return nearest_match(score, allowed), ops.expand_dims(match, 1)


class BaselineLSTM(CheckedModel):
    """Two encoders, an LSTM over the story's words and one over the question's; their last states give the answer."""

    def __init__(self, vocabulary_size: int, config: NetworkConfig):
        super().__init__()
        D = config.dim
        self.embedding = layers.Embedding(vocabulary_size, D, mask_zero=True)
        self.story, self.question = layers.LSTM(D), layers.LSTM(D)
        self.drop = layers.Dropout(config.dropout)
        self.hidden, self.answer = layers.Dense(D, activation="relu"), layers.Dense(1, name="answer_head")

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Logits by name: "answer" of yes (B, 1), from a story's running words (B, T) and the question (B, Q)."""
        encoders = ((self.story, inputs["story"]), (self.question, inputs["question"]))
        last = [encoder(self.embedding(words), mask=ops.not_equal(words, 0)) for encoder, words in encoders]
        return {"answer": self.answer(self.hidden(self.drop(ops.concatenate(last, 1), training=training)))}


def build(vocabulary_size: int, config: NetworkConfig) -> keras.Model:
    """The LSTM that the recipe asks for, with its weights made."""
    kinds = {"pointer": PointerLSTM, "baseline": BaselineLSTM}
    model = kinds[config.architecture](vocabulary_size, config)
    story_shape = (2, 3, 4) if config.architecture == "pointer" else (2, 12)
    model({"story": ops.ones(story_shape, "int32"), "question": ops.ones((2, 3), "int32")})
    return model
