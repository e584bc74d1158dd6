"""Negatives for the contrastive loss: a queue of embeddings across batches, the nearest other speakers first.

A batch of 8 has at most 7 others in it, and maybe of the same speaker; the queue remembers whose each embedding is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpeakerQueue(nn.Module):
    """The last `size` embeddings with their speakers (He et al. 2020, with labels).

    Attributes:
        embeddings_QD: (Q, D), without gradients.
        speakers_Q: (Q,) int64; -1 where nothing was put yet.
    """

    embeddings_QD: Tensor
    speakers_Q: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("embeddings_QD", torch.zeros(size, dim))
        self.register_buffer("speakers_Q", torch.full((size,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def put(self, embeddings_BD: Tensor, speakers_B: Tensor) -> None:
        """Add a batch over the oldest entries; at most the queue's last `size` of it stay."""
        size = len(self.speakers_Q)
        embeddings_BD, speakers_B = embeddings_BD[-size:], speakers_B[-size:]
        index_B = (self.place + torch.arange(len(speakers_B), device=self.place.device)) % size
        self.embeddings_QD[index_B] = embeddings_BD.detach().float()
        self.speakers_Q[index_B] = speakers_B
        self.place.copy_((self.place + len(speakers_B)) % size)

    def negatives(
        self, anchor_BD: Tensor, speakers_B: Tensor, count: int, random_BQ: Tensor, pool: int
    ) -> tuple[Tensor, Tensor]:
        """Of entries of other speakers than each anchor's, drawn at random, the nearest by cosine similarity.

        Args:
            anchor_BD: (B, D), norm 1.
            speakers_B: (B,) whose they are.
            count: N, at most `pool`.
            random_BQ: numbers in [0, 1) that draw the entries, the highest first.
            pool: entries that are drawn; the queue's size are all, and N leave nothing to choose.

        Returns:
            Embeddings (B, N, D), and which of them there are, (B, N) bool: an anchor has fewer where the queue holds
            fewer of other speakers.
        """
        size = len(self.speakers_Q)
        other_BQ = (self.speakers_Q >= 0) & (self.speakers_Q != speakers_B[:, None])
        drawn_BP = random_BQ.masked_fill(~other_BQ, -torch.inf).topk(min(pool, size), dim=1).indices
        chosen_BQ = torch.zeros_like(other_BQ).scatter(1, drawn_BP, True) & other_BQ
        similarity_BQ = anchor_BD.detach().float() @ self.embeddings_QD.T
        index_BN = similarity_BQ.masked_fill(~chosen_BQ, -torch.inf).topk(min(count, size), dim=1).indices
        return self.embeddings_QD[index_BN], chosen_BQ.gather(1, index_BN)
