"""What a table's columns hold: types, vocabularies, ranges. Turns rows into codes and codes into rows.

Legend: N rows, C columns, V tokens of a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from disc_train.column import Allowed, Column
from disc_train.data import Table, did_you_mean
from disc_train.inference import infer_column
from trainworks.console import UserError

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Schema:
    """The columns of a table, in its order.

    Attributes:
        warnings: what inferring them had to say, one line each; not saved.
    """

    columns: tuple[Column, ...]
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def infer(
        cls,
        table: Table,
        *,
        overrides: Mapping[str, str] | None = None,
        max_exact: int = 256,
        bins: int = 128,
        max_categories: int = 1000,
    ) -> Schema:
        """Learn the columns of a table.

        Args:
            overrides: column name to the kind that it must have: categorical, integer, decimal, boolean or
                date.
            max_exact: distinct numbers up to which each gets a token of its own; columns with more are
                binned.
            bins: quantile bins of a binned column. A number that more than 1 in `bins` rows hold keeps its
                own token.
            max_categories: distinct categories with a token of their own; rarer ones share one.

        Raises:
            UserError: an override names no column or no kind, or cells are not of the kind that it asks for.
        """
        overrides = overrides or {}
        for name in overrides:
            if name not in table.columns:
                raise UserError(
                    f'a type is given for column "{name}", which the table does not have'
                    f"{did_you_mean(name, table.columns)}"
                )
        columns, warnings = [], []
        for name, cells in zip(table.columns, table.cells, strict=True):
            column, said = infer_column(
                name,
                cells,
                kind=overrides.get(name),
                max_exact=max_exact,
                num_bins=bins,
                max_categories=max_categories,
                text=name in table.text_columns,
            )
            columns.append(column)
            warnings.extend(said)
        return cls(tuple(columns), warnings)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def vocab_sizes(self) -> list[int]:
        """Tokens of each column."""
        return [column.vocab_size for column in self.columns]

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {column.name: index for index, column in enumerate(self.columns)}

    def index(self, name: str) -> int:
        """Position of a column.

        Raises:
            UserError: there is no such column; the nearest one is named.
        """
        if name not in self._index_of:
            raise UserError(f'there is no column "{name}"{did_you_mean(name, self.names)}')
        return self._index_of[name]

    def column(self, name: str) -> Column:
        """A column by its name; UserError as in `index`."""
        return self.columns[self.index(name)]

    def token_values(self) -> list[np.ndarray]:
        """For each column (V,) float64, the number that each token stands for.

        A bin's is its median, a special code's itself, a date's its ordinal day; categories, booleans,
        markers and missing have NaN.
        """
        return [column.values for column in self.columns]

    def ordered_tokens(self) -> list[np.ndarray]:
        """For each column its tokens that are ordinary numbers or bins, by ascending number; no special codes."""
        ordered = []
        for column in self.columns:
            ordinary = np.flatnonzero(~np.isnan(column.values) & ~np.isin(column.values, column.special_codes))
            ordered.append(ordinary[np.argsort(column.values[ordinary], kind="stable")])
        return ordered

    def encode(self, table: Table, strict: bool = True) -> np.ndarray:
        """Codes (N, C) int32 of a table that has these columns, in any order.

        Args:
            strict: refuse what the vocabulary cannot tell: an unknown category, a number beyond the range
                seen or, in a column with a token for each number, an unseen one. Otherwise such a cell gets
                the nearest number's token, else the rare values' token, else the most frequent one.

        Raises:
            UserError: the table lacks a column, or strictness found a cell (its row, column and nearest known
                value).
        """
        codes = np.empty((len(table), len(self.columns)), dtype=np.int32)
        for index, column in enumerate(self.columns):
            cells = table.column(column.name)
            codes[:, index], inexact = column.encode(cells)
            if strict and inexact:
                row = next(row for row, cell in enumerate(cells) if cell == inexact[0])
                raise UserError(self._unknown_cell(table, row, column))
        return codes

    def _unknown_cell(self, table: Table, row: int, column: Column) -> str:
        where = f'{table.source + ", " if table.source else ""}row {row + 1}, column "{column.name}"'
        cell = table.column(column.name)[row]
        if cell is None:
            return f"{where}: the cell is missing, and no cell of this column was in training"
        if column.parse(cell) is not None:
            near = column.write(column.nearest_value(cell))
            return f'{where}: "{cell}" is unknown; the nearest known number is {near}'
        known = [text for text in column.texts if text is not None]
        return f'{where}: "{cell}" is unknown{did_you_mean(cell, known)}'

    def decode(
        self, codes: np.ndarray, rng: np.random.Generator, allowed: Mapping[int, Allowed] | None = None
    ) -> Table:
        """Rows of codes (N, C): a bin gives a draw inside it, the rare values' token one of them by
        frequency.

        Args:
            allowed: by column index what conditions leave (`compile_conditions`); codes whose weight is 0
                there must not occur. Draws stay within it.
        """
        allowed = allowed or {}
        cells = [column.decode(codes[:, c], rng, allowed.get(c)) for c, column in enumerate(self.columns)]
        return Table(self.names, cells, frozenset(column.name for column in self.columns if column.text))

    def validate(self, table: Table) -> list[tuple[int, str, str]]:
        """Cells that cannot stand in their column, as (row from 0, column, reason).

        Valid is a known category, or a number or date of the column's kind, digits and range.
        """
        faults = []
        for column in self.columns:
            cells = table.column(column.name).tolist()
            reasons = {cell: reason for cell in dict.fromkeys(cells) if (reason := column.fault(cell))}
            if reasons:
                faults += [(row, column.name, reasons[cell]) for row, cell in enumerate(cells) if cell in reasons]
        return faults

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and text; `from_json` makes the same schema of it."""
        return {"schema": FORMAT_VERSION, "columns": [column.to_json() for column in self.columns]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        if data.get("schema") != FORMAT_VERSION:
            raise UserError(f"the table schema has version {data.get('schema')}; this release reads {FORMAT_VERSION}")
        return cls(tuple(Column.from_json(column) for column in data["columns"]))
