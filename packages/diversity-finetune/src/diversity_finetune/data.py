"""Conversations in, arrays out: reading pairs, splitting them by dialogue, the data directory that `train` reads."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diversity_finetune.tokenizer import Tokenizer
from trainworks.console import UserError, info, warn
from trainworks.files import fsync_directory, load_array, sha256_file, write_json
from trainworks.run import check_apart, is_made_by, is_taken
from trainworks.seeding import rng

SCHEMA = 1
"""Version of data.json's layout."""
DATA_JSON, TOKENIZER_JSON = "data.json", "tokenizer.json"
SPLITS = ("train", "val", "test")
SIDES = ("customer", "previous", "agent")
"""The texts of a pair, each an array of its own."""
USUAL_NAMES = {
    "customer": ("customer", "message"),
    "agent": ("agent", "reply"),
    "previous": ("previous", "prev_agent"),
    "dialogue": ("dialogue", "dialogue_id"),
    "intent": ("intent", "action"),
}
"""Names of columns that are looked for where none is given."""
REQUIRED = ("customer", "agent")
Duplicates = Literal["pairs", "replies", "keep"]


@dataclass(frozen=True)
class Pair:
    """A customer's message and the agent's reply.

    Attributes:
        dialogue: the conversation that it is from; pairs of one stay in one split.
        previous: the agent's turn before the message, "" at the beginning.
        intent: what the reply does, where that is known.
    """

    dialogue: str
    previous: str
    customer: str
    agent: str
    intent: str | None = None


@dataclass(frozen=True)
class Arrays:
    """The encoded texts of pairs, int32 (N, L) each: words, end, padding."""

    customer: np.ndarray
    previous: np.ndarray
    agent: np.ndarray

    def __len__(self) -> int:
        return len(self.customer)

    def take(self, index: np.ndarray) -> Arrays:
        """The chosen rows, without the columns that are padding in all of them."""
        return Arrays(*(trim(getattr(self, side)[index]) for side in SIDES))


def trim(ids: np.ndarray) -> np.ndarray:
    """Cut off columns that are padding in every row; at least one column stays."""
    return ids[:, : max(1, int((ids != Tokenizer.pad_id).sum(1).max(initial=1)))]


