"""The evaluation's figure. Drawn on a `Figure` object: no window system, no global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainworks.files import atomic_write

SWEEP, OTHERS = "#4c6a92", ("#d9822b", "#5a9367", "#a5507a", "#6b6b6b", "#8a7a45")


def plot_sweep(
    path: Path, sweep: Sequence[tuple[float, Mapping[str, Any]]], others: Mapping[str, Mapping[str, Any]], human: float
) -> None:
    """Draw quality against corpus diversity, a point for each temperature.

    Args:
        path: the PNG to write.
        sweep: metrics by rising temperature.
        others: metrics of further systems by name, a point each.
        human: the references' own corpus Distinct-2: a vertical line, and a dashed one at the half of it, left of
            which every reply is POOR.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    across = [metrics["corpus_distinct_2"] for _, metrics in sweep]
    up = [metrics["quality_score"] for _, metrics in sweep]
    axes.plot(across, up, color=SWEEP, marker="o", label="temperature")
    for (temperature, _), x, y in zip(sweep, across, up, strict=True):
        axes.annotate(f"{temperature:g}", (x, y), xytext=(4, 5), textcoords="offset points", color=SWEEP, fontsize=8)
    for place, (name, metrics) in enumerate(others.items()):
        colour = OTHERS[place % len(OTHERS)]
        axes.plot(metrics["corpus_distinct_2"], metrics["quality_score"], "s", color=colour, label=name)
    axes.axvline(human, color="#6b6b6b", linewidth=1, label="references")
    axes.axvline(human / 2, color="#6b6b6b", linewidth=1, linestyle="--", label="half of that: POOR to the left")
    axes.set_xlabel("corpus Distinct-2")
    axes.set_ylabel("quality")
    axes.set_title("Quality against diversity", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    atomic_write(path, picture.getvalue())
