"""Answers from embeddings of prompts: greedy, batched, with a key-value cache.

The one code path by which everything is judged. It is given a prompt's embeddings and nothing else, so no answer can
enter. Shape legend: B prompts, P tokens that all prompts begin with, S further tokens of the longest, D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapter_stage1.data import Example
from adapter_stage1.language_model import LanguageModel
from adapter_stage1.prompts import PromptFormat, build_prompt, trim_answer
from trainworks.console import Bar, UserError, warn

Embed = Callable[[Tensor], Tensor]
"""From token ids (N,) to the embeddings (N, D) that the model is fed with: rebuilt ones, or the model's own."""


LAST = torch.tensor([-1])
"""The place whose logits are wanted. As a number instead of an index it would give the output layer a slice, for which
PyTorch copies the layer's weights once for each prompt."""
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

    What all prompts begin with, such as worked examples, is read once. The rest is padded on the left, prompts of
    similar length together. Generated tokens are fed back as the model's own embeddings.

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
    num_shared = shared_prefix(prompts)
    prefix = read_prefix(language_model, prompts[0][:num_shared], embed)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        check()
        batch = order[start : start + batch_size]
        found = _answer_batch(
            language_model, [prompts[n][num_shared:] for n in batch], prefix, num_shared, embed, format, max_new_tokens
        )
        answers.update(zip(batch, found, strict=True))
        if bar is not None:
            bar.advance(len(batch))
    return [answers[number] for number in range(len(prompts))]


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all prompts begin with, at least one of each left over."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = min(len(prompt) for prompt in prompts) - 1
    return next((n for n in range(limit) if first[n] != last[n]), limit)


def read_prefix(language_model: LanguageModel, tokens: Sequence[int], embed: Embed) -> Any:
    """The model's cache after the tokens that all prompts begin with; None for none."""
    if not tokens:
        return None
    embeddings = embed(torch.tensor(tokens, device=language_model.device))[None]
    model = language_model.model
    return model(inputs_embeds=embeddings.to(model.dtype), use_cache=True, logits_to_keep=LAST).past_key_values


def _answer_batch(
    language_model: LanguageModel,
    rests: Sequence[Sequence[int]],
    prefix: Any,
    num_shared: int,
    embed: Embed,
    format: PromptFormat,
    max_new_tokens: int,
) -> list[Answer]:
    model, device = language_model.model, language_model.device
    longest = max(len(rest) for rest in rests)
    lengths_B = torch.tensor([len(rest) for rest in rests], device=device)
    embedded = embed(torch.tensor([token for rest in rests for token in rest], device=device)).to(model.dtype)
    embeddings_BSD = embedded.new_zeros(len(rests), longest, embedded.shape[1])
    for row, part in zip(embeddings_BSD, embedded.split(lengths_B.tolist()), strict=True):
        row[longest - len(part) :] = part
    mask, positions = _left_padding(lengths_B, longest, num_shared)
    cache = _repeated(prefix, len(rests))
    said: list[list[int]] = [[] for _ in rests]
    texts = [""] * len(rests)
    open_rows = set(range(len(rests)))
    ends = end_tokens(language_model)
    inputs: dict[str, Tensor] = {"inputs_embeds": embeddings_BSD}
    for _ in range(max_new_tokens):
        output = model(
            **inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=LAST,
        )
        cache, token_B = output.past_key_values, output.logits[:, -1].argmax(-1)
        for row in sorted(open_rows):
            said[row].append(int(token_B[row]))
            if said[row][-1] in ends:
                open_rows.remove(row)
                continue
            texts[row] = language_model.tokenizer.decode(said[row])
            if any(stop in texts[row] for stop in format.stop):
                open_rows.remove(row)
        if not open_rows:
            break
        inputs = {"input_ids": token_B[:, None]}
        mask = torch.cat([mask, mask.new_ones(len(rests), 1)], 1)
        positions = positions[:, -1:] + 1
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
    kept = [
        example for example in examples if len(language_model.tokens(build_prompt(format, shots, example))) <= limit
    ]
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
    num_shared = shared_prefix(prompts)
    prefix = read_prefix(language_model, prompts[0][:num_shared], embed)
    model, device = language_model.model, language_model.device
    total, count = 0.0, 0
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]) + len(answers[number]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rests = [prompts[n][num_shared:] for n in batch]
        lengths = [len(rest) + len(answers[n]) for rest, n in zip(rests, batch, strict=True)]
        longest = max(lengths)
        longest_answer = max(len(answers[n]) for n in batch)
        embeddings_BSD = torch.zeros(len(batch), longest, language_model.table.shape[1], device=device)
        lengths_B = torch.tensor(lengths, device=device)
        target_BA = torch.full((len(batch), longest_answer), -100, device=device)
        for row, (rest, n) in enumerate(zip(rests, batch, strict=True)):
            answer = torch.tensor(answers[n], device=device)
            known = torch.cat([embed(torch.tensor(rest, device=device)), language_model.table[answer]])
            embeddings_BSD[row, longest - len(known) :] = known
            target_BA[row, longest_answer - len(answer) :] = answer
        mask, positions = _left_padding(lengths_B, longest, num_shared)
        logits = model(
            inputs_embeds=embeddings_BSD.to(model.dtype),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=_repeated(prefix, len(batch)),
            use_cache=True,
            logits_to_keep=torch.arange(-longest_answer - 1, 0),
        ).logits[:, :-1]
        total += F.cross_entropy(logits.float().flatten(0, 1), target_BA.flatten(), reduction="sum").item()
        count += sum(len(answers[n]) for n in batch)
    return math.exp(min(total / count, MOST_NATS))


def _left_padding(lengths_B: Tensor, longest: int, num_shared: int) -> tuple[Tensor, Tensor]:
    """Attention mask (B, P + S) and positions (B, S) of sequences padded on the left, after P shared tokens."""
    place_S = torch.arange(longest, device=lengths_B.device)
    padding_B1 = longest - lengths_B[:, None]
    is_token_BS = place_S >= padding_B1
    mask = torch.cat([is_token_BS.new_ones(len(lengths_B), num_shared), is_token_BS], 1).long()
    return mask, (num_shared + place_S - padding_B1).clamp(min=0)


def _repeated(prefix: Any, times: int) -> Any:
    """A copy of the prompts' common cache for each of a batch."""
    cache = copy.deepcopy(prefix)
    if cache is not None:
        cache.batch_repeat_interleave(times)
    return cache
