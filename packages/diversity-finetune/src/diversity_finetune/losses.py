"""Objectives as pure functions of tensors.

Shape legend: B replies, T words of a reply, V vocabulary, Z latent, F features. Targets are int32 ids, padded with 0;
padding counts nowhere. Every loss comes back as one number a reply, (B,) float32, so that parts of a batch add up.
"""

from __future__ import annotations

from typing import Any

from diversity_finetune.model import Gaussian
from diversity_finetune.tokenizer import Tokenizer
from trainworks import keras as _core  # noqa: F401  chooses the TensorFlow backend before Keras is imported

import tensorflow as tf  # isort: skip

MOST = 1.0 - 1e-6
"""Bound of probabilities whose complement's logarithm is taken."""


def real_words(target_BT: Any) -> Any:
    """1.0 where there is a word or the end, 0.0 where there is padding, (B, T)."""
    return tf.cast(target_BT != Tokenizer.pad_id, tf.float32)


def kl_divergence(posterior: Gaussian, prior: Gaussian) -> Any:
    """KL(posterior || prior) of each dimension in nats, (B, Z)."""
    ratio = tf.exp(posterior.log_variance - prior.log_variance)
    shift = tf.square(posterior.mean - prior.mean) * tf.exp(-prior.log_variance)
    return 0.5 * (prior.log_variance - posterior.log_variance + ratio + shift - 1.0)


def free_bits(kl_BZ: Any, free: float) -> Any:
    """The KL of each reply above `free` nats, and `free` below: no gradient pulls the latent nearer to the prior there.

    Kingma et al. 2016, appendix C.8, with one group; the bound is on each reply, not on the mean of a batch.
    """
    return tf.maximum(tf.reduce_sum(kl_BZ, -1), free)


def diversity_parts(log_p_BTV: Any, target_BT: Any, entropy_floor: float) -> dict[str, Any]:
    """What a reply's word distributions lack in diversity, each in [0, 1], 0 being best.

    The distributions are taken as independent, p_t being that of word t, so p_t . p_s is the probability that words t
    and s are the same. Gradients flow through all of it: nothing is sampled and no argmax is taken.

    Args:
        log_p_BTV: log-probabilities.
        entropy_floor: nats of entropy that are enough.

    Returns:
        "distinct": how far the expected distinct words and word pairs, as shares of all, are below the gold reply's;
        "repetition": mean probability that a word is one of the earlier ones, pairs of places where the gold reply
        itself repeats left out; "entropy": mean share of `entropy_floor` (nats) that the distributions lack.
    """
    p = tf.exp(log_p_BTV)
    mask = real_words(target_BT)
    same = tf.matmul(p, p, transpose_b=True)
    gold_same = tf.cast(target_BT[:, :, None] == target_BT[:, None, :], tf.float32)
    both = earlier_pairs(mask)

    def gap(same: Any, gold: Any, both: Any, mask: Any) -> Any:
        return tf.nn.relu(masked_mean(is_new(gold, both), mask) - masked_mean(is_new(same, both), mask))

    words = gap(same, gold_same, both, mask)
    pairs = gap(
        same[:, :-1, :-1] * same[:, 1:, 1:],
        gold_same[:, :-1, :-1] * gold_same[:, 1:, 1:],
        both[:, 1:, 1:],
        mask[:, 1:],
    )
    entropy = -tf.reduce_sum(p * log_p_BTV, -1)
    return {
        "distinct": 0.5 * (words + pairs),
        "repetition": masked_mean(1.0 - is_new(same, both * (1.0 - gold_same)), mask),
        "entropy": masked_mean(tf.nn.relu(1.0 - entropy / entropy_floor), mask),
    }


def earlier_pairs(mask_BT: Any) -> Any:
    """1.0 at (t, s) where s comes before t and both are words, (B, T, T)."""
    pairs = mask_BT[:, :, None] * mask_BT[:, None, :]
    return tf.linalg.band_part(pairs, -1, 0) - tf.linalg.band_part(pairs, 0, 0)


def is_new(same_BTT: Any, pairs_BTT: Any) -> Any:
    """Probability that word t is none of the earlier ones that `pairs_BTT` counts, (B, T)."""
    return tf.exp(tf.reduce_sum(tf.math.log1p(-tf.minimum(same_BTT * pairs_BTT, MOST)), -1))


def masked_mean(values_BT: Any, mask_BT: Any) -> Any:
    """Mean over each row's words, (B,); 0 where there is none."""
    return tf.math.divide_no_nan(tf.reduce_sum(values_BT * mask_BT, -1), tf.reduce_sum(mask_BT, -1))


def unlikelihood(log_p_BTV: Any, target_BT: Any) -> Any:
    """Mean over the words of -sum log(1 - p(c)) for the gold reply's earlier words c other than the word itself.

    Welleck et al. 2020, equations 4 and 5: the token-level objective.
    """
    width = tf.shape(target_BT)[1]
    words_BTS = tf.tile(target_BT[:, None], [1, width, 1])
    p_BTS = tf.exp(tf.gather(log_p_BTV, words_BTS, axis=2, batch_dims=2))  # of word s at place t
    same = tf.cast(target_BT[:, :, None] == target_BT[:, None, :], tf.float32)
    mask = real_words(target_BT)
    first = tf.cast(tf.reduce_sum(same * earlier_pairs(mask), -1) == 0, tf.float32)  # candidates are a set
    candidates = earlier_pairs(mask) * (1.0 - same) * first[:, None, :]
    return masked_mean(-tf.reduce_sum(candidates * tf.math.log1p(-tf.minimum(p_BTS, MOST)), -1), mask)


def discriminator_loss(real_B: Any, fake_B: Any) -> Any:
    """Logistic loss of telling gold replies from generated ones, on logits (Goodfellow et al. 2014, equation 1)."""
    return tf.nn.softplus(-real_B) + tf.nn.softplus(fake_B)


def adversarial_loss(fake_B: Any) -> Any:
    """The generator's non-saturating loss (Goodfellow et al. 2014, section 3)."""
    return tf.nn.softplus(-fake_B)


def feature_matching(real_BF: Any, fake_BF: Any) -> Any:
    """Squared distance of the batch's mean features, a scalar (Salimans et al. 2016, section 3.1)."""
    return tf.reduce_mean(tf.square(tf.reduce_mean(real_BF, 0) - tf.reduce_mean(fake_BF, 0)))
