"""Records of any names in, columns out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from diag.series import Note, Series

STEP_NAMES = ("step", "global_step", "_step", "iteration", "iter", "iterations", "steps", "batch", "it")
TIME_NAMES = ("time", "elapsed", "_runtime", "seconds", "wall_time", "walltime", "timestamp", "_timestamp")
EPOCH_NAMES = ("epoch", "epochs")
NON_FINITE = {"nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}


class Table:
    """Gathers records into a `Series`."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._notes: dict[str, tuple[int, str]] = {}
        self._pieces: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._names: dict[tuple[str, ...], bool] = {}
        self._n = 0

    def note(self, kind: str, where: str, count: int = 1) -> None:
        before, first = self._notes.get(kind, (0, f"{self.where} {where}"))
        self._notes[kind] = (before + count, first)

    def add(self, records: list[dict[str, Any]], numbers: Iterable[int]) -> None:
        """Add records, which stand in the lines `numbers`."""
        groups: dict[tuple[str, ...], tuple[list[int], list[Any]]] = {}
        for row, record in enumerate(records, start=self._n):
            group = groups.get(names := tuple(record))
            if group is None:
                group = groups[names] = ([], [])
            group[0].append(row)
            group[1].append(record.values())
        lines = numbers if isinstance(numbers, range) else list(numbers)
        for names, (rows, values) in groups.items():
            self._add_group(names, np.array(rows, dtype=np.int32), values, lines)
        self._n += len(records)

    def _add_group(self, names: tuple[str, ...], rows: np.ndarray, values: list[Any], lines: Any) -> None:
        """Add records of the same names: numbers at once, and anything else value by value."""
        if not names:
            return
        try:
            flat = np.fromiter(chain.from_iterable(values), np.float64, count=len(values) * len(names))
        except (TypeError, ValueError, OverflowError):
            plain = np.array([tuple(row) for row in values], dtype=object)
            for column, name in enumerate(names):
                self._add_mixed(name, rows, plain[:, column], lines)
            return
        for name, numbers in zip(names, flat.reshape(-1, len(names)).T.copy(), strict=True):
            self._append(name, rows, numbers)

    def _add_mixed(self, name: str, rows: np.ndarray, cells: np.ndarray, lines: Any) -> None:
        flat: dict[str, tuple[list[int], list[float]]] = {}
        for row, cell in zip(rows, cells, strict=True):
            for inner, number in numbers_in(name, cell):
                if number is None:
                    self.note("text", f"line {lines[int(row) - self._n]}")
                    continue
                at, found = flat.setdefault(inner, ([], []))
                at.append(int(row))
                found.append(number)
        for inner, (at, found) in flat.items():
            self._append(inner, np.array(at, dtype=np.int32), np.array(found))

    def _append(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        self._pieces.setdefault(name, []).append((rows, values))

    def series(self) -> Series:
        """What was gathered."""
        series = Series([], np.zeros(self._n, dtype=np.int64), np.zeros(self._n), np.zeros(self._n))
        series.pieces = self._pieces
        steps = self._take(series, STEP_NAMES)
        epochs = self._take(series, EPOCH_NAMES)
        times = self._take(series, TIME_NAMES)
        absent = np.full(self._n, np.nan)
        series.epochs = absent if epochs is None else epochs
        series.times = absent if times is None else times
        if steps is None and epochs is not None:
            steps, series.unit = epochs, "epoch"
        elif steps is None:
            series.unit = "record"
            if self._n:
                self.note("no_steps", "has no step", self._n)
        series.steps = whole(np.arange(1, self._n + 1) if steps is None else steps)
        series.names = list(series.pieces)
        if not self._n:
            self.note("no_records", "holds no records")
        series.notes = [Note(kind, count, where) for kind, (count, where) in self._notes.items()]
        return series

    def _take(self, series: Series, names: tuple[str, ...]) -> np.ndarray | None:
        """Remove the first of `names` that is there and return its column."""
        by_lower = {name.lower().replace(" ", "_").rpartition("/")[2]: name for name in reversed(series.pieces)}
        for name in names:
            if name in by_lower:
                column = series.column(by_lower[name])
                del series.pieces[by_lower[name]]
                return column
        return None


def as_floats(cells: np.ndarray) -> np.ndarray:
    """float64 of ints, floats, bools and None, which becomes NaN."""
    try:
        return cells.astype(np.float64)
    except OverflowError:  # an int beyond 1e308
        return np.array([np.nan if cell is None else clipped(cell) for cell in cells])


def clipped(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def numbers_in(name: str, cell: Any) -> Iterator[tuple[str, float | None]]:
    """The numbers in a value, with their names: nested objects become slash-named, text gives None."""
    if isinstance(cell, Mapping):
        for key, inner in cell.items():
            yield from numbers_in(f"{name}/{key}", inner)
    elif cell is None:
        yield name, math.nan
    elif isinstance(cell, bool | int | float):
        yield name, clipped(cell)
    elif isinstance(cell, str) and cell.strip().lower() in NON_FINITE:
        yield name, NON_FINITE[cell.strip().lower()]
    else:
        yield name, None


def whole(steps: np.ndarray) -> np.ndarray:
    """(n,) int64: a record without a step has that of the record before it."""
    steps = np.asarray(steps, dtype=np.float64)
    known = np.isfinite(steps)
    last = np.maximum.accumulate(np.where(known, np.arange(len(steps)), -1))
    filled = np.where(last >= 0, steps[np.maximum(last, 0)], 0.0) if len(steps) else steps
    return np.clip(filled, -(2.0**62), 2.0**62).astype(np.int64)
