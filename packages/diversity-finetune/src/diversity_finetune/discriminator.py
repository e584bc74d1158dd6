"""The discriminator, and replies that gradients can flow through.

Shape legend: B replies, T words, E embedding, V vocabulary, S words of a message, F features.
"""

from __future__ import annotations

from typing import Any

from diversity_finetune.config import GANConfig
from diversity_finetune.model import ReplyModel
from diversity_finetune.tokenizer import Tokenizer
from trainworks import keras as _core  # noqa: F401  chooses the TensorFlow backend before Keras is imported

import keras  # isort: skip
import tensorflow as tf  # isort: skip
from keras import layers  # isort: skip

FILTER_WIDTHS = (1, 2, 3, 4)


class Discriminator(keras.Model):
    """Does this reply to this message come from an agent? Convolutions over the reply's words (Kim 2014), beside the
    mean embedding of the message's."""

    def __init__(self, vocabulary: int, embedding: int, width: int) -> None:
        super().__init__()
        self.words = layers.Embedding(vocabulary, embedding, name="words")
        self.words.build()
        self.filters = [layers.Conv1D(width, size, padding="same", activation="relu") for size in FILTER_WIDTHS]
        self.message = layers.Dense(width, name="message")
        self.hidden = layers.Dense(width, "relu", name="hidden")
        self.score = layers.Dense(1, name="score")

    def judge(self, reply_BTV: Any, mask_BT: Any, customer_BS: Any) -> tuple[Any, Any]:
        """Logits (B,) of being an agent's, and the features (B, F) that feature matching compares.

        Args:
            reply_BTV: distributions of words, or one-hot words.
            mask_BT: 1.0 for words, 0.0 after the end.
        """
        reply = tf.tensordot(reply_BTV, tf.convert_to_tensor(self.words.embeddings), [[2], [0]]) * mask_BT[:, :, None]
        features = tf.concat([tf.reduce_max(layer(reply), 1) for layer in self.filters], -1)
        seen = tf.cast(customer_BS != Tokenizer.pad_id, tf.float32)[:, :, None]
        message = self.message(tf.reduce_sum(self.words(customer_BS) * seen, 1) / tf.reduce_sum(seen, 1))
        return self.score(self.hidden(tf.concat([features, message], -1)))[:, 0], features


def build(vocabulary: int, embedding: int, config: GANConfig) -> Discriminator:
    """A discriminator with all its weights, which has learned nothing yet."""
    model = Discriminator(vocabulary, embedding, config.width)
    model.judge(tf.zeros((1, 2, vocabulary)), tf.ones((1, 2)), tf.fill((1, 2), Tokenizer.end_id))
    model.built = True
    return model


def one_hot(reply_BT: Any, length: int, vocabulary: int) -> tuple[Any, Any]:
    """Gold replies as the discriminator reads them: one-hot words (B, length, V) and their mask (B, length)."""
    width = tf.shape(reply_BT)[1]
    reply_BT = tf.pad(reply_BT[:, :length], [[0, 0], [0, tf.maximum(length - width, 0)]])
    return tf.one_hot(reply_BT, vocabulary), tf.cast(reply_BT != Tokenizer.pad_id, tf.float32)


def roll_out(
    model: ReplyModel, customer_BS: Any, previous_BS: Any, config: GANConfig, temperature: Any, seed: Any
) -> tuple[Any, Any]:
    """Let the model write replies on its own, each word drawn by Gumbel-softmax (Jang et al. 2017, equation 2).

    The word that was drawn, or its mixture, is the next input, so gradients reach through the whole reply.

    Args:
        temperature: of the Gumbel-softmax; lower is nearer to whole words, with gradients of more variance.
        seed: (2,) int32.

    Returns:
        Words (B, config.length, V) and the mask (B, config.length) up to the first end.
    """
    batch = tf.shape(customer_BS)[0]
    noise = tf.random.stateless_normal((batch, model.noise_width), tf.random.fold_in(seed, 0))
    state = model.begin(customer_BS, previous_BS, noise)
    word_BE = model.agent_embedding(tf.fill((batch,), Tokenizer.begin_id))
    table = tf.convert_to_tensor(model.agent_embedding.embeddings)
    words, masks, going = [], [], tf.ones((batch,))
    for place in range(config.length):
        logits, state = model.step_embedded(word_BE, state)
        uniform = tf.random.stateless_uniform(tf.shape(logits), tf.random.fold_in(seed, place + 1), 1e-9, 1.0)
        soft = tf.nn.softmax((logits - tf.math.log(-tf.math.log(uniform))) / temperature)
        chosen = tf.argmax(soft, -1)
        hard = tf.one_hot(chosen, model.vocabulary)
        word_BV = soft + tf.stop_gradient(hard - soft) if config.straight_through else soft
        words.append(word_BV)
        masks.append(going)
        going *= tf.cast(chosen != Tokenizer.end_id, tf.float32)
        word_BE = tf.matmul(word_BV, table)
    return tf.stack(words, 1), tf.stack(masks, 1)
