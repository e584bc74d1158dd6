"""Replies of a model: the decoding loop, which is one compiled graph, and the choice among candidates.

Shape legend: B rows, S words read, T words of the reply, Z noise, V vocabulary, W words looked back on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np

from diversity_finetune import sampling
from diversity_finetune.decoding import Decoding, Reply
from diversity_finetune.quality import sentence_quality
from diversity_finetune.scoring import score_pairs
from diversity_finetune.tokenizer import Tokenizer
from trainworks.seeding import rng

import tensorflow as tf  # isort: skip

READ_TOKENS = 100
"""Tokens of a message and of the turn before it that are read, the end counted; the rest is cut off."""
IDS = tf.TensorSpec((None, None), tf.int32)
NUMBERS = tf.TensorSpec((None, None), tf.float32)
NUMBER, COUNT = tf.TensorSpec((), tf.float32), tf.TensorSpec((), tf.int32)


class Model(Protocol):
    """What decoding needs of a model."""

    noise_width: int

    def begin(self, customer_BS: Any, previous_BS: Any, noise_BZ: Any) -> Any:
        """The state from which replies are decoded."""

    def step(self, tokens_B: Any, state: Any) -> tuple[Any, Any]:
        """Logits (B, V) of the next word, and the state after it."""


class Answers(Protocol):
    """A model and its tokenizer, such as a `run.Trained`."""

    @property
    def model(self) -> Any: ...

    @property
    def tokenizer(self) -> Any: ...


def generate(trained: Answers, messages: Sequence[Any], decoding: Decoding) -> list[Reply]:
    """Reply to each message, in order.

    Args:
        messages: objects with `customer` and `previous`, such as a `decoding.Message` or a `data.Pair`.
    """
    return list(generate_stream(Decoder(trained), messages, decoding))


def generate_stream(decoder: Decoder, messages: Iterable[Any], decoding: Decoding) -> Iterator[Reply]:
    """Reply to each message as it comes, in order, a batch at a time."""
    rest, first = iter(messages), 0
    rows = max(1, decoding.batch_size // decoding.best_of)
    while batch := list(islice(rest, rows)):
        yield from decoder(batch, decoding, range(first, first + len(batch)))
        first += len(batch)


class Decoder:
    """A model's compiled decoding loop, which is kept between calls."""

    def __init__(self, trained: Answers):
        self.model: Model = trained.model
        self.tokenizer: Tokenizer = trained.tokenizer
        self._loops: dict[tuple[int, bool], Callable[..., tuple[Any, Any]]] = {}

    def __call__(self, messages: Sequence[Any], decoding: Decoding, rows: Sequence[int]) -> list[Reply]:
        """Reply to a batch of messages at once.

        Args:
            rows: numbers that the messages' draws follow from; equal numbers and messages get equal replies.
        """
        customer_BS = self._encode([message.customer for message in messages], decoding.best_of)
        previous_BS = self._encode([message.previous for message in messages], decoding.best_of)
        noise, uniform = zip(
            *(self._draws(decoding, row, candidate) for row in rows for candidate in range(decoding.best_of)),
            strict=True,
        )
        written_BT, log_probability_B = self._loop(decoding.no_repeat_ngram, decoding.repetition_penalty != 1)(
            customer_BS,
            previous_BS,
            np.stack(noise),
            np.stack(uniform),
            np.float32(decoding.temperature or 1.0),
            np.int32(decoding.top_k if decoding.temperature else 1),
            np.float32(decoding.top_p),
            np.float32(decoding.min_p),
            np.float32(decoding.repetition_penalty),
        )
        found = [self._reply(*row) for row in zip(written_BT.numpy(), log_probability_B.numpy(), strict=True)]
        if decoding.best_of == 1:
            return found
        return rerank([found[i : i + decoding.best_of] for i in range(0, len(found), decoding.best_of)])

    def _encode(self, texts: Sequence[str], times: int) -> np.ndarray:
        ids_BS = np.stack([self.tokenizer.encode(text, READ_TOKENS) for text in texts])
        used = int((ids_BS != self.tokenizer.pad_id).sum(axis=1).max())
        return np.repeat(ids_BS[:, :used], times, axis=0)

    def _draws(self, decoding: Decoding, row: int, candidate: int) -> tuple[np.ndarray, np.ndarray]:
        """Noise (Z,) for the latents and a uniform number (T,) for each word; greedy decoding has no noise."""
        width = self.model.noise_width
        if not decoding.temperature:
            return np.zeros(width, np.float32), np.zeros(decoding.max_tokens, np.float32)
        chance = rng(decoding.seed, "reply", row, candidate)
        return chance.standard_normal(width, np.float32), chance.random(decoding.max_tokens, np.float32)

    def _reply(self, written_T: np.ndarray, log_probability: float) -> Reply:
        tokens = int((written_T != self.tokenizer.pad_id).sum())
        ended = bool(tokens) and int(written_T[tokens - 1]) == self.tokenizer.end_id
        return Reply(self.tokenizer.decode(written_T.tolist()), tokens, float(log_probability), ended)

    def _loop(self, no_repeat_ngram: int, penalise: bool) -> Callable[..., tuple[Any, Any]]:
        """The compiled loop; every other setting is a tensor, so that no value of theirs compiles it anew."""
        key = no_repeat_ngram, penalise
        if key not in self._loops:
            signature = [IDS, IDS, NUMBERS, NUMBERS, NUMBER, COUNT, NUMBER, NUMBER, NUMBER]

            def run(*inputs: Any) -> tuple[Any, Any]:
                return decode(self.model, self.tokenizer, *key, *inputs)

            self._loops[key] = tf.function(run, input_signature=signature, autograph=False)
        return self._loops[key]


