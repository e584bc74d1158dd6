"""Rows from a trained generator: drawn, conditioned, imputed, filtered; streamed in batches, and always ending."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from disc_train.conditions import compile_conditions, parse_condition
from disc_train.data import Table, write_rows
from disc_train.draws import BATCH_ROWS, draw_rows
from disc_train.run import Trained
from trainworks.console import UserError, progress, warn
from trainworks.seeding import rng
from trainworks.torch import torch_generator

CHUNK_ROWS = 4 * BATCH_ROWS
"""Rows decoded and written at once."""


@dataclass(frozen=True)
class Wanted:
    """Which rows a user asks for.

    Attributes:
        num_rows: rows to deliver.
        where: conditions such as "Age>=30", all of which must hold.
        balance: a column whose values shall be equally frequent; None for as in the data.
        resample: filter by the row discriminator.
        max_tries: rows drawn at most, for each one wanted.
    """

    num_rows: int
    where: tuple[str, ...] = ()
    balance: str | None = None
    resample: bool = False
    max_tries: int = 100


def sample_rows(trained: Trained, wanted: Wanted, seed: int) -> Iterator[Table]:
    """Yield tables of new rows until there are enough or the tries are used up; says on stderr what was rejected.

    Several restricted columns are drawn one after another; a row is accepted with the probability that the later
    restrictions had given what was drawn before, which makes it an exact draw from the joint conditional
    distribution.

    Raises:
        UserError: a condition that no row can meet, or an unknown column or value.
    """
    schema, device = trained.schema, trained.device
    allowed = compile_conditions([parse_condition(text) for text in wanted.where], schema)
    weights = {c: torch.as_tensor(a.weight, dtype=torch.float32, device=device) for c, a in allowed.items()}
    if wanted.balance is not None:
        weights = {**weights, **_balanced(trained, wanted.balance, weights)}
    fixed = {c: int(weight.argmax()) for c, weight in weights.items() if int((weight > 0).sum()) == 1}
    balanced = schema.index(wanted.balance) if wanted.balance is not None else None
    restricted = [c for c in weights if c not in fixed and c != balanced]
    accept = Rejection(trained, seed) if wanted.resample else None
    # What is rejected differs from value to value, so a column that is to be balanced is then filled by quota.
    quota = None
    if balanced is not None and (len(restricted) > 1 or accept is not None):
        quota = _quota(weights[balanced], wanted.num_rows, torch_generator(seed, "quota", device=device))
    rejected: Counter[str] = Counter()
    delivered = drawn = 0
    with progress(wanted.num_rows, "sampling") as bar:
        for chunk in range(math.ceil(wanted.num_rows * wanted.max_tries / CHUNK_ROWS)):
            need = wanted.num_rows - delivered
            if need <= 0:
                break
            size = min(CHUNK_ROWS, wanted.num_rows * wanted.max_tries - drawn)
            if not restricted and accept is None:
                size = min(size, need)
            draws = torch_generator(seed, "sample", chunk, device=device)
            if quota is not None and balanced is not None:
                weights[balanced] = (quota > 0).float()
            codes, order, log_mass = _draw_chunk(trained, size, draws, weights, fixed, restricted, balanced)
            drawn += size
            keep = torch.ones(size, dtype=torch.bool, device=device)
            if len(restricted) > 1:
                keep &= torch.rand(size, generator=draws, device=device).log() < log_mass[:, restricted[1:]].sum(1)
                rejected["conditions hold only together with small probability"] += int((~keep).sum())
            if accept is not None:
                real = accept(codes, order, draws)
                rejected["the row discriminator takes it for generated"] += int((keep & ~real).sum())
                keep &= real
            if quota is not None:
                keep &= _within(quota, codes[:, balanced], keep)
            kept = codes[keep][:need].cpu().numpy()
            delivered += len(kept)
            bar.advance(len(kept))
            if len(kept):
                yield schema.decode(kept, rng(seed, "decode", chunk), allowed)
    for reason, count in rejected.items():
        if count:
            warn(f"rejected {count:,} of {drawn:,} rows: {reason}")
    if delivered < wanted.num_rows:
        warn(f"gave {delivered:,} of {wanted.num_rows:,} rows after {drawn:,} tries; raise --max-tries for more")


def _draw_chunk(
    trained: Trained,
    size: int,
    draws: torch.Generator,
    weights: dict[int, Tensor],
    fixed: dict[int, int],
    restricted: list[int],
    balanced: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, orders and log masses (N, C) of a chunk: fixed cells are read first, then the restricted columns."""
    if not weights:
        codes, order = draw_rows(trained.generator, size, draws)
        return codes, order, torch.zeros(codes.shape, device=codes.device)
    device, num_columns = trained.device, len(trained.schema.columns)
    parts = []
    for start in range(0, size, BATCH_ROWS):
        rows = min(BATCH_ROWS, size - start)
        place = torch.rand(num_columns, generator=draws, device=device) + num_columns
        known = torch.full((rows, num_columns), -1, device=device)
        for c, token in fixed.items():
            known[:, c] = token
            place[c] = -1.0
        if balanced is not None and balanced not in fixed:
            known[:, balanced] = torch.multinomial(weights[balanced], rows, replacement=True, generator=draws)
            place[balanced] = -1.0
        for rank, c in enumerate(restricted):
            place[c] = rank
        order = place.argsort().expand(rows, -1)
        codes, log_mass = trained.generator.sample(known, order, draws, {c: weights[c] for c in restricted})
        parts.append((codes, order, log_mass))
    codes, order, log_mass = (torch.cat(column) for column in zip(*parts, strict=True))
    return codes, order, log_mass


