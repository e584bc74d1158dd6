"""Examples to arrays: words to numbers, and batches in an order that the seed alone decides.

Shape legend: N examples, S sentences of the longest story, W words of the longest sentence, Q words of the longest
question. Word 0 is padding everywhere; nothing is ever cut off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qa_train.data import Example
from qa_train.grammar import simulate
from trainworks.console import UserError
from trainworks.seeding import rng

UNKNOWN_DIRECTION = -1
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
    """Examples as arrays.

    Attributes:
        story: (N, S, W) int32 words; a shorter story's sentences stand first.
        question: (N, Q) int32 words.
        label: (N,) float32, 1 for yes; NaN where the answer is not known.
        direction: (N, S) int32, the direction 0..3 of each sentence's subject after it; -1 where not known.
        num_sentences: (N,) int64.
    """

    story: np.ndarray
    question: np.ndarray
    label: np.ndarray
    direction: np.ndarray
    num_sentences: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: np.ndarray) -> Encoded:
        """Some of the examples, cut to the longest story among them."""
        longest = int(self.num_sentences[index].max())
        return Encoded(
            self.story[index, :longest],
            self.question[index],
            self.label[index],
            self.direction[index, :longest],
            self.num_sentences[index],
        )


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
                    "it knows the words of its training stories"
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
    lengths = np.array([len(story) for story in stories])
    shape = (len(stories), lengths.max(), max(len(words) for story in stories for words in story))
    story = np.zeros(shape, np.int32)
    question = np.zeros((len(stories), max(map(len, questions))), np.int32)
    direction = np.full(shape[:2], UNKNOWN_DIRECTION, np.int32)
    for n, (sentences, asked) in enumerate(zip(stories, questions, strict=True)):
        for s, words in enumerate(sentences):
            story[n, s, : len(words)] = words
        question[n, : len(asked)] = asked
        direction[n, : len(sentences)] = directions(examples[n].story)
    answers = {"yes": 1.0, "no": 0.0, "": np.nan}
    label = np.array([answers[example.answer] for example in examples], np.float32)
    return Encoded(story, question, label, direction, lengths)


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
    """All examples once, shortest stories first, as indices."""
    order = np.argsort(data.num_sentences, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def learning_rate(peak: float, step: int, total: int) -> float:
    """Linear warm-up over the first tenth of `total` steps, then cosine decay to 3 % of the peak."""
    warm_up = max(1, total // 10)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, total - warm_up)
    return float(peak * (0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * progress))))
