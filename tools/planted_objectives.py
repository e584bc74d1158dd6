"""Does `disc-train explain` name the objective that can see a planted fault? Small tables with a known answer.

    uv run --no-sync python tools/planted_objectives.py --seeds 0 1 2 3 4 5 6 7 8 9 --out runs/accept-planted

A table's rows are dealt to generator, discriminators and validation by the recipe's seed. Here the generator's share
has a fault that the others lack, so likelihood teaches the fault and feedback alone can mend it. For each fault and
seed the sixteen trainings of `explain --ablate` follow, and the exact Shapley values of the validation rows'
likelihood.

Which level has the information? By definition the sentence level sees columns one by one, and the feature level one
cell given the whole rest; token and row levels see rows as a whole, in reading order or at once. So with enough rows
token and row see whatever the others see, and the same as one another: no fault is theirs alone, and none is hidden
from both. What can be hidden, exactly, is a fault from `sentence` (columns right one by one), from `feature` (each
cell is given by the rest, as in columns that are copies), or from both; among those that can see it, the one that
learns it from the fewest rows and credits the right cells is to be first. `sees` says which are not blind by
construction.

For the token level no fault is planted: whatever it sees the row level sees too. Tables want many distinct rows (see
`nothing`).

What is there already is not done again. --out gets table.md, results.json and a folder a fault and seed.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from disc_train.coalitions import shapley_values, train_coalitions
from disc_train.config import LEVELS, TrainRecipe
from disc_train.data import Table, cell_array
from disc_train.fork import Family
from disc_train.state import deal_rows
from trainworks.console import set_quiet
from trainworks.files import write_json
from trainworks.metrics import read_metrics
from trainworks.seeding import rng
from trainworks.torch import resolve_device, set_threads

NUM_ROWS = 1600
RECIPE: dict[str, Any] = {
    "data": {"valid_fraction": 0.2},
    "model": {"dim": 16, "depth": 1, "dropout": 0.0},
    "warm_start": {"max_epochs": 1, "min_steps": 250, "learning_rate": 1e-2},
    "feedback": {"cycles": 1, "steps_per_cycle": 20, "real_batch_size": 64, "learning_rate": 2e-3, "strength": 8.0},
    "discriminator": {"dim": 16, "dropout": 0.0, "batch_size": 128, "learning_rate": 5e-3, "real_share": 0.4},
}
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))


def nothing(draws: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """Columns that mean nothing, but make rows differ: equal rows share a fold, so of a table with few distinct rows no
    discriminator is ever shown what it is to judge."""
    return draws.integers(40, size=(rows, count))


def frequencies(draws: np.random.Generator, rows: int, faulty: bool) -> np.ndarray:
    """Four pairs of columns that are copies; letters that ought to be equally frequent aren't."""
    share = [0.4, 0.3, 0.2, 0.1] if faulty else [0.25] * 4
    return np.hstack([np.repeat(draws.choice(4, (rows, 4), p=share), 2, axis=1), nothing(draws, rows, 1)])


def groups(draws: np.random.Generator, rows: int, faulty: bool) -> np.ndarray:
    """Two groups of three columns that are copies; the groups ought to agree in nine rows of ten."""
    one, other = draws.integers(3, size=(2, rows))
    if not faulty:
        other = np.where(draws.random(rows) < 0.9, one, other)
    return np.hstack([np.repeat(np.column_stack([one, other]), 3, axis=1), nothing(draws, rows, 2)])


def pairs(draws: np.random.Generator, rows: int, faulty: bool) -> np.ndarray:
    """Five pairs of columns that ought to agree more often than by chance."""
    one, other = draws.integers(3, size=(2, rows, 5))
    if not faulty:
        other = np.where(draws.random((rows, 5)) < 0.8, one, other)
    return np.hstack([one, other])


@dataclass(frozen=True)
class Fault:
    """What is planted: letters (N, C) as indices, with the fault or without; and the levels that aren't blind to it."""

    plant: Callable[[np.random.Generator, int, bool], np.ndarray]
    sees: tuple[str, ...]


