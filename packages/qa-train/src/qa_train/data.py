"""The data directory that `train` reads: stratified splits of examples, and data.json, which tells of them."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qa_train.examples import Example, Metadata, read_examples, read_recorded, story_hash, write_examples
from trainworks.console import UserError
from trainworks.files import fsync_directory, sha256_file, write_json
from trainworks.run import check_apart, is_made_by
from trainworks.seeding import rng

SCHEMA = 1
"""Version of data.json's layout."""
DATA_JSON = "data.json"


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
    if check_free(out, overwrite=overwrite):
        check_apart(out, source)
    examples = read_examples(source)
    settings = {"source": "file", "file": Path(source).name, "valid": valid, "test": test, "seed": seed}
    return write_directory(out, split(examples, valid=valid, test=test, seed=seed), settings, overwrite=overwrite)


def split_file(directory: Path, name: str) -> Path:
    """The file of a split; UserError if it isn't there."""
    file = directory / f"{name}.jsonl"
    if not file.is_file():
        raise UserError(f"no {name}.jsonl in {directory}; make one with qa-train make-stories or qa-train prepare")
    return file


def read_splits(directory: Path) -> tuple[dict[str, list[Example]], list[dict[str, Any]]]:
    """What training reads, "train" and "valid", and what is recorded of their two files (see `read_recorded`).

    Raises:
        UserError: a file is missing, as `read_examples`, or as `check_disjoint`.
    """
    splits, records = {}, []
    for file in [split_file(directory, name) for name in ("train", "valid")]:
        splits[file.stem], record = read_recorded(file)
        records.append(record)
    check_disjoint(splits)
    return splits, records


def recorded_answers(record: Mapping[str, Any]) -> Counter[str] | None:
    """How often each answer occurs in a split's file that a run has recorded (see `read_recorded`).

    The data.json beside it says so. Where there is none, or it is of another file, the file itself is read, if it is
    still what was recorded; None if not.
    """
    file = Path(record["path"])
    try:
        described = json.loads((file.parent / DATA_JSON).read_text(encoding="utf-8"))["splits"][file.stem]
        if described["sha256"] == record["sha256"]:
            answers: Counter[str] = Counter()
            for cell in described["cells"].values():
                answers.update(cell["answers"])
            return answers
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # no data.json of ours: directories may be made by hand
    if not file.is_file() or sha256_file(file) != record["sha256"]:
        return None
    return Counter(example.answer for example in read_examples(file))


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
        UserError: the name is taken, and `overwrite` is False or what is there is no data directory of qa-train.
    """
    directory = Path(directory)
    if not os.path.lexists(directory) or (directory.is_dir() and not any(directory.iterdir())):
        return False
    if not overwrite:
        raise UserError(f"{directory} exists; name another --out, or give --overwrite")
    if directory.is_symlink() or not is_made_by("qa-train", directory / DATA_JSON):
        raise UserError(f"{directory} is no data directory of qa-train, so --overwrite leaves it alone")
    return True


def write_directory(
    out: str | Path, splits: Mapping[str, Sequence[Example]], settings: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Publish a data directory, whole or not at all: a file for each split, and data.json.

    data.json holds the tool's name, the settings and, for each split, its file's SHA-256, its examples and, for each
    cell, its answers and hops.

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
        write_json(new / DATA_JSON, {"schema": SCHEMA, "tool": "qa-train", "settings": settings, "splits": described})
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
