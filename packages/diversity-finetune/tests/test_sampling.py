"""Logit processors, against those of transformers."""

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as theirs

from diversity_finetune import sampling

PAD, END = 0, 3
VOCABULARY, ROWS = 50, 40


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(scale=3, size=(ROWS, VOCABULARY)).astype(np.float32)


@pytest.fixture(scope="module")
def written():
    """Ten words of a reply in a small vocabulary, so that n-grams repeat."""
    return np.random.default_rng(1).integers(4, 8, size=(ROWS, 10)).astype(np.int32)


def expected(processor, logits, written=None):
    ids = torch.zeros((len(logits), 1), dtype=torch.int64) if written is None else torch.from_numpy(written).long()
    return processor(ids, torch.from_numpy(logits)).numpy()


def unsorted(values, ids):
    """Sorted candidates as logits in the vocabulary's order, -inf for those left out."""
    spread = np.full((len(values), VOCABULARY), -np.inf, np.float32)
    np.put_along_axis(spread, np.asarray(ids), np.asarray(values), axis=1)
    return spread


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_repetition_penalty(logits, written, penalty):
    found = sampling.penalise_repetition(logits, written, penalty, (PAD, END))
    processor = theirs.RepetitionPenaltyLogitsProcessor(penalty)
    np.testing.assert_allclose(found, expected(processor, logits, written), rtol=1e-6)


def test_repetition_penalty_spares_end_and_padding(logits):
    recent = np.full((ROWS, 3), [PAD, END, 7], np.int32)
    found = sampling.penalise_repetition(logits, recent, 2.0, (PAD, END)).numpy()
    assert set(np.flatnonzero((found != logits).any(axis=0))) == {7}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_repeat_ngram(logits, written, size):
    for step in (1, 3, 10):
        padded = np.where(np.arange(10) < step, written, PAD).astype(np.int32)
        found = sampling.forbid_repeated_ngrams(logits, padded, step, size, PAD).numpy()
        processor = theirs.NoRepeatNGramLogitsProcessor(size)
        reference = expected(processor, logits, written[:, :step])
        np.testing.assert_array_equal(found[:, 1:], reference[:, 1:])  # padding may be forbidden too


@pytest.mark.parametrize("top_k", [1, 7, 50, 99])
def test_top_k(logits, top_k):
    found = unsorted(*sampling.candidates(logits, top_k))
    np.testing.assert_array_equal(found, expected(theirs.TopKLogitsWarper(top_k), logits))


@pytest.mark.parametrize("top_p", [0.001, 0.5, 0.9, 0.999])
def test_top_p(logits, top_p):
    values, ids = sampling.candidates(logits, 0)
    found = unsorted(sampling.keep_top_p(values, top_p), ids)
    np.testing.assert_array_equal(found, expected(theirs.TopPLogitsWarper(top_p), logits))


def test_the_word_that_crosses_top_p_stays():
    probabilities = np.log([[0.5, 0.3, 0.15, 0.05]]).astype(np.float32)
    kept = [np.isfinite(sampling.keep_top_p(probabilities, p)).sum() for p in (0.49, 0.51, 0.79, 0.81, 1.0)]
    assert kept == [1, 2, 2, 3, 4]


@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.5, 1.0])
def test_min_p(logits, min_p):
    values, ids = sampling.candidates(logits, 0)
    found = unsorted(sampling.keep_min_p(values, min_p), ids)
    np.testing.assert_array_equal(found, expected(theirs.MinPLogitsWarper(min_p), logits))


def test_all_filters_in_the_order_of_transformers(logits):
    chain = [
        theirs.TemperatureLogitsWarper(0.7),
        theirs.TopKLogitsWarper(20),
        theirs.TopPLogitsWarper(0.9),
        theirs.MinPLogitsWarper(0.02),
    ]
    values, ids = sampling.candidates(logits / np.float32(0.7), 20)
    found = unsorted(sampling.keep_min_p(sampling.keep_top_p(values, 0.9), 0.02), ids)
    reference = logits
    for processor in chain:
        reference = expected(processor, reference)
    np.testing.assert_array_equal(found, reference)


def test_draws_follow_the_probabilities():
    probabilities = np.array([0.6, 0.3, 0.1])
    draws = 10_000
    values = np.log(np.tile([*probabilities, 0.0], (draws, 1)) + 1e-45).astype(np.float32)
    ids = np.tile(np.array([9, 8, 7, 6], np.int32), (draws, 1))
    uniform = np.random.default_rng(0).random(draws, np.float32)
    drawn = sampling.draw(values, ids, uniform).numpy()
    shares = [np.mean(drawn == word) for word in (9, 8, 7)]
    np.testing.assert_allclose(shares, probabilities, atol=0.015)


def test_draws_never_leave_the_candidates():
    values = np.array([[0.0, 0.0, -np.inf]] * 2, np.float32)
    ids = np.array([[4, 5, 6]] * 2, np.int32)
    uniform = np.array([0.0, np.nextafter(np.float32(1), np.float32(0))], np.float32)
    assert sampling.draw(values, ids, uniform).numpy().tolist() == [4, 5]