def decode(
    model: Model,
    words: Tokenizer,
    no_repeat_ngram: int,
    penalise: bool,
    customer_BS: Any,
    previous_BS: Any,
    noise_BZ: Any,
    uniform_BT: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    repetition_penalty: Any,
) -> tuple[Any, Any]:
    """Write replies word by word until all have ended or T words are written. For inside a `tf.function`.

    Args:
        penalise: whether `repetition_penalty` is applied.
        uniform_BT: in [0, 1), what each word is drawn with.

    Returns:
        Ids (B, T) int32, padded after the end, and mean log-probability of the written words (B,) under the model.
    """
    batch, length = tf.unstack(tf.shape(uniform_BT))
    state = model.begin(customer_BS, previous_BS, noise_BZ)
    suppressed_V = np.zeros(words.size, np.float32)
    suppressed_V[[words.pad_id, words.unknown_id, words.begin_id]] = sampling.NEVER

    def body(step: Any, word_B: Any, ended_B: Any, written_BT: Any, log_sum_B: Any, state: Any) -> Any:
        logits_BV, state = model.step(word_B, state)
        scores_BV = logits_BV
        if penalise:
            recent_BW = written_BT[:, tf.maximum(step - sampling.REPETITION_WINDOW, 0) : step]
            exempt = (words.pad_id, words.end_id)
            scores_BV = sampling.penalise_repetition(scores_BV, recent_BW, repetition_penalty, exempt)
        if no_repeat_ngram:
            scores_BV = sampling.forbid_repeated_ngrams(scores_BV, written_BT, step, no_repeat_ngram, words.pad_id)
        scores_BV += suppressed_V
        values_BK, ids_BK = sampling.candidates(scores_BV / temperature, top_k)
        values_BK = sampling.keep_min_p(sampling.keep_top_p(values_BK, top_p), min_p)
        word_B = tf.where(ended_B, words.pad_id, sampling.draw(values_BK, ids_BK, uniform_BT[:, step]))
        log_probability_B = -tf.nn.sparse_softmax_cross_entropy_with_logits(word_B, logits_BV)
        log_sum_B += tf.where(ended_B, 0.0, log_probability_B)
        written_BT = tf.where(tf.range(length) == step, word_B[:, None], written_BT)
        return step + 1, word_B, ended_B | (word_B == words.end_id), written_BT, log_sum_B, state

    def unfinished(step: Any, word_B: Any, ended_B: Any, *_: Any) -> Any:
        return (step < length) & ~tf.reduce_all(ended_B)

    first = (0, tf.fill([batch], words.begin_id), tf.zeros([batch], tf.bool))
    start = (*first, tf.fill([batch, length], words.pad_id), tf.zeros([batch]), state)
    _, _, _, written_BT, log_sum_B, _ = tf.while_loop(unfinished, body, start)
    count_B = tf.reduce_sum(tf.cast(written_BT != words.pad_id, tf.float32), axis=1)
    return written_BT, log_sum_B / tf.maximum(count_B, 1.0)


def rerank(groups: Sequence[Sequence[Reply]]) -> list[Reply]:
    """The candidate of the highest expected quality of each group: the mean of `quality.quality_score` with each other
    candidate in the reference's place, since nobody knows the reference (minimum Bayes risk, Kumar & Byrne 2004). Of
    equals, the likelier.

    Args:
        groups: two or more candidates each, as many in each.
    """
    count = len(groups[0])
    others = [(group[i].text, group[j].text) for group in groups for i in range(count) for j in range(count) if i != j]
    scores = score_pairs([reply for reply, _ in others], [reference for _, reference in others])
    expected_GC = sentence_quality(scores).reshape(len(groups), count, count - 1).mean(axis=2).round(9)
    return [
        max(zip(expected_C, group, strict=True), key=lambda one: (one[0], one[1].log_probability))[1]
        for expected_C, group in zip(expected_GC.tolist(), groups, strict=True)
    ]
