"""Answers without understanding. A model is worth what it scores above them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qa_train.data import Example
from qa_train.grammar import Event, answer, parse, parse_question
from trainworks.console import UserError

_KEEPS: dict[str, Callable[[Event], bool]] = {
    "ignore two-actor sentences": lambda event: not event.is_two_actor,
    "ignore turns": lambda event: event.action != "turns",
}


def shortcut_predictions(examples: Sequence[Example], train: Sequence[Example] | None = None) -> dict[str, np.ndarray]:
    """Predictions of each shortcut by its name: (N,) bool, True for yes.

    "majority" always gives the commoner answer of `train` or, without it, of the examples themselves (yes where both
    are as common). "ignore two-actor sentences" and "ignore turns" simulate what is left of each story, and fall back
    to the majority where that says nothing of an actor; they are absent unless all stories are of the built-in grammar.
    """
    known = examples if train is None else train
    majority = 2 * sum(example.answer == "yes" for example in known) >= sum(example.answer != "" for example in known)
    predictions = {"majority": np.full(len(examples), majority)}
    if all(map(_is_of_the_grammar, examples)):
        for name, keeps in _KEEPS.items():
            predictions[name] = np.array(
                [_partial_answer(example, keeps, majority) for example in examples], dtype=bool
            )
    return predictions


def _is_of_the_grammar(example: Example) -> bool:
    try:
        parse_question(example.question)
        for sentence in example.story:
            parse(sentence)
    except UserError:
        return False
    return True


def _partial_answer(example: Example, keeps: Callable[[Event], bool], majority: bool) -> bool:
    try:
        return answer([sentence for sentence in example.story if keeps(parse(sentence))], example.question) == "yes"
    except UserError:
        return majority
