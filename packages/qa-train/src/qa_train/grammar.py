"""The stories' language: what its sentences say, where everybody faces at the end, and on what that depends.

Directions are numbered clockwise from north: north 0, east 1, south 2, west 3. Every sentence but "walks" rotates: it
gives its subject the direction of an actor (of itself for "turns") plus a fixed number of quarter turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from trainworks.console import UserError

NAMES = (
    "Ann", "Bob", "Cat", "Dan", "Eve", "Fay", "Gus", "Hal", "Ivy", "Jim", "Kay", "Leo", "Mia", "Ned", "Oda",
    "Pam", "Quin", "Ray", "Sue", "Tom", "Uma", "Val", "Wes", "Xia", "Yan", "Zoe", "Amy", "Ben", "Cleo", "Dora",
)  # fmt: skip
DIRECTIONS = ("north", "east", "south", "west")
QUARTER_TURNS = {"right": 1, "around": 2, "left": 3}
"""Clockwise."""

Action = Literal["walks", "turns", "follows", "opposite"]

_NAME = r"(\w[\w'-]*)"
_SENTENCES: tuple[tuple[Action, re.Pattern[str]], ...] = (
    ("walks", re.compile(rf"{_NAME} walks ({'|'.join(DIRECTIONS)})\.")),
    ("turns", re.compile(rf"{_NAME} turns ({'|'.join(QUARTER_TURNS)})\.")),
    ("follows", re.compile(rf"{_NAME} follows {_NAME}\.")),
    ("opposite", re.compile(rf"{_NAME} goes in the opposite direction of {_NAME}\.")),
)
_QUESTION = re.compile(rf"Do {_NAME} and {_NAME} face the same way\?")


class Event(NamedTuple):
    """What a sentence says.

    Attributes:
        subject: whose direction it sets.
        where: the direction of "walks", the turn of "turns"; else "".
        other: the actor of "follows" and "opposite"; else "".
    """

    subject: str
    action: Action
    where: str
    other: str

    @property
    def is_two_actor(self) -> bool:
        return self.other != ""


def write_sentence(event: Event) -> str:
    """The sentence that `parse` reads as this event."""
    if event.action == "opposite":
        return f"{event.subject} goes in the opposite direction of {event.other}."
    return f"{event.subject} {event.action} {event.where or event.other}."


def write_question(first: str, second: str) -> str:
    """The question that `parse_question` reads as these two actors."""
    return f"Do {first} and {second} face the same way?"


@lru_cache(maxsize=8192)
def parse(sentence: str) -> Event:
    """What a sentence says.

    Raises:
        UserError: it is none of this grammar, or an actor follows himself.
    """
    for action, pattern in _SENTENCES:
        if match := pattern.fullmatch(sentence):
            subject, value = match.groups()
            if action in ("walks", "turns"):
                return Event(subject, action, value, "")
            if subject != value:
                return Event(subject, action, "", value)
    raise UserError(
        f'"{sentence[:80]}" is no sentence of the stories; they read "Ann walks north.", "Ann turns left.", '
        '"Bob follows Ann." and "Cat goes in the opposite direction of Bob."'
    )


def parse_question(question: str) -> tuple[str, str]:
    """The two actors of a question.

    Raises:
        UserError: it is another question, or asks about one actor alone.
    """
    match = _QUESTION.fullmatch(question)
    if match is None or match[1] == match[2]:
        raise UserError(f'"{question[:80]}" is no question of the stories; it reads "{write_question("Ann", "Bob")}"')
    return match[1], match[2]


def simulate(sentences: Iterable[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Where the actors face.

    Returns:
        The direction 0..3 of each sentence's subject after it, (S,) int64, and the last direction of each actor.

    Raises:
        UserError: a sentence is not of this grammar, or turns or follows an actor who has no direction yet.
    """
    facing: dict[str, int] = {}
    directions = []
    for number, sentence in enumerate(sentences, 1):
        event = parse(sentence)
        if event.action == "walks":
            direction = DIRECTIONS.index(event.where)
        else:
            source = event.other or event.subject
            if source not in facing:
                raise UserError(
                    f'sentence {number}, "{sentence}": {source} has no direction yet; let {source} walk first'
                )
            direction = (facing[source] + _quarter_turns(event)) % 4
        facing[event.subject] = direction
        directions.append(direction)
    return np.array(directions, dtype=np.int64), facing


def _quarter_turns(event: Event) -> int:
    return QUARTER_TURNS[event.where] if event.action == "turns" else 2 * (event.action == "opposite")


def answer(sentences: Iterable[str], question: str) -> str:
    """ "yes" or "no".

    Raises:
        UserError: as `simulate` and `parse_question`; or the question names an actor whom the story does not.
    """
    _, facing = simulate(sentences)
    first, second = parse_question(question)
    for actor in (first, second):
        if actor not in facing:
            raise UserError(f'"{question}": the story says nothing of {actor}')
    return "yes" if facing[first] == facing[second] else "no"


def trace(events: Sequence[Event], actor: str) -> list[int]:
    """The sentences, ascending, that the actor's last direction depends on.

    Read backwards: a walk ends it, a turn goes on with the same actor before it, "follows" and "opposite" go on with
    the other actor before it.
    """
    found = []
    for index in reversed(range(len(events))):
        event = events[index]
        if event.subject == actor:
            found.append(index)
            if event.action == "walks":
                break
            actor = event.other or actor
    return found[::-1]


def hops(sentences: Iterable[str], question: str) -> int:
    """The two-actor sentences in exactly one of the traces of the question's two actors.

    From the last sentence that both traces share on, each actor is a fixed rotation away from that sentence's
    subject; so what both share turns both alike and leaves the answer as it is.

    Raises:
        UserError: as `answer`.
    """
    sentences = list(sentences)
    answer(sentences, question)
    events = [parse(sentence) for sentence in sentences]
    first, second = (set(trace(events, actor)) for actor in parse_question(question))
    return sum(events[index].is_two_actor for index in first ^ second)
