"""The evaluation's figures. Drawn on `Figure` objects: no window system, no global state."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qa_train.metrics import CALIBRATION_BINS, Evaluation, calibration_bin, confusion_matrix, wilson_interval
from trainworks.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#4c6a92", "#d9822b", "#5a9367", "#a5507a", "#7a6ab0", "#8a7a45")
MODEL = COLOURS[0]
SHORTCUT_LINES = (("#6b6b6b", "--"), ("#6b6b6b", ":"), ("#a0a0a0", "-."))
MAX_CATEGORIES = 7


def plot_progressive_difficulty(
    path: Path, evaluations: Mapping[str, Evaluation], shortcuts: Mapping[str, Evaluation]
) -> None:
    """Draw accuracy against the number of actors: one panel overall and one for each category.

    Args:
        path: the PNG to write.
        evaluations: by the name that the legend shows; a line with its 95 % Wilson band each. Their actor counts
            may differ.
        shortcuts: by name; a dashed line each.
    """
    from matplotlib.ticker import MaxNLocator

    shown, note = _shown_categories(evaluations.values())
    figure, panels = _panels(len(shown), 4.0, 2.7, "actors in the story", "accuracy")
    for axes, category in zip(panels, shown, strict=True):
        for evaluation, (colour, dashes) in zip(shortcuts.values(), cycle(SHORTCUT_LINES), strict=False):
            actors, curve = _by_actors(evaluation, category)
            marker = "_" if len(actors) == 1 else None
            axes.plot(actors, curve["accuracy"], dashes, color=colour, linewidth=1.5, marker=marker, markersize=12)
        for evaluation, colour in zip(evaluations.values(), cycle(COLOURS), strict=False):
            actors, curve = _by_actors(evaluation, category)
            low, middle, high = curve["accuracy_low"], curve["accuracy"], curve["accuracy_high"]
            if len(actors) == 1:  # a band has no width there
                axes.vlines(actors, low, high, color=colour, alpha=0.5, linewidth=3)
            axes.fill_between(actors, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(actors, middle, color=colour, linewidth=1.8, marker="o", markersize=3.5)
        axes.set_title(_title(category), fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Progressive difficulty; bands are 95 % Wilson intervals{note}", fontsize=11)
    lowest = np.concatenate([np.asarray(line.get_ydata()) for axes in panels for line in axes.lines]).min()
    for axes in panels:
        axes.set_ylim(max(-0.02, min(0.4, lowest - 0.05)), 1.02)
    # The lines of interest first, although they are drawn last, on top.
    drawn = list(zip(panels[0].lines, [*shortcuts, *evaluations], strict=True))
    handles, names = zip(*drawn[len(shortcuts) :], *drawn[: len(shortcuts)], strict=True)
    figure.legend(handles, [_short(name) for name in names], loc="outside lower center", ncols=4, frameon=False)
    _publish(path, figure)


def plot_confusion(path: Path, evaluation: Evaluation) -> None:
    """Draw the confusion matrices, overall and by category: counts, with the share of the gold answer as colour.

    Args:
        path: the PNG to write.
    """
    shown, note = _shown_categories([evaluation])
    figure, panels = _panels(len(shown), 2.6, 2.6, "answer given", "gold answer")
    for axes, category in zip(panels, shown, strict=True):
        metrics = evaluation.overall if category is None else evaluation.by_category[category]
        counts = np.array(confusion_matrix(metrics))
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (gold, given), share in np.ndenumerate(shares):
            ink = "white" if share > 0.6 else "black"
            text = f"{counts[gold, given]:,}\n{share:.1%}"
            axes.text(given, gold, text, ha="center", va="center", color=ink, fontsize=10)
        axes.set_xticks([0, 1], ["no", "yes"])
        axes.set_yticks([0, 1], ["no", "yes"])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{_title(category)} ({metrics['accuracy']:.3f})", fontsize=10)
    figure.suptitle(f"Confusion matrices (accuracy){note}", fontsize=11)
    _publish(path, figure)


def plot_reliability(path: Path, evaluation: Evaluation, probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Draw how often "yes" is right against the probability of "yes", in the bins of the calibration error.

    Args:
        path: the PNG to write.
        probabilities: of "yes", (N,).
        labels: (N,), True where the gold answer is "yes".
    """
    from matplotlib.figure import Figure

    bin_N = calibration_bin(probabilities)
    count_B = np.bincount(bin_N, minlength=CALIBRATION_BINS)
    filled = np.flatnonzero(count_B)
    yes_B = np.bincount(bin_N, weights=labels, minlength=CALIBRATION_BINS)
    stated_F = np.bincount(bin_N, weights=probabilities, minlength=CALIBRATION_BINS)[filled] / count_B[filled]
    observed_F = yes_B[filled] / count_B[filled]
    low_F, high_F = wilson_interval(yes_B[filled], count_B[filled])

    figure = Figure(figsize=(5.0, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    above.plot([0, 1], [0, 1], "--", color="#8c8c8c", linewidth=1.2, label="calibrated")
    above.vlines(stated_F, low_F, high_F, color=MODEL, alpha=0.5, linewidth=3)
    above.plot(stated_F, observed_F, color=MODEL, linewidth=1.5, marker="o", markersize=5, label="observed")
    above.set_ylabel("share of gold answers that are yes")
    above.set_ylim(-0.03, 1.03)
    above.legend(frameon=False, loc="upper left")
    figures = "   ".join(f"{title} {evaluation.overall[field]:.4f}" for title, field in _CALIBRATION)
    above.set_title(f"Reliability; bars are 95 % Wilson intervals\n{figures}", fontsize=11)
    below.stairs(count_B, np.linspace(0, 1, CALIBRATION_BINS + 1), fill=True, color=MODEL, alpha=0.7)
    below.set_yscale("log")
    below.set_ylim(bottom=0.7)
    below.set_ylabel("questions")
    below.set_xlabel("probability of yes")
    below.set_xlim(-0.03, 1.03)
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _publish(path, figure)


_CALIBRATION = (("calibration error", "ece"), ("Brier", "brier"), ("loss", "loss"))


def _shown_categories(evaluations: Iterable[Evaluation]) -> tuple[list[str | None], str]:
    """None for all questions, then the categories that have most of them, by name; and a note of what is left out."""
    count: Counter[str] = Counter()
    for evaluation in evaluations:
        count.update({category: int(metrics["count"]) for category, metrics in evaluation.by_category.items()})
    if len(count) == 1:
        return [None], ""
    frequent = sorted(category for category, _ in count.most_common(MAX_CATEGORIES))
    left_out = len(count) - len(frequent)
    return [None, *frequent], f"; {left_out} rarer categories not shown" if left_out else ""


def _by_actors(evaluation: Evaluation, category: str | None) -> tuple[list[int], dict[str, np.ndarray]]:
    """Numbers of actors and, for each of them, accuracy and its interval; of one category or of all."""
    slices = evaluation.by_actors
    if category is not None:
        slices = {actors: metrics for (name, actors), metrics in evaluation.by_cell.items() if name == category}
    actors = sorted(slices)
    fields = ("accuracy", "accuracy_low", "accuracy_high")
    return actors, {field: np.array([slices[number][field] for number in actors]) for field in fields}


def _panels(count: int, width: float, height: float, xlabel: str, ylabel: str) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, labelled at its left and lower edge; width and height of each in inches."""
    from matplotlib.figure import Figure

    across = count if count <= 3 else 3 if count <= 6 else 4
    down = -(-count // across)
    scale = 1.6 if count == 1 else 1.0
    figure = Figure(figsize=(width * across * scale, height * down * scale + 0.8), layout="constrained")
    grid = list(figure.subplots(down, across, squeeze=False).ravel())
    for axes in grid[count:]:
        axes.set_axis_off()
    panels = grid[:count]
    for axes in panels[::across]:
        axes.set_ylabel(ylabel)
    for axes in panels[-across:]:
        axes.set_xlabel(xlabel)
    return figure, panels


def _title(category: str | None) -> str:
    return "all questions" if category is None else _short(category)


def _short(text: str) -> str:
    """At most 30 characters, mostly of the end, where the paths of runs differ."""
    # A dollar sign would start mathematics.
    return (text if len(text) <= 30 else f"{text[:9]}…{text[-20:]}").replace("$", r"\$")


def _publish(path: Path, figure: Figure) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    atomic_write(path, image.getvalue())
