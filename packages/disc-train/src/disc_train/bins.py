"""Quantile bins of a column with too many numbers for a token each: what they hold and how to draw from them.

Legend: B bins, K knots, N rows. Numbers are in the units of the column's `NumberFormat`: whole numbers on a
grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from disc_train.number_format import NumberFormat

NUM_KNOTS = 16
"""Quantiles stored for each bin."""

Interval = tuple[float, float]
"""Smallest and largest unit allowed, both included."""


@dataclass(frozen=True)
class Piece:
    """A part of a bin that a restriction leaves.

    Attributes:
        low, high: smallest and largest unit.
        start, stop: the shares of the bin's rows below and up to the end of it.
        mass: how much of the bin it counts for; positive even for a single number.
    """

    low: float
    high: float
    start: float
    stop: float
    mass: float


@dataclass(frozen=True)
class Bins:
    """Bins in ascending order, disjoint.

    Attributes:
        low, high: (B,) smallest and largest unit seen; no draw leaves them.
        knots: (B, K) the units at K evenly spaced quantiles from 0 to 1. On a grid a number fills the half
            step to either side, so that rounding a draw gives each number its own share.
        counts: (B,) rows of the training table.
    """

    low: np.ndarray
    high: np.ndarray
    knots: np.ndarray
    counts: np.ndarray

    @classmethod
    def fit(cls, groups: Sequence[tuple[np.ndarray, np.ndarray]], on_grid: bool) -> Bins:
        """One bin for each group: distinct ascending units and how many rows hold each."""
        return cls(
            low=np.array([units[0] for units, _ in groups]),
            high=np.array([units[-1] for units, _ in groups]),
            knots=np.array([_quantiles(units, counts, on_grid) for units, counts in groups]),
            counts=np.array([counts.sum() for _, counts in groups]),
        )

    def __len__(self) -> int:
        return len(self.low)

    def medians(self) -> np.ndarray:
        """(B,) the middle of each bin's rows."""
        return np.clip((self.knots[:, NUM_KNOTS // 2 - 1] + self.knots[:, NUM_KNOTS // 2]) / 2, self.low, self.high)

    def nearest(self, units: np.ndarray) -> np.ndarray:
        """(N,) the bin that holds each unit, or the nearest one."""
        above = np.clip(np.searchsorted(self.low, units, side="right"), 1, len(self) - 1) if len(self) > 1 else 0
        below = np.maximum(np.asarray(above) - 1, 0)
        closer_above = self.low[above] - units < units - self.high[below]
        return np.where(closer_above, above, below)

    def share_below(self, bin: int, unit: float) -> float:
        """The share of a bin's rows up to a unit."""
        return float(np.interp(unit, self.knots[bin], np.linspace(0, 1, NUM_KNOTS)))

    def pieces(self, intervals: Sequence[Interval], on_grid: bool, gaps: bool) -> dict[int, list[Piece]]:
        """What `intervals` leave of each bin; nothing is left of a bin that is not named.

        A lone number always has a bin. Of an interval between two bins the nearest one gets it, if `gaps` are
        wanted.
        """
        found: dict[int, list[Piece]] = {}
        for low, high in intervals:
            if low == high:
                touched = self.nearest(np.array([low]))
            else:
                touched = np.flatnonzero((self.high >= low) & (self.low <= high))
            for bin in touched.tolist():
                found.setdefault(bin, []).append(self._piece(bin, low, high, on_grid))
        if gaps and not found:
            for low, high in intervals:
                bin = int(self.nearest(np.array([low]))[0])
                found.setdefault(bin, []).append(self._piece(bin, low, high, on_grid))
        return found

    def is_whole(self, bin: int, parts: Sequence[Piece]) -> bool:
        """Whether pieces of a bin leave all of it."""
        return any(part.low <= self.low[bin] and self.high[bin] <= part.high for part in parts)

    def _piece(self, bin: int, low: float, high: float, on_grid: bool) -> Piece:
        if low <= self.low[bin] and self.high[bin] <= high:
            return Piece(self.low[bin], self.high[bin], 0.0, 1.0, 1.0)
        if low <= self.high[bin] and self.low[bin] <= high:
            low, high = max(low, self.low[bin]), min(high, self.high[bin])
        margin = 0.5 if on_grid else 0.0
        start, stop = self.share_below(bin, low - margin), self.share_below(bin, high + margin)
        # What was not seen, or has no width, counts as half a row.
        return Piece(low, high, start, stop, max(stop - start, 0.5 / self.counts[bin]))

    def draw(
        self,
        bins: np.ndarray,
        rng: np.random.Generator,
        format: NumberFormat,
        pieces: Mapping[int, Sequence[Piece]],
    ) -> np.ndarray:
        """Texts (N,) of numbers drawn inside the bins (N,), each within the pieces that its bin has been
        left."""
        quantile, low, high = rng.random(len(bins)), self.low[bins], self.high[bins]
        for bin, parts in pieces.items():
            rows = np.flatnonzero(bins == bin)
            mass = np.array([part.mass for part in parts])
            part = rng.choice(len(parts), size=len(rows), p=mass / mass.sum())
            start, stop = np.array([p.start for p in parts])[part], np.array([p.stop for p in parts])[part]
            quantile[rows] = start + quantile[rows] * (stop - start)
            low[rows], high[rows] = (
                np.array([p.low for p in parts])[part],
                np.array([p.high for p in parts])[part],
            )
        place = quantile * (NUM_KNOTS - 1)
        knot = np.minimum(place.astype(np.int64), NUM_KNOTS - 2)
        left, right = self.knots[bins, knot], self.knots[bins, knot + 1]
        units = left + (place - knot) * (right - left)
        units = np.clip(np.rint(units) if format.on_grid else units, low, high)
        texts = format.texts(units)
        if not format.on_grid:
            # Rounding to the column's digits may step over a bound; those are written in full.
            written = np.array([float(text) for text in texts])
            for row in np.flatnonzero((written < low) | (written > high)):
                texts[row] = repr(float(units[row]))
        return texts

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Bins:
        return cls(**{name: np.array(values) for name, values in data.items()})


def quantile_groups(
    units: np.ndarray, counts: np.ndarray, segment: np.ndarray, num_bins: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split distinct ascending units (N,), held by `counts` rows each, into about `num_bins` groups of equal
    rows.

    A group never reaches over the border of two segments, which are where numbers with tokens of their own
    lie.
    """
    if not len(units):
        return []
    middle = np.cumsum(counts) - counts / 2
    group = np.minimum((middle / counts.sum() * num_bins).astype(np.int64), num_bins - 1)
    borders = np.flatnonzero((np.diff(group) != 0) | (np.diff(segment) != 0)) + 1
    return list(zip(np.split(units, borders), np.split(counts, borders), strict=True))


def _quantiles(units: np.ndarray, counts: np.ndarray, on_grid: bool) -> np.ndarray:
    shares = np.linspace(0, 1, NUM_KNOTS)
    if not on_grid:
        return np.quantile(np.repeat(units, counts), shares)
    below = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    edges = np.column_stack([units - 0.5, units + 0.5]).ravel()
    return np.interp(shares, np.column_stack([below[:-1], below[1:]]).ravel(), edges)
