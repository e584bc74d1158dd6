"""What the four levels of discriminators say of given rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from disc_train.data import Table, cell_array
from disc_train.draws import BATCH_ROWS
from disc_train.run import Trained
from disc_train.text import text_to_row
from trainworks.console import UserError
from trainworks.torch import torch_generator

NUM_ORDERS = 8
"""Reading orders over which a row's answers are averaged; they are the same for every row."""


@dataclass(frozen=True)
class Judge:
    """Multi-level feedback on rows, from a trained run.

    Every answer is a probability that the thing is real rather than generated, 0.5 where the discriminators can't
    tell, by models that never saw the row. A cell that can't stand in its column is certainly not real: 0.
    """

    trained: Trained

    def __post_init__(self) -> None:
        if not self.trained.has_discriminators:
            raise UserError("this run has no discriminators: it was trained with schedule none")

    def get_multi_level_feedback(self, text: str) -> dict[str, Any]:
        """Feedback on one row, as text such as "RiskPerformance is Bad, ExternalRiskEstimate is 55".

        Returns:
            "token", "sentence" and "row": probabilities, the first two means over the row's cells; "features": one by
            column; "tokens" and "sentences": one by column; "invalid": reason by column.

        Raises:
            UserError: malformed text, an unknown column or a column left out.
        """
        row = text_to_row(text)
        table = Table(tuple(row), [cell_array([value]) for value in row.values()])
        return next(self.judge(table))

    def judge(self, table: Table) -> Iterator[dict[str, Any]]:
        """Feedback on each row of a table, as `get_multi_level_feedback` gives it."""
        schema = self.trained.schema
        for name in table.columns:
            schema.index(name)
        for start in range(0, len(table), BATCH_ROWS):
            part = table.take(slice(start, start + BATCH_ROWS))
            ordered = Table(schema.names, [part.column(name) for name in schema.names])
            faults: dict[int, dict[str, str]] = {}
            for row, column, reason in schema.validate(ordered):
                faults.setdefault(row, {})[column] = reason
            codes = torch.as_tensor(schema.encode(ordered, strict=False).astype(np.int64), device=self.trained.device)
            levels = {name: torch.sigmoid(logit).cpu().numpy() for name, logit in self._log_odds(codes).items()}
            for row in range(len(part)):
                yield self._answer(row, levels, faults.get(row, {}))

    def _log_odds(self, codes: Tensor) -> dict[str, Tensor]:
        """Mean calibrated log-odds over the reading orders, (B,) for rows, (B, C) for the others."""
        draws = torch_generator(0, "feedback orders", device=codes.device)
        total: dict[str, Tensor] = {}
        for _ in range(NUM_ORDERS):
            order = torch.randperm(codes.shape[1], generator=draws, device=codes.device).expand(len(codes), -1)
            for name, credit in self.trained.discriminators.credits(codes, order).items():
                total[name] = total.get(name, 0.0) + credit / NUM_ORDERS
        return total

    def _answer(self, row: int, levels: dict[str, np.ndarray], invalid: dict[str, str]) -> dict[str, Any]:
        by_column: dict[str, dict[str, float]] = {}
        for level in ("token", "sentence", "feature"):
            values = zip(self.trained.schema.names, levels[level][row].tolist(), strict=True)
            by_column[level] = {name: 0.0 if name in invalid else value for name, value in values}
        return {
            "token": float(np.mean(list(by_column["token"].values()))),
            "sentence": float(np.mean(list(by_column["sentence"].values()))),
            "row": 0.0 if invalid else float(levels["row"][row]),
            "features": by_column["feature"],
            "tokens": by_column["token"],
            "sentences": by_column["sentence"],
            "invalid": invalid,
        }


def feedback_lines(judge: Judge, table: Table, as_json: bool) -> Iterator[str]:
    """One line a row: all of the feedback as JSON, or the levels as CSV."""
    for index, answer in enumerate(judge.judge(table)):
        if index == 0 and not as_json:
            yield "token,sentence,row,feature,invalid"
        if as_json:
            yield json.dumps(answer, ensure_ascii=False)
        else:
            feature = float(np.mean(list(answer["features"].values())))
            levels = (answer["token"], answer["sentence"], answer["row"], feature)
            yield ",".join([*(f"{value:.4f}" for value in levels), str(len(answer["invalid"]))])
