"""Reading many prompts at once, and what several begin with once.

Prompts share their worked examples, and those about one passage share that too. An embedding is a function of its token
alone, rebuilt or not, so what two prompts begin with is the same to the model, and one cache serves both. Shape legend:
B texts, T places of the cache, S places of the longest new part, D width, V vocabulary rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from adapter_stage1.language_model import LanguageModel

Embed = Callable[[Tensor], Tensor]
"""From token ids (N,) to the embeddings (N, D) that the model is fed with: rebuilt ones, or the model's own."""


@dataclass(frozen=True)
class Reading:
    """What the model has read of B texts.

    Attributes:
        cache: its keys and values; None if it has read nothing.
        mask_BT: which places of the cache are tokens; the others are padding.
        lengths_B: how many tokens each text has, which is the position of its next one.
    """

    cache: Any
    mask_BT: Tensor
    lengths_B: Tensor

    @classmethod
    def nothing(cls, num_texts: int, device: torch.device) -> Reading:
        empty = torch.zeros(num_texts, 0, dtype=torch.int64, device=device)
        return cls(None, empty, empty.sum(1))

    def take(self, texts: Sequence[int], room: int) -> Reading:
        """These texts, each to be gone on with by itself; one may be taken more than once.

        Args:
            room: places to keep free for what is still to come.
        """
        index = torch.tensor(texts, device=self.lengths_B.device)
        cache = copy.copy(self.cache)
        if cache is not None:
            cache.layers = [_taken(layer, index, room) for layer in cache.layers]
        return Reading(cache, self.mask_BT[index], self.lengths_B[index])


def _taken(layer: Any, index: Tensor, room: int) -> Any:
    if type(layer) in (DynamicLayer, Room):
        return Room(layer, index, room)
    taken = copy.copy(layer)  # such as one with a sliding window
    taken.batch_select_indices(index)  # makes new tensors, so that the layer itself stays as it is
    return taken


class Room(DynamicLayer):
    """A layer's keys and values (B, H, T, W) with free places behind them, so that a token more is written and not all
    that came before copied."""

    def __init__(self, layer: DynamicLayer, index: Tensor, room: int):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.buffers = [self._with_room(old, index, room) for old in (layer.keys, layer.values)]
        self._show(layer.keys.shape[2])

    @staticmethod
    def _with_room(old_BHTW: Tensor, index: Tensor, room: int) -> Tensor:
        _, num_heads, length, width = old_BHTW.shape
        buffer = old_BHTW.new_empty(len(index), num_heads, length + room, width)
        buffer[:, :, :length] = old_BHTW[index]
        return buffer

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self._show(end)
        return self.keys, self.values


def read(
    language_model: LanguageModel, reading: Reading, parts: Sequence[Tensor], num_logits: int = 1
) -> tuple[Reading, Tensor]:
    """Go on with each text; the reading's cache is used up.

    Args:
        parts: embeddings (S, D) of what comes next in each text; shorter ones are padded on the left.
        num_logits: of how many last places logits are wanted.

    Returns:
        The longer reading, and the logits (B, num_logits, V).
    """
    model, device = language_model.model, language_model.device
    new_B = torch.tensor([len(part) for part in parts], device=device)
    longest = max(map(len, parts))
    embeddings_BSD = torch.stack([F.pad(part, (0, 0, longest - len(part), 0)) for part in parts]).to(model.dtype)
    place_BS = torch.arange(longest, device=device) - (longest - new_B)[:, None]
    mask_BT = torch.cat([reading.mask_BT, (place_BS >= 0).long()], 1)
    output = model(
        inputs_embeds=embeddings_BSD,
        attention_mask=mask_BT,
        position_ids=(reading.lengths_B[:, None] + place_BS).clamp(min=0),
        past_key_values=reading.cache,
        use_cache=True,
        # As a number instead of an index it would give the output layer a slice, for which PyTorch copies the layer's
        # weights once for each text.
        logits_to_keep=torch.arange(-num_logits, 0),
    )
    return Reading(output.past_key_values, mask_BT, reading.lengths_B + new_B), output.logits


def say(language_model: LanguageModel, reading: Reading, tokens: Sequence[int]) -> tuple[Reading, Tensor]:
    """Go on with each text by one of the model's own tokens, as `read` does."""
    return read(language_model, reading, list(language_model.table[torch.tensor(tokens)][:, None]))


def read_prompts(
    language_model: LanguageModel,
    prefix: Reading,
    prompts: Sequence[Sequence[int]],
    embed: Embed,
    endings: Sequence[Tensor] | None = None,
    num_logits: int = 1,
    room: int = 0,
) -> tuple[Reading, Tensor]:
    """Read B prompts, and what several of them share only once.

    Args:
        prefix: the reading of what all of them begin with, one text.
        embed: the embeddings to feed for ids.
        endings: embeddings (S, D) to read after each prompt.
        num_logits: of how many last places logits are wanted.
        room: places to keep free for what is still to come.

    Returns:
        The reading of all, and the logits (B, num_logits, V).
    """
    num_known = int(prefix.lengths_B)

    def embedded(number: int, start: int, end: int | None = None) -> Tensor:
        return embed(torch.tensor(prompts[number][start:end], device=language_model.device))

    groups = alike(prompts, num_known)
    starts, reading, sources = [num_known] * len(prompts), prefix, [0] * len(prompts)
    if len(groups) < len(prompts):
        heads = [shared_prefix([prompts[number] for number in group]) for group in groups]
        parts = [embedded(group[0], num_known, head) for group, head in zip(groups, heads, strict=True)]
        reading, _ = read(language_model, prefix.take([0] * len(groups), max(map(len, parts))), parts)
        group_of = {number: place for place, group in enumerate(groups) for number in group}
        sources = [group_of[number] for number in range(len(prompts))]
        starts = [heads[source] for source in sources]
    rests = [embedded(number, start) for number, start in enumerate(starts)]
    if endings is not None:
        rests = [torch.cat([rest, ending]) for rest, ending in zip(rests, endings, strict=True)]
    return read(language_model, reading.take(sources, max(map(len, rests)) + room), rests, num_logits)


def read_prefix(language_model: LanguageModel, prompts: Sequence[Sequence[int]], embed: Embed) -> Reading:
    """The reading, one text, of what all prompts begin with."""
    shared = prompts[0][: shared_prefix(prompts)]
    nothing = Reading.nothing(1, language_model.device)
    if not shared:
        return nothing
    return read(language_model, nothing, [embed(torch.tensor(shared, device=language_model.device))])[0]


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all prompts begin with, at least one of each left over."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = min(map(len, prompts)) - 1
    return next((place for place in range(limit) if first[place] != last[place]), limit)


def alike(prompts: Sequence[Sequence[int]], num_known: int) -> list[list[int]]:
    """Numbers of the prompts in groups, each of prompts that share at least half of what comes after `num_known` tokens
    with the group's first; groups of shorter prompts first."""
    groups: list[list[int]] = []
    for number in sorted(range(len(prompts)), key=lambda number: list(prompts[number])):
        pair = [prompts[groups[-1][0]], prompts[number]] if groups else []
        if pair and shared_prefix(pair) - num_known >= (len(prompts[number]) - num_known) / 2:
            groups[-1].append(number)
        else:
            groups.append([number])
    return sorted(groups, key=lambda group: len(prompts[group[0]]))
