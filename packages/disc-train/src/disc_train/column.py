"""One column's tokens: how its cells become the codes of a generative model, and codes become cells again.

Legend: V tokens, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from disc_train.bins import Bins, Interval, Piece
from disc_train.data import cell_array
from disc_train.number_format import NumberFormat

NUMERIC = ("integer", "decimal", "date")
"""Kinds whose cells have an order; a date counts by its ordinal day."""

KINDS = ("categorical", "boolean", *NUMERIC)


@dataclass(frozen=True, eq=False)
class Allowed:
    """What conditions leave of a column.

    Attributes:
        weight: (V,) in [0, 1], the share of each token's rows that meets them.
        pieces: of the bins (by number) that are not allowed whole, the parts that are.
        rare: of the rare values' shared token, which may be drawn; None for all.
    """

    weight: np.ndarray
    pieces: Mapping[int, Sequence[Piece]] = field(default_factory=dict)
    rare: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Column:
    """A column and its vocabulary.

    Tokens stand in this order: missing (if any cell is), then categories in sorted order or, in a numeric
    column, markers such as "?", codes such as -9 and then numbers and bins ascending; last the token that
    rare values share.

    Attributes:
        kind: one of `KINDS`.
        texts: (V,) the cell that a token stands for; None for missing, for a bin and for the rare values.
        counts: (V,) rows of the training table.
        missing: the token of a missing cell, or None.
        special_codes: numbers that are codes, such as -9: no part of the range and never drawn near.
        format, low, high: numeric kinds: how numbers are written, and the smallest and largest one seen.
        bins, bin_tokens: the bins and the token of each, where not every number has a token.
        rare_values, rare_counts: values that share the last token.
        text: JSON writes every cell as a string.
    """

    name: str
    kind: str
    texts: tuple[str | None, ...]
    counts: np.ndarray
    missing: int | None = None
    special_codes: tuple[float, ...] = ()
    format: NumberFormat | None = None
    low: float = float("nan")
    high: float = float("nan")
    bins: Bins | None = None
    bin_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    rare_values: tuple[str, ...] = ()
    rare_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    text: bool = False

    @property
    def vocab_size(self) -> int:
        return len(self.texts)

    @property
    def numeric(self) -> bool:
        return self.format is not None

    @property
    def rare(self) -> int | None:
        """The token that rare values share, or None."""
        return self.vocab_size - 1 if self.rare_values else None

    @cached_property
    def token_of(self) -> dict[str | None, int]:
        """The token of each cell text that has one of its own, and of missing."""
        tokens: dict[str | None, int] = {text: token for token, text in enumerate(self.texts) if text is not None}
        return tokens if self.missing is None else tokens | {None: self.missing}

    @cached_property
    def _token_of_rare(self) -> dict[str, int]:
        return dict.fromkeys(self.rare_values, self.vocab_size - 1)

    @cached_property
    def values(self) -> np.ndarray:
        """(V,) the number of each token: of a bin its median; NaN for categories, markers and missing."""
        values = np.full(self.vocab_size, np.nan)
        if self.format is not None:
            for token, text in enumerate(self.texts):
                if text is not None and (value := self.format.parse(text)) is not None:
                    values[token] = value
            if self.bins is not None:
                values[self.bin_tokens] = self.format.values(self.bins.medians())
        return values

    @cached_property
    def _cells(self) -> np.ndarray:
        return cell_array(self.texts)

    def parse(self, text: str | None) -> float | None:
        """The number that a cell holds; None for what is no number of this column's kind."""
        return self.format.parse(text) if self.format is not None and text is not None else None

    def fault(self, cell: str | None) -> str | None:
        """Why a cell cannot stand in this column; None if it can."""
        if cell in self.token_of or cell in self._token_of_rare:
            return None
        if cell is None:
            return "is missing, and no cell of this column was"
        if self.format is None:
            return "is no known category"
        value = self.parse(cell)
        if value is None:
            return f"is not {'an' if self.kind == 'integer' else 'a'} {self.kind}"
        if not self.low <= value <= self.high:
            low, high = self.write(self.low), self.write(self.high)
            return f"is outside the range {low} to {high}"
        if not self.format.is_written_so(cell):
            return "is written with other digits after the point than the column's numbers"
        return None

    def write(self, value: float) -> str:
        """A number as this column writes it."""
        assert self.format is not None
        return str(self.format.texts(self.format.units(np.array([value])))[0])

    def nearest_value(self, text: str) -> float:
        """The number of this column that is nearest to one that it may not have."""
        value = self.parse(text)
        assert value is not None
        if self.bins is not None:
            return min(max(value, self.low), self.high)
        return float(self.values[self._nearest_tokens(np.array([value]))[0]])

    def encode(self, cells: np.ndarray) -> tuple[np.ndarray, list[str | None]]:
        """Tokens (N,) int32 of cells (N,), and the distinct cells that cannot be told exactly.

        Such a cell gets the nearest number's token, else the rare token, else the most frequent one.
        """
        distinct = list(dict.fromkeys(cells.tolist()))
        token_of: dict[str | None, int] = {cell: self.token_of.get(cell, -1) for cell in distinct}
        if unseen := [cell for cell in distinct if token_of[cell] < 0 and cell not in self._token_of_rare]:
            inexact = self._place_unseen(unseen, token_of)
        else:
            inexact = []
        for cell in distinct:
            if token_of[cell] < 0:
                token_of[cell] = self.vocab_size - 1
        return np.fromiter(map(token_of.__getitem__, cells.tolist()), dtype=np.int32, count=len(cells)), inexact

    def _place_unseen(self, unseen: list[str | None], token_of: dict[str | None, int]) -> list[str | None]:
        values = np.array([np.nan if (value := self.parse(cell)) is None else value for cell in unseen])
        numbers = ~np.isnan(values)
        tokens = np.full(len(unseen), self.rare if self.rare is not None else int(np.argmax(self.counts)))
        if numbers.any():
            tokens[numbers] = self._nearest_tokens(values[numbers])
        token_of.update(zip(unseen, tokens.tolist(), strict=True))
        known = numbers & (self.low <= values) & (values <= self.high)
        if self.bins is None:
            known &= self.values[tokens] == values
        return [cell for cell, is_known in zip(unseen, known.tolist(), strict=True) if not is_known]

    @cached_property
    def _ordered(self) -> np.ndarray:
        """Tokens with a number of their own that is no special code, by that number."""
        own = ~np.isnan(self.values) & ~np.isin(self.values, self.special_codes)
        own[self.bin_tokens] = False
        return np.flatnonzero(own)[np.argsort(self.values[own], kind="stable")]

    def _nearest_tokens(self, values: np.ndarray) -> np.ndarray:
        """(N,) the token of each number, of its bin, or of the nearest bin or number."""
        assert self.format is not None
        own = self.values[self._ordered]
        if not len(own):
            nearest = np.zeros(len(values), dtype=np.int64)
            same = np.zeros(len(values), dtype=bool)
        else:
            above = np.clip(np.searchsorted(own, values), 0, len(own) - 1)
            below = np.maximum(above - 1, 0)
            nearest = np.where(values - own[below] <= own[above] - values, below, above)
            same = own[nearest] == values
            nearest = self._ordered[nearest]
        if self.bins is None:
            return nearest
        return np.where(same, nearest, self.bin_tokens[self.bins.nearest(self.format.units(values))])

    def decode(self, codes: np.ndarray, rng: np.random.Generator, allowed: Allowed | None = None) -> np.ndarray:
        """Cells (N,) of tokens (N,); bins and rare values are drawn, each within what is allowed."""
        cells = self._cells[codes]
        if self.bins is not None and self.format is not None:
            bin_of = np.full(self.vocab_size, -1)
            bin_of[self.bin_tokens] = np.arange(len(self.bins))
            bins = bin_of[codes]
            rows = np.flatnonzero(bins >= 0)
            if len(rows):
                cells[rows] = self.bins.draw(bins[rows], rng, self.format, allowed.pieces if allowed else {})
        if self.rare is not None:
            rows = np.flatnonzero(codes == self.rare)
            shares = self.rare_counts * (1 if allowed is None or allowed.rare is None else allowed.rare)
            if len(rows):
                drawn = rng.choice(len(shares), size=len(rows), p=shares / shares.sum())
                cells[rows] = cell_array(self.rare_values)[drawn]
        return cells

    def allow(self, holds: Callable[[str | None], bool], intervals: Sequence[Interval] | None = None) -> Allowed:
        """What is left of this column.

        Args:
            holds: whether a cell may stand; asked for every token that is one cell.
            intervals: numeric columns with bins: the units that may stand, disjoint; None for none.
        """
        weight = np.zeros(self.vocab_size)
        for cell, token in self.token_of.items():
            weight[token] = holds(cell)
        pieces: dict[int, list[Piece]] = {}
        if self.bins is not None and self.format is not None:
            low, high = self.format.units(np.array([self.low, self.high])).tolist()
            clipped = [(max(low, start), min(high, stop)) for start, stop in intervals or ()]
            own = set(self.format.units(self.values[self._ordered]).tolist())
            inside = [(start, stop) for start, stop in clipped if start < stop or (start == stop and start not in own)]
            pieces = self.bins.pieces(inside, self.format.on_grid, gaps=not weight.any())
            for bin, parts in pieces.items():
                weight[self.bin_tokens[bin]] = min(1.0, sum(part.mass for part in parts))
            pieces = {bin: parts for bin, parts in pieces.items() if not self.bins.is_whole(bin, parts)}
        rare = None
        if self.rare is not None:
            rare = np.array([holds(cell) for cell in self.rare_values], dtype=np.float64)
            weight[self.rare] = (self.rare_counts * rare).sum() / self.rare_counts.sum()
        return Allowed(weight, pieces, rare)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "texts": list(self.texts),
            "counts": self.counts.tolist(),
            "missing": self.missing,
            "special_codes": list(self.special_codes),
            "format": self.format and self.format.to_json(),
            "range": [self.low, self.high] if self.numeric else None,
            "bins": self.bins and self.bins.to_json(),
            "bin_tokens": self.bin_tokens.tolist(),
            "rare_values": list(self.rare_values),
            "rare_counts": self.rare_counts.tolist(),
            "text": self.text,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Column:
        low, high = data["range"] or (float("nan"), float("nan"))
        return cls(
            name=data["name"],
            kind=data["kind"],
            texts=tuple(data["texts"]),
            counts=np.array(data["counts"], dtype=np.int64),
            missing=data["missing"],
            special_codes=tuple(data["special_codes"]),
            format=NumberFormat(**data["format"]) if data["format"] else None,
            low=low,
            high=high,
            bins=Bins.from_json(data["bins"]) if data["bins"] else None,
            bin_tokens=np.array(data["bin_tokens"], dtype=np.int64),
            rare_values=tuple(data["rare_values"]),
            rare_counts=np.array(data["rare_counts"], dtype=np.int64),
            text=data["text"],
        )
