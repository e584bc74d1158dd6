"""Many runs, ratio by objective by seed, each trained as `train` does it and judged on the same questions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from adapter_stage1.builtin import load_examples, source_record
from adapter_stage1.compress import latent_width
from adapter_stage1.config import OBJECTIVES, TrainRecipe
from adapter_stage1.evaluate import RUNGS, Rung, evaluate_run
from adapter_stage1.evaluate_plots import Curve, plot_pareto
from adapter_stage1.language_model import LanguageModel, load_language_model
from adapter_stage1.report import definitions, figure, page, table
from adapter_stage1.run import TOOL, load_trained, resume_run, start_run
from trainworks.config import Resolved
from trainworks.console import NonFinite, UserError, info, warn
from trainworks.files import atomic_write, json_ready, write_json
from trainworks.run import Run
from trainworks.torch import resolve_device, set_threads

DEFAULT = "default"
"""The name of the recipe's own combination of objectives."""
JUDGED = ("f1", "exact_match", "retention", "token_recovery", "explained_variance", "perplexity")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep; its recipe has this ratio, these objectives and this seed."""

    ratio: int
    objective: str
    seed: int
    resolved: Resolved[TrainRecipe]

    @property
    def name(self) -> str:
        """Of its run directory inside the sweep's."""
        return f"ratio_{self.ratio:02}/{self.objective}/seed_{self.seed}"


