"""Tables of text as numbers that classifiers, regressions and distances can read.

One `Features` is fitted on all the tables of an evaluation, so it has a number for every cell that they hold:
a value that the real rows never show stays visible to a classifier.
Array names end in their dimensions: N rows, C columns.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from disc_train.data import Table
    from disc_train.schema import Schema

LARGEST = 1e36
"""Numbers are clipped here, so that they and the numbers beneath them for markers fit a 32-bit float."""

MAX_INDICATORS = 100
"""A category beyond a column's 100 most frequent has no one-hot column of its own; those share one."""


@dataclass(frozen=True)
class ColumnFeatures:
    """How one column's cells become numbers.

    Attributes:
        number: the number of every cell text that occurs in the tables. A category's is its place in order;
            a missing number's is NaN, a missing category's one like any other.
        specials: numbers that say "no measurement here" in a numeric column: codes such as -9, markers such
            as "?".
        frequent: categories by falling count in the first table, at most `MAX_INDICATORS`.
        mean, scale, low, span: of the first table's measurements (mean, standard deviation, minimum, range).
    """

    name: str
    categorical: bool
    number: dict[str | None, float]
    specials: tuple[float, ...]
    frequent: tuple[float, ...]
    mean: float
    scale: float
    low: float
    span: float

    def measured(self, numbers_N: np.ndarray) -> np.ndarray:
        """True where a numeric column holds a measurement: neither missing nor a special code."""
        return ~np.isnan(numbers_N) & ~np.isin(numbers_N, self.specials)


@dataclass(frozen=True)
class Features:
    """The columns' rules, and the numeric forms of a table that follow from them."""

    columns: tuple[ColumnFeatures, ...]

    @classmethod
    def fit(cls, schema: Schema, tables: Sequence[Table]) -> Features:
        """Number every cell in `tables`; scales and frequencies come from `tables[0]`, the train rows."""
        columns = [(name, [table.column(name) for table in tables]) for name in schema.names]
        return cls(tuple(_fit_column(schema, name, cells_by_table) for name, cells_by_table in columns))

    @property
    def categorical(self) -> np.ndarray:
        """(C,) bool: the columns whose numbers are codes without an order."""
        return np.array([column.categorical for column in self.columns])

    def numbers(self, table: Table) -> np.ndarray:
        """(N, C) float64: measurements as they are, categories as codes, NaN for a missing number."""
        numbers_NC = np.empty((len(table), len(self.columns)))
        for index, column in enumerate(self.columns):
            numbers_NC[:, index] = [column.number[cell] for cell in table.column(column.name)]
        return numbers_NC

    def without(self, index: int) -> Features:
        """The same features less one column, as a model that predicts that column needs them."""
        return Features(self.columns[:index] + self.columns[index + 1 :])

    def design(self, numbers_NC: np.ndarray) -> np.ndarray:
        """(N, columns derived from the C) float32 for linear models and neighbours.

        A category is one-hot. A number is standardised by the train rows and clipped at ten deviations; where
        it is missing or special it is 0 and an indicator of its own tells which.
        """
        blocks = []
        for index, column in enumerate(self.columns):
            value_N = numbers_NC[:, index]
            if column.categorical:
                hot = [value_N == code for code in column.frequent]
                if len(column.number) > len(column.frequent):
                    hot.append(~np.isin(value_N, column.frequent))
                blocks.extend(hot)
                continue
            measured = column.measured(value_N)
            blocks.append(np.where(measured, np.clip((value_N - column.mean) / column.scale, -10, 10), 0.0))
            blocks.extend(value_N == special for special in column.specials)
            if None in column.number:
                blocks.append(np.isnan(value_N))
        return np.stack(blocks, axis=1).astype(np.float32)

    def positions(self, numbers_NC: np.ndarray) -> np.ndarray:
        """(N, C) float32 such that Gower's distance (Gower 1971) is the mean over columns of min(|a - b|, 1).

        A measurement lies in [0, 1], scaled by the train rows' range. Every category, special code and
        missing cell has an even place of its own from 2 up: at distance 1 from everything but itself.
        """
        position_NC = np.empty(numbers_NC.shape, dtype=np.float32)
        for index, column in enumerate(self.columns):
            value_N = numbers_NC[:, index]
            if column.categorical:
                position_NC[:, index] = 2 * value_N
                continue
            place_N = np.clip((value_N - column.low) / column.span, 0, 1)
            place_N[np.isnan(value_N)] = 2
            for order, special in enumerate(column.specials):
                place_N[value_N == special] = 4 + 2 * order
            position_NC[:, index] = place_N
        return position_NC


def _fit_column(schema: Schema, name: str, cells_by_table: list[np.ndarray]) -> ColumnFeatures:
    counts = Counter(cells_by_table[0].tolist())
    texts = set().union(*(set(cells.tolist()) for cells in cells_by_table))
    kind = schema.column(name).kind
    if kind in ("categorical", "boolean"):
        ordered = sorted(texts, key=lambda text: (text is None, text or ""))
        number = {text: float(code) for code, text in enumerate(ordered)}
        frequent = tuple(number[text] for text, _ in counts.most_common(MAX_INDICATORS))
        return ColumnFeatures(name, True, number, (), frequent, 0.0, 1.0, 0.0, 1.0)
    parsed = {text: _number(text, kind) for text in texts}
    number = {text: value for text, value in parsed.items() if value is not None}
    codes = set(schema.column(name).special_codes) & set(number.values())
    low, high = min(number.values(), default=0.0), max(number.values(), default=0.0)
    step = max(1.0, high - low)
    words = sorted(text for text, value in parsed.items() if value is None and text is not None)
    markers = [text for text in words if text in counts]
    foreign = [text for text in words if text not in counts]
    # A marker of the train rows has a number of its own beneath all measurements; unknown words share one.
    below = [low - step * (order + 1) for order in range(len(markers) + 1)]
    number |= dict(zip(markers, below, strict=False)) | dict.fromkeys(foreign, below[-1])
    if None in texts:
        number[None] = float("nan")
    specials = tuple(sorted(codes | set(below[: len(markers) + bool(foreign)])))
    value_N = np.array([number[text] for text in cells_by_table[0]])
    measured_N = value_N[~np.isnan(value_N) & ~np.isin(value_N, specials)]
    if not len(measured_N):
        measured_N = np.zeros(1)
    span = float(measured_N.max() - measured_N.min()) or 1.0
    scale = float(measured_N.std()) or 1.0
    return ColumnFeatures(
        name, False, number, specials, (), float(measured_N.mean()), scale, float(measured_N.min()), span
    )


def _number(text: str | None, kind: str) -> float | None:
    """The measurement that a cell states; None where it states none."""
    if text is None:
        return None
    try:
        value = datetime.date.fromisoformat(text).toordinal() if kind == "date" else float(text)
    except ValueError:
        return None
    # Adding zero makes -0.0 the same bits as 0.0.
    return float(np.clip(value, -LARGEST, LARGEST)) + 0.0 if np.isfinite(value) else None
