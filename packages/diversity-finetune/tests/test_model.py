"""The generator and the discriminator."""

import numpy as np
import pytest

from diversity_finetune import discriminator, losses, model
from diversity_finetune.config import PRESETS, GANConfig, ModelConfig, TrainRecipe, VAEConfig

import tensorflow as tf  # isort: skip

SIZE = 50
TINY = {"embedding": 8, "encoder": 8, "decoder": 16, "latent": 3}


def texts(rows=3, width=6, seed=0):
    ids = np.random.default_rng(seed).integers(4, SIZE, (rows, width)).astype(np.int32)
    ids[:, -1] = 3
    return ids


@pytest.fixture(scope="module", params=["separate", "combined"])
def network(request):
    return model.build(ModelConfig(architecture=request.param, **TINY), VAEConfig(), SIZE)


def decode(network, customer, previous, words, noise=None):
    """Logits of every step, the words being given."""
    noise = np.zeros((len(customer), network.noise_width), np.float32) if noise is None else noise
    state, found = network.begin(customer, previous, noise), []
    for before in np.concatenate([np.full((len(words), 1), 2), words[:, :-1]], 1).T:
        logits, state = network.step(before.astype(np.int32), state)
        found.append(logits.numpy())
    return np.stack(found, 1)


def test_the_full_preset_has_about_22_million_weights():
    recipe = TrainRecipe.model_validate(PRESETS["full"])
    config = recipe.model
    assert (config.embedding, config.latent, config.encoder, config.decoder) == (128, 256, 512, 512)
    count = model.build(config, recipe.vae, 10_000).count_params()
    assert 21_000_000 < count < 23_000_000


def test_step_by_step_is_what_teacher_forcing_scores(network):
    customer, previous, reply = texts(seed=1), texts(width=4, seed=2), texts(seed=3)
    steps = tf.nn.log_softmax(decode(network, customer, previous, reply))
    np.testing.assert_allclose(steps, network.log_p(network.score(customer, previous, reply)), atol=1e-5)
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(steps), -1), 1.0, atol=1e-5)


def test_the_gold_words_alone_have_the_probabilities_that_they_have_among_all(network):
    reply = texts(seed=3)
    reply[0, 3:] = [3, 0, 0]
    reply[1, 1] = texts(seed=1)[1, 0]  # may be copied
    predictions = network.score(texts(seed=1), texts(width=4, seed=2), reply)
    expected = np.take_along_axis(network.log_p(predictions).numpy(), reply[:, :, None], 2)[:, :, 0] * (reply != 0)
    np.testing.assert_allclose(network.gold_log_p(predictions, reply), expected, atol=1e-5)


def test_neither_padding_nor_neighbours_change_a_row(network):
    customer, previous, reply = texts(seed=1), texts(width=4, seed=2), texts(seed=3)
    alone = decode(network, customer[:1], previous[:1], reply[:1])
    padded = decode(network, np.pad(customer, [(0, 0), (0, 5)]), np.pad(previous, [(0, 0), (0, 3)]), reply)
    np.testing.assert_allclose(padded[:1], alone, atol=1e-5)


def test_message_previous_turn_words_and_noise_each_matter(network):
    customer, previous, reply = texts(seed=1), texts(width=4, seed=2), texts(seed=3)
    base = decode(network, customer, previous, reply)
    noise = np.ones((3, network.noise_width), np.float32)
    for other in (
        decode(network, texts(seed=9), previous, reply),
        decode(network, customer, texts(width=4, seed=9), reply),
        decode(network, customer, previous, reply, noise),
    ):
        assert np.abs(other[:, 0] - base[:, 0]).max() > 1e-4
    assert np.abs(decode(network, customer, previous, texts(seed=9)) - base)[:, 1:].max() > 1e-4


def test_words_after_a_place_do_not_change_it(network):
    customer, previous, reply = texts(seed=1), texts(width=4, seed=2), texts(seed=3)
    other = reply.copy()
    other[:, 3:] = 9
    before, after = (network.log_p(network.score(customer, previous, words)) for words in (reply, other))
    changed = np.abs(after - before).max((0, 2))
    assert (changed[:4] == 0).all()
    assert changed[4] > 1e-5


