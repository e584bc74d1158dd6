"""Why a run came out as it did: what each objective says of a row, how it moved the generator, what it is worth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from disc_train.attribution import explain_rows
from disc_train.coalitions import ablation, shapley, train_coalitions
from disc_train.config import LEVELS, TrainRecipe
from disc_train.data import Table, read_table
from disc_train.explain_page import explain_page
from disc_train.fork import Family, changed
from disc_train.run import TOOL, describe_input, load_trained
from disc_train.sample import Wanted, sample_rows
from trainworks.console import UserError, info, progress
from trainworks.files import atomic_write, write_json
from trainworks.metrics import read_metrics
from trainworks.run import Run
from trainworks.torch import resolve_device, set_threads

HISTORY = ("train", "weight", "share", "gradient", "cosine", "valid", "disc")
"""First parts of the names of metrics that a history shows."""


def explain(
    path: Path,
    *,
    rows: str | None,
    num_rows: int,
    format: str | None,
    ablate: int,
    cycles: int | None,
    metric: str,
    out: Path,
    device: str,
    threads: int | None,
) -> dict[str, Any]:
    """Explain a run that is finished, running or failed; writes explain.json and explain.html into `out`.

    Args:
        path: the run.
        rows: a table whose rows are explained; None: rows that the run generates.
        num_rows: how many of them, at most.
        format: of that table.
        ablate: seeds of trainings with every subset of the levels; 0: none.
        cycles: of those trainings; None: the run's own.
        metric: what ablation and Shapley values are of; see `train_coalitions`.
        out: the folder; trainings go to `out`/ablation.
        device: where to compute.
        threads: compute threads.

    Returns:
        What explain.json holds.

    Raises:
        UserError: no such run, a run without feedback, rows of another table, an unknown metric, data that changed.
    """
    run = Run.open(path, tool=TOOL)
    recipe = run.recipe(TrainRecipe)
    if recipe.feedback.schedule == "none":
        raise UserError(f"{path} was trained with schedule none: it has no objectives to explain")
    found: dict[str, Any] = {
        "run": str(path),
        "status": run.record["status"],
        "weights": recipe.feedback.weights,
        "history": history(run),
        "rows": [],
        "ablation": None,
    }
    if (run.checkpoints_path / "last").exists() and found["history"].get("weight/row"):
        trained = load_trained(path, "last", device, threads)
        if rows is None:
            table = next(sample_rows(trained, Wanted(num_rows, (), None, False, 100), recipe.seed))
        else:
            table = read_table(rows, format, min_rows=1)
        table = table.take(slice(0, num_rows))
        # Weights that adapt are the last that the run had; fixed ones are the recipe's.
        found["weights"] = {level: found["history"][f"weight/{level}"][-1][1] for level in LEVELS}
        found["rows"] = [asdict(row) for row in explain_rows(trained, table, found["weights"])]
    else:
        info(f"{path} has had no feedback yet: rows are not explained")
    if ablate:
        found["ablation"] = objectives(run, recipe, ablate, cycles, metric, out, device, threads)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "explain.json", found)
    atomic_write(out / "explain.html", explain_page(found))
    return found


def history(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every metric of the objectives, by name."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in read_metrics(run.metrics_path):
        for name, value in record.items():
            if name.partition("/")[0] in HISTORY and "/" in name and value is not None:
                curves.setdefault(name, []).append((record["step"], value))
    return curves


def objectives(
    run: Run,
    recipe: TrainRecipe,
    seeds: int,
    cycles: int | None,
    metric: str,
    out: Path,
    device: str,
    threads: int | None,
) -> dict[str, Any]:
    """Ablation, Shapley values and gradients of trainings on the run's data, each seed with a warm start of its own."""
    begun = run.record["inputs"][0]
    if begun["path"] == "-":
        raise UserError(f"{run.path} was trained on stdin, so there are no rows to train on again; leave --ablate out")
    table: Table = read_table(begun["path"], None)
    source = describe_input(begun["path"], table)
    if source["sha256"] != begun["sha256"]:
        raise UserError(f"{begun['path']} is not the data that {run.path} was begun with (SHA-256 differs)")
    chosen, num_threads = resolve_device(device), set_threads(threads)
    folder, seeded = out / "ablation", [changed(recipe, {"seed": recipe.seed + seed}) for seed in range(seeds)]
    families = [
        Family(one, table, source, folder / f"seed_{seed}", chosen, num_threads) for seed, one in enumerate(seeded)
    ]
    with progress(16 * seeds, "ablation") as bar:
        values = train_coalitions(families, cycles or recipe.feedback.cycles, metric, lambda: bar.advance())
    full = [history(Run.open(family.folder / "_".join(LEVELS))) for family in families]
    along = {name: curve for name, curve in full[0].items() if name.startswith(("gradient/", "cosine/"))}
    return {
        "metric": metric,
        "seeds": seeds,
        "full": [by_coalition[tuple(LEVELS)] for by_coalition in values],
        "differences": {name: asdict(effect) for name, effect in ablation(values).items()},
        "shapley": {name: asdict(effect) for name, effect in shapley(values).items()},
        "gradients": {name: mean_of(full, name) for name in along},
        "gradients_along": along,
        "values": {
            "+".join(coalition) or "none": [by_coalition[coalition] for by_coalition in values]
            for coalition in values[0]
        },
    }


def mean_of(histories: list[dict[str, list[tuple[int, float]]]], name: str) -> float:
    """Mean over all steps and seeds."""
    values = [value for curves in histories for _, value in curves.get(name, ())]
    return sum(values) / len(values)
