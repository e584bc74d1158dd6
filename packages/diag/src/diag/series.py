"""What a training logged, in columns.

Records of a log differ in their names: a step logs its loss, an evaluation its accuracy. So each metric keeps the rows
that it stands in, and 10,000 metrics of ten values each take the room of 100,000 values.

Shape legend: n records, k points of one metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Points = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Note:
    """Something odd that was met while reading.

    Attributes:
        kind: "damaged" (lines that are no records), "truncated" (a last line that was cut), "no_steps" (records were
            counted), "text" (values that are no numbers) or "no_records".
        count: how many.
        where: the first place, such as "metrics.jsonl line 7".
    """

    kind: str
    count: int
    where: str


@dataclass
class Series:
    """The records of one log.

    Attributes:
        names: metrics in the order of their first appearance.
        steps: (n,) int64, optimizer steps, or what `unit` says.
        times: (n,) float64, seconds since the start; NaN where not logged.
        epochs: (n,) float64, passes over the data; NaN where not logged.
        unit: "step", "epoch" or "record": what `steps` counts.
        notes: what was odd in the file.
    """

    names: list[str]
    steps: np.ndarray
    times: np.ndarray
    epochs: np.ndarray
    unit: str = "step"
    notes: list[Note] = field(default_factory=list)
    pieces: dict[str, list[Points]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.steps)

    def points(self, name: str) -> Points:
        """Rows (k,) int32 that have the metric, ascending, and its values (k,) float64; NaN where null was logged.

        Raises:
            KeyError: no such metric.
        """
        pieces = self.pieces[name]
        if len(pieces) > 1:
            rows = np.concatenate([rows for rows, _ in pieces])
            values = np.concatenate([values for _, values in pieces])
            if np.any(rows[1:] < rows[:-1]):
                order = np.argsort(rows, kind="stable")
                rows, values = rows[order], values[order]
            self.pieces[name] = pieces = [(rows, values)]
        return pieces[0]

    def column(self, name: str) -> np.ndarray:
        """(n,) float64 with NaN where the metric is absent or was logged as null.

        Raises:
            KeyError: no such metric.
        """
        rows, values = self.points(name)
        column = np.full(len(self), np.nan)
        column[rows] = values
        return column

    def curve(self, name: str) -> Points:
        """Steps (k,) int64 and values (k,) float64 of the records that have the metric.

        Raises:
            KeyError: no such metric.
        """
        rows, values = self.points(name)
        return self.steps[rows], values

    @classmethod
    def of(cls, steps: np.ndarray, metrics: Mapping[str, np.ndarray], times: np.ndarray | None = None) -> Series:
        """A series in which every record has every metric, each (n,)."""
        steps = np.asarray(steps, dtype=np.int64)
        rows = np.arange(len(steps), dtype=np.int32)
        absent = np.full(len(steps), np.nan)
        return cls(
            names=list(metrics),
            steps=steps,
            times=absent if times is None else np.asarray(times, dtype=np.float64),
            epochs=absent,
            pieces={name: [(rows, np.asarray(values, dtype=np.float64))] for name, values in metrics.items()},
        )

    def until(self, step: int) -> Series:
        """The records up to the first one past `step`."""
        past = np.flatnonzero(self.steps > step)
        n = int(past[0]) if len(past) else len(self)
        pieces: dict[str, list[Points]] = {}
        for name in self.names:
            rows, values = self.points(name)
            end = int(np.searchsorted(rows, n))
            if end:
                pieces[name] = [(rows[:end], values[:end])]
        return Series(list(pieces), self.steps[:n], self.times[:n], self.epochs[:n], self.unit, self.notes, pieces)
