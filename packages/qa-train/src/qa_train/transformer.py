"""The Transformers of `qa-train`, in PyTorch.

Shape legend: B stories, S sentences, W words of a sentence, Q words of the question, N = S + 2 readers (sentences and
the question's two), R roles, D width, H heads, T words of a whole input.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qa_train.config import NetworkConfig

NUM_ASKED = 2
"""Words of a question that are looked up in the story: two actors, or an actor and a place."""
NUM_DIRECTIONS = 4
NEVER = -1e4
WORD_NORM, MATCH_BIAS = 4.0, -2.0
"""At first, equal words match with odds e^14 to 1, and sentences that are not read apart yet now and then."""


class RoleReader(nn.Module):
    """Reads a sentence as a few roles: each is an attention over the words, by what they are and where they stand.

    The learned queries settle on such things as subject, verb and object.
    """

    def __init__(self, num_roles: int, config: NetworkConfig):
        super().__init__()
        self.from_start = nn.Parameter(torch.randn(config.max_words, config.dim) * 0.5)
        self.from_end = nn.Parameter(torch.randn(config.max_words, config.dim) * 0.5)
        self.query = nn.Parameter(torch.randn(num_roles, config.dim) * 0.03)
        self.key = nn.Linear(config.dim, config.dim)

    def forward(self, words_D: Tensor, is_word: Tensor) -> Tensor:
        """Vectors of words (..., W, D) and which of them are words (..., W) to one vector a role, (..., R, D)."""
        W = words_D.shape[-2]
        left = (is_word.sum(-1, keepdim=True) - 1 - torch.arange(W, device=words_D.device)).clamp(min=0)
        key = self.key(words_D + self.from_start[:W] + self.from_end[left])
        score = self.query @ key.transpose(-1, -2)
        # A padded sentence has no word; its weights are even and nobody reads it.
        return score.masked_fill(~is_word.unsqueeze(-2), NEVER).softmax(-1) @ words_D


def nearest_match(score: Tensor, allowed: Tensor) -> Tensor:
    """Attention to the nearest earlier sentence that matches.

    Stick-breaking (Csordas et al. 2022, "The Neural Data Router", equation 7, geometric attention): with match
    probabilities p = sigmoid(score), sentence j gets p_j times the probability that none between it and the reader
    matches. Weights don't shrink as non-matching sentences are added, which softmax weights do.

    Args:
        score: (..., N, S) logits, keys in story order.
        allowed: the same shape or broadcastable, the keys before each reader.

    Returns:
        (..., N, S) weights, whose sum is at most 1.
    """
    score = score.masked_fill(~allowed, NEVER)
    miss = F.logsigmoid(-score)
    nearer = miss.flip(-1).cumsum(-1).flip(-1) - miss
    return (F.logsigmoid(score) + nearer).exp()


def agreements(first_BD: Tensor, second_BD: Tensor, question_BD: Tensor) -> Tensor:
    """Three vectors and their products two by two, (B, 6D): whether two agree is a sum over a product."""
    three = (first_BD, second_BD, question_BD)
    return torch.cat([*three, first_BD * second_BD, first_BD * question_BD, second_BD * question_BD], 1)


class PointerTransformer(nn.Module):
    """A Transformer encoder over sentences, with one shared layer, nearest-match attention and copy gates.

    A sentence attends to the nearest earlier one that is about the word it refers to: both words are learned readings
    of the sentence, and they match by the product of their embeddings. Those begin orthogonal: two names that happen
    to lie near each other would be taken for one another in large casts, and training on small ones can't tell.
    All this depends on what the sentences say and not on the layer, so attention is computed once; states then travel
    along it, round after round, until every chain of references has reached its end. The gate lets a sentence keep its
    state unchanged (Csordas et al. 2022, section 3.2). The question's two words are looked up like sentences that come
    last.
    """

    def __init__(self, vocabulary_size: int, config: NetworkConfig):
        super().__init__()
        self.config = config
        D, H = config.dim, config.num_heads
        self.embedding = nn.Embedding(vocabulary_size, D, padding_idx=0)
        nn.init.orthogonal_(self.embedding.weight, gain=WORD_NORM)
        self.drop = nn.Dropout(config.dropout)
        self.sentence_roles = RoleReader(config.num_roles, config)
        self.sentence = nn.Linear(config.num_roles * D, D)
        self.question_roles = RoleReader(NUM_ASKED, config)
        self.asked = nn.Linear(D, D)
        self.about, self.refers_to = RoleReader(H, config), RoleReader(H, config)
        self.match_scale = nn.Parameter(torch.ones(H, 1, 1))
        self.match_bias = nn.Parameter(torch.full((H, 1, 1), MATCH_BIAS))
        self.update = nn.Sequential(nn.Linear((1 + H) * D, 4 * D), nn.ReLU(), nn.Linear(4 * D, D), nn.LayerNorm(D))
        self.gate = nn.Linear((2 + H) * D, 1)
        self.direction = nn.Linear(D, NUM_DIRECTIONS)
        self.question = nn.Linear(D, D)
        self.found = nn.Linear(D, D)
        self.answer = nn.Sequential(nn.Linear(6 * D, 4 * D), nn.ReLU(), nn.Linear(4 * D, 1))

    def forward(self, story_BSW: Tensor, question_BQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of yes (B,), of the direction of each sentence's subject (B, S, 4), and how probable a match is,
        mean over each story's pairs (B,)."""
        S = story_BSW.shape[1]
        is_word, words_BSWD = story_BSW != 0, self.drop(self.embedding(story_BSW))
        words_BQD = self.drop(self.embedding(question_BQ))
        asked = self.question_roles(words_BQD, question_BQ != 0)
        sentences = self.sentence(self.sentence_roles(words_BSWD, is_word).flatten(2))
        x_BND = torch.cat([sentences, self.asked(asked)], 1)
        referred = self.refers_to(words_BSWD, is_word)
        referred_BNHD = torch.cat([referred, asked.unsqueeze(2).expand(-1, -1, referred.shape[2], -1)], 1)
        weights_BHNS, match_B = self._attention(referred_BNHD, self.about(words_BSWD, is_word), is_word.any(2))
        state_BND = torch.zeros_like(x_BND)
        for _ in range(self.config.num_rounds):
            found = (weights_BHNS @ state_BND[:, None, :S]).transpose(1, 2).flatten(2)
            gate = torch.sigmoid(self.gate(torch.cat([x_BND, found, state_BND], -1)))
            state_BND = torch.lerp(state_BND, self.update(torch.cat([x_BND, found], -1)), gate)
        num_words = (question_BQ != 0).sum(1, keepdim=True)
        question = self.question(words_BQD.sum(1) / num_words)
        first, second = self.found(state_BND[:, S:]).unbind(1)
        answer = self.answer(agreements(first, second, question))
        return answer.squeeze(1), self.direction(state_BND[:, :S]), match_B

    def _attention(self, referred_BNHD: Tensor, about_BSHD: Tensor, is_sentence_BS: Tensor) -> tuple[Tensor, Tensor]:
        score = torch.einsum("bnhd,bshd->bhns", referred_BNHD, about_BSHD).float()
        place = torch.arange(score.shape[2], device=score.device)
        allowed = (place[: score.shape[3]] < place[:, None]) & is_sentence_BS[:, None, None]
        score = (score * self.match_scale + self.match_bias) * (1.0 if self.training else self.config.hardness)
        match = (torch.sigmoid(score) * allowed).mean(1).sum((1, 2)) / allowed.sum((1, 2, 3))
        return nearest_match(score, allowed).to(about_BSHD.dtype), match


