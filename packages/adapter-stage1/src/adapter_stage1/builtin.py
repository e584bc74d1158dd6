"""The built-in questions: short texts about invented people and companies, from templates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapter_stage1.data import Example, read_examples
from trainworks.run import input_record
from trainworks.seeding import rng

BUILTIN = {"builtin:facts": slice(0, 400), "builtin:facts-test": slice(400, 500)}
"""Texts by the name that `--data` takes; no text is in both."""
QUESTIONS_A_TEXT = 4
SEED = 0
_FIRST = ("Ada", "Bruno", "Chiara", "Daniel", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Karin", "Luis")
_LAST = ("Almeida", "Berger", "Costa", "Dahl", "Eriksen", "Fontaine", "Gruber", "Hansen", "Ivanov", "Jensen", "Keller")
_CITIES = ("Lisbon", "Oslo", "Vienna", "Porto", "Ghent", "Turin", "Malmo", "Lyon", "Graz", "Bilbao", "Tampere", "Cork")
_TRADES = ("bridge builder", "botanist", "watchmaker", "translator", "surveyor", "violin maker", "chemist", "architect")
_FIELDS = ("water pumps", "optical glass", "train brakes", "weather balloons", "paper", "bicycles", "maps", "radios")
_PRIZES = ("Silver Compass", "Northern Medal", "Golden Lamp", "River Prize", "Academy Award of Science", "Blue Ribbon")
_FACTS = (
    (
        "{person} was born in {born_city} in {born_year} as the child of a {parent_trade}.",
        (
            ("In which city was {person} born?", "born_city"),
            ("In what year was {person} born?", "born_year"),
            ("What did a parent of {person} work as?", "parent_trade"),
        ),
    ),
    (
        "After school {surname} worked as a {trade} in {work_city} for {work_years} years.",
        (
            ("What did {person} work as after school?", "trade"),
            ("Where did {person} work after school?", "work_city"),
            ("For how many years did {surname} work in {work_city}?", "work_years"),
        ),
    ),
    (
        "In {founded} {surname} founded {company}, a maker of {field}, together with {partner}.",
        (
            ("Which company did {person} found?", "company"),
            ("What did {company} make?", "field"),
            ("With whom did {person} found {company}?", "partner"),
            ("When was {company} founded?", "founded"),
        ),
    ),
    (
        "By {grown} the company employed {staff} people and had moved to {seat}.",
        (
            ("How many people did {company} employ by {grown}?", "staff"),
            ("Where had {company} moved by {grown}?", "seat"),
        ),
    ),
    (
        "{surname} received the {prize} in {prize_year}.",
        (
            ("Which award did {person} receive?", "prize"),
            ("When did {person} receive the {prize}?", "prize_year"),
        ),
    ),
)


def load_examples(source: str | Path, *, need_answers: bool = True) -> list[Example]:
    """The built-in questions by their name, or those of a file; see `read_examples`."""
    if str(source) in BUILTIN:
        return facts(str(source))
    return read_examples(source, need_answers=need_answers)


def source_record(source: str | Path, rows: int) -> dict[str, Any]:
    """What run.json and reports say of the questions' source: path, SHA-256 and number of questions."""
    if str(source) in BUILTIN:
        digest = hashlib.sha256(repr(facts(str(source))).encode()).hexdigest()
        return {"path": str(source), "sha256": digest, "rows": rows}
    return input_record(Path(source).resolve(), rows=rows)


def facts(name: str) -> list[Example]:
    """Built-in questions, always the same: four about each text."""
    random = rng(SEED, "facts")
    examples = []
    for number in range(BUILTIN[name].stop):
        told = _invent(random)
        context = " ".join(sentence.format(**told) for sentence, _ in _FACTS)
        asked = [question for _, questions in _FACTS for question in questions]
        for place in sorted(random.permutation(len(asked))[:QUESTIONS_A_TEXT]):
            question, answer = asked[place]
            if number < BUILTIN[name].start:
                continue
            examples.append(
                Example(
                    id=f"{number}-{place}",
                    context=context,
                    question=question.format(**told),
                    answers=(told[answer],),
                    article=f"{told['person']} {number}",
                )
            )
    return examples


def _invent(random: np.random.Generator) -> dict[str, str]:
    def one(words: Sequence[str]) -> str:
        return words[int(random.integers(len(words)))]

    surname = one(_LAST)
    born = int(random.integers(1850, 1950))
    founded = born + int(random.integers(24, 40))
    return {
        "person": f"{one(_FIRST)} {surname}",
        "surname": surname,
        "born_city": one(_CITIES),
        "born_year": str(born),
        "parent_trade": one(_TRADES),
        "trade": one(_TRADES),
        "work_city": one(_CITIES),
        "work_years": str(random.integers(2, 15)),
        "founded": str(founded),
        "company": f"{surname} & {one(_LAST)}",
        "field": one(_FIELDS),
        "partner": f"{one(_FIRST)} {one(_LAST)}",
        "grown": str(founded + int(random.integers(5, 20))),
        "staff": str(random.integers(40, 4000)),
        "seat": one(_CITIES),
        "prize": one(_PRIZES),
        "prize_year": str(founded + int(random.integers(3, 30))),
    }
