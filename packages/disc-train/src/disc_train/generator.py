"""Which generator a recipe asks for."""

from __future__ import annotations

from pathlib import Path

from disc_train.config import TrainRecipe
from disc_train.model import ColumnsGenerator, Generator
from disc_train.schema import Schema
from trainworks.torch import seed_torch


def build_generator(schema: Schema, recipe: TrainRecipe, run_dir: Path) -> Generator:
    """A generator that has learned nothing of the table; a text one writes its tokenizer into the run directory."""
    seed_torch(recipe.seed, "init")
    if recipe.model.kind == "columns":
        counts = [column.counts for column in schema.columns]
        return ColumnsGenerator(
            schema.vocab_sizes, schema.token_values(), schema.ordered_tokens(), counts, recipe.model
        )
    from disc_train.text_model import build_text_generator

    return build_text_generator(schema, recipe.model, run_dir)


def reload_generator(schema: Schema, recipe: TrainRecipe, run_dir: Path) -> Generator:
    """The generator of a run without its weights; what a text one was built from need not be there any more."""
    if recipe.model.kind == "columns":
        return build_generator(schema, recipe, run_dir)
    from disc_train.text_model import load_text_generator

    return load_text_generator(schema, run_dir)
