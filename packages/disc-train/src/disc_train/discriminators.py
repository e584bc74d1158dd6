"""Four levels of discriminators: how real is a token here, a clause, a row, a column's value in its row?

Every level answers in log-odds that a thing is real rather than generated; calibrated, that is an estimate of the
log density ratio log p_real / p_generated, which is what the generator is taught by.

Shape legend: B rows, C columns, D width. All take codes (B, C) int64, one token a cell; surprises (B, C) float,
how unlikely the generator found each cell; and orders (B, C) int64, in which the cells were read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from disc_train.config import DiscriminatorConfig
from disc_train.model import Block, Generator, ValueTable, value_features

SCORE_ROWS = 4096
"""Rows scored at once."""


class Trunk(nn.Module):
    """Transformer over the cells of a row and how much each surprises the generator, to states (B, C, D)."""

    def __init__(self, vocab_sizes: Sequence[int], features: np.ndarray, config: DiscriminatorConfig):
        super().__init__()
        self.embedding = ValueTable(vocab_sizes, features, config.dim)
        offsets = np.concatenate([[0], np.cumsum(vocab_sizes)[:-1]])
        self.register_buffer("offsets", torch.as_tensor(offsets), persistent=False)
        self.surprise = nn.Parameter(torch.randn(len(vocab_sizes), config.dim) * 0.02)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, codes: Tensor, surprise: Tensor, order: Tensor | None = None) -> Tensor:
        return self.read(self.embed(codes), surprise, order)

    def embed(self, codes: Tensor) -> Tensor:
        """(B, C, D)."""
        return nn.functional.embedding(codes + self.offsets, self.embedding())

    def read(self, embedded: Tensor, surprise: Tensor, order: Tensor | None = None) -> Tensor:
        """States from embedded cells (B, C, D). With an order (B, C) the row is read causally in it; the states stay in
        reading order."""
        x = embedded + surprise.unsqueeze(-1) * self.surprise
        if order is not None:
            x = x.gather(1, order.unsqueeze(-1).expand_as(x))
        x = self.drop(x)
        for block in self.blocks:
            x = block(x, causal=order is not None)
        return self.norm(x)


class TokenDiscriminator(nn.Module):
    """Is this token plausible here, after the cells read before it?

    A causal transformer gives the log-odds l_t that the first t cells are real. By the chain rule l_t - l_(t-1) is
    the log density ratio of cell t given the cells before it: each token's own share of the row's verdict.
    """

    def __init__(self, vocab_sizes: Sequence[int], features: np.ndarray, config: DiscriminatorConfig):
        super().__init__()
        self.trunk = Trunk(vocab_sizes, features, config)
        self.out = nn.Linear(config.dim, 1)

    def forward(self, codes: Tensor, surprise: Tensor, order: Tensor) -> Tensor:
        """Log-odds of each prefix, (B, C) in reading order."""
        return self.out(self.trunk(codes, surprise, order)).squeeze(-1)


class SentenceDiscriminator(nn.Module):
    """Is this clause, "column is value", as frequent among real rows? Log-odds (B, C)."""

    def __init__(self, vocab_sizes: Sequence[int], features: np.ndarray, config: DiscriminatorConfig):
        super().__init__()
        self.table = ValueTable(vocab_sizes, features, 1)
        offsets = np.concatenate([[0], np.cumsum(vocab_sizes)[:-1]])
        self.register_buffer("offsets", torch.as_tensor(offsets), persistent=False)

    def forward(self, codes: Tensor, surprise: Tensor, order: Tensor) -> Tensor:
        return self.table()[codes + self.offsets].squeeze(-1)


class RowDiscriminator(nn.Module):
    """Is the whole row real? Log-odds (B,) from the cells and, by a path of its own, from the row's surprises."""

    def __init__(self, vocab_sizes: Sequence[int], features: np.ndarray, config: DiscriminatorConfig):
        super().__init__()
        self.trunk = Trunk(vocab_sizes, features, config)
        self.from_cells = nn.Linear(config.dim, 1)
        self.from_surprise = nn.Sequential(
            nn.Linear(len(vocab_sizes), 2 * config.dim),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * config.dim, 1),
        )

    def forward(self, codes: Tensor, surprise: Tensor, order: Tensor) -> Tensor:
        return self.judge(self.trunk.embed(codes), surprise)

    def judge(self, embedded: Tensor, surprise: Tensor) -> Tensor:
        """Log-odds (B,) from embedded cells (B, C, D)."""
        cells = self.from_cells(self.trunk.read(embedded, surprise).mean(1))
        return (cells + self.from_surprise(surprise)).squeeze(-1)


