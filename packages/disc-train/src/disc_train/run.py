"""A run directory of disc-train: made by training, read by everything else."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from disc_train import __version__
from disc_train.config import LEVELS, TrainRecipe
from disc_train.data import Table, did_you_mean, read_table
from disc_train.discriminators import Discriminators
from disc_train.generator import build_generator, reload_generator
from disc_train.model import Generator
from disc_train.schema import Schema
from disc_train.state import encode_rows
from disc_train.train import fit
from trainworks.checkpoint import Checkpoints
from trainworks.config import Resolved
from trainworks.console import UserError, info, warn
from trainworks.files import write_json
from trainworks.plots import plot_curves
from trainworks.run import Run, input_record
from trainworks.torch import load_weights, resolve_device, set_threads
from trainworks.tracking import check_tracker, open_sink

TOOL = "disc-train"
MIN_ROWS = 20
MAX_COLUMNS = 1000
CURVES = {
    "loss": ["train/lm_loss", "valid/lm_loss"],
    "feedback": [f"train/{level}_loss" for level in LEVELS],
    "discriminators": [f"disc/{level}/auc" for level in LEVELS],
    "two_sample": ["valid/two_sample_auc"],
}


def start_run(
    resolved: Resolved[TrainRecipe],
    data: str,
    out: Path,
    format: str | None,
    device: str,
    threads: int | None,
    tracker: str,
    overwrite: bool,
) -> Path:
    """Train on a table from the start.

    Raises:
        UserError: bad data, a taken name, an unknown target.
    """
    recipe = resolved.recipe
    check_tracker(tracker)
    if recipe.model.base_model and not Path(recipe.model.base_model).is_dir():
        raise UserError(f"model.base_model: there is no directory {recipe.model.base_model}")
    if recipe.diagnostics.enabled and importlib.util.find_spec("diag") is None:
        raise UserError("--run-diagnostics needs an extra: pip install 'disc-train[diagnostics]'")
    chosen, num_threads = resolve_device(device), set_threads(threads)
    table = read_table(data, format)
    schema = infer_schema(table, recipe, data)
    run = Run.create(
        out,
        tool=TOOL,
        version=__version__,
        resolved=resolved,
        seed=recipe.seed,
        inputs=[describe_input(data, table)],
        device=chosen.type,
        threads=num_threads,
        overwrite=overwrite,
    )
    with run:
        write_json(run.path / "schema.json", schema.to_json())
        try:
            fit_run(run, recipe, schema, table, chosen, tracker)
        except UserError:
            if not (run.checkpoints_path / "last").exists():
                shutil.rmtree(run.path)  # bad input leaves no half-written run
            raise
    return run.path


def resume_run(
    path: Path, data: str | None, format: str | None, device: str, threads: int | None, tracker: str
) -> Path:
    """Go on with a run that was stopped, on the data that it began with.

    Raises:
        UserError: no such run, or the data is not what the run began with.
    """
    run = Run.open(path, tool=TOOL)
    if run.record["status"] == "finished":
        info(f"{path} is finished already")
        return path
    recipe = run.recipe(TrainRecipe)
    begun = run.record["inputs"][0]
    source = data or begun["path"]
    if source == "-" and data is None:
        raise UserError(f"{path} was trained on stdin: pipe the same rows into disc-train train - --resume {path}")
    table = read_table(source, format)
    if describe_input(source, table)["sha256"] != begun["sha256"]:
        raise UserError(f"{source} is not the data that {path} was begun with (SHA-256 differs)")
    environment = run.record["environment"]
    chosen = resolve_device(environment["device"] if device == "auto" else device)
    # The order of floating-point sums, and so the last bit, depends on the number of threads.
    set_threads(threads or environment["threads"])
    with Run.resume(path, tool=TOOL) as resumed:
        schema_file = resumed.path / "schema.json"
        if not schema_file.exists():
            write_json(schema_file, infer_schema(table, recipe, source).to_json())
        fit_run(resumed, recipe, read_schema(resumed.path), table, chosen, tracker)
    return path


def fit_run(
    run: Run,
    recipe: TrainRecipe,
    schema: Schema,
    table: Table,
    device: torch.device,
    tracker: str,
    plots: bool = True,
) -> None:
    """Train from the run's last checkpoint, or from the start, to the end; with pictures of it, if wanted."""
    rows = encode_rows(table, schema, recipe, device)
    begun = (run.checkpoints_path / "last").exists()
    generator = (reload_generator if begun else build_generator)(schema, recipe, run.path)
    with open_sink(tracker, run) as sink:
        result = fit(run, recipe, schema, generator, rows, device, sink)
    if plots:
        plot_curves(run.metrics_path, run.path / "plots", CURVES)
    run.finish(result)


