"""Examples in and out: JSON Lines and CSV, stratified splits, and the data directory that `train` reads."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from qa_train.grammar import NAMES, hops, simulate
from trainworks.console import UserError
from trainworks.files import atomic_write, fsync_directory, sha256_file, write_json
from trainworks.seeding import rng

SCHEMA = 1
MAX_SENTENCES = 1000
MAX_COUNT = 1_000_000
"""Sentences of a story, at most."""

_DATA_JSON = "data.json"
_JSON_EXTENSIONS = (".jsonl", ".ndjson", ".json")
_REQUIRED = ("story", "question", "answer")
_OPTIONAL = ("id", "category", "num_actors", "num_sentences", "hops")
_NUMBERS = ("num_actors", "num_sentences", "hops")
_SENTENCE_END = re.compile(r"(?<=\.)\s+")
_WORD = re.compile(r"\w+")

Record = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One yes/no question about a story.

    Attributes:
        story: sentences, in order.
        answer: "yes" or "no"; "" where it is not known.
        num_sentences: len(story).
        hops: two-actor sentences that the answer depends on; None where nobody knows.
        line: of the file that it was read from, for errors; 0 if it was not read.
    """

    id: str
    story: tuple[str, ...]
    question: str
    answer: str
    category: str
    num_actors: int
    num_sentences: int
    hops: int | None
    line: int = field(default=0, compare=False)

    def record(self) -> dict[str, Any]:
        """What is written of it; an answer that is not known becomes null."""
        record = asdict(self)
        del record["line"]
        return {**record, "answer": self.answer or None}


@dataclass(frozen=True)
class Metadata:
    """What slices of the metrics are made of; all arrays (N,).

    Attributes:
        category: strings.
        hops: -1 where nobody knows.
    """

    ids: list[str]
    category: np.ndarray
    num_actors: np.ndarray
    num_sentences: np.ndarray
    hops: np.ndarray

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Metadata:
        """The metadata of N examples, in their order."""
        return cls(
            ids=[example.id for example in examples],
            category=np.array([example.category for example in examples], dtype=str),
            num_actors=np.array([example.num_actors for example in examples], dtype=np.int64),
            num_sentences=np.array([example.num_sentences for example in examples], dtype=np.int64),
            hops=np.array([-1 if example.hops is None else example.hops for example in examples], dtype=np.int64),
        )


def story_hash(story: Sequence[str]) -> bytes:
    """SHA-256 of a story's text, by which two stories are one."""
    return hashlib.sha256("\n".join(story).encode()).digest()


# Files of examples ----------------------------------------------------------------------------------------------------


def read_examples(path: str | Path, *, need_answers: bool = True) -> list[Example]:
    """Read JSON Lines or CSV; the extension tells which, or the first character where that is silent.

    Only story, question and answer must be there. A story is a list of sentences or one text, which is cut at "|" or,
    if there is none, after each full stop. What a file leaves out: id is the line's number, category "all",
    num_actors and hops are worked out where the sentences are of the built-in grammar (elsewhere num_actors counts the
    built-in names in the story and hops is None).

    Args:
        path: "-" for stdin.
        need_answers: False accepts lines without an answer, which becomes "".

    Raises:
        UserError: no such file, or what is wrong in it, with the line.
    """
    where, text = _read_text(str(path))
    extension = Path(path).suffix.lower()
    is_json = extension in _JSON_EXTENSIONS or (extension != ".csv" and text.lstrip().startswith("{"))
    examples: list[Example] = []
    lines_by_id: dict[str, int] = {}
    first: tuple[int, Record] | None = None
    for line, record in (_jsonl_records if is_json else _csv_records)(text, where):
        at = f"{where}, line {line}"
        first = first or (line, record)
        _check_schema(record, first, at, need_answers)
        example = _example(record, line, at, need_answers)
        if example.id in lines_by_id:
            raise UserError(f'{at}: id "{example.id}" is taken by line {lines_by_id[example.id]}; ids are unique')
        lines_by_id[example.id] = line
        examples.append(example)
    if not examples:
        raise UserError(f"{where} is empty; lines with story, question and answer were wanted")
    return examples


