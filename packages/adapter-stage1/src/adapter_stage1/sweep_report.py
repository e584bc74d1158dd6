"""What a sweep came to: means over seeds, as a table, as plots and as a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from adapter_stage1.evaluate_plots import Curve, plot_pareto, plot_scaling
from adapter_stage1.report import definitions, figure, page, table
from trainworks.files import atomic_write, json_ready, write_json

JUDGED = ("f1", "exact_match", "retention", "token_recovery", "explained_variance", "perplexity")


@dataclass(frozen=True)
class Group:
    """What a ratio, an objective and a number of training questions came to with one rung.

    Attributes:
        seeds: how many runs.
        mean, deviation: over the seeds, by the names in `JUDGED`; the deviation (n - 1) is NaN for one seed.
    """

    ratio: int
    objective: str
    examples: int
    rung: str
    seeds: int
    bits_per_token: int
    mean: dict[str, float]
    deviation: dict[str, float]


@dataclass(frozen=True)
class Sweep:
    """The cells that are judged so far.

    Attributes:
        settings: what they were judged on: model, data, questions and rungs.
        token_id_bits: what sending the tokens themselves would take.
        cells: ratio, objective, examples (training questions), seed, run (its directory and its id), number of
            questions and, by name, the rungs without their answers.
        diverged: names of the cells whose training met NaN or infinity; they are in no mean.
    """

    settings: dict[str, Any]
    token_id_bits: int
    cells: list[dict[str, Any]]
    diverged: list[str]

    @property
    def num_questions(self) -> int:
        """Answered from each rung of each cell."""
        return self.cells[0]["questions"]

    @property
    def baseline(self) -> dict[str, Any]:
        """The rung of the true embeddings, the same for all cells."""
        return self.cells[0]["rungs"]["raw"]

    def groups(self) -> list[Group]:
        """Means over seeds, in the order of the cells, of every rung but the baseline."""
        members: dict[tuple[int, str, int, str], list[dict[str, Any]]] = {}
        for cell in self.cells:
            for name, rung in cell["rungs"].items():
                if name != "raw":
                    key = cell["ratio"], cell["objective"], cell["examples"], name
                    members.setdefault(key, []).append(rung)
        found = []
        for (ratio, objective, examples, name), rungs in members.items():
            values = {key: np.array([_number(rung[key]) for rung in rungs]) for key in JUDGED}
            found.append(
                Group(
                    ratio,
                    objective,
                    examples,
                    name,
                    len(rungs),
                    rungs[0]["bits_per_token"],
                    {key: float(value.mean()) for key, value in values.items()},
                    {key: float(value.std(ddof=1)) if len(rungs) > 1 else math.nan for key, value in values.items()},
                )
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data, NaN as null."""
        return json_ready(
            {
                "settings": self.settings,
                "questions": self.num_questions,
                "token_id_bits": self.token_id_bits,
                "baseline": self.baseline,
                "summary": [asdict(group) for group in self.groups()],
                "cells": self.cells,
                "diverged": self.diverged,
            }
        )


def write_sweep(out: Path, sweep: Sweep) -> None:
    """pareto.png, scaling.png if the number of training questions varies, index.html and sweep.json into the folder."""
    images = {"pareto.png": plot_pareto(pareto(sweep), sweep.baseline["f1"])}
    if len({cell["examples"] for cell in sweep.cells}) > 1:
        images["scaling.png"] = plot_scaling(scaling(sweep), sweep.baseline["f1"])
    for name, image in images.items():
        atomic_write(out / name, image)
    atomic_write(out / "index.html", sweep_page(sweep, images))
    write_json(out / "sweep.json", sweep.to_json())


def pareto(sweep: Sweep) -> dict[str, Curve]:
    """The adapter's F1 over ratios, by objective, from the most training questions."""
    most = max(cell["examples"] for cell in sweep.cells)
    groups = [group for group in sweep.groups() if (group.rung, group.examples) == ("adapter", most)]
    return _curves(groups, lambda group: group.ratio, lambda group: group.objective)


def scaling(sweep: Sweep) -> dict[str, Curve]:
    """F1 over the number of training questions, by ratio, objective and rung."""
    return _curves(
        sweep.groups(),
        lambda group: group.examples,
        lambda group: f"{group.objective} at {group.ratio}x, {group.rung}",
    )


def _curves(groups: Iterable[Group], x: Callable[[Group], int], name: Callable[[Group], str]) -> dict[str, Curve]:
    lines: dict[str, list[Group]] = {}
    for group in sorted(groups, key=x):
        lines.setdefault(name(group), []).append(group)
    return {
        name: Curve(
            [x(group) for group in line],
            [group.mean["f1"] for group in line],
            [0.0 if group.seeds == 1 else group.deviation["f1"] for group in line],
        )
        for name, line in lines.items()
    }


