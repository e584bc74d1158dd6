"""Many runs, ratio by objective by number of examples by seed, each trained as `train` does it and judged on the same
questions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from adapter_stage1.builtin import load_examples, source_record
from adapter_stage1.compress import latent_width
from adapter_stage1.config import OBJECTIVES, TrainRecipe
from adapter_stage1.evaluate import RUNGS, Rung, evaluate_run
from adapter_stage1.language_model import LanguageModel, load_language_model
from adapter_stage1.run import TOOL, load_trained, resume_run, start_run
from adapter_stage1.sweep_report import Sweep, write_sweep
from trainworks.config import Resolved
from trainworks.console import NonFinite, UserError, info, warn
from trainworks.run import Run
from trainworks.torch import resolve_device, set_threads

DEFAULT = "default"
"""The name of the recipe's own combination of objectives."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep; its recipe has this ratio, these objectives, this seed and, if the sweep varies them, this
    number of training questions."""

    ratio: int
    objective: str
    examples: int | None
    seed: int
    resolved: Resolved[TrainRecipe]

    @property
    def name(self) -> str:
        """Of its run directory inside the sweep's."""
        examples = "" if self.examples is None else f"examples_{self.examples:05}/"
        return f"ratio_{self.ratio:02}/{self.objective}/{examples}seed_{self.seed}"


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
    examples: Sequence[int] | None,
    seeds: Sequence[int],
    recipe: Callable[[Mapping[str, Any]], Resolved[TrainRecipe]],
) -> list[Cell]:
    """A cell for each ratio, objective, number of examples and seed, each once.

    Args:
        objectives: weights by recipe key, by the combination's name.
        examples: training questions; None for the recipe's number.
        recipe: makes a recipe from values by recipe key.

    Raises:
        UserError: a recipe that can't be, or --set of what the sweep itself sets.
    """
    numbers: list[int | None] = list(dict.fromkeys(examples)) if examples else [None]
    cells = []
    for ratio, objective, number, seed in product(dict.fromkeys(ratios), objectives, numbers, dict.fromkeys(seeds)):
        flags = {"compressor.ratio": ratio, "seed": seed, **objectives[objective]}
        if number is not None:
            flags["training.examples"] = number
        resolved = recipe(flags)
        lost = next((key for key in flags if resolved.provenance[key] != "flag"), None)
        if lost is not None:
            raise UserError(f"--set {lost} would be the same for all runs, and the sweep varies it; leave it out")
        cells.append(Cell(ratio, objective, number, seed, resolved))
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
    - OUT/sweep.json: `Sweep.to_json`; OUT/pareto.png; OUT/scaling.png if examples vary; OUT/index.html

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
                "examples": cell.resolved.recipe.training.examples,
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
