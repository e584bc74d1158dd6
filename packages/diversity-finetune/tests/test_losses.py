"""What the losses reward and punish, and that gradients flow through them."""

import numpy as np
import pytest

from diversity_finetune import losses
from diversity_finetune.model import Gaussian

import tensorflow as tf  # isort: skip

FLOOR = 0.5
GOLD = tf.constant([[4, 5, 6, 7, 3, 0]])


def sharp(words, size=9, height=9.0):
    """Log-probabilities (1, T, V) that are nearly sure of `words`."""
    return tf.nn.log_softmax(height * tf.one_hot([words], size))


def diversity(log_p, gold=GOLD):
    return {name: float(part[0]) for name, part in losses.diversity_parts(log_p, gold, FLOOR).items()}


def test_kl_equals_its_definition():
    posterior = Gaussian(tf.constant([[1.0]]), tf.math.log([[4.0]]))
    prior = Gaussian(tf.constant([[-0.5]]), tf.math.log([[9.0]]))
    kl = np.log(3 / 2) + (4 + 1.5**2) / 18 - 0.5
    assert float(losses.kl_divergence(posterior, prior)[0, 0]) == pytest.approx(kl, rel=1e-6)


def test_free_bits_leave_a_small_kl_without_gradient():
    kl = tf.Variable([[0.5, 0.5], [2.0, 2.0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(losses.free_bits(kl, 2.0))
    np.testing.assert_array_equal(tape.gradient(loss, kl), [[0, 0], [1, 1]])


def test_repetitive_distributions_cost_more_than_varied_ones():
    repetitive, varied = diversity(sharp([4, 4, 4, 4, 4, 4])), diversity(sharp([4, 5, 6, 7, 3, 3]))
    for name in ("distinct", "repetition"):
        assert repetitive[name] > varied[name] + 0.5
    assert varied["distinct"] == pytest.approx(0, abs=0.01)
    looped = diversity(sharp([4, 5, 4, 5, 4, 5]))
    assert varied["repetition"] < looped["repetition"] < repetitive["repetition"]


def test_the_gold_repetition_costs_nothing():
    gold = tf.constant([[4, 5, 4, 5, 3]])
    told = diversity(sharp([4, 5, 4, 5, 3]), gold)
    assert told["repetition"] == pytest.approx(0, abs=0.01)
    assert told["distinct"] == pytest.approx(0, abs=0.01)


def test_entropy_costs_nothing_above_its_floor():
    assert diversity(sharp([4, 5, 6, 7, 3, 3]))["entropy"] > 0.9
    assert diversity(sharp([4, 5, 6, 7, 3, 3], height=2.0))["entropy"] == 0


def test_padding_changes_nothing():
    log_p = tf.nn.log_softmax(tf.constant(np.random.default_rng(1).normal(size=(1, 6, 9)), tf.float32))
    other = tf.concat([log_p[:, :5], sharp([5, 5, 5])], 1)
    padded = tf.concat([GOLD[:, :5], tf.zeros((1, 3), tf.int32)], 1)
    assert diversity(log_p[:, :5], GOLD[:, :5]) == pytest.approx(diversity(other, padded), rel=1e-5)
    unlikelihood = float(losses.unlikelihood(log_p[:, :5], GOLD[:, :5])[0])
    assert unlikelihood == pytest.approx(float(losses.unlikelihood(other, padded)[0]), rel=1e-5)


@pytest.mark.parametrize("part", ["distinct", "repetition", "entropy", "unlikelihood"])
def test_every_part_has_a_gradient_that_lowers_it(part):
    logits = tf.Variable(2.0 * tf.one_hot([[4, 4, 5, 4, 4, 4]], 9))
    gold = tf.constant([[4, 5, 6, 7, 8, 3]])

    def loss():
        log_p = tf.nn.log_softmax(logits)
        if part == "unlikelihood":
            return losses.unlikelihood(log_p, gold)
        return losses.diversity_parts(log_p, gold, 2.0)[part]

    with tf.GradientTape() as tape:
        before = loss()
    gradient = tape.gradient(before, logits)
    assert float(tf.linalg.norm(gradient)) > 1e-3
    logits.assign_sub(0.1 * gradient)
    assert float(loss()[0]) < float(before[0])


def test_unlikelihood_equals_its_definition():
    """Welleck et al. 2020: candidates are the earlier gold words, each once, without the word itself."""
    gold = [4, 5, 4, 6, 3]
    log_p = tf.nn.log_softmax(tf.constant(np.random.default_rng(2).normal(size=(1, 5, 9)), tf.float32))
    p = np.exp(log_p.numpy()[0])
    each = [-sum(np.log(1 - p[t, c]) for c in set(gold[:t]) - {gold[t]}) for t in range(5)]
    assert float(losses.unlikelihood(log_p, tf.constant([gold]))[0]) == pytest.approx(np.mean(each), rel=1e-5)
