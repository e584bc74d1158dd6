"""Columns one by one and two by two: how far synthetic rows are from the train rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from disc_train.evaluate_features import Features

BINS = 10
"""Quantile bins a numeric column is cut into where its association with another column is measured."""

MAX_CATEGORIES = 50
"""A category beyond a column's 50 most frequent counts as "other" in associations, to keep them cheap."""


def marginals(
    features: Features, train_NC: np.ndarray, test_NC: np.ndarray, synth_NC: np.ndarray
) -> tuple[dict[str, Any], np.ndarray]:
    """Distances from the train rows of columns and of pairs of columns; those of the test rows are the noise.

    Returns:
        The report: columns (name -> {synthetic, test rows}, largest synthetic first), mean_distance and
        mean_association_difference, each by source. And the synthetic less the train associations, (C, C).
    """
    sources = {"synthetic": synth_NC, "test rows": test_NC}
    columns = {
        column.name: {
            source: column_distance(train_NC[:, c], rows_NC[:, c], column.categorical)
            for source, rows_NC in sources.items()
        }
        for c, column in enumerate(features.columns)
    }
    base_CC, *other_CC = associations([train_NC, *sources.values()], features.categorical)
    pairs = np.triu_indices(len(base_CC), 1)
    differences = {source: other - base_CC for source, other in zip(sources, other_CC, strict=True)}
    report = {
        "columns": dict(sorted(columns.items(), key=lambda item: -item[1]["synthetic"])),
        "mean_distance": {source: float(np.mean([by[source] for by in columns.values()])) for source in sources},
        "mean_association_difference": {
            source: float(np.abs(difference[pairs]).mean()) if len(pairs[0]) else 0.0
            for source, difference in differences.items()
        },
    }
    return report, differences["synthetic"]


def column_distance(real_N: np.ndarray, other_M: np.ndarray, categorical: bool) -> float:
    """0 for equal distributions, 1 for disjoint ones.

    The total variation distance of categories, the Kolmogorov-Smirnov statistic of numbers. Missing numbers
    count as one value below all others.
    """
    pooled = np.nan_to_num(np.concatenate([real_N, other_M]), nan=-np.inf)
    values, code_N = np.unique(pooled, return_inverse=True)
    real_V = np.bincount(code_N[: len(real_N)], minlength=len(values)) / len(real_N)
    other_V = np.bincount(code_N[len(real_N) :], minlength=len(values)) / len(other_M)
    if categorical:
        return float(np.abs(real_V - other_V).sum() / 2)
    return float(np.abs(np.cumsum(real_V - other_V)).max())


def associations(tables: list[np.ndarray], categorical_C: np.ndarray) -> list[np.ndarray]:
    """Cramér's V of every pair of columns, a (C, C) matrix a table; 0 is independent, 1 is determined.

    Numbers are first cut into `BINS` quantile bins of `tables[0]`, missing ones into a bin of their own; so
    one measure serves numbers and categories, and relations that are not linear.
    """
    codes = [np.empty(table.shape, dtype=np.int64) for table in tables]
    sizes = []
    for c, categorical in enumerate(categorical_C):
        columns = [table[:, c] for table in tables]
        cut = _frequent_codes if categorical else _quantile_codes
        values, pooled = np.unique(np.concatenate(cut(columns)), return_inverse=True)
        sizes.append(len(values))
        ends = np.cumsum([len(column) for column in columns])
        for table_codes, part in zip(codes, np.split(pooled, ends[:-1]), strict=True):
            table_codes[:, c] = part
    return [_cramers_v(table_codes, sizes) for table_codes in codes]


def _frequent_codes(columns: list[np.ndarray]) -> list[np.ndarray]:
    values, counts = np.unique(columns[0], return_counts=True)
    frequent = values[np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]]
    return [np.where(np.isin(column, frequent), column, -1) for column in columns]


def _quantile_codes(columns: list[np.ndarray]) -> list[np.ndarray]:
    numbers = columns[0][~np.isnan(columns[0])]
    edges = np.unique(np.quantile(numbers, np.arange(1, BINS) / BINS)) if len(numbers) else np.empty(0)
    # searchsorted puts NaN behind every edge, with the highest numbers: it needs a code apart.
    return [np.where(np.isnan(x), -1, np.searchsorted(edges, x, side="right")) for x in columns]


def _cramers_v(code_NC: np.ndarray, sizes: list[int]) -> np.ndarray:
    columns = len(sizes)
    v_CC = np.eye(columns)
    for a in range(columns):
        for b in range(a + 1, columns):
            joint = np.bincount(code_NC[:, a] * sizes[b] + code_NC[:, b], minlength=sizes[a] * sizes[b])
            v_CC[a, b] = v_CC[b, a] = _table_v(joint.reshape(sizes[a], sizes[b]) / len(code_NC))
    return v_CC


def _table_v(joint_AB: np.ndarray) -> float:
    joint_AB = joint_AB[joint_AB.sum(1) > 0][:, joint_AB.sum(0) > 0]
    if min(joint_AB.shape) < 2:
        return 0.0
    expected_AB = np.outer(joint_AB.sum(1), joint_AB.sum(0))
    phi_squared = ((joint_AB - expected_AB) ** 2 / expected_AB).sum()
    return float(np.sqrt(phi_squared / (min(joint_AB.shape) - 1)))
