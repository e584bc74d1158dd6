"""Curves of several runs on shared axes, small enough to stand in a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from diag.finding import Finding
from diag.read import Run

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev", "eval"), "valid"),
    "test": "test",
}
"""First words of metric names that say on which data it was measured: they share a chart."""
MOST_POINTS, FEWEST_POINTS = 400, 40
"""Points of a drawn line: a screen shows no more; with thousands of lines each gets fewer."""
ALL_POINTS = 400_000
"""Points of a page, about 10 MB of it."""
MOST_CHARTS = 2_000
"""Charts of a page; a note tells how many were left out."""


def charts(
    runs: Sequence[Run], names: Sequence[str], findings: Sequence[tuple[int, Finding]]
) -> tuple[list[dict[str, Any]], int]:
    """What the page's script draws, a chart a metric, and the number of charts left out.

    A chart is {title, alt, lines, findings}; a line {run, split, x, t, y} and, where several records share a point,
    {low, high}; x are steps, t seconds (None without a clock), y means; null is not finite.

    Args:
        runs: what to draw.
        names: the runs' names.
        findings: (run number, finding); one is put on the charts of the metric that it names.
    """
    by_title: dict[str, list[tuple[int, str, str]]] = {}
    for number, run in enumerate(runs):
        for name in run.series.names:
            title, split = title_and_split(name)
            by_title.setdefault(title, []).append((number, split, name))
    kept = list(by_title.items())[:MOST_CHARTS]
    lines = sum(len(members) for _, members in kept)
    points = max(FEWEST_POINTS, min(MOST_POINTS, ALL_POINTS // max(lines, 1)))
    made = []
    for title, members in kept:
        drawn = [{"run": number, "split": split, **line(runs[number], name, points)} for number, split, name in members]
        logged = {(number, name) for number, _, name in members}
        marks = [
            mark(index, number, finding, runs[number])
            for index, (number, finding) in enumerate(findings)
            if (number, finding.metric) in logged
        ]
        made.append(
            {"title": title, "alt": alternative(title, members, runs, names, marks), "lines": drawn, "findings": marks}
        )
    return made, len(by_title) - len(kept)


def title_and_split(name: str) -> tuple[str, str]:
    """Chart and split: of "train/loss" and "val_loss" the chart is "loss"; a name that tells no split has ""."""
    for separator in "/_":
        first, found, rest = name.partition(separator)
        if found and rest and first.lower() in SPLITS:
            return rest, SPLITS[first.lower()]
    return name, ""


def line(run: Run, name: str, points: int) -> dict[str, Any]:
    """One metric in at most `points` points: each the mean, lowest and highest value of as many records."""
    rows, values = run.series.points(name)
    steps, times = run.series.steps[rows].astype(float), run.series.times[rows]
    order = np.argsort(steps, kind="stable")
    values, steps, times = values[order], steps[order], times[order]
    finite = np.isfinite(values)
    if len(values) <= points:
        return {"x": numbers(steps), "t": numbers(times) if np.isfinite(times).any() else None, "y": numbers(values)}
    starts = np.linspace(0, len(values), points, endpoint=False).astype(int)
    count = np.add.reduceat(finite.astype(int), starts)
    mean = np.add.reduceat(np.where(finite, values, 0), starts) / np.maximum(count, 1)
    ends = np.append(starts[1:], len(values)) - 1
    low = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
    return {
        "x": numbers(steps[ends]),
        "t": numbers(times[ends]) if np.isfinite(times).any() else None,
        "y": numbers(np.where(count > 0, mean, np.nan)),
        "low": numbers(low),
        "high": numbers(high),
    }


def numbers(values: np.ndarray) -> list[float | None]:
    """Values with six digits, as short as JSON can have them; None for what is not finite."""
    return [_short(value) if math.isfinite(value) else None for value in values.tolist()]


def _short(value: float) -> float:
    return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.6g}")


def mark(index: int, number: int, finding: Finding, run: Run) -> dict[str, Any]:
    """Where a finding stands on a chart: {number, run, level, text, steps, times}."""
    times = [time_at(run, step) for step in finding.steps]
    return {
        "number": index,
        "run": number,
        "level": finding.level,
        "text": f"{finding.level}: {finding.name}, {finding.summary}",
        "steps": list(finding.steps),
        "times": times if None not in times else None,
    }


def time_at(run: Run, step: int) -> float | None:
    """Seconds at the first record at or past a step."""
    reached = np.flatnonzero((run.series.steps >= step) & np.isfinite(run.series.times))
    return float(run.series.times[reached[0]]) if len(reached) else None


def alternative(
    title: str, members: Sequence[tuple[int, str, str]], runs: Sequence[Run], names: Sequence[str], marks: Sequence[Any]
) -> str:
    """A chart in words: of each line where it starts, ends, and between what it moves."""
    told = []
    for number, split, name in members[:8]:
        _, values = runs[number].series.points(name)
        values = values[np.isfinite(values)]
        which = f"{names[number]} {split}".strip()
        if len(values):
            told.append(
                f"{which}: from {values[0]:.4g} to {values[-1]:.4g}, "
                f"lowest {values.min():.4g}, highest {values.max():.4g}"
            )
        else:
            told.append(f"{which}: never finite")
    more = f"; and {len(members) - 8} more lines" if len(members) > 8 else ""
    found = f". {len(marks)} health findings" if marks else ""
    return f"{title}. {'; '.join(told)}{more}{found}"
