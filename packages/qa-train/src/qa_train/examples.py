"""One question about one story, and files of them: JSON Lines and CSV, in and out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from qa_train.grammar import NAMES, hops, parse, parse_question, simulate
from trainworks.console import UserError, warn
from trainworks.files import atomic_write

MAX_SENTENCES = 1000
"""Sentences of a story, at most."""
MAX_COUNT = 1_000_000
"""Actors or hops, at most."""

_JSON_EXTENSIONS = (".jsonl", ".ndjson", ".json")
_REQUIRED = ("story", "question", "answer")
_OPTIONAL = ("id", "category", "num_actors", "num_sentences", "hops")
_KNOWN = (*_REQUIRED, *_OPTIONAL)
_NUMBERS = ("num_actors", "num_sentences", "hops")
_SENTENCE_END = re.compile(r"(?<=\.)\s+")
_WORD = re.compile(r"\w+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What a terminal obeys instead of showing it, the escape codes' first character among them."""
_KEYS_SHOWN = 5

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


def printable(text: str) -> str:
    """The text with its control characters written out (a terminal would obey them), such as "\\x1b" for escape."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def read_examples(path: str | Path, *, need_answers: bool = True) -> list[Example]:
    """Read JSON Lines or CSV; the extension tells which, or the first character where that is silent.

    Only story, question and answer must be there. A story is a list of sentences or one text, which is cut at "|" or,
    if there is none, after each full stop. What a file leaves out: id is the line's number, category "all",
    num_actors and hops are worked out where the sentences are of the built-in grammar (elsewhere num_actors counts the
    built-in names in the story and hops is None). Other keys are left out, with one warning that names them.

    Args:
        path: "-" for stdin.
        need_answers: False accepts lines without an answer, which becomes "".

    Raises:
        UserError: no such file, or what is wrong in it, with the line.
    """
    return read_recorded(path, need_answers=need_answers)[0]


def read_recorded(path: str | Path, *, need_answers: bool = True) -> tuple[list[Example], dict[str, Any]]:
    """As `read_examples`, and what is recorded of the file as it was read: absolute path, SHA-256 and rows.

    The path of stdin is "stdin".
    """
    name = str(path)
    where = "stdin" if name == "-" else printable(name)
    data = _read_bytes(name)
    examples = _examples(_decode(data, where), Path(name).suffix.lower(), where, need_answers)
    absolute = "stdin" if name == "-" else os.path.abspath(name)
    return examples, {"path": absolute, "sha256": hashlib.sha256(data).hexdigest(), "rows": len(examples)}


def write_examples(examples: Iterable[Example], to: str | Path | TextIO) -> None:
    """Write JSON Lines, a file whole or not at all; an answer that is not known becomes null."""
    lines = (json.dumps(example.record(), ensure_ascii=False) + "\n" for example in examples)
    if isinstance(to, str | Path):
        atomic_write(to, "".join(lines))
    else:
        to.writelines(lines)


def _read_bytes(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError:
        raise UserError(f"no such file: {printable(name)}; JSON Lines or CSV of stories was wanted") from None
    except IsADirectoryError:
        raise UserError(f"{printable(name)} is a directory; a JSON Lines or CSV file of stories was wanted") from None


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}, line {line}: not UTF-8; convert the file, for example with iconv") from None


def _examples(text: str, extension: str, where: str, need_answers: bool) -> list[Example]:
    is_json = extension in _JSON_EXTENSIONS or (extension != ".csv" and text.lstrip().startswith("{"))
    examples: list[Example] = []
    lines_by_id: dict[str, int] = {}
    first: tuple[int, Record] | None = None
    unknown: dict[str, int] = {}
    for line, record in (_jsonl_records if is_json else _csv_records)(text, where):
        at = f"{where}, line {line}"
        first = first or (line, record)
        _check_schema(record, first, at, need_answers)
        for key in record.keys() - _KNOWN:
            unknown.setdefault(key, line)
        example = _example(record, line, at, need_answers)
        if example.id in lines_by_id:
            raise UserError(f'{at}: id "{example.id}" is taken by line {lines_by_id[example.id]}; ids are unique')
        lines_by_id[example.id] = line
        examples.append(example)
    if not examples:
        raise UserError(f"{where} is empty; lines with story, question and answer were wanted")
    if unknown:
        _warn_of_unknown(unknown, where)
    return examples


def _warn_of_unknown(line_by_key: dict[str, int], where: str) -> None:
    keys = sorted(line_by_key, key=lambda key: (line_by_key[key], key))
    shown = ", ".join(f"{_shown(key)} (line {line_by_key[key]})" for key in keys[:_KEYS_SHOWN])
    more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    warn(f"{where}: keys of no meaning here are left out: {shown}{more}; known are {', '.join(_KNOWN)}")


def _shown(value: Any) -> str:
    """The start of a value as JSON, safe on a terminal."""
    return printable(json.dumps(value, ensure_ascii=False)[:40])


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
    for key in _KNOWN:
        if (key in record) != (key in pattern):
            having, lacking = ("has", "has not") if key in record else ("lacks", "has")
            raise UserError(f'{at}: {having} "{key}", which line {first_line} {lacking}; every line has the same keys')
    for key in ("story", "id"):
        if key in record and type(record[key]) is not type(pattern[key]):
            types = f"{_type_name(record[key])}, and in line {first_line} {_type_name(pattern[key])}"
            raise UserError(f'{at}: "{key}" is {types}; every line has the same types')


def _example(record: Record, line: int, at: str, need_answers: bool) -> Example:
    story = _story(record["story"], at)
    question = one_line(record["question"], "question", at)
    if (stranger := _asked_stranger(story, question)) is not None:
        raise UserError(f"{at}: the question is about {stranger}, of whom the story says nothing; mend or remove it")
    count = record.get("num_sentences", len(story))
    if count != len(story) or isinstance(count, bool):
        raise UserError(f'{at}: "num_sentences" is {_shown(count)} and the story has {len(story)}; mend or omit it')
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
        category=_category(record.get("category", "all"), at),
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
    return tuple(one_line(sentence, f"sentence {number} of the story", at) for number, sentence in enumerate(value, 1))


def one_line(value: Any, what: str, at: str) -> str:
    """The text on one line.

    Args:
        what: it is, for errors.
        at: file and line, for errors.

    Raises:
        UserError: no text, or text that is empty or cannot be written to a file or shown on a terminal.
    """
    if not isinstance(value, str):
        raise UserError(f"{at}: the {what} is {_type_name(value)}; text was wanted")
    text = " ".join(value.split())
    if not text:
        raise UserError(f"{at}: the {what} is empty")
    if not text.isprintable() and (control := _CONTROL.search(text)):
        raise UserError(f"{at}: the {what} has the control character U+{ord(control[0]):04X}; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{at}: the {what} has half a character (a lone surrogate)") from None
    return text


def _category(value: Any, at: str) -> str:
    """A category's name is part of metrics' names, which are paths."""
    category = one_line(value, "category", at)
    if "/" in category:
        raise UserError(f'{at}: the category "{category[:40]}" has a "/", which separates the parts of metrics\' names')
    return category


def _answer(value: Any, at: str, needed: bool) -> str:
    if not needed:
        return ""
    if value is None or value == "":
        raise UserError(f"{at}: the answer is missing; it is yes or no")
    answer = value.strip().lower() if isinstance(value, str) else value
    if answer not in ("yes", "no"):
        raise UserError(f"{at}: the answer is {_shown(value)}; it must be yes or no")
    return answer


def _id(value: Any, at: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return one_line(value, "id", at)


def _count(value: Any, key: str, at: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT):
        return value
    raise UserError(f'{at}: "{key}" is {_shown(value)}; a whole number from 0 to {MAX_COUNT:,} was wanted')


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


def _asked_stranger(story: Sequence[str], question: str) -> str | None:
    """An actor of the question whom a story of the built-in grammar gives no direction; None if all is well, or if the
    grammar is another."""
    try:
        actors = parse_question(question)
        subjects = {parse(sentence).subject for sentence in story}
    except UserError:
        return None
    return next((actor for actor in actors if actor not in subjects), None)
