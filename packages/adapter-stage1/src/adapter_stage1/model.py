"""The adapter: latents in, embeddings out.

Shape legend: N vectors, K latent width, D embedding width, H hidden width, V vocabulary rows, C candidate rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_stage1.compress import Linear
from adapter_stage1.config import AdapterConfig

ROWS_AT_ONCE = 512
"""Vectors that are compared with the whole vocabulary together."""
SHARPNESS_SPEED = 50.0
"""Sharpness is exp(this times a parameter), so that Adam, whose steps have the learning rate's size, moves it by orders
of magnitude within a short training."""


class Rows(NamedTuple):
    """Rows of the embedding table that a vector may be drawn towards: all of them, or a step's candidates.

    Attributes:
        embeddings_CD: the rows.
        latents_CK: what the compressor makes of them.
    """

    embeddings_CD: Tensor
    latents_CK: Tensor

    def take(self, index: Tensor) -> Rows:
        return Rows(self.embeddings_CD[index], self.latents_CK[index])


class Adapter(nn.Module):
    """A linear map plus a network with one hidden layer; what comes out may be drawn towards rows of the table.

    It begins as the compressor's own decoder: the linear map is that, and the network's output is 0.
    """

    def __init__(self, latent_width: int, width: int, config: AdapterConfig):
        super().__init__()
        K, D, H = latent_width, width, round(config.hidden_multiple * latent_width)
        self.snaps = config.snap == "soft"
        self.linear = nn.Linear(K, D)
        self.hidden, self.out = nn.Linear(K, H), nn.Linear(H, D)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.log_sharpness = nn.Parameter(torch.zeros(2), requires_grad=self.snaps)
        self.register_buffer("latent_scale", torch.ones(K))

    def start_from(self, compressor: Linear, latents: Tensor, residual: float) -> None:
        """Begin as the compressor's decoder.

        Args:
            latents: (N, K) of the rows that were fitted, to scale the hidden layer's input by.
            residual: mean squared distance of a row from its decoded self; the larger, the softer the snap begins.
        """
        with torch.no_grad():
            components = torch.from_numpy(compressor.components * compressor.scale[:, None])
            self.linear.weight.copy_(components.T)
            self.linear.bias.copy_(torch.from_numpy(compressor.mean))
            self.latent_scale.copy_(1 / latents.std(0))
            # A row's own logit is then -8 on average, and that of one three times as far away -72.
            self.log_sharpness.fill_(math.log(16 / max(residual, 1e-12)) / SHARPNESS_SPEED)

    def rebuild(self, latents: Tensor) -> Tensor:
        """Embeddings (..., D) of latents (..., K), before the snap."""
        return self.linear(latents) + self.out(F.gelu(self.hidden(latents * self.latent_scale)))

    def row_logits(self, rebuilt_ND: Tensor, latents_NK: Tensor, rows: Rows) -> Tensor:
        """(N, C): how probable each row is, as under Gaussian noise: -s/2 |x - row|^2 - t/2 |z - latent of row|^2 for
        learned sharpnesses s and t, less what is the same for all rows."""
        by_embedding, by_latent = (SHARPNESS_SPEED * self.log_sharpness).exp()
        return by_embedding * closeness(rebuilt_ND, rows.embeddings_CD) + by_latent * closeness(
            latents_NK, rows.latents_CK
        )

    def snap(self, rebuilt_ND: Tensor, latents_NK: Tensor, rows: Rows) -> Tensor:
        """(N, D): the mean of the rows by those probabilities; differentiable. Without a snap, what came in."""
        if not self.snaps:
            return rebuilt_ND
        return self.row_logits(rebuilt_ND, latents_NK, rows).softmax(1) @ rows.embeddings_CD

    @torch.no_grad()
    def forward(self, latents_NK: Tensor, vocabulary: Rows) -> Tensor:
        """What a run puts out for latents: rebuilt embeddings (N, D), snapped softly over the whole vocabulary."""
        parts = [self.snap(self.rebuild(part), part, vocabulary) for part in latents_NK.split(ROWS_AT_ONCE)]
        return torch.cat(parts)


def closeness(vectors_ND: Tensor, rows_CD: Tensor) -> Tensor:
    """(N, C): -1/2 |x - row|^2, but for a summand that is the same for all rows."""
    return vectors_ND @ rows_CD.T - 0.5 * rows_CD.square().sum(1)


@torch.no_grad()
def nearest_rows(vectors_ND: Tensor, table_VD: Tensor) -> Tensor:
    """The number of the table's nearest row for each vector, (N,), by Euclidean distance."""
    return torch.cat([closeness(part, table_VD).argmax(1) for part in vectors_ND.split(ROWS_AT_ONCE)])


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