def _balanced(trained: Trained, name: str, weights: dict[int, Tensor]) -> dict[int, Tensor]:
    """Equal weight for every value of a column that conditions allow."""
    index = trained.schema.index(name)
    column = trained.schema.columns[index]
    if column.bins is not None or column.rare_values:
        raise UserError(f'--balance wants a column with few values; "{name}" has too many to be balanced')
    uniform = torch.ones(column.vocab_size, device=trained.device)
    if column.missing is not None:
        uniform[column.missing] = 0.0
    uniform = uniform * (weights[index] > 0) if index in weights else uniform
    return {index: uniform}


def _quota(weight: Tensor, num_rows: int, draws: torch.Generator) -> Tensor:
    """How many of the rows each token with a weight shall have, (V,) int64: as equal as the number allows."""
    tokens = weight.nonzero().squeeze(1)
    tokens = tokens[torch.randperm(len(tokens), generator=draws, device=weight.device)]
    quota = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
    quota[tokens] = num_rows // len(tokens)
    quota[tokens[: num_rows % len(tokens)]] += 1
    return quota


def _within(quota: Tensor, tokens: Tensor, keep: Tensor) -> Tensor:
    """Which of the rows to keep, (N,) bool, the quota still wants; it is lessened by them."""
    wanted = torch.zeros_like(keep)
    for token in quota.nonzero().squeeze(1).tolist():
        rows = (keep & (tokens == token)).nonzero().squeeze(1)[: int(quota[token])]
        wanted[rows] = True
        quota[token] -= len(rows)
    return wanted


class Rejection:
    """Discriminator rejection sampling (Azadi et al. 2019, section 3.2) by the calibrated row discriminator.

    A row with log density ratio F is accepted with probability sigmoid(F - M - log(1 - exp(F - M - eps)) - gamma),
    where M is the highest F seen and gamma makes about half of the rows pass.
    """

    EPSILON = 1e-6
    BURN_IN_ROWS = 2048

    def __init__(self, trained: Trained, seed: int) -> None:
        if not trained.has_discriminators:
            raise UserError("--resample wants discriminators, and the run was trained with schedule none")
        self.discriminators = trained.discriminators
        draws = torch_generator(seed, "burn-in", device=trained.device)
        scores = self.score(*draw_rows(trained.generator, self.BURN_IN_ROWS, draws))
        self.highest = scores.max()
        self.gamma = self._relative(scores).quantile(0.5)

    def score(self, codes: Tensor, order: Tensor) -> Tensor:
        return self.discriminators.credits(codes, order)["row"]

    def _relative(self, scores: Tensor) -> Tensor:
        below = scores - self.highest
        return below - torch.log1p(-torch.exp(below - self.EPSILON))

    def __call__(self, codes: Tensor, order: Tensor, draws: torch.Generator) -> Tensor:
        """Which rows pass, (N,) bool."""
        scores = self.score(codes, order)
        self.highest = torch.maximum(self.highest, scores.max())
        chance = torch.sigmoid(self._relative(scores) - self.gamma)
        return torch.rand(len(codes), generator=draws, device=codes.device) < chance


def impute(trained: Trained, table: Table, seed: int) -> Iterator[Table]:
    """Yield the table's rows in order with every missing cell drawn given the row's other cells, batch by batch.

    Columns that the table lacks altogether are missing in every row. Given cells come out as they went in.

    Raises:
        UserError: a column that training did not have.
    """
    schema, device = trained.schema, trained.device
    for name in table.columns:
        schema.index(name)
    nothing = np.full(len(table), None, dtype=object)
    cells = [table.column(name) if name in table.columns else nothing for name in schema.names]
    whole = Table(schema.names, cells, table.text_columns, table.source)
    # A missing cell is to be filled, so "missing" is no answer, unless the column has no other.
    allowed = {}
    for c, column in enumerate(schema.columns):
        if column.missing is not None and column.vocab_size > 1:
            weight = torch.ones(column.vocab_size, device=device)
            weight[column.missing] = 0.0
            allowed[c] = weight
    for batch, start in enumerate(range(0, len(whole), BATCH_ROWS)):
        part = whole.take(slice(start, start + BATCH_ROWS))
        absent = np.column_stack([[cell is None for cell in column] for column in part.cells])
        known = schema.encode(part, strict=False).astype(np.int64)
        known[absent] = -1
        draws = torch_generator(seed, "impute", batch, device=device)
        known_BC = torch.as_tensor(known, device=device)
        place = torch.rand(known_BC.shape, generator=draws, device=device) + (known_BC < 0)
        codes, _ = trained.generator.sample(known_BC, place.argsort(1), draws, allowed)
        filled = schema.decode(codes.cpu().numpy(), rng(seed, "decode", batch))
        columns = [np.where(mask, new, old) for mask, new, old in zip(absent.T, filled.cells, part.cells, strict=True)]
        yield Table(schema.names, columns, filled.text_columns)


def write_stream(tables: Iterator[Table], stream: TextIO, format: str) -> None:
    """Write tables of the same columns one after another, the header once."""
    for index, table in enumerate(tables):
        write_rows(table, stream, format, header=index == 0)
