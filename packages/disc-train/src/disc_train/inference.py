"""Types and vocabularies from cells."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from disc_train.bins import Bins, quantile_groups
from disc_train.column import KINDS, NUMERIC, Column
from disc_train.data import did_you_mean
from disc_train.number_format import PARSERS, NumberFormat
from trainworks.console import UserError

MIN_NUMERIC_SHARE = 0.9
"""Share of a column's cells that must be numbers (or dates) for the column to be numeric; the rest are
markers."""

MAX_MARKERS = 8
"""Distinct markers, such as "NA" or "?", that a numeric column may have; also the most special codes."""

_BOOLEANS = (("false", "true"), ("no", "yes"), ("f", "t"), ("n", "y"))
_LEADING_ZERO = re.compile(r"-?0[0-9]+(?:\.[0-9]+)?")
_SENTINEL = re.compile(r"-(?:[1-9]|6+|7+|8+|9+)(?:\.0+)?")


def infer_column(
    name: str,
    cells: np.ndarray,
    *,
    kind: str | None,
    max_exact: int,
    num_bins: int,
    max_categories: int,
    text: bool,
) -> tuple[Column, list[str]]:
    """The column that holds these cells (N,), and warnings about it; arguments as in `Schema.infer`."""
    counts = Counter(cells.tolist())
    num_missing = counts.pop(None, 0)
    if kind is not None:
        _check_override(name, kind, counts, cells)
    kind = kind or infer_kind(counts)
    warnings = []
    if not counts:
        warnings.append(f'column "{name}" is all missing; it is kept as it is')
        kind = "categorical"
    elif len(counts) == 1 and not num_missing:
        warnings.append(f'column "{name}" is constant; it is kept as it is')
    if kind in NUMERIC:
        return _numeric_column(name, kind, counts, num_missing, max_exact, num_bins, text), warnings
    ordered = sorted(counts, key=(lambda value: (value.casefold(), value)) if kind == "boolean" else None)
    rare: list[str] = []
    if len(ordered) > max_categories:
        frequent = {value for value, _ in counts.most_common(max_categories - 1)}
        rare = [value for value in ordered if value not in frequent]
        ordered = [value for value in ordered if value in frequent]
        warnings.append(
            f'column "{name}" has {len(counts):,} categories; the {len(rare):,} rarest share one token, which'
            " draws among them by frequency"
        )
    token_counts = [num_missing] * bool(num_missing) + [counts[value] for value in ordered]
    rare_counts = np.array([counts[value] for value in rare], dtype=np.int64)
    column = Column(
        name=name,
        kind=kind,
        texts=(*[None] * bool(num_missing), *ordered, *[None] * bool(rare)),
        counts=np.array(token_counts + [int(rare_counts.sum())] * bool(rare), dtype=np.int64),
        missing=0 if num_missing else None,
        rare_values=tuple(rare),
        rare_counts=rare_counts,
        text=text,
    )
    return column, warnings


def infer_kind(counts: Counter[str]) -> str:
    """The kind of a column with these distinct cells, missing ones left out.

    Texts that a number would not give back, with leading zeros or thousands separators or integers beyond
    2^53, are categories.
    """
    if not counts:
        return "categorical"
    folded = {value.casefold() for value in counts}
    if len(folded) == len(counts) and (folded in map(set, _BOOLEANS) or folded <= set(_BOOLEANS[0])):
        return "boolean"
    if any(map(_LEADING_ZERO.fullmatch, counts)):
        return "categorical"
    total = counts.total()
    for kind in ("integer", "decimal", "date"):
        markers = [value for value in counts if PARSERS[kind](value) is None]
        if kind == "integer" and any(PARSERS["decimal"](value) is not None for value in markers):
            continue
        share = 1 - sum(counts[value] for value in markers) / total
        if len(markers) <= MAX_MARKERS and share >= MIN_NUMERIC_SHARE:
            return "categorical" if kind == "decimal" and _has_big_integers(counts) else kind
    return "categorical"


def _has_big_integers(counts: Counter[str]) -> bool:
    integers = (value for value in counts if value.lstrip("-").isdecimal())
    return any(PARSERS["integer"](value) is None and PARSERS["decimal"](value) is not None for value in integers)


def _check_override(name: str, kind: str, counts: Counter[str], cells: np.ndarray) -> None:
    if kind not in KINDS:
        raise UserError(f'unknown type "{kind}" for column "{name}"{did_you_mean(kind, KINDS)}')
    if kind == "boolean" and len(counts) > 2:
        raise UserError(f'column "{name}" cannot be boolean: it has {len(counts):,} distinct values')
    if kind in NUMERIC and counts:
        markers = [value for value in counts if PARSERS[kind](value) is None]
        if len(markers) > MAX_MARKERS or len(markers) == len(counts):
            row = cells.tolist().index(markers[0]) + 1
            raise UserError(
                f'column "{name}" cannot be {kind}: {len(markers):,} of its values are not, such as'
                f' "{markers[0]}" in row {row}'
            )


def _numeric_column(
    name: str, kind: str, counts: Counter[str], num_missing: int, max_exact: int, num_bins: int, text: bool
) -> Column:
    number = {value: parsed for value in counts if (parsed := PARSERS[kind](value)) is not None}
    markers = sorted(value for value in counts if value not in number)
    special = _special_codes(number)
    measured = sorted((value for value in number if value not in special), key=lambda value: (number[value], value))
    format = NumberFormat.fit(kind, measured)
    own = {value: counts[value] for value in measured}
    binned: list[tuple[np.ndarray, np.ndarray]] = []
    if len(measured) > max_exact:
        own, binned = _split(measured, counts, number, format, num_bins)
    fixed = [*markers, *sorted(special, key=lambda value: (number[value], value))]
    # Numbers and bins in one ascending order.
    starts = np.array([number[value] for value in own] + [format.values(units[:1])[0] for units, _ in binned])
    order = np.argsort(starts, kind="stable")
    values: list[str | None] = [*own, *[None] * len(binned)]
    rows = [*own.values(), *(int(group_rows.sum()) for _, group_rows in binned)]
    before = bool(num_missing) + len(fixed)
    return Column(
        name=name,
        kind=kind,
        texts=(*[None] * bool(num_missing), *fixed, *[values[i] for i in order]),
        counts=np.array(
            [num_missing] * bool(num_missing) + [counts[value] for value in fixed] + [rows[i] for i in order],
            dtype=np.int64,
        ),
        missing=0 if num_missing else None,
        special_codes=tuple(sorted({number[value] for value in special})),
        format=format,
        low=number[measured[0]],
        high=number[measured[-1]],
        bins=Bins.fit(binned, format.on_grid) if binned else None,
        bin_tokens=before + np.flatnonzero(order >= len(own)),
        text=text,
    )


def _special_codes(number: dict[str, float]) -> set[str]:
    """Negative sentinels such as -9 or -999, in a column whose other numbers are not negative."""
    negative = {value for value in number if number[value] < 0}
    if len(negative) > MAX_MARKERS or len(negative) == len(number):
        return set()
    return negative if all(map(_SENTINEL.fullmatch, negative)) else set()


def _split(
    measured: list[str], counts: Counter[str], number: dict[str, float], format: NumberFormat, num_bins: int
) -> tuple[dict[str, int], list[tuple[np.ndarray, np.ndarray]]]:
    """Texts that keep a token of their own with its rows, and the groups of units (with their rows) that
    become bins.

    A number keeps its own if more than 1 in `num_bins` rows hold it, or if it would be alone in its bin.
    """
    rows = np.array([counts[value] for value in measured])
    units = format.units(np.array([number[value] for value in measured]))
    distinct, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    rows_of = np.bincount(inverse, weights=rows).astype(np.int64)
    heavy = rows_of > rows.sum() / num_bins
    light = np.flatnonzero(~heavy)
    groups = quantile_groups(distinct[light], rows_of[light], np.cumsum(heavy)[light], num_bins)
    lone = [group[0] for group, _ in groups if len(group) == 1]
    own = heavy | np.isin(distinct, lone)
    # Two ways to write one number share its token: the first stands for it.
    exact = {measured[first[i]]: int(rows_of[i]) for i in np.flatnonzero(own)}
    return exact, [group for group in groups if len(group[0]) > 1]
