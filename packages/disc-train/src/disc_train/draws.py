"""Unconditional rows, as training and sampling draw them."""

from __future__ import annotations

import torch
from torch import Tensor

from disc_train.model import Generator

BATCH_ROWS = 1024
"""Rows drawn at once: the caches of a batch then fit the processor's."""


def draw_rows(
    generator: Generator, num_rows: int, draws: torch.Generator, rows_per_order: int = BATCH_ROWS
) -> tuple[Tensor, Tensor]:
    """Unconditional rows; each batch of `rows_per_order` is drawn in one random column order.

    Returns:
        codes (N, C) and the orders in which they were drawn (N, C), both int64.
    """
    codes, orders = [], []
    for start in range(0, num_rows, rows_per_order):
        rows = min(rows_per_order, num_rows - start)
        order = torch.randperm(generator.num_columns, generator=draws, device=draws.device).expand(rows, -1)
        unknown = torch.full_like(order, -1)
        codes.append(generator.sample(unknown, order, draws)[0])
        orders.append(order)
    return torch.cat(codes), torch.cat(orders)
