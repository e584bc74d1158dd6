"""How questions are put to a language model."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapter_stage1.data import Example
from trainworks.console import UserError

_SHOT_FIELDS = frozenset({"context", "question", "answer"})


@dataclass(frozen=True)
class PromptFormat:
    """How questions are put to the model: header, then a `shot` for each worked example, then the `query`.

    Attributes:
        header: text before everything else.
        shot: template with {context}, {question} and {answer}.
        query: template with {context} and {question}; it ends where the answer begins.
        stop: strings that end an answer.

    Raises:
        UserError: a template that has other fields or lacks one, or no stop string.
    """

    name: str
    header: str
    shot: str
    query: str
    stop: tuple[str, ...]

    def __post_init__(self) -> None:
        for what, template, wanted in (
            ("shot", self.shot, _SHOT_FIELDS),
            ("query", self.query, _SHOT_FIELDS - {"answer"}),
        ):
            try:
                fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
            except ValueError as error:
                raise UserError(f'prompt format "{self.name}": {what}: {error}; write {{{{ for a brace') from None
            if fields != wanted:
                raise UserError(
                    f'prompt format "{self.name}": {what} has the fields {", ".join(sorted(fields)) or "none"}; '
                    f"it needs {', '.join(sorted(wanted))} and no other"
                )
        if not self.stop or "" in self.stop:
            raise UserError(f'prompt format "{self.name}": it needs stop strings, none of them empty, to end an answer')


def _plain(
    name: str, query: str, *, header: str = "", gap: str = " ", end: str = "\n\n", stop: tuple[str, ...] = ("\n",)
) -> PromptFormat:
    """A format whose shots are its query with an answer behind it."""
    return PromptFormat(name, header, f"{query}{gap}{{answer}}{end}", query, stop)


FORMATS = {
    made.name: made
    for made in (
        _plain("squad", "Context: {context}\nQuestion: {question}\nAnswer:"),
        _plain(
            "instructed",
            "Context: {context}\nQuestion: {question}\nAnswer:",
            header="Answer each question with a few words copied from its context.\n\n",
        ),
        _plain("terse", "{context}\nQ: {question}\nA:"),
        _plain("question-first", "Question: {question}\nContext: {context}\nAnswer:"),
        _plain("passage", "Passage:\n{context}\n\nQuestion: {question}\n\nShort answer:", end="\n\n\n"),
        _plain(
            "quoted",
            'Text: {context}\nQuestion: {question}\nThe answer, word for word from the text: "',
            gap="",
            end='"\n\n',
            stop=('"', "\n"),
        ),
        PromptFormat(
            "chatml",
            header="<|im_start|>system\nAnswer each question with a few words copied from its context.<|im_end|>\n",
            shot="<|im_start|>user\n{context}\n\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n",
            query="<|im_start|>user\n{context}\n\n{question}<|im_end|>\n<|im_start|>assistant\n",
            stop=("<|im_end|>", "\n"),
        ),
    )
}
"""Formats by name. "chatml" is for models taught in it, such as SmolLM2-Instruct and Qwen-Instruct."""


def build_prompt(format: PromptFormat, shots: Sequence[Example], example: Example) -> str:
    """The text after which the model writes its answer. The example's own answers are never looked at.

    Args:
        shots: examples whose first answer is shown; one with the example's own context and question is left out.
    """
    shown = [shot for shot in shots if (shot.context, shot.question) != (example.context, example.question)]
    worked = (
        # On one line: a stop string inside would teach to go on after it.
        format.shot.format(context=shot.context, question=shot.question, answer=" ".join(shot.answers[0].split()))
        for shot in shown
    )
    return format.header + "".join(worked) + format.query.format(context=example.context, question=example.question)


def trim_answer(text: str, format: PromptFormat) -> str:
    """A generated answer up to its first stop string, without white space around it.

    So generation may end as soon as a stop string has come: what follows changes nothing.
    """
    end = min((place for stop in format.stop if (place := text.find(stop)) >= 0), default=len(text))
    return text[:end].strip()


def read_format(name: str) -> PromptFormat:
    """A built-in format by its name, or one from a JSON file with header, shot, query and stop.

    Raises:
        UserError: neither, or a file that is not such a format.
    """
    if name in FORMATS:
        return FORMATS[name]
    path = Path(name)
    if not path.is_file():
        raise UserError(f'no prompt format "{name}": name {", ".join(FORMATS)}, or a JSON file')
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return PromptFormat(path.stem, record["header"], record["shot"], record["query"], tuple(record["stop"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{name} is not a prompt format (JSON with header, shot, query, stop): {error!r}") from None
