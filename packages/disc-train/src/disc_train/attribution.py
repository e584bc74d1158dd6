"""What the discriminators hold for and against single rows: by level, and for the row level by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from disc_train.config import LEVELS
from disc_train.data import Table
from disc_train.discriminators import RowDiscriminator
from disc_train.draws import draw_rows
from disc_train.run import Trained
from trainworks.console import UserError
from trainworks.seeding import rng
from trainworks.torch import torch_generator

NUM_ORDERS = 8
"""Reading orders over which a row's scores are averaged."""
STEPS = 64
"""Points of the path that integrated gradients follow."""
REFERENCE_ROWS = 256
AT_ONCE = 2**19
"""Rows times cells times cells whose paths are followed at once: attention is as large as a row's cells squared."""


@dataclass(frozen=True)
class RowExplanation:
    """One row.

    Attributes:
        cells: the row's text by column.
        scores: by level, mean log-odds over cells that the row is real, in nats; above 0 speaks for it.
        contributions: score times weight, by level.
        tokens: by column, what its cell adds to the row level's log-odds, against the average row.
        baseline: the row level's log-odds of the average row: tokens and it add up to the row's score.
    """

    cells: dict[str, str]
    scores: dict[str, float]
    contributions: dict[str, float]
    tokens: dict[str, float]
    baseline: float


def explain_rows(trained: Trained, table: Table, weights: dict[str, float]) -> list[RowExplanation]:
    """Explain each row of a table with the columns of the run.

    Raises:
        UserError: a column is missing, or a value cannot stand in its column.
    """
    schema = trained.schema
    ordered = Table(schema.names, [table.column(name) for name in schema.names])
    for row, column, reason in schema.validate(ordered):
        raise UserError(f"row {row + 1}, column {column}: {reason}")
    codes = torch.as_tensor(schema.encode(ordered, strict=False).astype(np.int64), device=trained.device)
    orders = [reading_order(codes, index) for index in range(NUM_ORDERS)]
    totals = {level: torch.zeros(len(codes), device=codes.device) for level in LEVELS}
    for order in orders:
        for level, credit in trained.discriminators.credits(codes, order).items():
            totals[level] += credit.reshape(len(codes), -1).mean(1) / NUM_ORDERS
    attributed, baselines = row_attributions(trained, codes, orders)
    found = []
    for row in range(len(codes)):
        scores = {level: float(totals[level][row]) for level in LEVELS}
        found.append(
            RowExplanation(
                cells={
                    name: "" if (value := ordered.column(name)[row]) is None else str(value) for name in schema.names
                },
                scores=scores,
                contributions={level: weights[level] * score for level, score in scores.items()},
                tokens=dict(zip(schema.names, attributed[row].tolist(), strict=True)),
                baseline=float(baselines[row]),
            )
        )
    return found


def reading_order(codes: Tensor, index: int) -> Tensor:
    draws = torch_generator(0, "explain orders", index, device=codes.device)
    return torch.randperm(codes.shape[1], generator=draws, device=codes.device).expand(len(codes), -1)


def row_attributions(trained: Trained, codes: Tensor, orders: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Integrated gradients (Sundararajan et al. 2017, equation 1) of the row level's calibrated log-odds.

    The path goes from the average cell, by its embedding and its surprise, to the row's own.

    Returns:
        (B, C) per cell, and (B,) log-odds at the path's beginning.
    """
    discriminators, level = trained.discriminators, trained.discriminators.levels["row"]
    discriminators.eval()
    fold = discriminators.fold_of(codes)
    surprises = [discriminators.surprise(codes, order) for order in orders]
    cells = torch.zeros(codes.shape, device=codes.device)
    baselines = torch.zeros(len(codes), device=codes.device)
    at_once = max(1, AT_ONCE // codes.shape[1] ** 2)
    parts_of_folds = [
        (model, rows)
        for number, model in enumerate(level.folds)
        for rows in (fold == number).nonzero().squeeze(1).split(at_once)
        if len(rows)
    ]
    for model, rows in parts_of_folds:
        assert isinstance(model, RowDiscriminator)

        def judge(embedded: Tensor, surprised: Tensor, model: RowDiscriminator = model) -> Tensor:
            return model.judge(embedded, surprised) * level.scale + level.shift

        embedded = model.trunk.embed(codes[rows]).detach()
        average = average_embedding(model, trained, codes.device).expand_as(embedded)
        calm = torch.zeros(embedded.shape[:2], device=codes.device)
        for surprise in surprises:
            parts = IntegratedGradients(judge).attribute((embedded, surprise[rows]), (average, calm), n_steps=STEPS)
            cells[rows] += (parts[0].sum(-1) + parts[1]).detach().float() / len(surprises)
        with torch.no_grad():
            baselines[rows] = judge(average, calm)
    return cells, baselines


@torch.no_grad()
def average_embedding(model: RowDiscriminator, trained: Trained, device: torch.device) -> Tensor:
    """(1, C, D): the mean embedding of each column's cells in rows of the generator."""
    seed = int(rng(0, "explain", "reference").integers(2**31))
    rows = draw_rows(trained.generator, REFERENCE_ROWS, torch_generator(seed, "draw", device=device))[0]
    return model.trunk.embed(rows).mean(0, keepdim=True)
