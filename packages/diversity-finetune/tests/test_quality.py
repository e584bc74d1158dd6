"""Metrics of replies, against the libraries that define them."""

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate import bleu_score
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from diversity_finetune import quality, scoring
from diversity_finetune.decoding import Reply
from diversity_finetune.quality import measure, quality_band, reply_metrics

SENTENCE = "the a your ticket is open, closed. I'm 3.5 days - e-mail VPN's (please) wait... 1,000 & é !"
WORDS = SENTENCE.split()
WEIGHTS = [(1.0,), (0.5, 0.5), (0.25,) * 4]
SMOOTHING = bleu_score.SmoothingFunction().method1
tokenize = Tokenizer13a()


def words_of(text):
    return tokenize(text.lower().rstrip()).split()


def sentences(count, seed, shortest=0, longest=12):
    made = random.Random(seed)
    return [" ".join(made.choices(WORDS, k=made.randint(shortest, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def pairs():
    references = sentences(300, 0, longest=90)
    cut = [re.sub(r"is|the", "and", text[5:]) for text in references]
    return [*cut[:200], *sentences(100, 1)], references


def test_sentence_bleu_is_nltks(pairs):
    scores = scoring.score_pairs(*pairs)
    for row, (reply, reference) in enumerate(zip(*pairs, strict=True)):
        theirs = bleu_score.sentence_bleu([words_of(reference)], words_of(reply), WEIGHTS, SMOOTHING)
        assert [scores.bleu[n][row] for n in (1, 2, 4)] == pytest.approx(theirs, abs=1e-12)


def test_corpus_bleu_is_sacrebleus(pairs):
    scores = scoring.score_pairs(*pairs)
    for order in (1, 2, 4):
        theirs = BLEU(lowercase=True, max_ngram_order=order, smooth_method="none").corpus_score(pairs[0], [pairs[1]])
        assert 100 * scoring.corpus_bleu(scores, order) == pytest.approx(theirs.score, abs=1e-9)


def test_corpus_bleu_is_nltks_where_every_reply_has_four_words():
    replies, references = sentences(50, 2, shortest=4), sentences(50, 3)
    theirs = bleu_score.corpus_bleu([[words_of(r)] for r in references], [words_of(r) for r in replies])
    assert scoring.corpus_bleu(scoring.score_pairs(replies, references), 4) == pytest.approx(theirs, abs=1e-12)


def test_rouge_is_rouge_scores(pairs):
    scores = scoring.score_pairs(*pairs)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    for row, (reply, reference) in enumerate(zip(*pairs, strict=True)):
        theirs = scorer.score(reference, reply)
        for kind, values in scores.rouge.items():
            assert values[row] == pytest.approx(theirs[f"rouge{kind}"].fmeasure, abs=1e-12)


@given(st.lists(st.text(alphabet="ab1.,-'&;<$ \n\tÉΣ\u2028", max_size=20), min_size=1, max_size=5))
@settings(max_examples=100)
def test_words_are_sacrebleus_whatever_the_text(texts):
    words = scoring.Splitter(scoring.split_13a)(scoring.Spaced(texts))
    theirs = [words_of(text) for text in texts]
    assert words.lengths.tolist() == [len(split) for split in theirs]
    by_id = dict(zip(words.id_T.tolist(), (word for split in theirs for word in split), strict=True))
    assert [by_id[word] for word in words.id_T.tolist()] == [word for split in theirs for word in split]


@pytest.mark.parametrize(("name", "value"), [("BLOCK", 7), ("KEY_BITS", 25)])
def test_scores_depend_neither_on_the_block_nor_on_what_fits_into_a_sort_key(pairs, monkeypatch, name, value):
    whole = scoring.score_pairs(*pairs)
    monkeypatch.setattr(scoring, name, value)
    cut = scoring.score_pairs(*pairs)
    np.testing.assert_array_equal(whole.rouge["L"], cut.rouge["L"])
    np.testing.assert_array_equal(whole.rouge["2"], cut.rouge["2"])
    np.testing.assert_array_equal(whole.matches, cut.matches)
    np.testing.assert_array_equal(whole.distinct[3], cut.distinct[3])


def test_distinct_counts_different_ngrams_of_each_reply_and_of_all():
    found = measure(["no no no", "no way"], ["yes", "yes"])
    assert found["distinct_1"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["distinct_2"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["corpus_distinct_1"] == pytest.approx(2 / 5)
    assert found["corpus_distinct_2"] == pytest.approx(2 / 3)
    assert found["corpus_distinct_3"] == 1
    assert found["distinct_3"] == pytest.approx(1 / 2)  # "no way" has no trigram


def test_repetition_looks_twenty_words_back():
    filler = " ".join(f"w{number}" for number in range(19))
    assert measure([f"again {filler} again"], ["x"])["repetition_rate"] == pytest.approx(1 / 21)
    assert measure([f"again {filler} more again"], ["x"])["repetition_rate"] == 0


def test_expectation_adjusted_distinct_is_one_for_even_draws_whatever_their_number():
    for total in (100, 10_000):
        different = len(set(np.random.default_rng(0).integers(0, 1000, total).tolist()))
        assert quality.expectation_adjusted_distinct(different, total, 1000) == pytest.approx(1, abs=0.03)


def test_self_bleu_is_nltks_against_all_others():
    replies = [*sentences(30, 4), "the ticket is open", "the ticket is open", "unlike"]
    split = [words_of(reply) for reply in replies]
    theirs = [
        bleu_score.sentence_bleu(split[:row] + split[row + 1 :], reply, smoothing_function=SMOOTHING)
        for row, reply in enumerate(split)
    ]
    np.testing.assert_allclose(quality.self_bleu(replies), theirs, atol=1e-12)
    assert quality.self_bleu(["alone"]).tolist() == [0]


def test_entropy_is_of_all_words_together():
    assert measure(["a b", "c d"], ["x", "x"])["entropy"] == pytest.approx(np.log(4))


def test_copying_is_by_words_not_by_spelling():
    copied, copied_4grams = quality.copying(["Reset it, please .", "Turn it off and on"], ["reset it, please."])
    assert copied == 0.5
    assert copied_4grams == pytest.approx(2 / 4)


def test_a_model_that_says_one_thing_to_everybody_is_poor_whatever_its_score():
    references = [f"thank you {number} for calling the help desk today" for number in range(40)]
    found = measure(["thank you for calling the help desk today"] * 40, references)
    assert found["quality_score"] > 0.5
    assert found["band"] == "POOR"
    assert (
        quality_band({**found, "corpus_distinct_2": 0.3, "human_corpus_distinct_2": 0.5, "shuffled_rouge_l": 0})
        != "POOR"
    )


def test_varied_replies_to_other_messages_are_poor_whatever_their_score():
    chance = np.random.default_rng(0)
    words = [f"w{number}" for number in range(300)]
    references = [" ".join(chance.choice(words, 9, replace=False)) for _ in range(60)]
    nonsense = measure([" ".join(chance.choice(words, 9, replace=False)) for _ in range(60)], references)
    assert nonsense["quality_score"] > 0.4
    assert nonsense["band"] == "POOR"
    answers = measure([text.replace("w1", "x") for text in references], references)
    assert answers["band"] != "POOR"


def test_perfect_replies_are_excellent():
    references = [f"ticket {number} is closed now" for number in range(9)]
    found = measure(references, references, training_replies=references[:3])
    assert found["bleu_4"] == found["rouge_l"] == found["quality_score"] == 1
    assert (found["band"], found["copied"]) == ("EXCELLENT", pytest.approx(1 / 3))


def test_empty_replies_are_scored_zero_not_refused():
    found = measure(["", "..."], ["yes, it is", "no"])
    assert found["bleu_4"] == found["rouge_l"] == 0


def test_a_reply_is_judged_without_a_reference_too():
    empty, looping = reply_metrics([Reply("", 1, -0.5, True), Reply("on and on", 4, -2.0, True)])
    assert (empty["length"], empty["distinct_1"], empty["entropy"]) == (0, 0, 0)
    assert looping == {
        "distinct_1": pytest.approx(2 / 3),
        "distinct_2": 1,
        "distinct_3": 1,
        "repetition_rate": pytest.approx(1 / 3),
        "entropy": pytest.approx(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))),
        "length": 3,
        "log_probability": -2.0,
    }


def test_replies_without_their_references_are_refused():
    with pytest.raises(ValueError, match="2 replies and 1 references"):
        measure(["a", "b"], ["a"])
