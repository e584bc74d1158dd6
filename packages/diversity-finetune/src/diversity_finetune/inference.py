"""A finished model at work: in Python, and on JSON Lines."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diversity_finetune.data import TOKENIZER_JSON, read_records
from diversity_finetune.decoding import Decoding, Message, Reply
from diversity_finetune.generate import READ_TOKENS, Answers, Decoder, generate_stream
from diversity_finetune.quality import reply_metrics
from diversity_finetune.run import load_weights
from trainworks.checkpoint import Checkpoints
from trainworks.console import UserError, info, warn


class InferenceAPI:
    """Replies from Python. Each call's draws begin anew, so equal calls give equal replies.

    Args:
        model_path: a run directory, or a weights file inside one.
        tokenizer_path: the run's tokenizer.json; None takes it from the run directory.
        decoding: how replies are decoded.
        device, threads: as `trainworks.keras`.

    Raises:
        UserError: no such model, a damaged file, a tokenizer that the weights weren't trained with.
    """

    def __init__(
        self,
        model_path: str | Path,
        tokenizer_path: str | Path | None = None,
        decoding: Decoding = Decoding(),  # noqa: B008  it is frozen
        device: str = "auto",
        threads: int | None = None,
    ):
        weights = Path(model_path)
        if weights.is_dir():
            folder, _ = Checkpoints(weights / "checkpoints").load("best")
            weights, tokenizer_path = next(folder.glob("*.weights.h5")), tokenizer_path or weights / TOKENIZER_JSON
        if tokenizer_path is None:
            raise UserError(f"{weights} is no run directory; weights need the tokenizer_path as well")
        trained = load_weights(weights, tokenizer_path, device, threads)
        self._decoder = Decoder(trained)
        self._decoding = decoding

    def generate(self, text: str, previous: str = "") -> str:
        """The reply to one message; `previous` is the agent's turn before it."""
        [reply] = self._replies([Message(text, previous)])
        return reply.text

    def generate_batch(
        self, messages: Sequence[str], return_quality: bool = False, verbose: bool = False
    ) -> list[dict[str, Any]]:
        """The replies, in order: each {"message", "response"} and, asked for quality, "quality_metrics".

        Args:
            return_quality: add what `quality.reply_metrics` says of each reply.
            verbose: tell each pair on stderr.
        """
        replies = self._replies([Message(text) for text in messages])
        found: list[dict[str, Any]] = [
            {"message": text, "response": reply.text} for text, reply in zip(messages, replies, strict=True)
        ]
        if return_quality:
            for entry, metrics in zip(found, reply_metrics(replies), strict=True):
                entry["quality_metrics"] = metrics
        if verbose:
            for entry in found:
                info(f"{entry['message']!r} -> {entry['response']!r}")
        return found

    def _replies(self, messages: Sequence[Message]) -> list[Reply]:
        if any(not message.customer.strip() for message in messages):
            raise UserError("a message is empty; give it some words")
        return list(generate_stream(self._decoder, messages, self._decoding))


def generate_lines(
    trained: Answers, source: str | Path, decoding: Decoding, return_quality: bool = False
) -> Iterator[str]:
    """One JSON object a message, in the order of the input and as soon as its batch is done: id, response and, asked
    for quality, quality_metrics.

    Args:
        source: JSON Lines or CSV with "message" (or "customer"), perhaps "previous" (or "prev_agent") and "id"; "-" is
            stdin. Without an id, messages are numbered from 0.

    Raises:
        UserError: as `data.read_records`; a line without a message or with an empty one.
    """
    waiting: deque[Any] = deque()
    count, cut = 0, list[int]()

    def messages() -> Iterator[Message]:
        nonlocal count
        for number, record in read_records(source):
            where = f"{'stdin' if str(source) == '-' else source} line {number}"
            message = Message(_text(record, ("message", "customer"), where), _text(record, _PREVIOUS, where, ""))
            if len(trained.tokenizer.tokenize(message.customer)) >= READ_TOKENS:
                cut.append(number)
            waiting.append(record.get("id", count))
            count += 1
            yield message

    for reply in generate_stream(Decoder(trained), messages(), decoding):
        found: dict[str, Any] = {"id": waiting.popleft(), "response": reply.text}
        if return_quality:
            [found["quality_metrics"]] = reply_metrics([reply])
        yield json.dumps(found, ensure_ascii=False)
    if not count:
        raise UserError(f"{'stdin' if str(source) == '-' else source} holds no messages")
    if cut:
        warn(f"{len(cut)} of {count} messages were cut after {READ_TOKENS - 1} tokens; the first is on line {cut[0]}")


_PREVIOUS = ("previous", "prev_agent")


def _text(record: dict[str, Any], names: Sequence[str], where: str, default: str | None = None) -> str:
    name = next((name for name in names if name in record), None)
    if name is None:
        if default is not None:
            return default
        raise UserError(f'{where} has no "{names[0]}"; it has: {", ".join(map(str, record)) or "nothing"}')
    if not isinstance(record[name], str):
        raise UserError(f"{where}: {name} is not text")
    if default is None and not record[name].strip():
        raise UserError(f"{where}: {name} is empty; remove the line or fill it")
    return record[name]
