"""What goes into decoding and what comes out: settings, messages and replies."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from trainworks.config import Recipe


class Decoding(Recipe):
    """Applied in this order, as in transformers: repetition penalty, no-repeat n-gram, temperature, top-k, top-p,
    min-p. Two runs with equal settings give equal replies, however they are batched."""

    temperature: float = Field(1.0, ge=0, le=10)
    """Divides the logits; more is more varied, 0 takes the likeliest word and the latents' means (greedy)."""
    top_k: int = Field(50, ge=0)
    """Words to draw from at most; 0 is all, which is slower."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Words are taken by falling probability until they make up this share; the one that crosses it stays (Holtzman
    et al. 2020)."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Words less likely than this share of the likeliest are left out (Nguyen et al. 2024)."""
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    """Logits of the last 20 generated words are divided by this where positive and multiplied where negative (Keskar et
    al. 2019, CTRL, section 4.1); above 1 repeats less."""
    no_repeat_ngram: int = Field(3, ge=0, le=8)
    """Word sequences of this length occur once in a reply; 0 allows repeats."""
    best_of: int = Field(1, ge=1, le=64)
    """Candidates drawn for each reply; the one that agrees best with the others is given (`generate.rerank`)."""
    max_tokens: int = Field(60, ge=1, le=1000)
    """Tokens of a reply, its end counted; a longer one is cut."""
    seed: int = Field(0, ge=0)
    """Of all draws; a message's draws follow from it and from the message's place in the input."""
    batch_size: int = Field(64, ge=1)
    """Replies decoded at once; changes the speed, not the replies."""


GREEDY = Decoding(temperature=0.0, top_k=1, no_repeat_ngram=0)
"""The likeliest word at each step, with nothing forbidden."""


@dataclass(frozen=True)
class Message:
    """What is to be replied to.

    Attributes:
        customer: the customer's message.
        previous: the agent's turn before it, "" at the beginning.
    """

    customer: str
    previous: str = ""


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: without special words.
        tokens: number of tokens, the end counted.
        log_probability: mean over the tokens, in nats, under the model itself (temperature 1, nothing filtered).
        ended: whether the model ended it; else it was cut at the longest length.
    """

    text: str
    tokens: int
    log_probability: float
    ended: bool
