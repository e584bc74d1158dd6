"""The built-in data set: stories drawn at random, answered by simulation, balanced cell by cell.

The task and its categories are those of Duneau et al. 2024 (arXiv 2409.08777): n actors are introduced, then walk,
turn and follow one another. A cell is a category and a number of actors.

Shape legend: B stories of a batch, A actors, S sentences of the longest possible story, P pairs of actors, W words of
64 bits, one bit a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from qa_train.data import check_free, write_directory
from qa_train.examples import Example, story_hash
from qa_train.grammar import DIRECTIONS, NAMES, QUARTER_TURNS, Action, Event, write_question, write_sentence
from trainworks.console import UserError
from trainworks.seeding import derive, rng

CATEGORIES = {"simple": 0.26, "deeper": 0.48, "less_dense": 0.50, "dense": 0.58, "superdense": 0.68}
"""The probability that a sentence after the introductions names two actors."""

_ACTIONS: tuple[Action, ...] = ("walks", "turns", "follows", "opposite")
_WALKS, _TURNS, _FOLLOWS, _OPPOSITE = range(4)
_TURN_NAMES = {turns: name for name, turns in QUARTER_TURNS.items()}

_MOST_SENTENCES = 16_384
"""Sentences of a batch; more would leave the processor's cache."""
_DRAWS_PER_STORY, _LEAST_DRAWS = 40, 1000
"""Stories drawn for each one wanted, and at least, before the kinds of question still missing count as out of reach."""


@dataclass(frozen=True)
class StorySettings:
    """The stories of one split.

    Attributes:
        actors: the smallest and the largest cast; every size between them is a row of cells.
        per_cell: stories of each category and number of actors.
        categories: names of `CATEGORIES`.
        directions: 4, or 2 for north and south alone, where all turns are "around".
        balance_hops: spread the questions of a cell evenly over 0 to max_hops hops. Otherwise any two actors are
            asked about, and most questions need no hop.
        max_hops: of no effect without balance_hops.
    """

    actors: tuple[int, int]
    per_cell: int
    categories: tuple[str, ...] = tuple(CATEGORIES)
    directions: int = 4
    balance_hops: bool = False
    max_hops: int = 6

    def __post_init__(self) -> None:
        fewest, most = self.actors
        if not 2 <= fewest <= most <= len(NAMES):
            raise UserError(f"actors are from 2 to {len(NAMES)}, the smaller number first, not {fewest} to {most}")
        if self.per_cell < 1:
            raise UserError(f"stories per cell are at least 1, not {self.per_cell}")
        unknown = [name for name in self.categories if name not in CATEGORIES]
        if unknown or not self.categories or len(set(self.categories)) < len(self.categories):
            wrong = f'"{unknown[0]}"' if unknown else f"{list(self.categories)}"
            raise UserError(f"categories are distinct names out of {', '.join(CATEGORIES)}, not {wrong}")
        if self.directions not in (2, 4):
            raise UserError(f"directions are 2 or 4, not {self.directions}")
        if self.max_hops < 0:
            raise UserError(f"max_hops is at least 0, not {self.max_hops}")


def generate(settings: StorySettings, seed: int, *, taken: set[bytes] | None = None) -> list[Example]:
    """Draw the stories of one split, in random order; ids are their numbers, from "1" on.

    Half of each cell's answers are yes; in a cell of an odd number one answer more. With balance_hops that holds for
    each number of hops too, and numbers that a cell cannot reach (few actors, short stories, or too rare to be found)
    leave their share to those that it can.

    Args:
        seed: the same seed and settings give the same stories.
        taken: `story_hash` of stories that must not come again; those drawn here are added.

    Raises:
        UserError: not enough different stories of a cell could be found.
    """
    taken = set() if taken is None else taken
    found = [
        example
        for category in settings.categories
        for num_actors in range(settings.actors[0], settings.actors[1] + 1)
        for example in _fill_cell(settings, category, num_actors, seed, taken)
    ]
    order = rng(seed, "order").permutation(len(found))
    return [replace(found[number], id=str(place)) for place, number in enumerate(order, 1)]


