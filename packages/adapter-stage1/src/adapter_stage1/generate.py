"""Answers from embeddings of prompts: greedy, batched, with a key-value cache.

The one code path by which everything is judged. It is given a prompt's embeddings and nothing else, so no answer can
enter. Shape legend: A tokens of an answer, V vocabulary rows, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from adapter_stage1.data import Example
from adapter_stage1.language_model import LanguageModel
from adapter_stage1.prompts import PromptFormat, build_prompt, trim_answer
from adapter_stage1.reading import Embed, Reading, alike, read_prefix, read_prompts, say
from trainworks.console import Bar, UserError, warn

MOST_NATS = 30.0
"""A mean loss above this is shown as this: its exponential says nothing more."""


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: up to the first stop string.
        num_tokens: tokens generated, with those of the stop string.
    """

    text: str
    num_tokens: int


@torch.no_grad()
def answer_prompts(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    embed: Embed,
    format: PromptFormat,
    *,
    max_new_tokens: int = 20,
    batch_size: int = 16,
    check: Callable[[], None] = lambda: None,
    bar: Bar | None = None,
) -> list[Answer]:
    """Greedy answers to prompts, each from the embeddings of its own tokens alone.

    What all prompts begin with, such as worked examples, is read once, and in each batch what several of its prompts
    share, such as a passage. Generated tokens are fed back as the model's own embeddings.

    Args:
        prompts: token ids, at least one each.
        embed: the embeddings to feed for ids.
        format: whose stop strings end an answer.
        check: called before every batch; raises to stop.

    Raises:
        UserError: a prompt that leaves the answer no room in the model's window.
    """
    too_long = next(
        (n for n, prompt in enumerate(prompts) if len(prompt) + max_new_tokens > language_model.window), None
    )
    if too_long is not None:
        raise UserError(
            f"prompt {too_long + 1} has {len(prompts[too_long])} tokens, and with {max_new_tokens} of an answer the "
            f"model's window is {language_model.window}; leave it out, or take fewer shots"
        )
    prefix = read_prefix(language_model, prompts, embed)
    order = in_batches(prompts, prefix)
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        check()
        batch = order[start : start + batch_size]
        found = _answer_batch(language_model, [prompts[n] for n in batch], prefix, embed, format, max_new_tokens)
        answers.update(zip(batch, found, strict=True))
        if bar is not None:
            bar.advance(len(batch))
    return [answers[number] for number in range(len(prompts))]


def _answer_batch(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    prefix: Reading,
    embed: Embed,
    format: PromptFormat,
    max_new_tokens: int,
) -> list[Answer]:
    ends = end_tokens(language_model)
    said: list[list[int]] = [[] for _ in prompts]
    texts = [""] * len(prompts)
    going = list(range(len(prompts)))  # which prompt each row of the reading belongs to
    done: set[int] = set()
    reading, logits = read_prompts(language_model, prefix, prompts, embed, room=max_new_tokens)
    for left in range(max_new_tokens - 1, -1, -1):
        tokens = logits[:, -1].argmax(-1).tolist()
        for number, token in zip(going, tokens, strict=True):
            if number in done:
                continue
            said[number].append(token)
            if token in ends:
                done.add(number)
                continue
            texts[number] = language_model.tokenizer.decode(said[number])
            if any(stop in texts[number] for stop in format.stop):
                done.add(number)
        if len(done) == len(prompts) or not left:
            break
        rows = [row for row, number in enumerate(going) if number not in done]
        if len(rows) <= len(going) / 2:  # less often, and copying the cache would cost more than it saves
            reading = reading.take(rows, left)
            going, tokens = [going[row] for row in rows], [tokens[row] for row in rows]
        reading, logits = say(language_model, reading, tokens)
    return [Answer(trim_answer(text, format), len(tokens)) for text, tokens in zip(texts, said, strict=True)]


def end_tokens(language_model: LanguageModel) -> set[int]:
    """Tokens by which the model says that it has finished."""
    known = [language_model.tokenizer.eos_token_id, language_model.model.generation_config.eos_token_id]
    return {token for end in known if end is not None for token in (end if isinstance(end, list) else [end])}


def fits_window(
    language_model: LanguageModel,
    format: PromptFormat,
    shots: Sequence[Example],
    examples: Sequence[Example],
    max_new_tokens: int,
) -> list[Example]:
    """The examples whose prompts leave an answer room in the model's window; the others are counted and said.

    Raises:
        UserError: none fits.
    """
    limit = language_model.window - max_new_tokens

    def fits(example: Example) -> bool:
        text = build_prompt(format, shots, example)
        # A token stands for a byte or more, of text that a tokenizer may have made longer. So most prompts need no
        # counting, which would take longer for a whole file than answering a few of its questions.
        return len(text.encode()) < limit / 2 or len(language_model.tokens(text)) <= limit

    kept = [example for example in examples if fits(example)]
    if not kept:
        raise UserError(f"no prompt fits into the model's window of {language_model.window} tokens; take fewer shots")
    if len(kept) < len(examples):
        warn(f"{len(examples) - len(kept)} questions don't fit into the model's window and are left out")
    return kept


@torch.no_grad()
def answer_perplexity(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    embed: Embed,
    batch_size: int = 16,
) -> float:
    """Perplexity of given answers after prompts: exp of the mean loss (nats) of all their tokens.

    The answers stand in the input here, so this says how probable they are and not what the model would say.
    """
    prefix = read_prefix(language_model, prompts, embed)
    table_VD = language_model.table
    total, order = 0.0, in_batches(prompts, prefix)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        golds = [torch.tensor(answers[n], device=table_VD.device) for n in batch]
        longest = max(map(len, golds))
        _, logits = read_prompts(
            language_model, prefix, [prompts[n] for n in batch], embed, [table_VD[gold] for gold in golds], longest + 1
        )
        for gold, logits_AV in zip(golds, logits[:, :-1], strict=True):
            total += F.cross_entropy(logits_AV[longest - len(gold) :].float(), gold, reduction="sum").item()
    return math.exp(min(total / sum(map(len, answers)), MOST_NATS))


def in_batches(prompts: Sequence[Sequence[int]], prefix: Reading) -> list[int]:
    """The prompts' numbers in the order to read them in: those that share most together, then those of like length."""
    return [number for group in alike(prompts, int(prefix.lengths_B)) for number in group]
