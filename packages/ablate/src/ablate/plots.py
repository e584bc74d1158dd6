"""The comparison as a picture: differences with intervals, learning curves, cost against quality."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainworks.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ablate.compare import Comparison, Table
    from ablate.results import RunResult

COLORS = {
    "baseline": "#333333",
    "helps": "#2a7f3f",
    "hurts": "#c0392b",
    "no detectable effect": "#8c8c8c",
    "no test possible": "#c8b27d",
}
MOST_CURVES = 12
"""Variants whose curves are drawn; more could not be told apart."""
GRID = 200
"""Points of a mean curve."""


def plot_comparison(path: Path, comparison: Comparison) -> None:
    """Draw the deciding metric's forest plot, the learning curves and cost against quality into one PNG."""
    from matplotlib.figure import Figure

    table = comparison.tables[0]
    suite = comparison.plan.suite
    curve = suite.curve or table.metric
    height = max(4.5, 0.32 * len(table.rows) + 1.6)
    figure = Figure(figsize=(17, height), layout="constrained")
    forest, curves, cost = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
    _forest(forest, table)
    _curves(curves, comparison, curve)
    _cost(cost, comparison, table)
    figure.suptitle(f"{comparison.plan.name}: {comparison.plan.seeds} seeds a variant", x=0.01, ha="left")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    atomic_write(path, image.getvalue())


def _forest(axes: Axes, table: Table) -> None:
    """One line a variant: the mean difference, its 95 % interval and the seeds' own differences as dots."""
    rows = [row for row in table.rows[1:] if row.test is not None and row.test.count]
    axes.axvline(0, color=COLORS["baseline"], linewidth=1)
    for height, row in enumerate(reversed(rows)):
        assert row.test is not None
        color = COLORS[row.verdict]
        differences = list(row.differences.values())
        axes.scatter(differences, [height - 0.2] * len(differences), s=16, color=color, alpha=0.6, linewidths=0)
        if row.test.t_interval is not None:
            axes.hlines(height, *row.test.t_interval, color=color, linewidth=2)
        axes.plot([row.test.mean], [height], "o", color=color, markersize=7)
    axes.set_yticks(range(len(rows)), [_plain(row.variant) for row in reversed(rows)])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    better = "right" if table.direction == "max" else "left"
    axes.set_xlabel(f"{_plain(table.metric)}: difference from {_plain(table.rows[0].variant)}; better is {better}")
    axes.set_title("differences, 95 % t intervals, seeds as dots", loc="left", fontsize=10)
    shown = [verdict for verdict in COLORS if any(row.verdict == verdict for row in rows)]
    for verdict in shown:
        axes.plot([], [], "o", color=COLORS[verdict], label=verdict)
    if shown:
        axes.legend(frameon=False, fontsize="small")
    _clean(axes, "x")


def _curves(axes: Axes, comparison: Comparison, metric: str) -> None:
    """Mean over the seeds, with a band of one standard deviation."""
    names = [row.variant for row in comparison.tables[0].rows]
    drawn = 0
    for name in names[:MOST_CURVES]:
        runs = [run for run in comparison.results if run.variant == name]
        curve = mean_curve(runs, metric)
        if curve is None:
            continue
        steps, mean, spread = curve
        color = COLORS["baseline"] if name == names[0] else _color(drawn)
        axes.plot(steps, mean, color=color, linewidth=2.2 if name == names[0] else 1.4, label=_plain(name))
        axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
        drawn += 1
    more = f"; the first {MOST_CURVES} of {len(names)}" if len(names) > MOST_CURVES else ""
    axes.set_title(f"learning curves, mean ± sd over seeds{more}", loc="left", fontsize=10)
    axes.set_xlabel("step")
    axes.set_ylabel(_plain(metric))
    if drawn:
        axes.legend(frameon=False, fontsize="x-small", ncols=1 if drawn <= 6 else 2)
    else:
        axes.text(0.5, 0.5, "no run logs it along training", ha="center", va="center", transform=axes.transAxes)
    _clean(axes, "both")


def _color(index: int) -> tuple[float, float, float, float]:
    """Of tab20 the strong colors first: its light ones stand beside them."""
    from matplotlib import colormaps

    color: tuple[float, float, float, float] = colormaps["tab20"]((2 * index) % 20 + index // 10)
    return color


def mean_curve(runs: Sequence[RunResult], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps, mean and standard deviation (0 for one seed) over the runs that log the metric at two or more steps.

    Each curve is interpolated onto a common grid, over the steps that all of them cover.
    """
    curves = []
    for run in runs:
        pairs = [(record["step"], record[metric]) for record in run.records if record.get(metric) is not None]
        if len(pairs) > 1:
            curves.append(np.array(pairs, dtype=float))
    if not curves:
        return None
    first, last = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    if first >= last:
        return None
    steps = np.linspace(first, last, GRID)
    values = np.array([np.interp(steps, curve[:, 0], curve[:, 1]) for curve in curves])
    spread = values.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(GRID)
    return steps, values.mean(axis=0), spread


def _cost(axes: Axes, comparison: Comparison, table: Table) -> None:
    """A point a variant, with bars of one standard deviation."""
    for row in table.rows:
        seconds = [run.seconds for run in comparison.results if run.variant == row.variant and run.seed in row.values]
        if not seconds:
            continue
        several = len(seconds) > 1
        axes.errorbar(
            float(np.mean(seconds)),
            row.mean,
            xerr=float(np.std(seconds, ddof=1)) if several else None,
            yerr=row.sd if several else None,
            fmt="o",
            color=COLORS[row.verdict],
            elinewidth=1,
            alpha=0.9,
        )
        axes.annotate(
            _plain(row.variant), (float(np.mean(seconds)), row.mean), (5, 4), textcoords="offset points", fontsize=8
        )
    axes.margins(x=0.15, y=0.1)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel(_plain(table.metric))
    axes.set_title("cost against quality, mean ± sd", loc="left", fontsize=10)
    _clean(axes, "both")


def _plain(name: str) -> str:
    # A dollar sign would start mathematics, an underscore at the front would hide a legend's entry.
    return name.replace("$", r"\$").lstrip("_")


def _clean(axes: Axes, grid: str) -> None:
    axes.grid(alpha=0.25, axis=grid)  # type: ignore[arg-type]
    axes.spines[["top", "right"]].set_visible(False)
