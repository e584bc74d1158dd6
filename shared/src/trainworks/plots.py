"""Curves from `metrics.jsonl`, for people."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainworks.files import atomic_write
from trainworks.metrics import read_metrics


def plot_curves(metrics_path: str | Path, out_dir: str | Path, groups: Mapping[str, Sequence[str]]) -> list[Path]:
    """Draw one figure for each group of metrics over the training steps.

    Args:
        metrics_path: a metrics.jsonl.
        out_dir: gets NAME.png for each group; made if absent.
        groups: metric names by figure name, such as {"loss": ["train/loss", "valid/loss"]}. A metric that was
            never logged is left out, and a figure that would be empty is not drawn.

    Returns:
        The paths written, in the order of `groups`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_metrics(metrics_path)
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for name, metrics in groups.items():
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for metric in metrics:
            steps, values = _curve(records, metric)
            if steps:
                few = len(steps) <= 30
                axes.plot(steps, values, label=metric, linewidth=1.5, marker="o" if few else None, markersize=3)
        if not axes.lines:
            continue
        axes.set_title(name, loc="left")
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(axes.lines) == 1:
            axes.set_ylabel(str(axes.lines[0].get_label()))
        else:
            axes.set_ylabel(name)
            figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
        path = out_dir / f"{name}.png"
        image = io.BytesIO()
        figure.savefig(image, dpi=120)
        atomic_write(path, image.getvalue())
        written.append(path)
    return written


def _curve(records: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric; null (not finite) breaks the line."""
    pairs = [(record["step"], record[metric]) for record in records if metric in record]
    return [step for step, _ in pairs], [float("nan") if value is None else value for _, value in pairs]