HEADER = (
    "ratio",
    "objective",
    "examples",
    "rung",
    "F1",
    "EM",
    "retention",
    "tokens %",
    "variance",
    "perplexity",
    "bits/token",
    "seeds",
)


def summary_rows(sweep: Sweep) -> list[list[str]]:
    """The baseline and each group as text under `HEADER`: mean ± standard deviation over seeds."""
    base = sweep.baseline
    quality = [
        f"{base['f1']:.1f}",
        f"{base['exact_match']:.1f}",
        "1.000",
        "100.0",
        "1.000",
        f"{base['perplexity']:.2f}",
    ]
    rows = [["–", "–", "–", "raw", *quality, f"{base['bits_per_token']:,}", "–"]]
    for group in sweep.groups():
        values = [
            _mean_and_deviation(group, "f1", 1),
            _mean_and_deviation(group, "exact_match", 1),
            _mean_and_deviation(group, "retention", 3),
            _mean_and_deviation(group, "token_recovery", 1, scale=100),
            _mean_and_deviation(group, "explained_variance", 3),
            _mean_and_deviation(group, "perplexity", 2),
        ]
        rows.append(
            [
                f"{group.ratio}x",
                group.objective,
                f"{group.examples:,}",
                group.rung,
                *values,
                f"{group.bits_per_token:,}",
                f"{group.seeds}",
            ]
        )
    return rows


def console_table(sweep: Sweep) -> str:
    """`summary_rows` as plain text."""
    lines = [list(HEADER), *summary_rows(sweep)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(
            f"{cell:{'<' if place in (1, 3) else '>'}{width}}"
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    ]
    return "\n".join([*shown, f"{sweep.num_questions} questions; ± is one standard deviation over seeds"])


def sweep_page(sweep: Sweep, images: Mapping[str, bytes]) -> str:
    """The sweep as one HTML page that needs no other file.

    Args:
        images: pareto.png and, if there is one, scaling.png.
    """
    settings, base = sweep.settings, sweep.baseline
    ratios = sorted({cell["ratio"] for cell in sweep.cells})
    title = f"Prompts rebuilt from {_range(f'{ratios[0]}x', f'{ratios[-1]}x')} fewer numbers"
    drawn = [
        figure(
            images["pareto.png"],
            f"F1 of the adapter by ratio of compression; true embeddings {base['f1']:.1f}; "
            + _spoken(pareto(sweep), "{mean:.1f} at {x}x"),
        )
    ]
    if "scaling.png" in images:
        spoken = _spoken(scaling(sweep), "{mean:.1f} from {x:,} questions")
        drawn.append(figure(images["scaling.png"], f"F1 by number of training questions; {spoken}"))
    lowest, highest = (_bits(sweep, ratio) for ratio in (ratios[-1], ratios[0]))
    return page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f"<p class=lead>{len(sweep.cells)} runs, judged on the same {sweep.num_questions:,} questions. The true "
            f"embeddings get F1 {base['f1']:.1f}.</p>",
            *drawn,
            "<p>Lines: means over seeds, with one standard deviation; they are drawn a little apart sideways, so that "
            "lines on top of each other can be told apart.</p>",
            table(HEADER, summary_rows(sweep)),
            "<p>± is one standard deviation over seeds. Counted honestly, latents at 16 bits a number take "
            f"{_range(f'{lowest:,}', f'{highest:,}')} bits a token, and the token's id takes {sweep.token_id_bits}, "
            "from which the embedding is read off without loss. The rung lookup needs no training.</p>",
            definitions(
                [
                    ("model", f"{settings['model']['path']} (SHA-256 {settings['model']['sha256'][:12]}…)"),
                    ("training data", f"{settings['data']['path']} (SHA-256 {settings['data']['sha256'][:12]}…)"),
                    ("questions", f"{settings['test']['path']} (SHA-256 {settings['test']['sha256'][:12]}…)"),
                ]
            ),
        ],
    )


def _spoken(curves: Mapping[str, Curve], point: str) -> str:
    """A plot's lines in words; `point` has the fields x and mean."""
    return "; ".join(
        f"{name}: " + ", ".join(point.format(x=x, mean=mean) for x, mean in zip(curve.xs, curve.means, strict=True))
        for name, curve in curves.items()
    )


def _range(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def _bits(sweep: Sweep, ratio: int) -> int:
    return next(cell["rungs"]["adapter"]["bits_per_token"] for cell in sweep.cells if cell["ratio"] == ratio)


def _mean_and_deviation(group: Group, key: str, digits: int, scale: float = 1.0) -> str:
    mean, deviation = scale * group.mean[key], scale * group.deviation[key]
    if not math.isfinite(mean):
        return "–"
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if group.seeds > 1 else f"{mean:.{digits}f}"


def _number(value: float | None) -> float:
    """A number of a JSON file, where NaN is null."""
    return math.nan if value is None else value
