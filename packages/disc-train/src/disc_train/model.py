"""The columns generator: a causal transformer over one token a cell.

Shape legend: B rows, C columns, T positions of a row (T = C), D width, H heads, V tokens of a column,
S tokens of all columns together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disc_train.config import DiscriminatorConfig, ModelConfig

NUM_FREQUENCIES = 6

SINKHORN_STEPS = 200
MIN_SMOOTHING_WIDTH = 0.3
"""Width, in tokens, below which a smoothing kernel has next to nothing beside its centre."""


def value_features(token_values: Sequence[np.ndarray]) -> np.ndarray:
    """Smooth features of each token's number, so that neighbouring numbers share what is learned of them.

    Each column's numbers are ranked to [0, 1], then expanded by sines and cosines of doubling frequency
    (Gorishniy et al. 2022, "On Embeddings for Numerical Features", section 3.3, with fixed frequencies).
    Tokens without a number (categories, missing) get zeros.

    Args:
        token_values: for each column a float array (V,), NaN where a token has no number.

    Returns:
        (S, 2 + 2 * NUM_FREQUENCIES) float32.
    """
    rows = []
    for values in token_values:
        numeric = ~np.isnan(values)
        rank = np.zeros(len(values))
        ordered = np.unique(values[numeric])
        if len(ordered) > 1:
            rank[numeric] = np.searchsorted(ordered, values[numeric]) / (len(ordered) - 1)
        angles = np.pi * rank[:, None] * 2.0 ** np.arange(NUM_FREQUENCIES)
        features = np.column_stack([np.ones(len(values)), rank, np.sin(angles), np.cos(angles)])
        rows.append(features * numeric[:, None])
    return np.concatenate(rows).astype(np.float32)


def smoothing_kernel(counts: np.ndarray, ordered: np.ndarray, width: float) -> Tensor:
    """Soft targets for a column of numbers: its neighbours, by their distance and by how frequent they are.

    With a few rows for each number, a network that is told "exactly 217" learns rows by heart. Label smoothing
    (Szegedy et al. 2016, section 7) that falls off with distance keeps it from that and costs no resolution in the
    rest of the row. A plain Gaussian would also smear the peaks of the column itself, such as percentages at 50 and
    67. So it is scaled to leave the column's distribution as it is (Sinkhorn & Knopp 1967, the symmetric case).

    Args:
        counts: (V,) rows of each token.
        ordered: the tokens that are ordinary numbers, ascending; all others keep their hard target.
        width: standard deviation, in ranks of ordinary numbers.

    Returns:
        (V, V) float32, rows sum to 1, and counts @ kernel == counts.
    """
    kernel = np.eye(len(counts))
    ranks = np.arange(len(ordered))
    frequency = np.maximum(counts[ordered], 1) / np.maximum(counts[ordered], 1).sum()
    near = np.exp(-0.5 * ((ranks[:, None] - ranks) / width) ** 2)
    scale = np.ones(len(ordered))
    for _ in range(SINKHORN_STEPS):
        scale = np.sqrt(scale / (near @ (frequency * scale)))
    soft = scale[:, None] * near * scale * frequency
    kernel[np.ix_(ordered, ordered)] = soft / soft.sum(1, keepdims=True)
    return torch.as_tensor(kernel, dtype=torch.float32)


class ValueTable(nn.Module):
    """One vector for each token of each column: a free part, and a part that is smooth in the token's number."""

    def __init__(self, vocab_sizes: Sequence[int], features: np.ndarray, dim: int):
        super().__init__()
        self.free = nn.Parameter(torch.randn(sum(vocab_sizes), dim) * 0.02)
        self.smooth = nn.Parameter(torch.zeros(len(vocab_sizes), features.shape[1], dim))
        self.register_buffer("features", torch.as_tensor(features), persistent=False)
        self.vocab_sizes = list(vocab_sizes)

    def forward(self) -> Tensor:
        """All vectors at once, (S, D)."""
        by_column = self.features.split(self.vocab_sizes)
        return self.free + torch.cat([f @ w for f, w in zip(by_column, self.smooth, strict=True)])


