"""Conditions on cells: `--where Age>=30`, `--where 'Color=red|blue'`.

    condition = column op item {"|" item}
    op        = "=" | "!=" | "<" | "<=" | ">" | ">="

`=` with several items asks for any of them, `!=` for none of them; the other four take one number or ISO
date. An empty item is a missing cell, `""` an empty string. A column or item that holds an operator, a bar, a
quote or outer blanks is quoted as in CSV, such as `"a|b"`, inner quotes doubled. Numbers compare as numbers:
`Age=5` finds 5.0, and `Age<30` finds a code such as -9. Missing cells and markers meet no `<`, `<=`, `>` or
`>=`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from disc_train.bins import Interval
from disc_train.column import NUMERIC, Allowed, Column
from disc_train.data import Table, did_you_mean
from disc_train.number_format import NumberFormat, parse_date, parse_decimal
from disc_train.schema import Schema
from trainworks.console import UserError

_OPERATOR = re.compile(r"\s*(!=|<=|>=|=|<|>)\s*")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_SPECIAL = re.compile('["|=<>!]')
_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": lambda cell, bound: cell < bound,
    "<=": lambda cell, bound: cell <= bound,
    ">": lambda cell, bound: cell > bound,
    ">=": lambda cell, bound: cell >= bound,
}


@dataclass(frozen=True)
class Condition:
    """What cells of one column must be.

    Attributes:
        column: its name.
        op: "=", "!=", "<", "<=", ">" or ">=".
        values: the items, None for missing; exactly one number or date for the ordered operators.
    """

    column: str
    op: str
    values: tuple[str | None, ...]

    def __str__(self) -> str:
        return f"{_quote(self.column)}{self.op}{'|'.join(map(_quote, self.values))}"

    @cached_property
    def _numbers(self) -> frozenset[float]:
        return frozenset(n for value in self.values if value is not None and (n := parse_decimal(value)) is not None)

    @cached_property
    def _bound(self) -> tuple[Callable[[str], float | None], float]:
        value = self.values[0] or ""
        parse = parse_date if parse_date(value) is not None else parse_decimal
        bound = parse(value)
        assert bound is not None  # parse_condition sees to it
        return parse, bound

    def holds(self, cell: str | None, kind: str | None = None) -> bool:
        """Whether a cell meets the condition.

        Args:
            kind: the column's kind; text that is equal as a number counts as equal except in categorical and
                boolean columns.
        """
        if self.op in _ORDERED:
            parse, bound = self._bound
            number = None if cell is None else parse(cell)
            return number is not None and _ORDERED[self.op](number, bound)
        equal = cell in self.values
        if not equal and cell is not None and self._numbers and kind not in ("categorical", "boolean"):
            equal = parse_decimal(cell) in self._numbers
        return equal == (self.op == "=")


def parse_condition(text: str) -> Condition:
    """Read one condition.

    Raises:
        UserError: it is not one, or an ordered operator has no number or date.
    """
    text = text.strip()
    quoted = _QUOTED.match(text)
    operator = _OPERATOR.search(text) if quoted is None else _OPERATOR.match(text, quoted.end())
    name = text[: operator.start()].strip() if operator and quoted is None else _unquote(quoted)
    if operator is None or not name:
        raise UserError(f'"{text}" is not a condition; write COLUMN=VALUE, or !=, <, <=, >, >=, or COLUMN=VALUE|VALUE')
    op, values = operator[1], _parse_items(text, operator.end())
    value = values[0]
    if op in _ORDERED and (
        len(values) > 1 or value is None or (parse_decimal(value) is None and parse_date(value) is None)
    ):
        raise UserError(f'condition "{text}": {op} takes one number or one date such as 2024-02-29')
    return Condition(name, op, values)


def _parse_items(text: str, start: int) -> tuple[str | None, ...]:
    items: list[str | None] = []
    while True:
        quoted = _QUOTED.match(text, start)
        bar = text.find("|", start if quoted is None else quoted.end())
        end = len(text) if bar < 0 else bar
        if quoted is None:
            item = text[start:end].strip()
            if item.startswith('"'):
                raise UserError(f'condition "{text}": a quoted value is not closed')
            items.append(item or None)
        else:
            if text[quoted.end() : end].strip():
                raise UserError(f'condition "{text}": text follows a quoted value; double inner quotes')
            items.append(_unquote(quoted))
        if bar < 0:
            return tuple(items)
        start = len(text) - len(text[bar + 1 :].lstrip())


def _unquote(quoted: re.Match[str] | None) -> str:
    return quoted[1].replace('""', '"') if quoted else ""


def _quote(text: str | None) -> str:
    if text is None:
        return ""
    plain = text != "" and text == text.strip() and not _SPECIAL.search(text)
    return text if plain else '"' + text.replace('"', '""') + '"'


def matches(conditions: Sequence[Condition], table: Table, schema: Schema | None = None) -> np.ndarray:
    """Which rows of a table meet all conditions: (N,) bool.

    Args:
        schema: tells which columns are categorical, where "1" and "1.0" are two values; without it they are
            one.

    Raises:
        UserError: a condition names no column of the table.
    """
    met = np.ones(len(table), dtype=bool)
    for condition in conditions:
        cells = table.column(condition.column).tolist()
        kind = schema.column(condition.column).kind if schema is not None else None
        holds = {cell: condition.holds(cell, kind) for cell in dict.fromkeys(cells)}
        met &= np.fromiter(map(holds.__getitem__, cells), dtype=bool, count=len(cells))
    return met


def compile_conditions(conditions: Sequence[Condition], schema: Schema) -> dict[int, Allowed]:
    """What all conditions together leave of each column that they name: column index to weights and ranges.

    Raises:
        UserError: an unknown column or value (the nearest is named), an order asked of a categorical column,
            or conditions on one column that no value meets.
    """
    by_column: dict[int, list[Condition]] = {}
    for condition in conditions:
        index = schema.index(condition.column)
        _check(condition, schema.columns[index])
        by_column.setdefault(index, []).append(condition)
    return {index: _compile_column(schema.columns[index], asked) for index, asked in by_column.items()}


def _check(condition: Condition, column: Column) -> None:
    """Raise UserError for what could never have been meant."""
    if condition.op in _ORDERED:
        bound = condition.values[0] or ""
        if column.kind not in NUMERIC:
            raise UserError(f'condition "{condition}": "{column.name}" is {column.kind} and has no order; use = or !=')
        if (parse_date if column.kind == "date" else parse_decimal)(bound) is None:
            wanted = "a date" if column.kind == "date" else "a number"
            raise UserError(f'condition "{condition}": "{column.name}" is {column.kind}, so {wanted} was wanted')
        return
    for value in condition.values:
        if value is None and condition.op == "!=":
            continue  # holds of every cell where none is missing, and that is no mistake
        if not _allow(column, [Condition(column.name, "=", (value,))]).weight.any():
            raise UserError(f'condition "{condition}": {_unknown(value, column)}')


def _unknown(value: str | None, column: Column) -> str:
    if value is None:
        return f'no cell of "{column.name}" is missing'
    if column.parse(value) is not None:
        near, low, high = map(column.write, (column.nearest_value(value), column.low, column.high))
        return f'"{column.name}" has no value "{value}"; the nearest is {near}, the range {low} to {high}'
    known = [text for text in (*column.texts, *column.rare_values) if text is not None]
    return f'"{column.name}" has no value "{value}"{did_you_mean(value, known)}'


def _compile_column(column: Column, asked: list[Condition]) -> Allowed:
    allowed = _allow(column, asked)
    if not allowed.weight.any():
        known = f"; it runs from {column.write(column.low)} to {column.write(column.high)}" if column.numeric else ""
        raise UserError(f'no value of "{column.name}" meets {" and ".join(map(str, asked))}{known}')
    return allowed


def _allow(column: Column, asked: list[Condition]) -> Allowed:
    intervals: list[Interval] | None = None
    if column.bins is not None and column.format is not None:
        intervals = [(-math.inf, math.inf)]
        for condition in asked:
            left = _intervals(condition, column.format)
            both = ((max(a, c), min(b, d)) for a, b in intervals for c, d in left)
            intervals = [(low, high) for low, high in both if low <= high]
    return column.allow(lambda cell: all(condition.holds(cell, column.kind) for condition in asked), intervals)


def _intervals(condition: Condition, format: NumberFormat) -> list[Interval]:
    """The units of a numeric column that meet a condition, as disjoint ascending intervals."""
    parse = parse_date if format.kind == "date" else parse_decimal
    numbers = {number for value in condition.values if value and (number := parse(value)) is not None}
    asked = sorted(map(format.exact_unit, numbers))
    if condition.op in ("<", "<="):
        return [(-math.inf, _at_most(asked[0], format, strict=condition.op == "<"))]
    if condition.op in (">", ">="):
        return [(_at_least(asked[0], format, strict=condition.op == ">"), math.inf)]
    units = [unit for unit in asked if not format.on_grid or unit.denominator == 1]
    if condition.op == "=":
        return [(float(unit), float(unit)) for unit in units]
    edges = [-math.inf]
    for unit in units:
        edges += [_at_most(unit, format, strict=True), _at_least(unit, format, strict=True)]
    edges.append(math.inf)
    return [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low <= high]


def _at_most(unit: Any, format: NumberFormat, strict: bool) -> float:
    """The largest unit that a number can have at (unless strict) or below this one."""
    if not format.on_grid:
        return math.nextafter(unit, -math.inf) if strict else unit
    return float(math.ceil(unit) - 1 if strict else math.floor(unit))


def _at_least(unit: Any, format: NumberFormat, strict: bool) -> float:
    if not format.on_grid:
        return math.nextafter(unit, math.inf) if strict else unit
    return float(math.floor(unit) + 1 if strict else math.ceil(unit))
