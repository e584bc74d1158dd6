"""Which generator a recipe asks for."""

from __future__ import annotations

from pathlib import Path

from disc_train.config import TrainRecipe
from disc_train.model import ColumnsGenerator, Generator
from disc_train.schema import Schema
from trainworks.torch import seed_torch


def build_generator(schema: Schema, recipe: TrainRecipe, run_dir: Path) -> Generator:
    """A generator with fresh weights; what a text generator needs beside its weights is kept in the run directory."""
    if recipe.model.kind == "columns":
        seed_torch(recipe.seed, "init")
        return ColumnsGenerator(schema.vocab_sizes, schema.token_values(), schema.ordered_tokens(), recipe.model)
    from disc_train.text_model import build_text_generator

    return build_text_generator(schema, recipe.model, run_dir)