def test_every_weight_learns(network):
    """An encoder that is not connected is the mistake of earlier code of this idea."""
    customer, previous, reply = texts(seed=1), texts(width=4, seed=2), texts(seed=3)
    with tf.GradientTape() as tape:
        taught = network.teach(customer, previous, reply, tf.constant([1, 2]))
        kls = [tf.reduce_sum(losses.kl_divergence(*pair)) for pair in taught.latents.values()]
        loss = tf.add_n([-tf.reduce_sum(network.gold_log_p(taught.predictions, reply)), *kls])
    for weight, gradient in zip(
        network.trainable_variables, tape.gradient(loss, network.trainable_variables), strict=True
    ):
        assert gradient is not None, weight.path
        assert float(tf.reduce_max(tf.abs(gradient))) > 0, weight.path


def test_latents_are_two_or_one_and_none_without_the_vae(network):
    taught = network.teach(texts(), texts(), texts(), tf.constant([1, 2]))
    assert set(taught.latents) == ({"agent", "customer"} if network.separate else {"agent"})
    plain = model.build(ModelConfig(**TINY), VAEConfig(enabled=False), SIZE)
    assert plain.teach(texts(), texts(), texts(), tf.constant([1, 2])).latents == {}
    noise = np.ones((3, plain.noise_width), np.float32)
    np.testing.assert_array_equal(
        decode(plain, texts(), texts(), texts(), noise), decode(plain, texts(), texts(), texts())
    )


def test_copying_moves_probability_to_the_words_that_are_read():
    generated = tf.fill((1, 1, 6), 1 / 6)
    mixed = model.mix_copies(generated, tf.constant([[[0.3, 0.2]]]), tf.constant([[5, 5]]))
    np.testing.assert_allclose(mixed, [[[1 / 12] * 5 + [1 / 12 + 0.5]]], rtol=1e-6)


def test_dropout_follows_from_its_seed_alone():
    values = tf.ones((4, 500))
    one, again, other = (model.drop(values, 0.25, tf.constant([1, seed])) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one.numpy() != other.numpy()).any()
    assert float(tf.reduce_mean(one)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("straight_through", [True, False])
def test_the_adversarial_loss_reaches_the_generator_through_whole_replies(network, straight_through):
    config = GANConfig(length=4, width=8, straight_through=straight_through)
    judge = discriminator.build(SIZE, 8, config)
    customer, previous = texts(seed=1), texts(width=4, seed=2)
    with tf.GradientTape() as tape:
        words, mask = discriminator.roll_out(network, customer, previous, config, 1.0, tf.constant([1, 2]))
        score, _ = judge.judge(words, mask, customer)
        loss = tf.reduce_mean(losses.adversarial_loss(score))
    gradients = dict(zip([v.path for v in network.trainable_variables],
                         tape.gradient(loss, network.trainable_variables), strict=True))  # fmt: skip
    reached = {path for path, gradient in gradients.items() if gradient is not None}
    assert {path for path in gradients if "posterior" not in path} <= reached
    assert float(tf.linalg.global_norm([g for g in gradients.values() if g is not None])) > 0
    np.testing.assert_allclose(tf.reduce_sum(words, -1), 1.0, atol=1e-5)
    if straight_through:
        np.testing.assert_allclose(tf.reduce_max(words, -1), 1.0, atol=1e-5)
    ended = (tf.argmax(words, -1).numpy() == 3).cumsum(1)
    np.testing.assert_array_equal(mask[:, 1:], ended[:, :-1] == 0)


def test_what_comes_after_the_end_does_not_change_the_judgement():
    judge = discriminator.build(SIZE, 8, GANConfig(width=8))
    words, mask = discriminator.one_hot(tf.constant([[5, 6, 3, 0]]), 6, SIZE)
    other = tf.concat([words[:, :3], tf.one_hot([[9, 9, 9]], SIZE)], 1)
    customer = texts(1)
    assert float(judge.judge(words, mask, customer)[0][0]) == float(judge.judge(other, mask, customer)[0][0])
