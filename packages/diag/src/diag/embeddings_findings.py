"""What the figures of a set of embeddings mean: findings, and the text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

COLLAPSED, CROWDED = 0.1, 0.5
"""Spread under which embeddings are one point, and mean cosine above which they share a large common direction."""
SHOWN = 5
"""Pairs of labels and outliers on the terminal; JSON has more."""
ROWS = {
    "same": "same label",
    "different": "different labels",
    "separation": "separation",
    "band": "",
    "silhouette": "silhouette",
}


def findings(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a user should know before trusting the figures: name, level, summary, why, try."""
    found: list[dict[str, Any]] = []

    def note(name: str, level: str, summary: str, why: str, try_: str) -> None:
        found.append({"name": name, "level": level, "summary": summary, "why": why, "try": try_})

    shape = result["geometry"]
    if result["not_finite"]:
        note(
            "not finite",
            "critical",
            f"{result['not_finite']:,} embeddings hold NaN or infinity and were left out",
            "The encoder overflowed or got bad input.",
            "Look at those inputs; compute in float32.",
        )
    if result["zero"]:
        note(
            "zero vectors",
            "warning",
            f"{result['zero']:,} embeddings are zero and were left out",
            "A zero vector has no direction: silence, padding or a dead encoder.",
            "Look at those inputs.",
        )
    if shape["spread"] < COLLAPSED:
        note(
            "collapse",
            "critical",
            f"spread {shape['spread']:.3f} (1 covers the sphere, 0 is one point)",
            "The encoder says nearly the same of every input.",
            "Check that its loss pushes different inputs apart, and that it gets a gradient.",
        )
    elif shape["mean_cosine"] > CROWDED:
        note(
            "common direction",
            "warning",
            f"two random embeddings have cosine {shape['mean_cosine']:.2f}",
            "A large common direction lifts every cosine: raw thresholds of other encoders do not apply.",
            "Read the centred figures; take the mean embedding away before comparing.",
        )
    if shape["twins"] > 0.01:
        note(
            "twins",
            "warning",
            f"{shape['twins']:.0%} of the embeddings have an identical twin",
            "Repeated inputs make neighbours and silhouette look better than they are.",
            "Remove duplicates from the data.",
        )
    if result["labels"] is None:
        note(
            "no labels",
            "warning",
            "no labels were given, so nothing is said of their separation",
            "Same and different need labels.",
            "Give --labels or --label-column.",
        )
    elif result["labels"]["count"] == 1:
        note(
            "one label",
            "warning",
            "all embeddings have one label, so there is nothing to tell apart",
            "Separation, error rate and clusters need two labels.",
            "Embed inputs of several labels.",
        )
    elif result["centred"]["eer"] is None:
        note(
            "no pairs",
            "warning",
            "every embedding has a label of its own, so no pair shares one",
            "Separation and error rate need two embeddings of a label.",
            "Embed several inputs a label.",
        )
    elif result["centred"]["band"] == "poor":
        note(
            "poor separation",
            "warning",
            f"same and different labels are {result['centred']['separation']:.2f} apart",
            "Embeddings of one label are hardly closer than those of two, after centring too.",
            "Train longer, or with a loss that compares labels (GE2E, AAM-softmax, triplet).",
        )
    return found


def console_text(result: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    labels, shape = result["labels"], result["geometry"]
    of = f", {labels['count']:,} labels" if labels else ""
    lines = [f"{result['rows']:,} embeddings of {result['dimensions']:,} dimensions{of}"]
    if labels:
        lines += ["", *_separation(result)]
    lines += [
        "",
        f"  intrinsic dimension {_cell(shape['intrinsic_dimension'])} (TwoNN), effective rank "
        f"{shape['effective_rank']:.1f}, spread {shape['spread']:.2f}, mean cosine {shape['mean_cosine']:.2f}",
    ]
    if labels and result["confusable"]:
        lines += ["", "  closest labels (cosine of their centred means)"]
        for pair in result["confusable"][:SHOWN]:
            lines.append(f"    {pair['cosine']:6.3f}  {pair['labels'][0]!r} and {pair['labels'][1]!r}")
    if labels and result["outliers"]:
        lines += ["", "  far from their own label"]
        for stray in result["outliers"][:SHOWN]:
            where = f"row {stray['row']:,} of {stray['label']!r}"
            lines.append(f"    {where}: cosine {stray['cosine']:.2f}, nearest to {stray['nearest']!r}")
    for finding in result["findings"]:
        lines += ["", f"  {finding['level'].upper()} {finding['name']}: {finding['summary']}"]
        lines.append(f"    {finding['why']} {finding['try']}")
    return "\n".join(lines)


def _separation(result: Mapping[str, Any]) -> list[str]:
    raw, centred = result["raw"], result["centred"]
    lines = [f"  {'cosines':<22}{'raw':>12}{'mean-centred':>16}"]
    for key, name in ROWS.items():
        lines.append(f"  {name:<22}{_cell(raw[key]):>12}{_cell(centred[key]):>16}")
    for name, kind in (("raw", raw), ("centred", centred)):
        if eer := kind["eer"]:
            low, high = eer["interval"]
            lines.append(
                f"  equal error rate, {name:<8} {eer['rate']:.2%}  (95 %: {low:.2%} to {high:.2%}, "
                f"{eer['resampled']} drawn again; threshold {eer['threshold']:.3f})"
            )
    if near := result["nearest_neighbour"]:
        share = f"{near['accuracy']:.1%} (chance {near['chance']:.1%}; {near['queries']:,} queries)"
        lines.append(f"  nearest neighbour shares the label: {share}")
    if bouldin := result["davies_bouldin"]:
        lines.append(f"  Davies-Bouldin index {bouldin['index']:.3f} (lower is better)")
    return lines


def _cell(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    return "-" if value is None or not np.isfinite(value) else f"{value:.3f}"