class FeatureDiscriminator(nn.Module):
    """One a column: is this value real, given the whole rest of the row? Log-odds (B, C).

    It learns on real rows against the same rows with one cell drawn anew by the generator, so column c's answer is
    the log ratio of the full conditionals, log p(x_c | rest) / q(x_c | rest).
    """

    def __init__(self, vocab_sizes: Sequence[int], features: np.ndarray, config: DiscriminatorConfig):
        super().__init__()
        self.trunk = Trunk(vocab_sizes, features, config)
        self.weight = nn.Parameter(torch.randn(len(vocab_sizes), config.dim) * 0.02)
        self.bias = nn.Parameter(torch.zeros(len(vocab_sizes)))

    def forward(self, codes: Tensor, surprise: Tensor, order: Tensor) -> Tensor:
        return (self.trunk(codes, surprise) * self.weight).sum(-1) + self.bias


class Level(nn.Module):
    """One level's discriminators, one for each fold, and their calibration (Platt 1999: scale and shift)."""

    def __init__(self, level: str, vocab_sizes: Sequence[int], features: np.ndarray, config: DiscriminatorConfig):
        super().__init__()
        self.name = level
        self.folds = nn.ModuleList([KINDS[level](vocab_sizes, features, config) for _ in range(config.folds)])
        # A fresh level knows nothing: a scale of zero gives log-odds of zero everywhere.
        self.register_buffer("scale", torch.tensor(0.0))
        self.register_buffer("shift", torch.tensor(0.0))
        self.register_buffer("auc", torch.tensor(0.5))

    def forward(self, codes: Tensor, surprise: Tensor, order: Tensor, fold: Tensor) -> Tensor:
        """Calibrated log-odds of each row by its own fold's model: (B,) for rows, else (B, C), prefixes for tokens."""
        out = torch.zeros(codes.shape[:1] if self.name == "row" else codes.shape, device=codes.device)
        for k, model in enumerate(self.folds):
            rows = (fold == k).nonzero().squeeze(1)
            if len(rows):
                out[rows] = model(codes[rows], surprise[rows], order[rows])
        return out * self.scale + self.shift


KINDS: dict[str, type[nn.Module]] = {
    "token": TokenDiscriminator,
    "sentence": SentenceDiscriminator,
    "row": RowDiscriminator,
    "feature": FeatureDiscriminator,
}


class Discriminators(nn.Module):
    """The four levels, cross-fitted: the content of a row alone decides which fold's model may score it.

    Equal rows always share a fold, so a copy of a real row is never scored by a model that saw the original.

    Beside the cells they are told how much each cell surprised the generator, as it was when they were taught: from
    few real rows, a network learns more of that than of the cells alone.
    """

    def __init__(self, generator: Generator, token_values: Sequence[np.ndarray], config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        vocab_sizes = generator.vocab_sizes
        features = value_features(token_values)
        self.levels = nn.ModuleDict({level: Level(level, vocab_sizes, features, config) for level in KINDS})
        self.reference = copy.deepcopy(generator).requires_grad_(False)
        self.register_buffer("surprise_mean", torch.zeros(len(vocab_sizes)))
        self.register_buffer("surprise_std", torch.ones(len(vocab_sizes)))
        mixer = np.random.default_rng(0).integers(1, 2**31 - 1, len(vocab_sizes))
        self.register_buffer("mixer", torch.as_tensor(mixer), persistent=False)

    def fold_of(self, codes: Tensor) -> Tensor:
        """The fold of each row, (B,) int64: a multiplicative hash of its codes."""
        mixed = ((codes + 1) * self.mixer).sum(1)
        return ((mixed ^ (mixed >> 17)) * 2654435761 >> 7) % self.config.folds

    def set_reference(self, generator: Generator, real: Tensor, order: Tensor) -> None:
        """Take the generator as it is now for the one that is surprised; real rows (N, C) set the scale."""
        self.reference.load_state_dict(generator.state_dict())
        self.surprise_mean.zero_()
        self.surprise_std.fill_(1.0)
        raw = self.surprise(real, order)
        self.surprise_mean.copy_(raw.mean(0))
        self.surprise_std.copy_(raw.std(0).clamp(min=1e-3))

    @torch.no_grad()
    def surprise(self, codes: Tensor, order: Tensor) -> Tensor:
        """-log q(cell | cells before it in the order), standardised by column and clipped to +-4, (B, C)."""
        self.reference.eval()
        parts = zip(codes.split(SCORE_ROWS), order.split(SCORE_ROWS), strict=True)
        raw = torch.cat([-self.reference.log_prob(part, part_order).float() for part, part_order in parts])
        return ((raw - self.surprise_mean) / self.surprise_std).clamp(-4, 4)

    @torch.no_grad()
    def credits(self, codes: Tensor, order: Tensor) -> dict[str, Tensor]:
        """Calibrated log density ratios in nats, by level: (B,) for rows, (B, C) in column order for the others.

        Args:
            codes: tokens of the rows.
            order: for each row the order in which its cells were generated, (B, C).
        """
        self.eval()
        fold, surprise = self.fold_of(codes), self.surprise(codes, order)
        credits = {name: level(codes, surprise, order, fold) for name, level in self.levels.items()}
        prefix = credits["token"]
        before = torch.cat([torch.zeros_like(prefix[:, :1]), prefix[:, :-1]], 1)
        credits["token"] = torch.zeros_like(prefix).scatter(1, order, prefix - before)
        return credits