class BaselineTransformer(nn.Module):
    """A Transformer encoder over all words, question first, with sinusoidal positions (Vaswani et al. 2017)."""

    def __init__(self, vocabulary_size: int, config: NetworkConfig):
        super().__init__()
        # One more token, the separator, stands between question and story.
        self.separator = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size + 1, config.dim, padding_idx=0)
        self.drop = nn.Dropout(config.dropout)
        layer = nn.TransformerEncoderLayer(
            config.dim, config.num_heads, 4 * config.dim, config.dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.num_layers, nn.LayerNorm(config.dim), enable_nested_tensor=False
        )
        self.answer = nn.Linear(config.dim, 1)

    def forward(self, words_BT: Tensor, question_BQ: Tensor) -> tuple[Tensor, None, None]:
        """Logits of yes (B,) from a story's running words and the question."""
        separator = question_BQ.new_full((len(question_BQ), 1), self.separator)
        tokens = torch.cat([question_BQ, separator, words_BT], 1)
        is_word = tokens != 0
        vectors = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        vectors = self.drop(vectors + sinusoids(tokens.shape[1], vectors.shape[2], vectors.device))
        states = self.encoder(vectors, src_key_padding_mask=~is_word)
        mean = (states * is_word.unsqueeze(-1)).sum(1) / is_word.sum(1, keepdim=True)
        return self.answer(mean).squeeze(1), None, None


def sinusoids(length: int, dim: int, device: torch.device) -> Tensor:
    """Positions (length, dim) as sines and cosines (Vaswani et al. 2017, section 3.5)."""
    place = torch.arange(length, device=device)[:, None]
    angle = place * torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10_000.0) / dim))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]


def build(vocabulary_size: int, config: NetworkConfig) -> nn.Module:
    """The Transformer that the recipe asks for."""
    kinds = {"pointer": PointerTransformer, "baseline": BaselineTransformer}
    return kinds[config.architecture](vocabulary_size, config)
