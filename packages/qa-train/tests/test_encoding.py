"""Examples to arrays: nothing is cut off, nothing unknown slips in, batches are shuffled by the seed alone."""

import numpy as np
import pytest

from qa_train.encoding import (
    LARGEST_BATCH,
    Vocabulary,
    encode,
    learning_rate,
    reading_batches,
    running_words,
    training_batches,
    words_of,
)
from qa_train.examples import Example
from trainworks.console import UserError


def example(*story, question="Do Ann and Bob face the same way?", answer="yes", id="1"):
    return Example(id, story, question, answer, "simple", 2, len(story), None)


ANN = example("Ann walks north.", "Bob follows Ann.", "Ann turns left.", answer="no")
LONG = example(*["Ann walks north.", "Bob walks south."] * 100)


def encoded(*examples):
    return encode(examples, Vocabulary.of(examples), "stories.jsonl", max_words=16)


def test_words_are_lower_case_without_punctuation():
    assert words_of("Where's Mary-Ann? In the kitchen.") == ["where's", "mary-ann", "in", "the", "kitchen"]


def test_a_long_story_keeps_every_sentence_and_the_whole_question():
    data = encoded(ANN, LONG)
    assert data.story.shape[:2] == (2, 200)
    assert (data.story[1, :, 0] > 0).all()
    assert (data.question[1] == data.question[0]).all()
    assert len(running_words(data.story)[1].nonzero()[0]) == 600


def test_directions_are_those_after_each_sentence():
    data = encoded(ANN, LONG)
    assert data.direction[0, :4].tolist() == [0, 0, 3, -1]


def test_a_story_of_another_grammar_has_no_directions():
    data = encoded(example("Mary moved to the kitchen.", "John went home."))
    assert (data.direction == -1).all()


def test_running_words_are_the_story_without_gaps():
    vocabulary = Vocabulary.of([ANN])
    data = encode([ANN], vocabulary, "stories.jsonl", max_words=16)
    words = [vocabulary.words[number] for number in running_words(data.story)[0]]
    assert " ".join(words) == "ann walks north bob follows ann ann turns left"


def test_an_unknown_actor_is_named_with_its_place():
    vocabulary = Vocabulary.of([ANN])
    with pytest.raises(UserError, match=r'stories.jsonl, id 7: the model does not know the word "xerxes" in'):
        encode([example("Xerxes walks north.", id="7")], vocabulary, "stories.jsonl", max_words=16)


def test_a_sentence_that_is_too_long_is_refused_and_not_cut():
    with pytest.raises(UserError, match=r"17 words, and network\.max_words is 16"):
        encoded(example("Ann walks " + " very" * 15 + "."))


def test_an_epoch_has_every_example_once_in_another_order_each_time():
    data = encoded(*[example(*["Ann walks north."] * (n % 7 + 1), id=str(n)) for n in range(100)])
    first, second = (training_batches(data, 16, seed=0, epoch=epoch) for epoch in (0, 1))
    again = training_batches(data, 16, seed=0, epoch=0)
    for batches in (first, second):
        assert sorted(np.concatenate(batches)) == list(range(100))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    assert np.concatenate(first).tolist() != sorted(np.concatenate(first), key=lambda n: data.num_sentences[n])


def test_a_batch_is_padded_to_its_longest_story_and_the_sets_longest_sentence():
    data = encoded(ANN, LONG, example("Cat goes in the opposite direction of Ann."))
    batch = data.take(np.array([2, 0]))
    assert batch.story.shape == (2, 3, 8)
    assert (batch.story == data.story[[2, 0], :3]).all()
    assert (batch.direction == data.direction[[2, 0], :3]).all()
    assert (batch.question == data.question[[2, 0]]).all()
    assert batch.label.tolist() == [1, 0]
    assert batch.take(np.array([0])).story.shape == (1, 1, 8)


def test_memory_follows_the_words_and_not_the_longest_story():
    short = [example("Ann walks north.", id=str(n)) for n in range(1000)]
    alone, beside = encoded(*short), encoded(*short, LONG)

    def size(data):
        return sum(array.nbytes for array in vars(data).values() if isinstance(array, np.ndarray))

    assert size(beside) - size(alone) < 0.1 * size(alone)


def test_reading_covers_everything_and_batches_are_cut_to_their_longest():
    data = encoded(ANN, LONG, ANN)
    batches = list(reading_batches(data, 2))
    assert sorted(np.concatenate(batches)) == [0, 1, 2]
    assert data.take(batches[0]).story.shape[1] == 3


def test_long_stories_are_read_few_at_a_time():
    longest = [example(*["Ann walks north."] * 1000, id=str(n)) for n in range(20)]
    data = encoded(*longest, *[example("Ann walks north.", id=f"s{n}") for n in range(300)])
    batches = list(reading_batches(data, 256))
    assert sorted(np.concatenate(batches)) == list(range(320))
    assert len(batches[0]) == 256
    assert max(len(batch) * int(data.num_words[batch].max()) ** 2 for batch in batches) <= LARGEST_BATCH


def test_the_step_size_rises_to_its_peak_and_falls():
    rates = [learning_rate(1.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[-1] == pytest.approx(0.03, abs=1e-2)
    assert np.argmax(rates) in (9, 10)
