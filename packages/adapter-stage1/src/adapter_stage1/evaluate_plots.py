"""The figures of reports and sweeps. Drawn on `Figure` objects: no window system, no global state.

Each function returns a PNG, so that a page can hold it and a file too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from adapter_stage1.evaluate import Rung

INK, BASELINE, MARK = "#4c6a92", "#6b6b6b", "#d9822b"
LINES = (
    (INK, "o"),
    (MARK, "s"),
    ("#5a9367", "^"),
    ("#a5507a", "D"),
    ("#7a6ab0", "v"),
    ("#8a7a45", "P"),
    ("#3f9aa8", "X"),
    ("#b5493f", "*"),
)
"""Colour and marker of a sweep's lines: the marker tells them apart where colours don't."""
SAME_PLACE = 1.6
"""Rungs whose bits differ by less than this factor share a column of labels."""


@dataclass(frozen=True)
class Curve:
    """One line of a sweep's plots: F1 in percent over ratios, or over numbers of training questions.

    Attributes:
        xs: ratios or numbers, ascending.
        means: of F1 over the seeds.
        deviations: their standard deviations, 0 for one seed.
    """

    xs: Sequence[int]
    means: Sequence[float]
    deviations: Sequence[float]


def plot_f1_by_rung(rungs: Mapping[str, Rung]) -> bytes:
    """Bars of F1 with 95 % bootstrap intervals, and a line where the true embeddings are."""
    names = list(rungs)[::-1]
    figure = Figure(figsize=(7.5, 1.5 + 0.34 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        rung = rungs[name]
        low, high = rung.f1_interval
        axes.barh(place, rung.f1, 0.66, color=BASELINE if name == "raw" else INK, alpha=0.85)
        axes.hlines(place, low, high, color="black", linewidth=1.6)
        axes.text(max(high, rung.f1) + 1, place, f"{rung.f1:.1f}", va="center", fontsize=9)
    axes.axvline(rungs["raw"].f1, color=BASELINE, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 100)
    axes.set_xlabel("F1, percent; lines: 95 % bootstrap intervals; dashed: true embeddings")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def plot_f1_by_bits(rungs: Mapping[str, Rung], token_id_bits: int) -> bytes:
    """F1 against what a token takes on the wire, with the bits of the token's own id marked."""
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(token_id_bits, color=MARK, linewidth=1.6)
    axes.axhline(rungs["raw"].f1, color=BASELINE, linestyle="--", linewidth=1.2)
    axes.plot(token_id_bits, rungs["raw"].f1, "*", color=MARK, markersize=14, zorder=3)
    axes.annotate(
        f"the token's id:\n{token_id_bits} bits, nothing lost",
        (token_id_bits, rungs["raw"].f1),
        xytext=(10, -4),
        textcoords="offset points",
        va="top",
        color="#9a5510",
        fontsize=9,
    )
    for column in _columns(rungs):
        f1s = [rungs[name].f1 for name in column]
        right = max(rungs[name].bits_per_token for name in column) * 1.18
        for name, f1, level in zip(column, f1s, spread(f1s, 4.2, 0, 100), strict=True):
            bits = rungs[name].bits_per_token
            axes.plot([bits, right], [f1, level], color="#b0b0b0", linewidth=0.7, zorder=1)
            axes.plot(bits, f1, "o", color=BASELINE if name == "raw" else INK, markersize=6)
            label = axes.text(right * 1.03, level, name, va="center", fontsize=8.5)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    axes.set_xscale("log")
    widest = max(rung.bits_per_token for rung in rungs.values())
    axes.set_xlim(token_id_bits / 2, widest * 8)
    axes.set_ylim(-4, 104)
    axes.set_xlabel("bits a token on the wire")
    axes.set_ylabel("F1, percent")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def plot_pareto(curves: Mapping[str, Curve], baseline: float) -> bytes:
    """F1 against the ratio of compression: a line for each objective, dashed where the true embeddings are.

    Args:
        curves: by objective.
        baseline: F1 of the true embeddings.
    """
    return _plot_curves(curves, baseline, "width of embeddings over width of latents", "{}x")


def plot_scaling(curves: Mapping[str, Curve], baseline: float) -> bytes:
    """F1 against the number of training questions, as `plot_pareto` draws it against the ratio."""
    return _plot_curves(curves, baseline, "training questions", "{:,}")


def _plot_curves(curves: Mapping[str, Curve], baseline: float, label: str, tick: str) -> bytes:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(baseline, color=BASELINE, linestyle="--", linewidth=1.3, label="true embeddings")
    for number, ((name, curve), (colour, marker)) in enumerate(zip(curves.items(), cycle(LINES), strict=False)):
        # A little apart, so that lines on top of each other and their bars can be told apart.
        xs = np.array(curve.xs) * 2 ** (0.035 * (number - (len(curves) - 1) / 2))
        axes.errorbar(
            xs,
            curve.means,
            yerr=curve.deviations,
            color=colour,
            marker=marker,
            markersize=6,
            linewidth=1.6,
            capsize=3,
            label=name,
        )
    every = sorted({x for curve in curves.values() for x in curve.xs})
    axes.set_xscale("log", base=2)
    axes.set_xticks(every, [tick.format(x) for x in every])
    axes.set_xticks([], minor=True)
    axes.set_xlim(every[0] / 1.25, every[-1] * 1.25)
    highest = max(baseline, *(max(curve.means) for curve in curves.values()))
    axes.set_ylim(0, min(104, 1.2 * highest + 2))
    axes.set_xlabel(label)
    axes.set_ylabel("F1, percent")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    return _png(figure)


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The values pushed apart, in order, as little as it takes for neighbours to be `gap` apart (least squares), and
    all of them between `low` and `high`, where there must be room for them.

    Labels at such heights don't overlap. Blocks of pushed labels are centred on what they label, but at the ends.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    blocks: list[tuple[float, int]] = []  # where a block's first label would be, and how many are in it
    for number, place in enumerate(order):
        first, size = values[place] - number * gap, 1
        while blocks and blocks[-1][0] > first:
            before, count = blocks.pop()
            first, size = (before * count + first * size) / (count + size), count + size
        blocks.append((first, size))
    highest_first = high - (len(values) - 1) * gap
    firsts = [min(max(first, low), highest_first) for first, size in blocks for _ in range(size)]
    heights = [0.0] * len(values)
    for number, place in enumerate(order):
        heights[place] = firsts[number] + number * gap
    return heights


def _columns(rungs: Mapping[str, Rung]) -> list[list[str]]:
    """Names of rungs by about the same bits."""
    columns: list[list[str]] = []
    for name in sorted(rungs, key=lambda name: rungs[name].bits_per_token):
        if columns and math.log(rungs[name].bits_per_token / rungs[columns[-1][0]].bits_per_token) < math.log(
            SAME_PLACE
        ):
            columns[-1].append(name)
        else:
            columns.append([name])
    return columns


def _png(figure: Figure) -> bytes:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()
