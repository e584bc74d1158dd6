"""A training command that obeys the run directory's contract and learns nothing.

Its metric is `quality` plus noise of the seed, of which `shared` is common to all variants. By its settings it crashes,
sleeps, goes out of memory or ignores signals.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from pydantic import Field

from trainworks.config import Recipe, resolve
from trainworks.console import Interrupted, UserError
from trainworks.files import write_json
from trainworks.metrics import MetricsWriter
from trainworks.run import Run
from trainworks.signals import StopFlag


class Training(Recipe):
    steps: int = Field(5, ge=1)
    step_seconds: float = 0.0
    batch_size: int = 8
    accumulate: int = 1
    contrastive_weight: float = 0.5


class FakeRecipe(Recipe):
    seed: int = 0
    quality: float = 0.5
    noise: float = 0.01
    shared: float = 0.1
    fits: int = 1000
    """The largest batch_size that fits into memory."""
    crash_at: int = -1
    """The step before which it crashes, if the seed is `crash_seed`."""
    crash_seed: int = 0
    deaf: bool = False
    """Ignore SIGTERM."""
    training: Training = Training()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--fast", action="store_true")
    given = parser.parse_args()
    if given.resume:
        record = Run.open(given.resume, tool="fake").record
        if record["status"] == "finished":
            return 0
        with Run.resume(given.resume, tool="fake") as run:
            return train(run, FakeRecipe.model_validate(run.config))
    resolved = resolve(FakeRecipe, flags={"seed": given.seed}, sets=given.set)
    if given.dry_run:
        return 0
    with Run.create(
        given.out,
        tool="fake",
        version="1",
        resolved=resolved,
        seed=resolved.recipe.seed,
        device="cpu",
        threads=given.threads,
    ) as run:
        return train(run, resolved.recipe)


def train(run: Run, recipe: FakeRecipe) -> int:
    if recipe.training.batch_size > recipe.fits:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    if recipe.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    state = run.checkpoints_path / "last" / "state.json"
    step = json.loads(state.read_text())["step"] if state.exists() else 0
    noise = random.Random(f"{recipe.seed} {recipe.quality}").gauss(0, recipe.noise)
    final = recipe.quality + random.Random(recipe.seed).gauss(0, recipe.shared) + noise
    print(f"threads {os.environ.get('OMP_NUM_THREADS')} gpus {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    with MetricsWriter(run.metrics_path) as metrics, StopFlag() as stop:
        metrics.truncate_after(step)
        while step < recipe.training.steps:
            if stop and not recipe.deaf:
                stop.raise_if_set("saved")
            if step == recipe.crash_at and recipe.seed == recipe.crash_seed:
                raise RuntimeError("this variant cannot be trained")
            time.sleep(recipe.training.step_seconds)
            step += 1
            value = final * step / recipe.training.steps
            metrics.write(step, {"valid/accuracy": value, "train/loss": 1 - value}, epoch=step)
            state.parent.mkdir(exist_ok=True)
            write_json(state, {"step": step})
    run.finish({"valid/accuracy": final, "valid/loss": 1 - final})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_status)
