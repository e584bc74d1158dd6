"""The ConvNeXt block that encoder and generator are made of, and how a voice steers it.

Shape legend: B batch, C channels, F frames, V voice, K tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Film(nn.Module):
    """Feature-wise linear modulation (Perez et al. 2018): a scale and a shift of every channel, from the voice."""

    def __init__(self, voice_dim: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(voice_dim, 2 * channels)
        nn.init.normal_(self.linear.weight, std=0.1)  # of an embedding of norm 1 it makes numbers of that size
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_BFC: Tensor, voice_BV: Tensor) -> Tensor:
        """(B, F, C) to (B, F, C)."""
        scale, shift = self.linear(voice_BV)[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, x_BFC, 1 + scale)


class CrossAttention(nn.Module):
    """Every frame attends to tokens made from the voice, so that a voice may sound different in each sound."""

    def __init__(self, voice_dim: int, channels: int, tokens: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.tokens = heads, tokens
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(voice_dim, 2 * tokens * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x_BFC: Tensor, voice_BV: Tensor) -> Tensor:
        """(B, F, C) to (B, F, C)."""
        batch, frames, channels = x_BFC.shape
        key, value = self.key_value(voice_BV).view(batch, self.tokens, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        query = self.query(x_BFC).view(batch, frames, self.heads, -1).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value)
        return x_BFC + self.out(attended.transpose(1, 2).reshape(batch, frames, channels))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, normalisation over channels, a pointwise network (Liu et al. 2022, as Vocos
    has it in one dimension), with the voice between normalisation and network."""

    def __init__(self, dim: int, hidden: int, scale: float, condition: nn.Module | None = None) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.condition = condition
        self.pwconv1 = nn.Linear(dim, hidden)
        self.pwconv2 = nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x_BFC: Tensor, voice_BV: Tensor | None = None) -> Tensor:
        """(B, F, C) to (B, F, C)."""
        # A picture one row high whose channels lie last in memory, as they do between the layers: no copy either way.
        x_BC1F = x_BFC.transpose(1, 2).unsqueeze(2)
        weight = self.dwconv.weight.unsqueeze(2)
        y_BC1F = F.conv2d(x_BC1F, weight, self.dwconv.bias, padding=(0, 3), groups=len(weight))
        y_BFC = self.norm(y_BC1F.squeeze(2).transpose(1, 2))
        if self.condition is not None:
            y_BFC = self.condition(y_BFC, voice_BV)
        y_BFC = self.pwconv2(F.gelu(self.pwconv1(y_BFC)))
        return torch.addcmul(x_BFC, self.gamma, y_BFC)
