"""Examples to arrays: words to numbers, and batches in an order that the seed alone decides.

Shape legend: N examples, S sentences of the longest story, W words of the longest sentence, Q words of the longest
question. Word 0 is padding everywhere; nothing is ever cut off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qa_train.examples import Example
from qa_train.grammar import simulate
from trainworks.console import UserError
from trainworks.seeding import rng

UNKNOWN_DIRECTION = -1
LARGEST_BATCH = 2**26
"""Numbers (256 MiB as float32) that a batch of B stories to be answered may make: B x T x T of attention over the T
words of its longest story, or B x S x W x `EMBEDDING` of its padded words. One story alone may make more."""
EMBEDDING = 64
"""Numbers that stand for a word in that; the default width of the networks."""
_WORD = re.compile(r"\w+(?:['-]\w+)*")


def words_of(text: str) -> list[str]:
    """The words of a sentence, in lower case, without punctuation."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """Words by number; 0 is padding."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Vocabulary:
        """Every word of the stories and questions, in alphabetical order."""
        seen: set[str] = set()
        for sentence in {text for example in examples for text in (*example.story, example.question)}:
            seen.update(words_of(sentence))
        return cls(("", *sorted(seen)))

    def __len__(self) -> int:
        return len(self.words)

    def index(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


@dataclass(frozen=True)
class Encoded:
    """Examples as numbers, stories and questions of whatever length one after another.

    So memory follows the words that are there. `story`, `direction` and `question` are made as they are asked for and
    padded to the longest: `take` a batch first.

    Attributes:
        words: of all sentences of all stories, int32.
        sentence_length: (sentences of all stories,) words of each.
        subject_direction: (sentences of all stories,) int32, the direction 0..3 of the sentence's subject after it; -1
            where not known.
        num_sentences: (N,) int64.
        asked: the words of all questions, int32.
        question_length: (N,) words of each.
        label: (N,) float32, 1 for yes; NaN where the answer is not known.
        max_words: W, of the longest sentence; a batch keeps that of the whole.
        max_asked: Q, of the longest question; likewise.
    """

    words: np.ndarray
    sentence_length: np.ndarray
    subject_direction: np.ndarray
    num_sentences: np.ndarray
    asked: np.ndarray
    question_length: np.ndarray
    label: np.ndarray
    max_words: int
    max_asked: int

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: np.ndarray) -> Encoded:
        """Some of the examples."""
        sentences = _ranges(self._first_sentence[index], self.num_sentences[index])
        sentence_length = self.sentence_length[sentences]
        question_length = self.question_length[index]
        return Encoded(
            self.words[_ranges(self._first_word[sentences], sentence_length)],
            sentence_length,
            self.subject_direction[sentences],
            self.num_sentences[index],
            self.asked[_ranges(_starts(self.question_length)[index], question_length)],
            question_length,
            self.label[index],
            self.max_words,
            self.max_asked,
        )

    @property
    def story(self) -> np.ndarray:
        """(N, S, W) int32 words; a shorter story's sentences stand first."""
        length = _padded(self.sentence_length, self.num_sentences, self.num_sentences.max(), 0)
        return _padded(self.words, length, self.max_words, 0)

    @property
    def question(self) -> np.ndarray:
        """(N, Q) int32 words."""
        return _padded(self.asked, self.question_length, self.max_asked, 0)

    @property
    def direction(self) -> np.ndarray:
        """(N, S) int32, as `subject_direction`; -1 where there is no sentence."""
        return _padded(self.subject_direction, self.num_sentences, self.num_sentences.max(), UNKNOWN_DIRECTION)

    @cached_property
    def num_words(self) -> np.ndarray:
        """(N,) int64, words of each story."""
        return np.add.reduceat(self.sentence_length, self._first_sentence)

    @cached_property
    def _first_sentence(self) -> np.ndarray:
        return _starts(self.num_sentences)

    @cached_property
    def _first_word(self) -> np.ndarray:
        return _starts(self.sentence_length)


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of several stretches, one after another, begins."""
    return np.cumsum(lengths) - lengths


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places in stretches that begin and last so, one stretch after another."""
    return np.repeat(starts - _starts(lengths), lengths) + np.arange(lengths.sum())


