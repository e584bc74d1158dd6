"""Both frameworks' networks: attention against its definition, padding without effect, no shadow of the other one."""

import subprocess
import sys

import numpy as np
import pytest

from qa_train.config import NetworkConfig
from qa_train.encoding import Vocabulary, encode
from qa_train.examples import Example

MODELS = ("transformer", "lstm")
ARCHITECTURES = ("pointer", "baseline")
SHORT = Example(
    "1", ("Ann walks north.", "Bob follows Ann."), "Do Ann and Bob face the same way?", "yes", "simple", 2, 2, 1
)
LONG = Example(
    "2", ("Ann walks north.", "Bob walks south.") * 60, "Do Bob and Ann face the same way?", "no", "simple", 2, 120, 0
)
VOCABULARY = Vocabulary.of([SHORT, LONG])


def network(architecture):
    return NetworkConfig(architecture=architecture, dim=16, num_heads=2, num_layers=1, num_rounds=4)


def build(model, config):
    """(trainer, network with first weights)"""
    if model == "lstm":
        from qa_train import lstm
        from qa_train.lstm_trainer import LSTMTrainer
        from trainworks.keras import seed_keras

        seed_keras(0)
        return LSTMTrainer(config), lstm.build(len(VOCABULARY), config)
    from qa_train import transformer
    from qa_train.transformer_trainer import TransformerTrainer
    from trainworks.torch import seed_torch

    seed_torch(0)
    return TransformerTrainer(config), transformer.build(len(VOCABULARY), config)


def attention(model, score, allowed):
    if model == "lstm":
        from qa_train.lstm import nearest_match

        return nearest_match(score, allowed).numpy()
    import torch

    from qa_train.transformer import nearest_match

    return nearest_match(torch.tensor(score), torch.tensor(allowed)).numpy()


@pytest.mark.parametrize("model", MODELS)
def test_nearest_match_is_the_chance_that_all_nearer_ones_miss(model):
    rng = np.random.default_rng(0)
    score = rng.normal(0, 2, (3, 6, 5)).astype(np.float32)
    allowed = np.arange(5) < np.arange(6)[:, None]
    match = np.where(allowed, 1 / (1 + np.exp(-score)), 0)
    expected = np.zeros_like(match)
    for n, i, j in np.ndindex(match.shape):
        expected[n, i, j] = match[n, i, j] * np.prod(1 - match[n, i, j + 1 :])
    np.testing.assert_allclose(attention(model, score, allowed), expected, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_sentences_that_do_not_match_take_nothing_from_the_one_that_does(model):
    near, far = np.full((1, 4), -30.0, np.float32), np.full((1, 400), -30.0, np.float32)
    near[0, 0] = far[0, 0] = 5.0
    weights = [attention(model, score, np.ones(score.shape, bool))[0, 0] for score in (near, far)]
    assert weights[0] == pytest.approx(weights[1], abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("model", MODELS)
def test_padding_changes_no_answer(model, architecture):
    config = network(architecture)
    trainer, net = build(model, config)
    alone = trainer.predict(net, encode([SHORT], VOCABULARY, "", 16))
    beside = trainer.predict(net, encode([SHORT, LONG], VOCABULARY, "", 16))
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("model", MODELS)
def test_a_long_story_does_not_push_the_question_out(model, architecture):
    trainer, net = build(model, network(architecture))
    questions = ["Do Bob and Ann face the same way?", "Do north and walks face the same way?"]
    asked = [Example(str(n), LONG.story, question, "no", "", 2, 120, None) for n, question in enumerate(questions)]
    probability = trainer.predict(net, encode(asked, VOCABULARY, "", 16))
    assert abs(probability[0] - probability[1]) > 1e-7


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("model", MODELS)
def test_the_order_of_the_sentences_counts(model, architecture):
    trainer, net = build(model, network(architecture))
    story = ("Ann walks north.", "Bob walks south.", "Ann follows Bob.")
    stories = [story, story[::-1]]
    asked = [Example(str(n), s, SHORT.question, "no", "", 2, 3, None) for n, s in enumerate(stories)]
    probability = trainer.predict(net, encode(asked, VOCABULARY, "", 16))
    assert abs(probability[0] - probability[1]) > 1e-7


@pytest.mark.parametrize(("module", "absent"), [("lstm_trainer", "torch"), ("transformer_trainer", "tensorflow keras")])
def test_neither_framework_brings_the_other_along(module, absent):
    script = f"import sys, qa_train.{module}; sys.exit(any(name in sys.modules for name in {absent!r}.split()))"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
