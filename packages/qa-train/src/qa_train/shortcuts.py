"""Answers without understanding. A model is worth what it scores above them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qa_train.examples import Example
from qa_train.grammar import Event, answer, parse, parse_question
from trainworks.console import UserError

_KEEPS: dict[str, Callable[[Event], bool]] = {
    "ignore two-actor sentences": lambda event: not event.is_two_actor,
    "ignore turns": lambda event: event.action != "turns",
}


def majority_answer(answers: Mapping[str, int]) -> str:
    """The commoner of "yes" and "no" by how often each occurs; "yes" where both are as common."""
    return "yes" if answers.get("yes", 0) >= answers.get("no", 0) else "no"


def shortcut_answers(examples: Sequence[Example], majority: str) -> dict[str, np.ndarray]:
    """Answers of each shortcut by its name: (N,) bool, True for yes.

    "majority" always gives one answer. "ignore two-actor sentences" and "ignore turns" simulate what is left of each
    story, and fall back to the majority where that says nothing of an actor; they are absent unless all stories are of
    the built-in grammar.

    Args:
        majority: "yes" or "no", the commoner answer of the training set.
    """
    predictions = {"majority": np.full(len(examples), majority == "yes")}
    if all(map(_is_of_the_grammar, examples)):
        for name, keeps in _KEEPS.items():
            answers = [_partial_answer(example, keeps, majority) for example in examples]
            predictions[name] = np.array(answers) == "yes"
    return predictions


def _is_of_the_grammar(example: Example) -> bool:
    try:
        parse_question(example.question)
        for sentence in example.story:
            parse(sentence)
    except UserError:
        return False
    return True


def _partial_answer(example: Example, keeps: Callable[[Event], bool], majority: str) -> str:
    try:
        return answer([sentence for sentence in example.story if keeps(parse(sentence))], example.question)
    except UserError:
        return majority