def _padded(values: np.ndarray, lengths: np.ndarray, longest: int, padding: int) -> np.ndarray:
    """Stretches of `values` as rows, (*lengths.shape, longest), the padding after each."""
    rows = np.full((*lengths.shape, longest), padding, values.dtype)
    rows[np.arange(longest) < lengths[..., None]] = values
    return rows


def encode(examples: Sequence[Example], vocabulary: Vocabulary, source: str, max_words: int) -> Encoded:
    """Arrays of the examples.

    Args:
        source: the file they came from, for errors.
        max_words: words of a sentence or question, at most.

    Raises:
        UserError: a word, such as an actor's name, that the vocabulary lacks, or a sentence that is too long.
    """
    index = vocabulary.index()
    numbers: dict[str, list[int]] = {}

    def place(example: Example) -> str:
        return f"{source}, line {example.line}" if example.line else f"{source}, id {example.id}"

    def number(example: Example, text: str) -> list[int]:
        if text not in numbers:
            words = words_of(text)
            unknown = next((word for word in words if word not in index), None)
            if unknown is not None:
                raise UserError(
                    f'{place(example)}: the model does not know the word "{unknown}" in "{text[:60]}"; '
                    "it knows the words of its training stories, so give it some with that word, or leave this one out"
                )
            if not words:
                raise UserError(f'{place(example)}: "{text[:60]}" has no words')
            if len(words) > max_words:
                raise UserError(
                    f'{place(example)}: "{text[:60]}" has {len(words)} words, and network.max_words is {max_words}'
                )
            numbers[text] = [index[word] for word in words]
        return numbers[text]

    stories = [[number(example, sentence) for sentence in example.story] for example in examples]
    questions = [number(example, example.question) for example in examples]
    sentence_length = np.array([len(words) for story in stories for words in story])
    question_length = np.array([len(words) for words in questions])
    answers = {"yes": 1.0, "no": 0.0, "": np.nan}
    return Encoded(
        words=np.array([word for story in stories for words in story for word in words], np.int32),
        sentence_length=sentence_length,
        subject_direction=np.concatenate([directions(example.story) for example in examples]).astype(np.int32),
        num_sentences=np.array([len(story) for story in stories]),
        asked=np.array([word for words in questions for word in words], np.int32),
        question_length=question_length,
        label=np.array([answers[example.answer] for example in examples], np.float32),
        max_words=int(sentence_length.max()),
        max_asked=int(question_length.max()),
    )


def directions(story: Sequence[str]) -> np.ndarray:
    """The direction of each sentence's subject after it, (S,); all -1 for a story of another grammar."""
    try:
        return simulate(story)[0]
    except UserError:
        return np.full(len(story), UNKNOWN_DIRECTION)


def running_words(story: np.ndarray) -> np.ndarray:
    """The words of stories (N, S, W) one after another, (N, T), padding at the end."""
    flat = story.reshape(len(story), -1)
    order = np.argsort(flat == 0, axis=1, kind="stable")
    return np.take_along_axis(flat, order, 1)[:, : (flat != 0).sum(1).max()]


def training_batches(data: Encoded, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The epoch's batches, as indices: shuffled, stories of similar length together, so that little is padding."""
    generator = rng(seed, "shuffle", epoch)
    order = np.argsort(data.num_sentences + 4 * generator.random(len(data)), kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[place] for place in generator.permutation(len(batches))]


def reading_batches(data: Encoded, batch_size: int) -> Iterator[np.ndarray]:
    """All examples once, shortest stories first, as indices; at most `batch_size` stories a batch, and fewer of long
    ones, so that memory doesn't follow the longest (see `LARGEST_BATCH`)."""
    order = np.argsort(data.num_sentences, kind="stable")
    start, most_words = 0, 0
    for place, example in enumerate(order):
        longest = max(most_words, int(data.num_words[example]))
        size = max(longest**2, int(data.num_sentences[example]) * data.max_words * EMBEDDING)
        if start < place and (place - start == batch_size or (place - start + 1) * size > LARGEST_BATCH):
            yield order[start:place]
            start, longest = place, int(data.num_words[example])
        most_words = longest
    yield order[start:]


def learning_rate(peak: float, step: int, total: int) -> float:
    """Linear warm-up over the first tenth of `total` steps, then cosine decay to 3 % of the peak."""
    warm_up = max(1, total // 10)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, total - warm_up)
    return float(peak * (0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * progress))))
