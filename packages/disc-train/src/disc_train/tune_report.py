"""What a search has found: trials.csv and best_weights.json."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from disc_train.config import LEVELS
from trainworks.files import atomic_write, write_json

BEST = "best_weights.json"
TRIALS = "trials.csv"
AIMS = ("two_sample_auc", "privacy_gap")
"""What trials are scored by, less is better; the second where privacy is an aim too."""


@dataclass(frozen=True)
class Result:
    """A trial that has ended.

    Attributes:
        place: in the search, from 0.
        state: complete or pruned.
        weights: by level.
        scores: by fold, one an aim; fewer folds if it was stopped early.
    """

    place: int
    state: str
    weights: dict[str, float]
    scores: list[list[float]]

    @property
    def mean(self) -> list[float]:
        """Over the folds."""
        return [float(value) for value in np.mean(self.scores, axis=0)]

    @property
    def spread(self) -> list[float]:
        """Standard deviation over the folds; NaN for one fold."""
        if len(self.scores) < 2:
            return [math.nan] * len(self.scores[0])
        return [float(value) for value in np.std(self.scores, axis=0, ddof=1)]


def write_results(results: Sequence[Result], default: Result, about: dict[str, Any], out: Path) -> dict[str, Any]:
    """Publish the table of all trials and the best weights so far; returns what best_weights.json holds.

    Args:
        results: by place.
        default: of the recipe's own weights.
        about: what else best_weights.json shall say.
        out: the folder.
    """
    aims = AIMS[: len(default.mean)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", *LEVELS, *aims, *(f"{aim}_sd" for aim in aims), "folds"])
    for result in results:
        figures = [*result.mean, *result.spread] if result.scores else [math.nan] * 2 * len(aims)
        cells = [f"{result.weights[level]:.6f}" for level in LEVELS]
        cells += ["" if math.isnan(value) else f"{value:.6f}" for value in figures]
        writer.writerow([result.place, result.state, *cells, len(result.scores)])
    atomic_write(out / TRIALS, text.getvalue())
    best = choose([result for result in results if result.state == "complete"], default.mean)
    if best is None:
        return {}
    found = {
        "weights": best.weights,
        "score": dict(zip(aims, best.mean, strict=True)),
        "spread": dict(zip(aims, best.spread, strict=True)),
        "default_score": dict(zip(aims, default.mean, strict=True)),
        "trials": len(results),
        **about,
    }
    write_json(out / BEST, found)
    return found


def choose(complete: Sequence[Result], default: Sequence[float]) -> Result | None:
    """The best trial; of two aims the most faithful of those that are no less private than the default weights, or else
    the most private."""
    private = [result for result in complete if len(default) == 1 or result.mean[1] <= default[1]]
    if private:
        return min(private, key=lambda result: result.mean[0])
    return min(complete, key=lambda result: result.mean[-1], default=None)


def front(complete: Sequence[Result]) -> list[Result]:
    """Those that no other beats in both aims, the most faithful first (Pareto)."""
    found: list[Result] = []
    for result in sorted(complete, key=lambda result: result.mean):
        if not found or result.mean[1] < found[-1].mean[1]:
            found.append(result)
    return found


def plot_front(complete: Sequence[Result], default: Result, path: Path) -> None:
    """Fidelity against privacy of all trials, with the front."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for results, style, label in ((complete, "C7.", "trials"), (front(complete), "C0o-", "front")):
        fidelity, privacy = zip(*(result.mean for result in results), strict=True)
        axes.plot(fidelity, privacy, style, label=label, drawstyle="steps-post")
    axes.plot(default.mean[0], default.mean[1], "C3*", markersize=12, label="default weights")
    axes.set_xlabel("two-sample AUC of validation rows (0.5 is best)")
    axes.set_ylabel("|share closer to training rows - 0.5| (0 is best)")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    image = io.BytesIO()
    figure.savefig(image, dpi=120)
    atomic_write(path, image.getvalue())