def read_records(source: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and content of each record of a JSON Lines or CSV file; "-" is JSON Lines from stdin.

    Raises:
        UserError: no such file, not UTF-8, a line that is no JSON object, a CSV row that is too long (the line is
            named).
    """
    if str(source) == "-":
        yield from _json_lines(sys.stdin.buffer, "stdin")
        return
    path = Path(source)
    if not path.is_file():
        raise UserError(f"no file {path}; give JSON Lines or CSV with the columns customer and agent")
    with open(path, "rb") as file:
        yield from _csv_rows(file.read(), path) if path.suffix.lower() == ".csv" else _json_lines(file, path)


def _json_lines(lines: Iterable[bytes], source: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            if b"\\ud" in line.lower():
                json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except UnicodeError:
            raise UserError(f"{source} line {number} is not UTF-8; convert the file") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{source} line {number} is not JSON: {error.msg} at character {error.pos + 1}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{source} line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f'{source} line {number} is not a JSON object such as {{"customer": ...}}')
        yield number, record


def _csv_rows(content: bytes, source: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{source} line {line} is not UTF-8; convert the file") from None
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        if None in row or None in row.values():
            raise UserError(f"{source} line {reader.line_num} has another number of fields than the header")
        yield reader.line_num, row


def read_pairs(source: str | Path, columns: Mapping[str, str] | None = None) -> list[Pair]:
    """Pairs of a JSON Lines or CSV file.

    Args:
        columns: the file's names of "customer", "agent", "previous", "dialogue" and "intent"; what is not given is
            looked for under `USUAL_NAMES`. Without a dialogue, each pair is one of its own.

    Raises:
        UserError: as `read_records`; a column that isn't there; a message or reply that is empty or no text.
    """
    given = columns or {}
    if unknown := given.keys() - USUAL_NAMES.keys():
        raise UserError(f'there is no column "{min(unknown)}" to name; known: {", ".join(USUAL_NAMES)}')
    pairs = []
    for number, record in read_records(source):
        where = f"{'stdin' if str(source) == '-' else source} line {number}"
        texts = {column: _text(record, column, given, where) for column in USUAL_NAMES}
        dialogue, intent = texts.pop("dialogue") or f"line {number}", texts.pop("intent") or None
        pairs.append(Pair(dialogue=dialogue, intent=intent, **texts))
    if not pairs:
        raise UserError(f"{source} holds no pairs")
    return pairs


def _text(record: Mapping[str, Any], column: str, given: Mapping[str, str], where: str) -> str:
    """The text of a column, "" where an optional one is absent or null.

    Raises:
        UserError: a required or named column is absent, a required one is empty, or it is no text.
    """
    names = (given[column],) if column in given else USUAL_NAMES[column]
    name = next((name for name in names if name in record), None)
    if name is None:
        if column not in REQUIRED and column not in given:
            return ""
        has = ", ".join(map(str, record)) or "none"
        raise UserError(f'{where} has no column "{names[0]}"; it has: {has}; name yours with --column {column}=NAME')
    value = "" if record[name] is None else record[name]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: {name} is not text")
    text = str(value).strip()
    if not text and column in REQUIRED:
        raise UserError(f"{where}: {name} is empty; remove the line or fill it")
    return text


def split_pairs(
    pairs: Sequence[Pair], *, val: float, test: float, seed: int, duplicates: Duplicates = "pairs"
) -> tuple[dict[str, list[Pair]], dict[str, int]]:
    """Split whole dialogues at random, then remove from val and test what training has seen.

    Args:
        val, test: shares of the dialogues.
        duplicates: "pairs" removes pairs whose message and reply (letter case and spaces aside) are together in
            training, and those of test that are in val; "replies" removes every pair whose reply is; "keep" none.

    Returns:
        The splits by name, and how many pairs each lost.

    Raises:
        UserError: impossible shares, fewer than two different replies, or an empty split.
    """
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise UserError(f"shares must leave something for training: val {val} and test {test} are not possible")
    if len({pair.agent for pair in pairs}) < 2:
        raise UserError("all replies are the same: there is nothing to learn")
    dialogues = sorted({pair.dialogue for pair in pairs})
    order = rng(seed, "split").permutation(len(dialogues))
    bounds = round(len(dialogues) * val), round(len(dialogues) * (val + test))
    part_of = {
        dialogues[number]: "val" if place < bounds[0] else "test" if place < bounds[1] else "train"
        for place, number in enumerate(order)
    }
    splits: dict[str, list[Pair]] = {name: [] for name in SPLITS}
    removed = dict.fromkeys(SPLITS, 0)
    seen: set[tuple[str, ...]] = set()
    for name in SPLITS:
        found = [pair for pair in pairs if part_of[pair.dialogue] == name]
        splits[name] = [pair for pair in found if duplicates == "keep" or _key(pair, duplicates) not in seen]
        removed[name] = len(found) - len(splits[name])
        seen |= {_key(pair, duplicates) for pair in found}
    if empty := [name for name, kept in splits.items() if not kept]:
        raise UserError(
            f"{len(dialogues)} dialogues leave {empty[0]} without pairs (duplicates removed: {removed[empty[0]]}); "
            "bring more, or change --val, --test or --duplicates"
        )
    return splits, removed


def _key(pair: Pair, duplicates: Duplicates) -> tuple[str, ...]:
    texts = (pair.agent,) if duplicates == "replies" else (pair.customer, pair.agent)
    return tuple(" ".join(text.lower().split()) for text in texts)


def encode_pairs(pairs: Sequence[Pair], tokenizer: Tokenizer, length: int) -> Arrays:
    """Encode all texts, `length` ids each."""
    return Arrays(*(np.stack([tokenizer.encode(getattr(pair, side), length) for pair in pairs]) for side in SIDES))


def write_directory(
    out: Path,
    pairs: Sequence[Pair],
    settings: Mapping[str, Any],
    *,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    duplicates: Duplicates = "pairs",
    tokenizer: Literal["word", "bpe"] = "word",
    vocabulary: int = 10_000,
    length: int = 100,
    overwrite: bool = False,
) -> Path:
    """Make the data directory of `train`, whole or not at all.

    Args:
        settings: where the pairs come from, for data.json; "source" is the file.
        vocabulary: ids of the tokenizer, at most.
        length: ids of each text, its end counted; longer texts are cut, with a warning.

    Raises:
        UserError: as `split_pairs`, or `out` is taken, or holds the pairs' file.
    """
    if is_taken(out) and not overwrite:
        raise UserError(f"{out} exists; name another --out, or give --overwrite")
    if is_taken(out):
        if not is_made_by("diversity-finetune", out / DATA_JSON):
            raise UserError(f"{out} is no data directory of diversity-finetune, so --overwrite leaves it alone")
        check_apart(out, settings["source"])
    splits, removed = split_pairs(pairs, val=val, test=test, seed=seed, duplicates=duplicates)
    texts = (getattr(pair, side) for pair in splits["train"] for side in SIDES)
    words = Tokenizer.train(texts, tokenizer, vocabulary)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.new")
    old = new.with_suffix(".old")
    try:
        new.mkdir()
        words.save(new / TOKENIZER_JSON)
        for name, chosen in splits.items():
            with open(new / f"{name}.jsonl", "w", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in chosen)
            _write_arrays(new, name, encode_pairs(chosen, words, length))
        counts = {
            name: {
                "pairs": len(chosen),
                "dialogues": len({pair.dialogue for pair in chosen}),
                "removed_duplicates": removed[name],
            }
            for name, chosen in splits.items()
        }
        options = {"val": val, "test": test, "seed": seed, "duplicates": duplicates, "tokenizer": tokenizer}
        content = {
            "schema": SCHEMA,
            "tool": "diversity-finetune",
            "settings": {**settings, **options, "length": length},
            "vocabulary": words.size,
            "splits": counts,
            "sha256": {path.name: sha256_file(path) for path in sorted(new.iterdir())},
        }
        write_json(new / DATA_JSON, content)
        fsync_directory(new)
        if out.exists():
            os.replace(out, old)
        os.replace(new, out)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not out.exists():
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)
    said = ", ".join(
        f"{name} {count['pairs']:,} ({count['removed_duplicates']:,} duplicates removed)"
        for name, count in counts.items()
    )
    info(f"pairs: {said}; vocabulary {words.size:,}")
    return out


def _write_arrays(directory: Path, name: str, arrays: Arrays) -> None:
    for side in SIDES:
        ids = getattr(arrays, side)
        cut = int((ids[:, -1] != Tokenizer.pad_id).sum())
        if cut:
            warn(f"{cut} of {len(ids)} texts in {name}_{side} fill all {ids.shape[1]} ids and may be cut (--length)")
        np.save(directory / f"{name}_{side}.npy", ids, allow_pickle=False)


def read_arrays(directory: Path, name: str, vocabulary: int) -> Arrays:
    """The arrays of a split.

    Raises:
        UserError: a file is missing or damaged, or holds ids that the tokenizer lacks.
    """
    found = {side: _read_array(directory / f"{name}_{side}.npy", vocabulary) for side in SIDES}
    if len({len(ids) for ids in found.values()}) > 1:
        rows = ", ".join(f"{side} {len(ids)}" for side, ids in found.items())
        raise UserError(f"the {name} arrays in {directory} have different numbers of rows: {rows}; prepare them again")
    return Arrays(**found)


def _read_array(path: Path, vocabulary: int) -> np.ndarray:
    try:
        ids = load_array(path)
    except FileNotFoundError:
        raise UserError(f"no {path}; make it with diversity-finetune prepare") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if ids.ndim != 2 or ids.dtype != np.int32 or not len(ids):
        raise UserError(f"{path} is not an int32 array of rows of ids; prepare it again")
    if ids.min() < 0 or ids.max() >= vocabulary or (ids[:, 0] == Tokenizer.pad_id).any():
        raise UserError(f"{path} was not made with the {TOKENIZER_JSON} beside it; prepare both again")
    return ids
