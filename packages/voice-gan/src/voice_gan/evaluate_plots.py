"""The evaluation's figures. Drawn on `Figure` objects: no window system, no global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainworks.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REAL, MADE, OLD = "#6b6b6b", "#4c6a92", "#d9822b"
MOST_NAMES = 30
"""Speakers up to which their names are written beside the pairs."""


def plot_similarities(path: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]], judge: str) -> None:
    """Draw to whom the judge finds conversions similar, beside real recordings.

    Args:
        path: the PNG to write.
        rows: of `evaluate`, a row an utterance, by system.
        judge: its name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    bins = [edge / 20 for edge in range(-20, 21)]
    drawn = (
        ("conversion", "similarity_target", MADE, "conversion to target", True),
        ("conversion", "similarity_source", OLD, "conversion to source", True),
        ("target", "similarity_target", REAL, "real, same speaker", False),
        ("unchanged", "similarity_target", "#a9a9a9", "real, other speaker", False),
    )
    for system, key, colour, label, filled in drawn:
        style = {"alpha": 0.55} if filled else {"histtype": "step", "linewidth": 1.5}
        axes.hist([row[key] for row in rows[system]], bins, color=colour, label=label, density=True, **style)
    axes.set_xlabel(f"centred cosine, judge {judge}")
    axes.set_ylabel("density")
    axes.set_title("Whose voice has a conversion?", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    _publish(path, figure)


def plot_pairs(path: Path, pairs: Sequence[Mapping[str, Any]]) -> None:
    """Draw for each ordered pair of speakers how much nearer its conversions are to the target than to the source."""
    from matplotlib.figure import Figure

    speakers = sorted({name for pair in pairs for name in (pair["source"], pair["target"])})
    place = {name: number for number, name in enumerate(speakers)}
    margin = np.full((len(speakers), len(speakers)), np.nan)
    for pair in pairs:
        margin[place[pair["source"]], place[pair["target"]]] = pair["similarity_target"] - pair["similarity_source"]
    side = min(10.0, 3 + 0.25 * len(speakers))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(margin, cmap="RdBu", vmin=-1, vmax=1)
    if len(speakers) <= MOST_NAMES:
        axes.set_xticks(range(len(speakers)), speakers, rotation=90, fontsize=7)
        axes.set_yticks(range(len(speakers)), speakers, fontsize=7)
    axes.set_xlabel("target")
    axes.set_ylabel("source")
    axes.set_title("Nearer to target (blue) or to source (red)", loc="left", fontsize="medium")
    figure.colorbar(picture, ax=axes, shrink=0.8, label="difference of cosines")
    _publish(path, figure)


def _publish(path: Path, figure: Figure) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    atomic_write(path, picture.getvalue())
