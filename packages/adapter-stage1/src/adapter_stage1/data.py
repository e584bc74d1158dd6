"""Extractive question answering: examples from files, and which of them are for what."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainworks.console import UserError
from trainworks.seeding import rng

_LINES_EXTENSIONS = (".jsonl", ".ndjson")
_LINE_SHAPE = '{"context": "...", "question": "...", "answers": ["..."]}'
_SQUAD_SHAPE = '{"data": [{"paragraphs": [{"context": "...", "qas": [...]}]}]}'
_SHORT_SHARE = 0.1


@dataclass(frozen=True)
class Example:
    """One question about a text, without white space around its texts.

    Attributes:
        answers: all gold answers, each once, each a part of the context; () where nobody knows them.
        article: the title that the context comes from; "" where nobody knows it.
    """

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    article: str = ""


def read_examples(path: str | Path, *, need_answers: bool = True) -> list[Example]:
    """Read SQuAD v1.1 or v2.0 JSON (of v2.0 the answerable questions), or JSON Lines.

    A line holds context, question, and answers (a list) or answer (one text); id, which is the line's number where it
    is left out; and, if known, title. Lines as the Hugging Face `squad` data set writes them are read too.

    Args:
        path: "-" for stdin.
        need_answers: False accepts questions without answers, whose `answers` are then ().

    Raises:
        UserError: no such file, or what is wrong in it, with the line or the question's id: not UTF-8, not JSON, of
            another shape, empty, an id twice, an empty text, no answer, an answer that is not in its context or not at
            its answer_start.
    """
    where, text = _read_text(str(path))
    if not text.strip():
        raise UserError(f"{where} is empty; SQuAD JSON or JSON Lines was wanted")
    as_lines = Path(path).suffix.lower() in _LINES_EXTENSIONS or _starts_with_a_line(text)
    found = (_jsonl_examples if as_lines else _squad_examples)(text, where, need_answers)
    examples: list[Example] = []
    places: dict[str, str] = {}
    for at, example in found:
        if example.id in places:
            raise UserError(f'{at}: id "{example.id}" is taken by {places[example.id]}; ids are unique')
        places[example.id] = at.removeprefix(f"{where}, ")
        examples.append(example)
    if not examples:
        raise UserError(f"{where}: no answerable question in it; bring at least one")
    return examples


def _read_text(name: str) -> tuple[str, str]:
    where = "stdin" if name == "-" else name
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"no such file: {name}; JSON Lines or SQuAD JSON was wanted, such as train-v1.1.json and dev-v1.1.json "
            "of rajpurkar.github.io/SQuAD-explorer"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{name} is a directory; a file of SQuAD JSON or JSON Lines was wanted") from None
    try:
        return where, data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}, line {line}: not UTF-8; convert the file, for example with iconv") from None


def _starts_with_a_line(text: str) -> bool:
    """Whether the first line is an object by itself, and not a SQuAD file on one line."""
    try:
        first = json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "data" not in first


def _loads(text: str, where: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "it is too deep or too long")
        line = first_line + getattr(error, "lineno", 1) - 1
        raise UserError(f"{where}, line {line}: not JSON ({reason}); mend it, or fetch the file anew") from None


def _jsonl_examples(text: str, where: str, need_answers: bool) -> Iterator[tuple[str, Example]]:
    for line, written in enumerate(text.split("\n"), 1):
        if not written.strip():
            continue
        record = _loads(written, where, line)
        at = f"{where}, line {line}"
        if not isinstance(record, dict):
            raise UserError(f"{at}: not a JSON object; a line reads {_LINE_SHAPE}")
        answers = record.get("answers", record.get("answer"))
        if isinstance(answers, dict):  # {"text": [...], "answer_start": [...]}, as the Hugging Face data set has it
            answers = answers.get("text")
        if answers is None:
            answers = []
        texts = answers if isinstance(answers, list) else [answers]
        yield (
            at,
            Example(
                id=_id(record.get("id", line), at),
                context=_text(record, "context", at),
                question=_text(record, "question", at),
                answers=_answers([(answer, None) for answer in texts], record["context"], at, need_answers),
                article=_title(record),
            ),
        )


def _squad_examples(text: str, where: str, need_answers: bool) -> Iterator[tuple[str, Example]]:
    whole = _loads(text, where, 1)
    if not isinstance(whole, dict) or "data" not in whole:
        raise UserError(f"{where}: neither SQuAD JSON ({_SQUAD_SHAPE}) nor JSON Lines (a line reads {_LINE_SHAPE})")
    for article in _list(whole, "data", where):
        for number, paragraph in enumerate(_list(article, "paragraphs", where), 1):
            place = f'{where}, article "{_title(article)}", paragraph {number}'
            for qa in _list(paragraph, "qas", place):
                if not isinstance(qa, dict) or "id" not in qa:
                    raise UserError(f'{place}: a question without "id"; a SQuAD file reads {_SQUAD_SHAPE}')
                at = f'{where}, article "{_title(article)}", question {qa["id"]}'
                if qa.get("is_impossible") is True:
                    continue
                answers = _list(qa, "answers", at) if "answers" in qa else []
                yield (
                    at,
                    Example(
                        id=_id(qa["id"], at),
                        context=_text(paragraph, "context", at),
                        question=_text(qa, "question", at),
                        answers=_answers(
                            [_answer_and_start(answer, at) for answer in answers],
                            paragraph["context"],
                            at,
                            need_answers,
                        ),
                        article=_title(article),
                    ),
                )


def _list(record: Any, key: str, at: str) -> list[Any]:
    if not isinstance(record, dict) or not isinstance(record.get(key), list):
        raise UserError(f'{at}: no list "{key}"; a SQuAD file reads {_SQUAD_SHAPE}')
    return record[key]


def _title(record: Any) -> str:
    title = record.get("title") if isinstance(record, dict) else None
    return title if isinstance(title, str) else ""


def _text(record: Any, key: str, at: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise UserError(f'{at}: no text "{key}"; give it one')
    return _clean(value, key, at)


def _clean(value: str, what: str, at: str) -> str:
    text = value.strip()
    if not text:
        raise UserError(f"{at}: the {what} is empty; fill it or remove the question")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{at}: the {what} has half a character (a lone surrogate); mend it") from None
    return text


def _id(value: Any, at: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f'{at}: "id" is neither text nor a whole number; mend or omit it')
    return _clean(str(value), "id", at)


def _answer_and_start(answer: Any, at: str) -> tuple[Any, int]:
    start = answer.get("answer_start") if isinstance(answer, dict) else None
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise UserError(f'{at}: an answer\'s "answer_start" is not a whole number of characters from 0; mend it')
    return answer.get("text"), start


def _answers(found: Sequence[tuple[Any, int | None]], context: str, at: str, needed: bool) -> tuple[str, ...]:
    """Each answer once, after a look into the context as written: at its start, or anywhere where that is not known."""
    if needed and not found:
        raise UserError(f'{at}: no answers; give at least one in "answers"')
    texts = []
    for value, start in found:
        if not isinstance(value, str):
            raise UserError(f"{at}: an answer is not text; answers are parts of the context")
        answer = _clean(value, "answer", at)
        if start is None and answer not in context:
            raise UserError(f'{at}: the answer "{_excerpt(answer)}" is not in the context; copy it as it stands there')
        if start is not None and not context.startswith(value, start):
            raise UserError(
                f'{at}: the answer "{_excerpt(answer)}" is not at its answer_start {start}, where the context reads '
                f'"{_excerpt(context[start : start + len(value)])}"; offsets count characters, not bytes'
            )
        texts.append(answer)
    return tuple(dict.fromkeys(texts))


def _excerpt(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def by_article_split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split at random into training and validation examples, each in the given order, that share no context.

    Whole articles go to one side where two or more are known, else whole contexts. So the share is met as nearly as
    the sizes along a seeded order of them allow; neither side is empty.

    Args:
        share: of the questions that go to validation, between 0 and 1.

    Raises:
        UserError: an impossible share, or a single context.
    """
    if not 0 < share < 1:
        raise UserError(f"a validation share of {share} is not possible; it lies between 0 and 1")
    groups = _groups(examples)
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise UserError("all questions are about one context, which cannot be split; bring more or a validation file")
    names = sorted(sizes)
    order = [names[number] for number in rng(seed, "split").permutation(len(names))]
    filled = np.cumsum([sizes[name] for name in order])[:-1]
    chosen = set(order[: 1 + int(np.abs(filled - share * len(examples)).argmin())])
    train: list[Example] = []
    valid: list[Example] = []
    for example, group in zip(examples, groups, strict=True):
        (valid if group in chosen else train).append(example)
    return train, valid