def default_splits(
    *,
    train: int = 400,
    valid: int = 60,
    valid_b: int = 30,
    test: int = 100,
    categories: Sequence[str] = tuple(CATEGORIES),
    directions: int = 4,
    balance_hops: bool = False,
    max_hops: int = 6,
) -> dict[str, StorySettings]:
    """Small casts to train on, larger ones to test on: train and valid 2 to 8 actors, valid-b 9 to 20, test 21 to 30.

    Args:
        train, valid, valid_b, test: stories of each cell; a split of 0 is left out.

    Raises:
        UserError: as `StorySettings`.
    """
    casts = {"train": (2, 8), "valid": (2, 8), "valid-b": (9, 20), "test": (21, 30)}
    sizes = {"train": train, "valid": valid, "valid-b": valid_b, "test": test}
    return {
        name: StorySettings(actors, sizes[name], tuple(categories), directions, balance_hops, max_hops)
        for name, actors in casts.items()
        if sizes[name] != 0
    }


def make_stories(
    out: str | Path, splits: Mapping[str, StorySettings] | None = None, *, seed: int = 0, overwrite: bool = False
) -> Path:
    """Write a data directory of stories, whole or not at all. No story occurs twice in it.

    Args:
        splits: by the file's name, such as "valid-b"; by default `default_splits()`.

    Raises:
        UserError: the directory is taken, or as `generate`.
    """
    splits = default_splits() if splits is None else splits
    if not splits:
        raise UserError("no stories were asked for: every split has size 0")
    check_free(out, overwrite=overwrite)
    taken: set[bytes] = set()
    drawn = {name: generate(asked, derive(seed, name), taken=taken) for name, asked in splits.items()}
    settings = {"source": "stories", "seed": seed, "splits": {name: asdict(asked) for name, asked in splits.items()}}
    return write_directory(out, drawn, settings, overwrite=overwrite)


# A cell, found by rejection -------------------------------------------------------------------------------------------


