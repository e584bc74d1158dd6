"""Do synthetic rows give away train rows? Distances to the closest record, against those of test rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from disc_train.evaluate_features import Features
from disc_train.two_sample import choose, independent_columns, spread
from trainworks.seeding import rng

MAX_QUERIES = 10_000
"""Distances are taken from at most this many rows of a source; copies are counted in all."""

CHUNK_ROWS = 64
"""Rows whose distances are taken at once: few, so that they stay in the processor's cache."""


def privacy(
    features: Features,
    train_NC: np.ndarray,
    test_NC: np.ndarray,
    synth_NC: np.ndarray,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    step: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """How close synthetic rows come to train rows, and how close held-out real rows do.

    Args:
        step: called after each of the three sources of rows.

    Returns:
        The report: source -> {rows, median, q05 (distance to the closest train row), closer_to_train: the
        share that is closer to the train rows than to as many test rows, ties counting half (0.5 is ideal)};
        and copies, the count of synthetic rows that equal a train row, against what the test rows' own rate
        of such copies lets expect. And each source's distances, (rows,) each, for a plot.
    """
    train, test = features.positions(train_NC), features.positions(test_NC)
    sources = {"synthetic": synth_NC, "independent columns": independent_columns(train_NC, seeds[0])}
    same = min(len(train), len(test))
    train_picks = [rng(seed, "closer", "train").permutation(len(train))[:same] for seed in seeds]
    test_picks = [rng(seed, "closer", "test").permutation(len(test))[:same] for seed in seeds]
    report: dict[str, Any] = {}
    distances: dict[str, np.ndarray] = {}
    for source, rows_NC in sources.items():
        queries = features.positions(choose(rows_NC, MAX_QUERIES, seeds[0], "closest"))
        nearest_N, to_train_SN = closest(queries, train, train_picks)
        _, to_test_SN = closest(queries, test, test_picks)
        closer = ((to_train_SN < to_test_SN) + 0.5 * (to_train_SN == to_test_SN)).mean(1)
        distances[source] = nearest_N
        report[source] = _summary(nearest_N) | {"closer_to_train": spread(closer)}
        step()
    held_out = features.positions(choose(test_NC, MAX_QUERIES, seeds[0], "closest"))
    distances["test rows"], _ = closest(held_out, train)
    report["test rows"] = _summary(distances["test rows"])
    step()
    return report | {"copies": copies(train_NC, test_NC, synth_NC)}, distances


def closest(
    queries_NC: np.ndarray, records_MC: np.ndarray, picks: Sequence[np.ndarray] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Gower distance in [0, 1] to the closest record, (N,), and to the closest of each pick, (S, N).

    Args:
        queries_NC, records_MC: rows as `Features.positions` gives them.
        picks: sets of record indices.
    """
    columns = queries_NC.shape[1]
    nearest_N = np.empty(len(queries_NC), dtype=np.float32)
    of_pick_SN = np.empty((len(picks), len(queries_NC)), dtype=np.float32)
    records_CM = np.ascontiguousarray(records_MC.T)
    for start in range(0, len(queries_NC), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        total_BM = np.zeros((len(queries_NC[chunk]), len(records_MC)), dtype=np.float32)
        gap_BM = np.empty_like(total_BM)
        for query_B, record_M in zip(queries_NC[chunk].T, records_CM, strict=True):
            np.subtract(query_B[:, None], record_M, out=gap_BM)
            np.abs(gap_BM, out=gap_BM)
            np.minimum(gap_BM, 1, out=gap_BM)
            total_BM += gap_BM
        nearest_N[chunk] = total_BM.min(1)
        for order, pick in enumerate(picks):
            of_pick_SN[order, chunk] = total_BM[:, pick].min(1)
    return nearest_N / columns, of_pick_SN / columns


def copies(train_NC: np.ndarray, test_NC: np.ndarray, synth_NC: np.ndarray) -> dict[str, Any]:
    """Rows that equal a train row in every column.

    Returns:
        count and share in the synthetic rows; test_share, the rate at which real rows repeat train rows;
        expected, the count that this rate gives for as many rows, and expected_std, the binomial deviation of
        the count that the draws of both the synthetic and the test rows leave.
    """
    seen = {row.tobytes() for row in train_NC}
    count = sum(row.tobytes() in seen for row in synth_NC)
    rate = sum(row.tobytes() in seen for row in test_NC) / len(test_NC)
    rows = len(synth_NC)
    return {
        "rows": rows,
        "count": count,
        "share": count / rows,
        "test_share": rate,
        "expected": rate * rows,
        "expected_std": float(np.sqrt(rows * rate * (1 - rate) * (1 + rows / len(test_NC)))),
    }


def _summary(distance_N: np.ndarray) -> dict[str, Any]:
    return {
        "rows": len(distance_N),
        "median": float(np.median(distance_N)),
        "q05": float(np.quantile(distance_N, 0.05)),
    }
