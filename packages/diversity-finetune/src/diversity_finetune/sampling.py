"""Logit processors and the draw, as TensorFlow functions for inside a compiled loop.

They equal transformers' of the same names where no two logits are equal. From `candidates` on, logits are sorted: a
word filter is then a prefix, and one sort serves all of them.

Shape legend: B rows, V vocabulary, T places of the reply, W recent words, K candidates by falling logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainworks import keras as _core  # noqa: F401  quiets TensorFlow before it is imported

import tensorflow as tf  # isort: skip

REPETITION_WINDOW = 20
"""Generated words that the repetition penalty looks back on."""
NEVER = float("-inf")


def penalise_repetition(logits_BV: Any, recent_BW: Any, penalty: Any, exempt: Sequence[int]) -> Any:
    """Divide the logits of recent words by `penalty` where positive, multiply them where negative (Keskar et al. 2019,
    CTRL, section 4.1).

    Args:
        recent_BW: int32 ids; padding stands where there was no word yet.
        exempt: ids that are never penalised: end and padding.
    """
    found_BW = tf.gather(logits_BV, recent_BW, batch_dims=1)
    penalised_BW = tf.where(found_BW > 0, found_BW / penalty, found_BW * penalty)
    is_exempt_BW = tf.reduce_any([tf.equal(recent_BW, word) for word in exempt], axis=0)
    return _put(logits_BV, recent_BW, tf.where(is_exempt_BW, found_BW, penalised_BW))


def forbid_repeated_ngrams(logits_BV: Any, written_BT: Any, step: Any, size: int, pad_id: int) -> Any:
    """Forbid words that would end an n-gram of `size` words which the reply has already (Paulus et al. 2018, section
    2.5).

    Args:
        written_BT: int32 ids, of which the first `step` are written and the others are padding.
        pad_id: padding, which may be forbidden as well.
    """
    padded = tf.pad(written_BT, [[0, 0], [0, size]], constant_values=pad_id)
    length = tf.shape(written_BT)[1]
    last = tf.gather(padded, tf.maximum(step - size + 1 + tf.range(size - 1), 0), axis=1)
    same_BT = tf.range(length) + size <= step
    for place in range(size - 1):
        same_BT &= tf.equal(padded[:, place : place + length], last[:, place, None])
    ends_BT = padded[:, size - 1 : size - 1 + length]
    banned_BT = tf.where(same_BT, ends_BT, pad_id)
    return _put(logits_BV, banned_BT, tf.fill(tf.shape(banned_BT), NEVER))


def candidates(logits_BV: Any, top_k: Any) -> tuple[Any, Any]:
    """The `top_k` largest logits by falling value and their ids, (B, K) each; 0 takes all."""
    size = tf.shape(logits_BV)[1]
    values_BK, ids_BK = tf.math.top_k(logits_BV, tf.where(top_k > 0, tf.minimum(top_k, size), size))
    return values_BK, ids_BK


def keep_top_p(values_BK: Any, top_p: Any) -> Any:
    """Drop candidates before which the others already make up `top_p`: the one that crosses it stays (Holtzman et al.
    2020, section 3.1)."""
    before_BK = tf.cumsum(tf.nn.softmax(values_BK), axis=1, exclusive=True)
    return tf.where((before_BK < top_p) | (top_p >= 1.0), values_BK, NEVER)


def keep_min_p(values_BK: Any, min_p: Any) -> Any:
    """Drop candidates less likely than `min_p` times the likeliest (Nguyen et al. 2024, section 3)."""
    probabilities_BK = tf.nn.softmax(values_BK)
    return tf.where(probabilities_BK >= min_p * probabilities_BK[:, :1], values_BK, NEVER)


def draw(values_BK: Any, ids_BK: Any, uniform_B: Any) -> Any:
    """One id for each row, (B,): the candidate at which the cumulative probability passes `uniform_B`, in [0, 1)."""
    upto_BK = tf.cumsum(tf.nn.softmax(values_BK), axis=1)
    passed_BK = upto_BK <= uniform_B[:, None] * upto_BK[:, -1:]
    place_B = tf.reduce_sum(tf.cast(passed_BK, tf.int32), axis=1)
    return tf.gather(ids_BK, place_B, batch_dims=1)


def _put(logits_BV: Any, ids_BW: Any, values_BW: Any) -> Any:
    """Logits with those of `ids_BW` replaced; an id that stands twice has equal values."""
    rows_BW = tf.broadcast_to(tf.range(tf.shape(ids_BW)[0])[:, None], tf.shape(ids_BW))
    return tf.tensor_scatter_nd_update(logits_BV, tf.stack([rows_BW, ids_BW], axis=-1), values_BW)
