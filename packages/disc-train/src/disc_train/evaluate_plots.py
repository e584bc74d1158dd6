"""The evaluation's figures. Drawn on `Figure` objects: no window system, no global state."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from disc_train.evaluate_features import ColumnFeatures, Features
from disc_train.two_sample import SOURCES
from trainworks.files import atomic_write

REAL, SYNTHETIC, SHUFFLED = "#4c6a92", "#d9822b", "#9a9a9a"
COLOURS = {"synthetic": SYNTHETIC, "train rows": REAL, "test rows": REAL, "independent columns": SHUFFLED}
MAX_COLUMNS = 24
MAX_BARS = 12


def plot_all(
    folder: Path,
    features: Features,
    numbers: list[np.ndarray],
    report: dict[str, Any],
    distances: dict[str, np.ndarray],
    association_differences_CC: np.ndarray,
) -> None:
    """Write marginals.png, associations.png, two_sample.png and closest_record.png into `folder`.

    Args:
        numbers: train, test and synthetic rows as `Features.numbers` gives them.
        report: the evaluation's report.
        distances: source -> distances to the closest train row.
        association_differences_CC: synthetic less train.
    """
    train_NC, _, synth_NC = numbers
    figures = {
        "marginals": _marginals(features, train_NC, synth_NC, report["marginals"]["columns"]),
        "associations": _associations([column.name for column in features.columns], association_differences_CC),
        "two_sample": _two_sample(report["two_sample"]),
        "closest_record": _closest_record(distances),
    }
    for name, figure in figures.items():
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=110)
        atomic_write(folder / f"{name}.png", image.getvalue())


def _marginals(features: Features, train_NC: np.ndarray, synth_NC: np.ndarray, columns: dict[str, Any]) -> Figure:
    index = {column.name: place for place, column in enumerate(features.columns)}
    shown = list(columns)[:MAX_COLUMNS]
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(3.4 * across, 2.3 * down + 0.6), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, name in zip(grid, shown, strict=False):
        place = index[name]
        column = features.columns[place]
        (_categories if column.categorical else _histogram)(axes, column, train_NC[:, place], synth_NC[:, place])
        axes.set_title(f"{_short(name, 30)} ({columns[name]['synthetic']:.3f})", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    more = f"; {len(columns) - len(shown)} columns that differ less are not shown" if len(columns) > len(shown) else ""
    figure.suptitle(
        f"Columns by falling distance between train rows (blue) and synthetic rows (orange){more}",
        fontsize=11,
    )
    return figure


def _categories(axes: Axes, column: ColumnFeatures, real_N: np.ndarray, synth_M: np.ndarray) -> None:
    text = {number: "missing" if cell is None else cell for cell, number in column.number.items()}
    shown = column.frequent[:MAX_BARS]
    for offset, values, colour in ((-0.2, real_N, REAL), (0.2, synth_M, SYNTHETIC)):
        shares = [np.mean(values == code) for code in shown]
        axes.bar(np.arange(len(shown)) + offset, shares, 0.4, color=colour)
    labels = [_short(text[code], 14) for code in shown]
    crowded = len(shown) > 4 or max(map(len, labels)) > 8
    axes.set_xticks(range(len(shown)), labels, rotation=30 if crowded else 0, ha="right" if crowded else "center")


def _histogram(axes: Axes, column: ColumnFeatures, real_N: np.ndarray, synth_M: np.ndarray) -> None:
    """Measurements, those beyond the train range in the outer bins; a note says how many cells have none."""
    measured = [values[column.measured(values)] for values in (real_N, synth_M)]
    low, high = column.low, column.low + column.span
    edges = np.linspace(low, high, 31)
    if np.array_equal(measured[0], np.round(measured[0])) and column.span < 1e6:
        # Every bin holds as many integers, or the histogram would have teeth that the data lack.
        edges = np.arange(low - 0.5, high + np.ceil(column.span / 30) + 0.5, np.ceil(column.span / 30))
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    real, synthetic = (
        np.histogram(np.clip(values, low, high), edges)[0] / total
        for values, total in zip(measured, (len(real_N), len(synth_M)), strict=True)
    )
    axes.stairs(real, edges, fill=True, color=REAL, alpha=0.6)
    axes.stairs(synthetic, edges, color=SYNTHETIC, linewidth=1.6)
    axes.set_ylim(0, 1.25 * max(real.max(), synthetic.max(), 1e-9))
    rest = [1 - len(part) / len(whole) for part, whole in zip(measured, (real_N, synth_M), strict=True)]
    if any(rest):
        note = f"no number: {rest[0]:.1%} / {rest[1]:.1%}"
        axes.text(0.97, 0.95, note, transform=axes.transAxes, ha="right", va="top", fontsize=7)


def _associations(names: list[str], difference_CC: np.ndarray) -> Figure:
    count = len(names)
    # The largest differences, where there are too many columns for readable labels.
    kept = np.sort(np.argsort(-np.abs(difference_CC).sum(0), kind="stable")[:40])
    side = min(14.0, 3.5 + 0.28 * len(kept))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    limit = max(0.1, float(np.abs(difference_CC).max()))
    image = axes.imshow(difference_CC[np.ix_(kept, kept)], cmap="RdBu_r", vmin=-limit, vmax=limit)
    labels = [_short(names[place], 28) for place in kept]
    axes.set_xticks(range(len(kept)), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(len(kept)), labels, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, label="Cramér's V, synthetic less train")
    more = f" ({len(kept)} of {count} columns)" if len(kept) < count else ""
    axes.set_title(f"Associations that synthetic rows miss (blue) or add (red){more}", fontsize=11, wrap=True)
    return figure


def _two_sample(section: dict[str, Any]) -> Figure:
    families = list(section["auc"]["synthetic"])
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for order, source in enumerate(SOURCES):
        figures = [section["auc"][source][family] for family in families]
        axes.bar(
            np.arange(len(families)) + (order - 1) * 0.27,
            [figure["mean"] for figure in figures],
            0.25,
            yerr=[figure["std"] or 0.0 for figure in figures],
            capsize=3,
            color=COLOURS[source],
            label=source,
        )
    axes.axhline(0.5, color="black", linewidth=1, linestyle="--")
    axes.set_xticks(range(len(families)), families)
    lowest = min(found["mean"] for by_family in section["auc"].values() for found in by_family.values())
    axes.set_ylim(min(0.4, lowest - 0.02), 1.0)
    axes.set_ylabel("out-of-fold AUC (0.5 is best)")
    axes.set_title(f"Told from {section['rows']:,} held-out real rows; bars: one deviation over seeds", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _closest_record(distances: dict[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    highest = max(float(np.quantile(distance_N, 0.995)) for distance_N in distances.values())
    edges = np.linspace(0, highest or 1.0, 61)
    for source, distance_N in distances.items():
        share = np.histogram(distance_N, edges)[0] / len(distance_N)
        axes.stairs(share, edges, color=COLOURS[source], linewidth=1.8, label=source)
    axes.set_xlabel("Gower distance to the closest train row (0 is a copy)")
    axes.set_ylabel("share of rows")
    axes.legend(frameon=False)
    return figure


def _short(text: str, length: int) -> str:
    # A dollar sign would start mathematics.
    return (text if len(text) <= length else f"{text[: length - 1]}…").replace("$", r"\$")