def _groups(examples: Sequence[Example]) -> list[str]:
    """What each example belongs to: its article, or its context where fewer than two articles are known.

    A context that stands in two articles belongs to the first, so that groups share no context.
    """
    by_article = len({example.article for example in examples if example.article}) > 1
    owners: dict[str, str] = {}
    groups = []
    for example in examples:
        digest = hashlib.sha256(example.context.encode()).hexdigest()
        groups.append(owners.setdefault(digest, example.article if by_article and example.article else digest))
    return groups


def sample(examples: Sequence[Example], n: int, seed: int) -> list[Example]:
    """Draw n examples without replacement, in the given order; a larger n adds to what a smaller one draws.

    Raises:
        UserError: there are fewer than n, or n is not positive.
    """
    if not 0 < n <= len(examples):
        raise UserError(
            f"{n:,} questions were asked for and there are {len(examples):,}; ask for 1 to {len(examples):,}"
        )
    return [examples[number] for number in sorted(rng(seed, "sample").permutation(len(examples))[:n])]


def choose_shots(examples: Sequence[Example], n: int, seed: int) -> list[Example]:
    """Choose n worked examples with short contexts: at random from the shortest tenth, then by length.

    They come from n different articles, or different contexts where fewer articles are known.

    Raises:
        UserError: fewer than n different contexts.
    """
    num_short = int(len(examples) * _SHORT_SHARE)
    by_length = sorted(range(len(examples)), key=lambda number: len(examples[number].context))
    order = [by_length[place] for place in rng(seed, "shots").permutation(num_short)] + by_length[num_short:]
    groups = _groups(examples)
    if len(set(groups)) < n:
        groups = [example.context for example in examples]
    first: dict[str, Example] = {}
    for number in order:
        first.setdefault(groups[number], examples[number])
    if len(first) < n:
        raise UserError(
            f"{n} worked examples were asked for and there are {len(first)} different contexts; ask for fewer"
        )
    return list(first.values())[:n]