def _fill_cell(settings: StorySettings, category: str, num_actors: int, seed: int, taken: set[bytes]) -> list[Example]:
    generator = rng(seed, "cell", category, num_actors)
    levels = range(settings.max_hops + 1) if settings.balance_hops else [_ANY_HOPS]
    shares = _Shares(settings.per_cell, levels, generator)
    size = min(max(64, 4 * settings.per_cell), _MOST_SENTENCES // (3 * num_actors))
    drawn, patience = 0, _LEAST_DRAWS + _DRAWS_PER_STORY * settings.per_cell
    while not shares.are_full:
        if drawn > patience:
            if not shares.give_up_rare_levels():
                raise UserError(
                    f"too few stories of {num_actors} actors, {category}, differ to find {settings.per_cell:,}; "
                    "ask for fewer stories, more actors or more directions"
                )
            patience = drawn + _LEAST_DRAWS + _DRAWS_PER_STORY * settings.per_cell
        batch = _draw(generator, size, num_actors, CATEGORIES[category], settings.directions)
        drawn += size
        questions = _all_pairs(batch) if settings.balance_hops else _random_pair(batch, generator)
        for (level, yes), story, pair in _choose(questions, shares, generator):
            sentences, actors = batch.tell(story, generator)
            digest = story_hash(sentences)
            if digest not in taken:
                taken.add(digest)
                asked = [actors[questions.first[story, pair]], actors[questions.second[story, pair]]]
                shares.found[level, yes].append(
                    Example(
                        id="",
                        story=sentences,
                        question=write_question(*generator.permutation(asked)),
                        answer="yes" if yes else "no",
                        category=category,
                        num_actors=num_actors,
                        num_sentences=len(sentences),
                        hops=int(questions.hops[story, pair]),
                    )
                )
    return shares.examples()


_Kind = tuple[int, bool]
"""A kind of question: its level, which is its hops where they are balanced, and whether its answer is yes."""

_ANY_HOPS = 0  # the one level where hops are not balanced


class _Shares:
    """How many questions of each kind a cell wants, and those found."""

    def __init__(self, wanted: int, levels: Sequence[int], generator: np.random.Generator) -> None:
        self._wanted = wanted
        self._levels = generator.permutation(levels).tolist()  # so that no level always has the pair more
        self._odd_is_yes = bool(generator.random() < 0.5)
        self._quota = self._spread(wanted)
        self.found: dict[_Kind, list[Example]] = {kind: [] for kind in self._quota}

    def _spread(self, wanted: int) -> dict[_Kind, int]:
        """As many yes as no of each level; levels differ by one pair at most."""
        pairs, left = divmod(wanted // 2, len(self._levels))
        quota = {
            (level, yes): pairs + (place < left) for place, level in enumerate(self._levels) for yes in (False, True)
        }
        quota[self._levels[0], self._odd_is_yes] += wanted % 2
        return quota

    def missing(self, kind: _Kind) -> int:
        return self._quota[kind] - len(self.found[kind])

    @property
    def are_full(self) -> bool:
        return all(self.missing(kind) <= 0 for kind in self._quota)

    def give_up_rare_levels(self) -> bool:
        """Settle the levels that are not full for the pairs they have; the full ones share what those leave.

        Returns False, and does nothing, where none is full.
        """
        rare = [level for level in self._levels if max(self.missing((level, yes)) for yes in (False, True)) > 0]
        if len(rare) == len(self._levels):
            return False
        self._levels = [level for level in self._levels if level not in rare]
        for level in rare:
            pairs = min(len(self.found[level, yes]) for yes in (False, True))
            self._quota[level, False] = self._quota[level, True] = pairs
        settled = sum(count for (level, _), count in self._quota.items() if level not in self._levels)
        self._quota |= self._spread(self._wanted - settled)
        return True

    def examples(self) -> list[Example]:
        return [example for kind, count in self._quota.items() for example in self.found[kind][:count]]


@dataclass(frozen=True)
class _Questions:
    """Questions that could be asked about the stories of a batch; all (B, P), here P for each story.

    Attributes:
        first, second: the two actors.
        level: what is balanced.
    """

    first: np.ndarray
    second: np.ndarray
    level: np.ndarray
    hops: np.ndarray
    yes: np.ndarray


def _choose(questions: _Questions, shares: _Shares, generator: np.random.Generator) -> list[tuple[_Kind, int, int]]:
    """Kind, story and pair of questions that are still missing, at most one for each story, deep ones first."""
    chosen = []
    free = np.ones(len(questions.level), dtype=bool)
    for kind in sorted(shares.found, reverse=True):
        if (missing := shares.missing(kind)) > 0:
            fits = (questions.level == kind[0]) & (questions.yes == kind[1])
            stories = np.flatnonzero(free & fits.any(1))[:missing]
            pairs = (fits[stories] * generator.random((len(stories), fits.shape[1]))).argmax(1)
            free[stories] = False
            chosen += [(kind, story, pair) for story, pair in zip(stories.tolist(), pairs.tolist(), strict=True)]
    return chosen


# Stories as numbers, many at once -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """B stories.

    Attributes:
        length: (B,) sentences.
        subject: (B, S) actors.
        action: (B, S) index of `_ACTIONS`.
        value: (B, S) the direction of a walk, the clockwise quarter turns of a turn, else the other actor.
        facing: (B, A) where the actors face at the end.
        two_actor: (B, A, W) the two-actor sentences in the actors' traces (see `grammar.trace`).
    """

    length: np.ndarray
    subject: np.ndarray
    action: np.ndarray
    value: np.ndarray
    facing: np.ndarray
    two_actor: np.ndarray

    def __len__(self) -> int:
        return len(self.length)

    def tell(self, story: int, generator: np.random.Generator) -> tuple[tuple[str, ...], list[str]]:
        """The sentences of a story and the names, drawn at random, of its actors."""
        actors = [NAMES[name] for name in generator.permutation(len(NAMES))[: self.facing.shape[1]]]
        columns = (column[story, : self.length[story]].tolist() for column in (self.subject, self.action, self.value))
        return tuple(write_sentence(_event(actors, *row)) for row in zip(*columns, strict=True)), actors


def _event(actors: Sequence[str], subject: int, action: int, value: int) -> Event:
    if action == _WALKS:
        return Event(actors[subject], "walks", DIRECTIONS[value], "")
    if action == _TURNS:
        return Event(actors[subject], "turns", _TURN_NAMES[value], "")
    return Event(actors[subject], _ACTIONS[action], "", actors[value])


def _draw(
    generator: np.random.Generator, num_stories: int, num_actors: int, two_actor_share: float, num_directions: int
) -> _Batch:
    """Stories of `num_actors` actors, their length uniform from max(A + 2, 5) to 3 A sentences."""
    longest = 3 * num_actors
    shape = (num_stories, longest)
    length = generator.integers(max(num_actors + 2, 5), longest + 1, num_stories)
    subject = generator.integers(num_actors, size=shape)
    subject[:, :num_actors] = np.arange(num_actors)
    action = np.where(generator.random(shape) < two_actor_share, _FOLLOWS, _WALKS) + generator.integers(2, size=shape)
    action[:, :num_actors] = _WALKS
    direction = generator.integers(num_directions, size=shape) * (4 // num_directions)
    turns = generator.integers(1, 4, size=shape) if num_directions == 4 else np.full(shape, QUARTER_TURNS["around"])
    other = (subject + generator.integers(1, num_actors, size=shape)) % num_actors
    value = np.choose(action, (direction, turns, other, other))
    return _Batch(length, subject, action, value, *_simulate(num_actors, length, subject, action, value))


def _simulate(
    num_actors: int, length: np.ndarray, subject: np.ndarray, action: np.ndarray, value: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Facing (B, A) and two_actor (B, A, W) of a batch."""
    num_stories, longest = subject.shape
    facing = np.zeros((num_stories, num_actors), dtype=np.int64)
    two_actor = np.zeros((num_stories, num_actors, -(-longest // 64)), dtype=np.uint64)
    source = np.where(action >= _FOLLOWS, value, subject)
    rotation = np.where(action == _TURNS, value, 2 * (action == _OPPOSITE))
    for sentence in range(longest):
        rows = np.flatnonzero(sentence < length)
        who, whence, does = subject[rows, sentence], source[rows, sentence], action[rows, sentence]
        walks = does == _WALKS
        turned = (facing[rows, whence] + rotation[rows, sentence]) % 4
        facing[rows, who] = np.where(walks, value[rows, sentence], turned)
        depends = np.where(walks[:, None], np.uint64(0), two_actor[rows, whence])
        depends[:, sentence // 64] |= (does >= _FOLLOWS).astype(np.uint64) << np.uint64(sentence % 64)
        two_actor[rows, who] = depends
    return facing, two_actor


def _all_pairs(batch: _Batch) -> _Questions:
    """Every two actors of each story; levels are hops."""
    pairs = np.triu_indices(batch.facing.shape[1], 1)
    first, second = (np.broadcast_to(actors, (len(batch), len(actors))) for actors in pairs)
    hops, yes = _ask(batch, first, second)
    return _Questions(first, second, hops, hops, yes)


def _random_pair(batch: _Batch, generator: np.random.Generator) -> _Questions:
    """Two actors of each story, drawn uniformly; one level."""
    num_actors = batch.facing.shape[1]
    first = generator.integers(num_actors, size=(len(batch), 1))
    second = (first + generator.integers(1, num_actors, size=first.shape)) % num_actors
    hops, yes = _ask(batch, first, second)
    return _Questions(first, second, np.full(first.shape, _ANY_HOPS), hops, yes)


def _ask(batch: _Batch, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hops and answers (B, P) of questions (B, P)."""
    rows = np.arange(len(batch))[:, None]
    hops = np.zeros(first.shape, dtype=np.uint8)
    for word in np.moveaxis(batch.two_actor, -1, 0):
        hops += np.bitwise_count(word[rows, first] ^ word[rows, second])
    return hops, batch.facing[rows, first] == batch.facing[rows, second]
