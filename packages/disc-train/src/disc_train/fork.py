"""Runs that share a warm start: it is trained once, and each run goes on from it with its own feedback settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from disc_train import __version__
from disc_train.config import TrainRecipe
from disc_train.data import Table
from disc_train.run import TOOL, fit_run, infer_schema, read_schema
from disc_train.schema import Schema
from trainworks.config import Resolved
from trainworks.console import UserError
from trainworks.files import write_json
from trainworks.run import Run

WARM = "warm"
OWN = shutil.ignore_patterns("run.json", ".lock", "plots", "diagnostics", "reports", "checkpoints", "*.tmp")
"""What a fork doesn't take over from its base as it stands."""


@dataclass(frozen=True)
class Family:
    """Runs of one recipe on one table that differ in their feedback settings alone.

    Attributes:
        recipe: what they have in common.
        table: the training rows.
        source: what run.json says of them.
        folder: gets `warm` and a run directory for each fork.
        device: where to train.
        threads: compute threads, for the record.
    """

    recipe: TrainRecipe
    table: Table
    source: Mapping[str, Any]
    folder: Path
    device: torch.device
    threads: int

    def warm(self) -> Path:
        """The warm start with the first discriminators, trained if it isn't yet, gone on with if it was interrupted."""
        path = self.folder / WARM
        recipe = changed(self.recipe, {"feedback.cycles": 0})
        with self._begun(path, recipe) as run:
            if run.record["status"] != "finished":
                schema = infer_schema(self.table, recipe, self.source["path"])
                write_json(run.path / "schema.json", schema.to_json())
                self._fit(run, recipe, schema)
        return path

    def fork(self, name: str, changes: Mapping[str, Any], base: Path | None = None) -> Run:
        """A finished run that goes on from the warm start; the same bits as one that was trained so from its beginning.

        It is gone on with if it was interrupted, and left alone if it is finished.

        Args:
            name: of its directory.
            changes: settings by dotted key, of `feedback` alone: others would need another warm start.
            base: the run to go on from; default: the warm start.

        Raises:
            UserError: the directory has a run with other settings.
        """
        base, recipe = base or self.warm(), changed(self.recipe, changes)
        with self._begun(self.folder / name, recipe) as run:
            if run.record["status"] != "finished":
                if not (run.checkpoints_path / "last").exists():
                    inherit(base, run)
                self._fit(run, recipe, read_schema(run.path))
        return Run.open(run.path)

    def _begun(self, path: Path, recipe: TrainRecipe) -> Run:
        """The run of that recipe, locked for writing, or as it stands if it is finished."""
        resolved = Resolved(recipe, {})
        if not (path / "run.json").exists():
            return Run.create(
                path,
                tool=TOOL,
                version=__version__,
                resolved=resolved,
                seed=recipe.seed,
                inputs=[self.source],
                device=self.device.type,
                threads=self.threads,
            )
        run = Run.open(path, tool=TOOL)
        if run.config != resolved.config or run.record["inputs"][0]["sha256"] != self.source["sha256"]:
            raise UserError(f"{path} was begun with other settings or data; name another --out")
        return run if run.record["status"] == "finished" else Run.resume(path, tool=TOOL)

    def _fit(self, run: Run, recipe: TrainRecipe, schema: Schema) -> None:
        fit_run(run, recipe, schema, self.table, self.device, "none", plots=False)


def inherit(base: Path, run: Run) -> None:
    """Give a run what another has learned; its checkpoints last and whole, since with them it has begun."""
    shutil.copytree(base, run.path, dirs_exist_ok=True, ignore=OWN)
    staged = run.path / "checkpoints.tmp"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(base / "checkpoints", staged, symlinks=True)
    os.replace(staged, run.checkpoints_path)


def changed(recipe: TrainRecipe, changes: Mapping[str, Any]) -> TrainRecipe:
    """The recipe with other values at dotted keys.

    Raises:
        pydantic.ValidationError: an unknown key or a bad value.
    """
    values = recipe.model_dump()
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[name] = value
    return TrainRecipe.model_validate(values)
