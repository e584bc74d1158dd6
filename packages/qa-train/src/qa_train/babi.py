"""The yes/no tasks of bAbI (Weston et al. 2015, arXiv 1502.05698) as a data directory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from qa_train.data import check_free, write_directory
from qa_train.examples import MAX_SENTENCES, Example, one_line, printable, story_hash
from trainworks.console import UserError, info
from trainworks.run import check_apart

_LINE = re.compile(r"([0-9]{1,9}) (\S.*)")


def prepare_babi(task: str, directory: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write the data directory of a task.

    Args:
        task: such as "qa6"; the directory holds qa6_train.txt, qa6_valid.txt and qa6_test.txt.

    The official splits share a few short stories by chance. Such a story stays in the test set, or else in the
    validation set; how many questions the others lose is said.

    Raises:
        UserError: the directory is taken, a file is missing, or what is wrong in it, with the line.
    """
    if check_free(out, overwrite=overwrite):
        check_apart(out, directory)
    splits = {name: read_babi(Path(directory) / f"{task}_{name}.txt") for name in ("test", "valid", "train")}
    dropped = {}
    held_out: set[bytes] = set()
    for name, examples in splits.items():
        hashes = [story_hash(example.story) for example in examples]
        splits[name] = [example for example, digest in zip(examples, hashes, strict=True) if digest not in held_out]
        dropped[name] = len(examples) - len(splits[name])
        held_out.update(hashes)
    for name in ("train", "valid"):
        if dropped[name]:
            info(
                f"{task}: {dropped[name]} of {len(splits[name]) + dropped[name]:,} questions left out of {name}, "
                "because their stories are held out elsewhere"
            )
    settings = {"source": "babi", "task": task, "left_out": {name: dropped[name] for name in ("train", "valid")}}
    in_order = {name: splits[name] for name in ("train", "valid", "test")}
    return write_directory(out, in_order, settings, overwrite=overwrite)


def read_babi(path: str | Path) -> list[Example]:
    """The questions of one file, each about the sentences of its story so far.

    The category is the file's task, such as "qa6"; num_actors counts the different first words of the sentences.

    Raises:
        UserError: no such file, or what is wrong in it, with the line: it is not in the tasks' format, or an answer is
            neither yes nor no.
    """
    path = Path(path)
    task, _, split = path.stem.partition("_")
    examples = []
    for number, story, question, answer in _questions(path):
        if answer not in ("yes", "no"):
            raise UserError(
                f'{path}, line {number}: the answer is "{printable(answer)}"; only tasks whose every answer is '
                "yes or no can be read, such as qa6, qa17 and qa18"
            )
        examples.append(
            Example(
                id=f"{task}-{split}-{number}",
                story=story,
                question=question,
                answer=answer,
                category=task,
                num_actors=len({sentence.split()[0] for sentence in story}),
                num_sentences=len(story),
                hops=None,
            )
        )
    if not examples:
        raise UserError(f"{path} holds no questions")
    return examples


def _questions(path: Path) -> Iterator[tuple[int, tuple[str, ...], str, str]]:
    """Line number, story so far, question and answer."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"no such file: {path}; the folders en-valid and en-valid-10k of the bAbI tasks archive (v1.2) hold it"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; a file of the bAbI tasks was wanted") from None
    story: list[str] = []
    last = 0
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line.rstrip())
        place = int(match[1]) if match else 0
        if match is None or place not in (1, last + 1):
            raise UserError(
                f'{path}, line {number}: "{printable(line[:40])}" is not of the bAbI tasks; it reads "{last + 1} ..."'
            )
        if place == 1:
            story = []
        last = place
        question, *rest = match[2].split("\t")
        if not rest:
            story.append(one_line(question, "sentence", f"{path}, line {number}"))
            if len(story) > MAX_SENTENCES:
                raise UserError(f"{path}, line {number}: the story has more than {MAX_SENTENCES:,} sentences")
        elif not story:
            raise UserError(f"{path}, line {number}: a question before the story's first sentence")
        else:
            asked = one_line(question, "question", f"{path}, line {number}")
            yield number, tuple(story), asked, rest[0].strip().lower()