def write_examples(examples: Iterable[Example], to: str | Path | TextIO) -> None:
    """Write JSON Lines, a file whole or not at all; an answer that is not known becomes null."""
    lines = (json.dumps(example.record(), ensure_ascii=False) + "\n" for example in examples)
    if isinstance(to, str | Path):
        atomic_write(to, "".join(lines))
    else:
        to.writelines(lines)


def _read_text(name: str) -> tuple[str, str]:
    where = "stdin" if name == "-" else name
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError:
        raise UserError(f"no such file: {name}; JSON Lines or CSV of stories was wanted") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a directory; a JSON Lines or CSV file of stories was wanted") from None
    try:
        return where, data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}, line {line}: not UTF-8; convert the file, for example with iconv") from None


def _jsonl_records(text: str, where: str) -> Iterator[tuple[int, Record]]:
    for line, written in enumerate(text.split("\n"), 1):
        if written.strip():
            try:
                record = json.loads(written)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", "it is too deep or too long")
                raise UserError(f"{where}, line {line}: not JSON ({reason}); each line is one JSON object") from None
            if not isinstance(record, dict):
                raise UserError(f"{where}, line {line}: not a JSON object; a line reads {_SHAPE}")
            yield line, record


def _csv_records(text: str, where: str) -> Iterator[tuple[int, Record]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise UserError(f"{where}, line {line}: not CSV ({error})") from None
        if row is None:
            return
        if header is None and row:
            header = [name.strip() for name in row]
            if len(set(header)) < len(header):
                raise UserError(f"{where}, line {line}: the header names a column twice; rename one")
        elif header is not None and row:
            if len(row) != len(header):
                raise UserError(f"{where}, line {line}: {len(row)} cells where the header names {len(header)}")
            record: Record = dict(zip(header, row, strict=True))
            yield line, record | {key: _number(record[key]) for key in _NUMBERS if key in record}
        line = rows.line_num + 1


def _number(cell: str) -> int | str | None:
    """The cell's number, None for an empty cell; other text stays, to be refused as what it is."""
    if not cell.strip():
        return None
    return int(cell) if re.fullmatch(r"\s*[0-9]{1,9}\s*", cell) else cell


_SHAPE = '{"story": ["Ann walks north.", ...], "question": "...", "answer": "yes"}'


def _check_schema(record: Record, first: tuple[int, Record], at: str, need_answers: bool) -> None:
    """Refuse a key that is missing, that comes and goes, or whose type differs from the first line's."""
    first_line, pattern = first
    for key in _REQUIRED if need_answers else _REQUIRED[:2]:
        if key not in record:
            raise UserError(f'{at}: no "{key}"; a line reads {_SHAPE}')
    for key in (*_REQUIRED, *_OPTIONAL):
        if (key in record) != (key in pattern):
            having, lacking = ("has", "has not") if key in record else ("lacks", "has")
            raise UserError(f'{at}: {having} "{key}", which line {first_line} {lacking}; every line has the same keys')
    for key in ("story", "id"):
        if key in record and type(record[key]) is not type(pattern[key]):
            types = f"{_type_name(record[key])}, and in line {first_line} {_type_name(pattern[key])}"
            raise UserError(f'{at}: "{key}" is {types}; every line has the same types')


def _example(record: Record, line: int, at: str, need_answers: bool) -> Example:
    story = _story(record["story"], at)
    question = _text(record["question"], "question", at)
    count = record.get("num_sentences", len(story))
    if count != len(story) or isinstance(count, bool):
        raise UserError(f'{at}: "num_sentences" is {json.dumps(count)} and the story has {len(story)}; mend or omit it')
    num_actors, num_hops = (_count(record.get(key), key, at) for key in ("num_actors", "hops"))
    if num_actors is None or num_hops is None:
        actors_there, hops_there = _work_out(story, question)
        num_actors = actors_there if num_actors is None else num_actors
        num_hops = hops_there if num_hops is None else num_hops
    return Example(
        id=_id(record.get("id", line), at),
        story=story,
        question=question,
        answer=_answer(record.get("answer"), at, need_answers),
        category=_text(record.get("category", "all"), "category", at),
        num_actors=num_actors,
        num_sentences=len(story),
        hops=num_hops,
        line=line,
    )


def _story(value: Any, at: str) -> tuple[str, ...]:
    if isinstance(value, str):
        parts = value.split("|") if "|" in value else _SENTENCE_END.split(value)
        value = [part for part in parts if part.strip()]
    if not isinstance(value, list):
        raise UserError(f'{at}: "story" is {_type_name(value)}; a list of sentences or one text was wanted')
    if not value:
        raise UserError(f"{at}: the story is empty; it needs a sentence at least")
    if len(value) > MAX_SENTENCES:
        raise UserError(f"{at}: the story has {len(value):,} sentences; at most {MAX_SENTENCES:,} can be read")
    return tuple(_text(sentence, f"sentence {number} of the story", at) for number, sentence in enumerate(value, 1))


def _text(value: Any, what: str, at: str) -> str:
    """The text on one line."""
    if not isinstance(value, str):
        raise UserError(f"{at}: the {what} is {_type_name(value)}; text was wanted")
    text = " ".join(value.split())
    if not text:
        raise UserError(f"{at}: the {what} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{at}: the {what} has half a character (a lone surrogate)") from None
    return text


def _answer(value: Any, at: str, needed: bool) -> str:
    if not needed:
        return ""
    if value is None or value == "":
        raise UserError(f"{at}: the answer is missing; it is yes or no")
    answer = value.strip().lower() if isinstance(value, str) else value
    if answer not in ("yes", "no"):
        raise UserError(f"{at}: the answer is {json.dumps(value, ensure_ascii=False)[:40]}; it must be yes or no")
    return answer


def _id(value: Any, at: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, "id", at)


def _count(value: Any, key: str, at: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT):
        return value
    raise UserError(f'{at}: "{key}" is {json.dumps(value)[:40]}; a whole number from 0 to {MAX_COUNT:,} was wanted')


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names[type(value)]


def _work_out(story: tuple[str, ...], question: str) -> tuple[int, int | None]:
    """Number of actors and hops."""
    try:
        num_actors = len(simulate(story)[1])
    except UserError:
        return len(set(_WORD.findall(" ".join(story))) & set(NAMES)), None
    try:
        return num_actors, hops(story, question)
    except UserError:
        return num_actors, None


# Splits ---------------------------------------------------------------------------------------------------------------


def split(examples: Sequence[Example], *, valid: float, test: float = 0.0, seed: int = 0) -> dict[str, list[Example]]:
    """Split examples at random into "train", "valid" and, unless `test` is 0, "test", each in the given order.

    Every category x number of actors x answer keeps its share in each split, up to one story. All questions about one
    story (by `story_hash`) land in the same split, counted under the first of them.

    Args:
        valid, test: shares of the examples.

    Raises:
        UserError: impossible shares, or a split would be empty.
    """
    if not (0 < valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise UserError(f"shares must leave something for training: valid {valid} and test {test} are not possible")
    numbers_by_story: dict[bytes, list[int]] = defaultdict(list)
    for number, example in enumerate(examples):
        numbers_by_story[story_hash(example.story)].append(number)
    stories = list(numbers_by_story.values())
    chance = rng(seed, "split").permutation(len(stories))

    def stratum(place: int) -> tuple[str, int, str, int]:
        example = examples[stories[place][0]]
        return example.category, example.num_actors, example.answer, int(chance[place])

    # Along this order one walks through stratum after stratum and takes a story whenever a share has grown by a whole.
    ordered = [stories[place] for place in sorted(range(len(stories)), key=stratum)]
    parts: dict[str, list[list[int]]] = {}
    if test:
        parts["test"], ordered = _take_share(ordered, test)
    parts["valid"], ordered = _take_share(ordered, valid / (1 - test))
    parts["train"] = ordered
    found: dict[str, list[Example]] = {
        name: [examples[number] for number in sorted(number for story in parts[name] for number in story)]
        for name in ("train", "valid", "test")
        if name in parts
    }
    if empty := [name for name, chosen in found.items() if not chosen]:
        raise UserError(f"{len(stories)} stories are too few to give {empty[0]} its share; bring more or change it")
    return found


def _take_share(stories: list[list[int]], share: float) -> tuple[list[list[int]], list[list[int]]]:
    """Evenly spaced stories with about `share` of all questions, and the rest."""
    taken, rest = [], []
    owed = 0.5
    for story in stories:
        owed += share * len(story)
        if owed >= 1:
            taken.append(story)
            owed -= len(story)
        else:
            rest.append(story)
    return taken, rest


def prepare_jsonl(
    source: str | Path,
    out: str | Path,
    *,
    valid: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Split a JSON Lines or CSV file of one's own into a data directory.

    Raises:
        UserError: as `read_examples`, `split` and `write_directory`.
    """
    check_free(out, overwrite=overwrite)
    examples = read_examples(source)
    settings = {"source": "file", "file": Path(source).name, "valid": valid, "test": test, "seed": seed}
    return write_directory(out, split(examples, valid=valid, test=test, seed=seed), settings, overwrite=overwrite)


# The data directory ---------------------------------------------------------------------------------------------------


def check_disjoint(splits: Mapping[str, Sequence[Example]]) -> None:
    """Refuse splits of which two hold the same story.

    Raises:
        UserError: names a story and the two splits.
    """
    owners: dict[bytes, tuple[str, str]] = {}
    for name, examples in splits.items():
        for example in examples:
            owner, first_id = owners.setdefault(story_hash(example.story), (name, example.id))
            if owner != name:
                raise UserError(
                    f'{name}, id "{example.id}": its story is also in {owner} (id "{first_id}"); '
                    "remove it from one of them, or figures come out too good"
                )


def check_free(directory: str | Path, *, overwrite: bool = False) -> bool:
    """Whether `write_directory` would replace a data directory. An empty directory is free.

    Raises:
        UserError: the name is taken, and `overwrite` is False or what is there is no data directory.
    """
    directory = Path(directory)
    if not os.path.lexists(directory) or (directory.is_dir() and not any(directory.iterdir())):
        return False
    if not overwrite:
        raise UserError(f"{directory} exists; name another --out, or give --overwrite")
    if directory.is_symlink() or not (directory / _DATA_JSON).is_file():
        raise UserError(f"{directory} is no data directory (it has no {_DATA_JSON}), so it is not overwritten")
    return True


def write_directory(
    out: str | Path, splits: Mapping[str, Sequence[Example]], settings: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Publish a data directory, whole or not at all: a file for each split, and data.json.

    data.json holds the settings and, for each split, its file's SHA-256, its examples and, for each cell, its answers
    and hops.

    Args:
        settings: what made the splits, so that it can be done again.
        overwrite: replace a data directory that is there (and nothing else).

    Raises:
        UserError: as `check_free` and `check_disjoint`.
    """
    out = Path(out)
    taken = check_free(out, overwrite=overwrite)
    check_disjoint(splits)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.new")
    old = new.with_suffix(".old")
    try:
        new.mkdir()
        described = {}
        for name, examples in splits.items():
            file = new / f"{name}.jsonl"
            write_examples(examples, file)
            described[name] = {
                "file": file.name,
                "sha256": sha256_file(file),
                "examples": len(examples),
                "cells": _count_cells(examples),
            }
        write_json(new / _DATA_JSON, {"schema": SCHEMA, "settings": settings, "splits": described})
        if taken:
            out.rename(old)
        new.rename(out)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    fsync_directory(out.parent)
    shutil.rmtree(old, ignore_errors=True)
    return out


def _count_cells(examples: Sequence[Example]) -> dict[str, dict[str, dict[str, int]]]:
    cells: dict[tuple[str, int], list[Example]] = defaultdict(list)
    for example in examples:
        cells[example.category, example.num_actors].append(example)
    return {
        f"{category}/noun_{num_actors}": {
            "answers": dict(sorted(Counter(example.answer for example in cell).items(), reverse=True)),
            "hops": {
                "unknown" if number < 0 else str(number): count
                for number, count in sorted(Counter(Metadata.of(cell).hops.tolist()).items())
            },
        }
        for (category, num_actors), cell in sorted(cells.items())
    }