class Block(nn.Module):
    """Pre-norm transformer block with causal self-attention and an optional key/value cache."""

    def __init__(self, config: ModelConfig | DiscriminatorConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.norm_attention = nn.LayerNorm(config.dim)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.proj = nn.Linear(config.dim, config.dim, bias=False)
        self.norm_mlp = nn.LayerNorm(config.dim)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, config.mlp_ratio * config.dim),
            nn.ReLU(),
            nn.Linear(config.mlp_ratio * config.dim, config.dim),
            nn.Dropout(config.dropout),
        )

    def forward(self, x_BTD: Tensor, causal: bool = True) -> Tensor:
        q, k, v = self._heads(self.norm_attention(x_BTD))
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=dropout)
        x_BTD = x_BTD + self.proj(attended.transpose(1, 2).flatten(2))
        return x_BTD + self.mlp(self.norm_mlp(x_BTD))

    def step(self, x_BD: Tensor, keys: Tensor, values: Tensor, scratch: Tensor) -> Tensor:
        """The newest position alone.

        Args:
            x_BD: its state.
            keys: cache (T, H, D/H, B) up to and with this position, whose last entry is written here.
            values: the same for values. Rows lie innermost, so that attention over a handful of positions runs
                along memory: three times as fast on a CPU as the fused kernel.
            scratch: as large as the others, overwritten.
        """
        H, head_dim, B = keys.shape[1:]
        qkv = (self.qkv.weight @ self.norm_attention(x_BD).T).view(3, H, head_dim, B)
        keys[-1], values[-1] = qkv[1], qkv[2]
        scores = torch.mul(keys, qkv[0] * head_dim**-0.5, out=scratch).sum(2, keepdim=True)
        attended = torch.mul(values, scores.softmax(0), out=scratch).sum(0).view(H * head_dim, B)
        x_BD = x_BD + self.proj(attended.T)
        return x_BD + self.mlp(self.norm_mlp(x_BD))

    def _heads(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, T, D = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(B, T, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        return q, k, v


class Generator(nn.Module, ABC):
    """What training and sampling ask of either kind of generator."""

    vocab_sizes: list[int]

    @property
    def num_columns(self) -> int:
        return len(self.vocab_sizes)

    @abstractmethod
    def log_prob(self, codes_BC: Tensor, order_BC: Tensor, smooth: bool = False) -> Tensor:
        """log p(cell | the cells read before it), natural log, (B, C) in column order.

        Args:
            codes_BC: token of each column, int64.
            order_BC: each row a permutation of the columns, the order in which they are read, int64.
            smooth: for training by likelihood: take a number's neighbours for partly right (where the kind has such).
        """

    @abstractmethod
    def sample(
        self,
        known_BC: Tensor,
        order_BC: Tensor,
        generator: torch.Generator,
        allowed: Mapping[int, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw the unknown cells of each row from p(cell | cells before it in the row's order).

        Args:
            known_BC: tokens that are given, -1 where one is to be drawn, int64.
            order_BC: reading order of each row. To condition on all known cells, put them first.
            generator: source of randomness.
            allowed: for some columns a weight in [0, 1] for each token, (V,); what has weight 0 is never drawn.

        Returns:
            codes (B, C), and the log-probability of the allowed sets given the cells before them, (B, C), which is
            what a restriction has cost: rows are an exact draw once they are accepted with that probability.
        """


class ColumnsGenerator(Generator):
    """p(row) as a product over columns in any order: a causal transformer that is told which column comes next.

    Each position carries the token before it plus a query vector of the column to predict (sigma-GPT,
    Pannatier et al. 2024, equation 1), so one network serves every order, and with it every condition and
    imputation. Each column has a softmax of its own over its own tokens: an invalid row has no probability.
    """

    def __init__(
        self,
        vocab_sizes: Sequence[int],
        token_values: Sequence[np.ndarray],
        ordered_tokens: Sequence[np.ndarray],
        token_counts: Sequence[np.ndarray],
        config: ModelConfig,
    ):
        """Args:
        vocab_sizes: tokens of each column.
        token_values: for each column the number of each token, (V,), NaN where it has none.
        ordered_tokens: for each column its tokens that are ordinary numbers, ascending.
        token_counts: for each column the rows of each token, (V,).
        """
        super().__init__()
        self.vocab_sizes = list(vocab_sizes)
        self.config = config
        self.smoothed = []
        for c, ordered in enumerate(ordered_tokens):
            width = config.smoothing / 100 * len(ordered)
            if width >= MIN_SMOOTHING_WIDTH:
                self.register_buffer(f"kernel_{c}", smoothing_kernel(token_counts[c], ordered, width), persistent=False)
                self.smoothed.append(c)
        features = value_features(token_values)
        self.embedding = ValueTable(vocab_sizes, features, config.dim)
        self.start = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.query = nn.Embedding(len(vocab_sizes), config.dim)
        nn.init.normal_(self.query.weight, std=0.02)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.dim)
        self.head = ValueTable(vocab_sizes, features, config.dim)
        self.bias = nn.Parameter(torch.zeros(sum(vocab_sizes)))
        offsets = np.concatenate([[0], np.cumsum(vocab_sizes)])
        self.register_buffer("offsets", torch.as_tensor(offsets[:-1]), persistent=False)

    def hidden(self, codes_BC: Tensor, order_BC: Tensor) -> Tensor:
        """The state from which each column is predicted, (B, C, D) in column order, not in reading order.

        Args:
            codes_BC: token of each column, int64.
            order_BC: each row a permutation of the columns, the order in which they are read, int64.
        """
        tokens = (codes_BC + self.offsets).gather(1, order_BC)
        before = F.embedding(tokens[:, :-1], self.embedding())
        start = self.start.expand(len(codes_BC), 1, -1)
        x_BTD = self.drop(torch.cat([start, before], 1) + self.query(order_BC))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        place_BC = order_BC.argsort(1)
        return self.norm(x_BTD).gather(1, place_BC.unsqueeze(-1).expand_as(x_BTD))

    def log_prob(self, codes_BC: Tensor, order_BC: Tensor, smooth: bool = False) -> Tensor:
        hidden_BCD = self.hidden(codes_BC, order_BC)
        heads = self.head().split(self.vocab_sizes)
        biases = self.bias.split(self.vocab_sizes)
        columns = []
        for c, (weight_VD, bias_V) in enumerate(zip(heads, biases, strict=True)):
            logits_BV = F.linear(hidden_BCD[:, c], weight_VD, bias_V)
            target = codes_BC[:, c]
            if smooth and c in self.smoothed:
                target = self.get_buffer(f"kernel_{c}")[target]
            columns.append(-F.cross_entropy(logits_BV, target, reduction="none"))
        return torch.stack(columns, 1)

    @torch.no_grad()
    def sample(
        self,
        known_BC: Tensor,
        order_BC: Tensor,
        generator: torch.Generator,
        allowed: Mapping[int, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        self.eval()
        allowed = allowed or {}
        B, C = known_BC.shape
        device = known_BC.device
        embedding, heads = self.embedding(), self.head().split(self.vocab_sizes)
        biases = self.bias.split(self.vocab_sizes)
        shape = (self.config.depth, C, self.config.num_heads, self.config.dim // self.config.num_heads, B)
        keys, values = torch.empty(shape, device=device), torch.empty(shape, device=device)
        scratch = torch.empty(shape[1:], device=device)
        codes_BC, log_mass_BC = known_BC.clone(), torch.zeros(B, C, device=device)
        unknown_BC = known_BC < 0
        x_BD = self.start.expand(B, -1)
        for t in range(C):
            target_B = order_BC[:, t]
            state_BD = x_BD + self.query(target_B)
            for block, key, value in zip(self.blocks, keys, values, strict=True):
                state_BD = block.step(state_BD, key[: t + 1], value[: t + 1], scratch[: t + 1])
            state_BD = self.norm(state_BD)
            for c, rows in rows_by_column(target_B, unknown_BC):
                probs_BV = F.linear(state_BD[rows], heads[c], biases[c]).softmax(-1)
                if c in allowed:
                    probs_BV = probs_BV * allowed[c]
                    mass_B1 = probs_BV.sum(-1, keepdim=True)
                    log_mass_BC[rows, c] = mass_B1.squeeze(1).log()
                    # What is all but impossible may underflow to 0; it stays allowed, and nothing else does.
                    probs_BV = torch.where(mass_B1 > 0, probs_BV, allowed[c])
                codes_BC[rows, c] = draw(probs_BV, generator)
            last_B = codes_BC.gather(1, target_B.unsqueeze(1)).squeeze(1)
            x_BD = F.embedding(last_B + self.offsets[target_B], embedding)
        return codes_BC, log_mass_BC


def draw(weights_BV: Tensor, generator: torch.Generator) -> Tensor:
    """One token a row with probability proportional to its weight, (B,) int64; weight 0 is never drawn."""
    cumulative = weights_BV.cumsum(-1)
    total = cumulative[:, -1:]
    point = torch.rand(len(weights_BV), 1, generator=generator, device=weights_BV.device) * total
    # The product may round up to the total, which lies beyond the last token.
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True).squeeze(1)


def rows_by_column(target_B: Tensor, unknown_BC: Tensor) -> list[tuple[int, Tensor | slice]]:
    """The rows whose target cell is unknown, grouped by target column; one slice where all rows agree."""
    first = int(target_B[0])
    if (target_B == first).all() and unknown_BC[:, first].all():
        return [(first, slice(None))]
    unknown_B = unknown_BC.gather(1, target_B.unsqueeze(1)).squeeze(1)
    return [(c, (unknown_B & (target_B == c)).nonzero().squeeze(1)) for c in target_B[unknown_B].unique().tolist()]