def infer_schema(table: Table, recipe: TrainRecipe, source: str) -> Schema:
    """Column types and tokens of a table, with everything about it that training can't bear refused.

    Raises:
        UserError: too few rows, too many columns, an unknown target or column in `data.types`.
    """
    if len(table) < MIN_ROWS:
        raise UserError(f"{source} has {len(table)} rows; training needs at least {MIN_ROWS}")
    if len(table.columns) > MAX_COLUMNS:
        raise UserError(
            f"{source} has {len(table.columns):,} columns; a row is read cell by cell, and at most {MAX_COLUMNS:,} "
            "are supported: choose columns first"
        )
    if recipe.target:
        table.column(recipe.target)
    for name in recipe.data.types:
        if name not in table.columns:
            raise UserError(f'data.types names "{name}", no column of {source}{did_you_mean(name, table.columns)}')
    exact = len(table) if recipe.model.kind == "text" else recipe.data.max_exact
    schema = Schema.infer(
        table,
        overrides=recipe.data.types,
        max_exact=exact,
        bins=recipe.data.bins,
        max_categories=exact if recipe.model.kind == "text" else recipe.data.max_categories,
    )
    for warning in schema.warnings:
        warn(warning)
    return schema


def describe_input(source: str, table: Table) -> dict[str, Any]:
    """What run.json says of the data: where it came from, rows, SHA-256 (of stdin and built-in tables, the cells')."""
    if Path(source).is_file():
        # Absolute, so that --resume works from any directory.
        return input_record(Path(source).resolve(), rows=len(table))
    return {"path": source, "sha256": table.digest(), "rows": len(table)}


def read_schema(path: Path) -> Schema:
    """The schema of a run.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = path / "schema.json"
    try:
        return Schema.from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{file} is missing; the run never began to train: train again with --overwrite") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file} is damaged") from None


@dataclass
class Trained:
    """A finished model, ready for use."""

    recipe: TrainRecipe
    schema: Schema
    generator: Generator
    discriminators: Discriminators
    device: torch.device

    @property
    def has_discriminators(self) -> bool:
        return self.recipe.feedback.schedule != "none"


def load_trained(path: Path, checkpoint: str = "best", device: str = "auto", threads: int | None = None) -> Trained:
    """A run's model.

    Raises:
        UserError: no run of disc-train, no such checkpoint, a damaged file.
    """
    run = Run.open(path, tool=TOOL)
    recipe = run.recipe(TrainRecipe)
    schema = read_schema(run.path)
    folder, _ = Checkpoints(run.checkpoints_path).load(checkpoint)
    chosen = resolve_device(device)
    set_threads(threads)
    generator = reload_generator(schema, recipe, run.path)
    load_weights(folder / "model.safetensors", generator)
    discriminators = Discriminators(generator, schema.token_values(), recipe.discriminator)
    load_weights(folder / "discriminators.safetensors", discriminators)
    generator.to(chosen).eval()
    discriminators.to(chosen).eval()
    return Trained(recipe, schema, generator.requires_grad_(False), discriminators, chosen)