FAULTS = {
    "sentence": Fault(frequencies, ("sentence", "token", "row")),
    "feature": Fault(pairs, ("feature", "token", "row")),
    "row": Fault(groups, ("row", "token")),
}
"""By the level that is expected to come first; of the last either of the two will do."""


def planted_table(fault: Fault, recipe: TrainRecipe) -> Table:
    """A table whose rows for the generator have the fault and whose others haven't."""
    draws = rng(recipe.seed, "planted")
    rows = fault.plant(draws, NUM_ROWS, False)
    learned, _, _ = deal_rows(NUM_ROWS, recipe)
    rows[learned] = fault.plant(draws, len(learned), True)
    columns = [cell_array(LETTERS[column].tolist()) for column in rows.T]
    return Table(tuple(f"column_{index}" for index in range(len(columns))), columns)


def measure(level: str, seed: int, folder: Path, metric: str) -> dict[str, Any]:
    """Held-out AUC of each level's discriminator after the warm start, and each level's Shapley value."""
    finished = folder / f"{metric.replace('/', '_')}.json"
    if finished.exists():
        return json.loads(finished.read_text())
    recipe = TrainRecipe.model_validate({"seed": seed, **RECIPE})
    table = planted_table(FAULTS[level], recipe)
    source = {"path": f"planted:{level}", "sha256": table.digest(), "rows": len(table)}
    before = resource.getrusage(resource.RUSAGE_SELF)
    family = Family(recipe, table, source, folder / "runs", resolve_device("cpu"), set_threads(1))
    value = train_coalitions([family], recipe.feedback.cycles, metric, lambda: None)[0]
    after = resource.getrusage(resource.RUSAGE_SELF)
    begun = next(record for record in read_metrics(family.warm() / "metrics.jsonl") if "disc/row/auc" in record)
    shares = shapley_values(value)
    found = {
        "seed": seed,
        "discriminators": {name: begun[f"disc/{name}/auc"] for name in LEVELS},
        "shapley": shares,
        "first": min(shares, key=lambda name: shares[name]),  # of the metric less is better
        "none": value[()],
        "all": value[tuple(LEVELS)],
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
    write_json(finished, found)
    for checkpoints in (folder / "runs").glob("*/checkpoints"):
        if checkpoints.parent.name != "warm":
            shutil.rmtree(checkpoints)  # what is wanted of these runs is in their metrics
    return found


def markdown(results: dict[str, list[dict[str, Any]]], metric: str) -> str:
    """How often each level came first, by fault."""
    head = [
        "fault for",
        "sees",
        "first",
        "first is one that sees",
        "AUC of discriminators",
        f"Shapley value of {metric}",
        "CPU-minutes",
    ]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for level, found in results.items():
        first = Counter(one["first"] for one in found)
        counted = ", ".join(f"{name} {first[name]}" for name in sorted(LEVELS, key=lambda name: -first[name]))
        seen = sum(first[name] for name in FAULTS[level].sees)
        cells = [level, ", ".join(FAULTS[level].sees), f"{counted} of {len(found)}", str(seen)]
        cells += [means(found, "discriminators", ".3f"), means(found, "shapley", "+.4f")]
        cells.append(f"{sum(one['cpu_s'] for one in found) / 60:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def means(found: list[dict[str, Any]], key: str, shown: str) -> str:
    """Over the seeds, by level."""
    return ", ".join(f"{name} {statistics.mean(one[key][name] for one in found):{shown}}" for name in LEVELS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--levels", choices=FAULTS, nargs="+", default=list(FAULTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--metric", choices=("valid/lm_loss", "valid/two_sample_auc"), default="valid/lm_loss")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    set_quiet(True)  # what each of the many trainings says
    results: dict[str, list[dict[str, Any]]] = {level: [] for level in args.levels}
    for level in args.levels:
        for seed in args.seeds:
            results[level].append(measure(level, seed, args.out / f"{level}_{seed}", args.metric))
            print(f"fault for {level}, seed {seed}: first {results[level][-1]['first']}", file=sys.stderr)
    write_json(args.out / "results.json", {"metric": args.metric, "recipe": RECIPE, "faults": results})
    shown = markdown(results, args.metric)
    (args.out / "table.md").write_text(shown)
    print(shown, end="")


if __name__ == "__main__":
    main()