@dataclass(frozen=True)
class Group:
    """What a ratio and an objective came to with one rung.

    Attributes:
        seeds: how many runs.
        mean, deviation: over the seeds, by the names in `JUDGED`; the deviation (n - 1) is NaN for one seed.
    """

    ratio: int
    objective: str
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
        cells: ratio, objective, seed, run (its directory and its id), number of questions and, by name, the rungs
            without their answers.
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
        members: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
        for cell in self.cells:
            for name, rung in cell["rungs"].items():
                if name != "raw":
                    members.setdefault((cell["ratio"], cell["objective"], name), []).append(rung)
        found = []
        for (ratio, objective, name), rungs in members.items():
            values = {key: np.array([_number(rung[key]) for rung in rungs]) for key in JUDGED}
            found.append(
                Group(
                    ratio,
                    objective,
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


class RememberingModel(LanguageModel):
    """Tokenises each text once, since all runs of a sweep read the same ones."""

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        return {}

    def tokens(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = np.array(super().tokens(text), dtype=np.int32)
        return self._known[text].tolist()


def objective_names(asked: Sequence[str]) -> dict[str, list[str]]:
    """Objectives by the name of their combination; none for the recipe's own.

    Args:
        asked: objectives, combinations such as "recon+token-ce", "default", or "all": each alone, then "default".
    """
    named: dict[str, list[str]] = {}
    for name in asked:
        for combination in (*OBJECTIVES, DEFAULT) if name == "all" else (name,):
            named[combination] = [] if combination == DEFAULT else combination.split("+")
    return named


def plan_sweep(
    ratios: Sequence[int],
    objectives: Mapping[str, Mapping[str, float]],
    seeds: Sequence[int],
    recipe: Callable[[Mapping[str, Any]], Resolved[TrainRecipe]],
) -> list[Cell]:
    """A cell for each ratio, objective and seed, each once.

    Args:
        objectives: weights by recipe key, by the combination's name.
        recipe: makes a recipe from values by recipe key.

    Raises:
        UserError: a recipe that can't be, or --set of what the sweep itself sets.
    """
    cells = []
    for ratio in dict.fromkeys(ratios):
        for objective, weights in objectives.items():
            for seed in dict.fromkeys(seeds):
                flags = {"compressor.ratio": ratio, "seed": seed, **weights}
                resolved = recipe(flags)
                lost = next((key for key in flags if resolved.provenance[key] != "flag"), None)
                if lost is not None:
                    raise UserError(
                        f"--set {lost} would be the same for all runs, and the sweep varies it; leave it out"
                    )
                cells.append(Cell(ratio, objective, seed, resolved))
    return cells


def run_sweep(
    cells: Sequence[Cell],
    data: Path,
    test: Path,
    out: Path,
    *,
    rungs: Sequence[str],
    questions: int | None,
    batch_size: int,
    device: str,
    threads: int | None,
) -> Sweep:
    """Train and judge what is not yet trained and judged, and write the sweep's files after each cell.

    - OUT/ratio_08/recon/seed_0: the run of a cell
    - OUT/sweep.json: `Sweep.to_json`; OUT/pareto.png; OUT/index.html

    Args:
        cells: of one language model.
        test: questions to judge by.
        rungs: to judge beside "raw" and "adapter".

    Raises:
        UserError: bad data, a ratio that doesn't divide the model's width, a run there that has another recipe.
        NonFinite: every run diverged. One that does is named in the result, and the others go on.
    """
    wanted = list(dict.fromkeys(["raw", "adapter", *rungs]))
    unknown = next((name for name in wanted if name not in RUNGS), None)
    if unknown is not None:
        raise UserError(f'no rung "{unknown}"; there are {", ".join(RUNGS)}')
    files = {name: source_record(path, len(load_examples(path))) for name, path in (("data", data), ("test", test))}
    for cell in cells:
        check_same_run(out / cell.name, cell, files["data"]["sha256"])
    set_threads(threads)
    config = cells[0].resolved.recipe.model
    loaded = load_language_model(config.name, config.dtype, resolve_device(device), config.device_map)
    language_model = RememberingModel(**vars(loaded))
    for cell in cells:
        latent_width(language_model.table.shape[1], cell.ratio)
    settings = {
        "model": {"path": str(language_model.path), "sha256": language_model.digest},
        **files,
        "questions": questions,
        "rungs": wanted,
    }
    judged = judged_before(out, settings, cells)
    baseline: Rung | None = None
    bits = math.ceil(math.log2(len(language_model.table)))
    diverged: list[str] = []

    def so_far() -> Sweep:
        return Sweep(settings, bits, [judged[cell.name] for cell in cells if cell.name in judged], diverged)

    for number, cell in enumerate(cells, 1):
        info(f"{number}/{len(cells)}: {cell.name}")
        run = out / cell.name
        try:
            if not run.exists():
                start_run(cell.resolved, data, run, device, threads, "none", False, language_model)
            elif Run.open(run).record["status"] != "finished":
                resume_run(run, device, threads, "none", language_model)
        except NonFinite as error:
            warn(f"{cell.name}: {error}")
            diverged.append(cell.name)
            continue
        if cell.name not in judged:
            trained = load_trained(run, device=device, threads=threads, language_model=language_model)
            report = evaluate_run(trained, test, wanted, questions, batch_size=batch_size, raw=baseline)
            baseline = report.rungs["raw"]
            judged[cell.name] = {
                "ratio": cell.ratio,
                "objective": cell.objective,
                "seed": cell.seed,
                "run": {"path": cell.name, "id": trained.run_id},
                "questions": len(report.examples),
                "rungs": report.to_json()["rungs"],
            }
            write_sweep(out, so_far())
    if len(diverged) == len(cells):
        raise NonFinite("every run of the sweep diverged; lower training.learning_rate")
    write_sweep(out, so_far())
    return so_far()


def check_same_run(path: Path, cell: Cell, data_sha256: str) -> None:
    """UserError if there is a run at `path` that the cell's recipe or data would not make."""
    if not path.exists():
        return
    run = Run.open(path, tool=TOOL)
    if run.config != cell.resolved.config:
        raise UserError(f"{path} has another recipe than this sweep; name another --out, or remove it")
    if run.record["inputs"][0]["sha256"] != data_sha256:
        raise UserError(f"{path} was trained on other data than this sweep's; name another --out, or remove it")


def judged_before(out: Path, settings: dict[str, Any], cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Cells by name that an earlier call judged by the same settings, and whose runs are still there."""
    try:
        record = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
        if record["settings"] != settings:
            return {}
        found = {cell["run"]["path"]: cell for cell in record["cells"]}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{out / 'sweep.json'} is damaged; remove it, and the runs are judged anew") from None
    known = {cell.name: found[cell.name] for cell in cells if cell.name in found}
    return {
        name: cell
        for name, cell in known.items()
        if (out / name).exists() and Run.open(out / name).record["id"] == cell["run"]["id"]
    }


def write_sweep(out: Path, sweep: Sweep) -> None:
    """pareto.png, index.html and sweep.json into the folder."""
    image = plot_pareto(curves(sweep), sweep.baseline["f1"])
    atomic_write(out / "pareto.png", image)
    atomic_write(out / "index.html", sweep_page(sweep, image))
    write_json(out / "sweep.json", sweep.to_json())


def curves(sweep: Sweep) -> dict[str, Curve]:
    """The adapter's F1 by objective, ratios ascending."""
    found: dict[str, list[Group]] = {}
    for group in sweep.groups():
        if group.rung == "adapter":
            found.setdefault(group.objective, []).append(group)
    made = {}
    for objective, groups in found.items():
        groups.sort(key=lambda group: group.ratio)
        deviations = [0.0 if group.seeds == 1 else group.deviation["f1"] for group in groups]
        made[objective] = Curve([group.ratio for group in groups], [group.mean["f1"] for group in groups], deviations)
    return made


HEADER = ("ratio", "objective", "rung", "F1", "EM", "retention", "tokens %", "variance", "bits/token", "seeds")


def summary_rows(sweep: Sweep) -> list[list[str]]:
    """The baseline and each group as text under `HEADER`: mean ± standard deviation over seeds."""
    base = sweep.baseline
    quality = [f"{base['f1']:.1f}", f"{base['exact_match']:.1f}", "1.000", "100.0", "1.000"]
    rows = [["–", "–", "raw", *quality, f"{base['bits_per_token']:,}", "–"]]
    for group in sweep.groups():
        values = [
            _mean_and_deviation(group, "f1", 1),
            _mean_and_deviation(group, "exact_match", 1),
            _mean_and_deviation(group, "retention", 3),
            _mean_and_deviation(group, "token_recovery", 1, scale=100),
            _mean_and_deviation(group, "explained_variance", 3),
        ]
        rows.append(
            [f"{group.ratio}x", group.objective, group.rung, *values, f"{group.bits_per_token:,}", f"{group.seeds}"]
        )
    return rows


def console_table(sweep: Sweep) -> str:
    """`summary_rows` as plain text."""
    lines = [list(HEADER), *summary_rows(sweep)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(
            f"{cell:{'<' if place in (1, 2) else '>'}{width}}"
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    ]
    return "\n".join([*shown, f"{sweep.num_questions} questions; ± is one standard deviation over seeds"])


def sweep_page(sweep: Sweep, pareto: bytes) -> str:
    """The sweep as one HTML page that needs no other file."""
    settings, base = sweep.settings, sweep.baseline
    ratios = sorted({cell["ratio"] for cell in sweep.cells})
    title = f"Prompts rebuilt from {ratios[0]}x to {ratios[-1]}x fewer numbers"
    numbers = "; ".join(
        f"{name}: "
        + ", ".join(f"{mean:.1f} at {ratio}x" for ratio, mean in zip(curve.ratios, curve.means, strict=True))
        for name, curve in curves(sweep).items()
    )
    lowest, highest = (_bits(sweep, ratio) for ratio in (ratios[-1], ratios[0]))
    return page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f"<p class=lead>{len(sweep.cells)} runs, judged on the same {sweep.num_questions:,} questions. The true "
            f"embeddings get F1 {base['f1']:.1f}.</p>",
            figure(pareto, f"F1 of the adapter by ratio of compression; true embeddings {base['f1']:.1f}; {numbers}"),
            "<p>Lines: means over seeds, with one standard deviation; ratios are drawn a little apart so that lines "
            "on top of each other can be told apart.</p>",
            table(HEADER, summary_rows(sweep)),
            f"<p>± is one standard deviation over seeds. Counted honestly, latents at 16 bits a number take {lowest:,} "
            f"to {highest:,} bits a token, and the token's id takes {sweep.token_id_bits}, from which the embedding is "
            "read off without loss. The rung lookup needs no training.</p>",
            definitions(
                [
                    ("model", f"{settings['model']['path']} (SHA-256 {settings['model']['sha256'][:12]}…)"),
                    ("training data", f"{settings['data']['path']} (SHA-256 {settings['data']['sha256'][:12]}…)"),
                    ("questions", f"{settings['test']['path']} (SHA-256 {settings['test']['sha256'][:12]}…)"),
                ]
            ),
        ],
    )


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
