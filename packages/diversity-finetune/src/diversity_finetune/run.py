"""From a data directory to a finished run, and back to its model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diversity_finetune import __version__
from diversity_finetune.config import FINAL_WEIGHTS, TrainRecipe
from diversity_finetune.data import DATA_JSON, SIDES, TOKENIZER_JSON, Arrays, Pair, read_arrays, read_pairs
from diversity_finetune.tokenizer import Tokenizer
from trainworks.checkpoint import Checkpoints
from trainworks.config import Resolved
from trainworks.console import UserError, info
from trainworks.files import atomic_write, sha256_file
from trainworks.metrics import MetricsWriter
from trainworks.plots import plot_curves
from trainworks.run import Run, check_replaceable, input_record
from trainworks.signals import StopFlag
from trainworks.tracking import check_tracker, open_sink

TOOL = "diversity-finetune"
CURVES = {
    "loss": ["train/loss", "train/reconstruction", "valid/loss"],
    "kl": ["train/kl_customer", "train/kl_agent", "valid/kl_customer", "valid/kl_agent"],
    "active_units": ["valid/active_units_customer", "valid/active_units_agent"],
    "diversity": ["train/diversity", "train/distinct_loss", "train/repetition_loss", "train/entropy_loss"],
    "adversarial": ["train/adversarial", "train/feature_matching", "disc/loss", "disc/accuracy"],
    "learning_rate": ["train/learning_rate"],
    "quality": ["quality/quality_score", "quality/bleu_4", "quality/rouge_l", "quality/distinct_2"],
}


@dataclass(frozen=True)
class Data:
    """A data directory as training reads it."""

    path: Path
    tokenizer: Tokenizer
    train: Arrays
    val: Arrays
    val_pairs: list[Pair]


def data_files(directory: Path) -> list[Path]:
    """The files that training reads; they decide its outcome."""
    arrays = [directory / f"{name}_{side}.npy" for name in ("train", "val") for side in SIDES]
    return [*arrays, directory / "train.jsonl", directory / "val.jsonl", directory / TOKENIZER_JSON]


def read_data(directory: Path) -> Data:
    """Read and check a data directory.

    Raises:
        UserError: a file is missing, damaged or of another preparation.
    """
    if not (directory / DATA_JSON).is_file():
        raise UserError(f"{directory} has no {DATA_JSON}; make a data directory with diversity-finetune prepare")
    tokenizer = Tokenizer.load(directory / TOKENIZER_JSON)
    train, val = (read_arrays(directory, name, tokenizer.size) for name in ("train", "val"))
    pairs = read_pairs(directory / "val.jsonl")
    if len(pairs) != len(val):
        raise UserError(f"{directory}: val.jsonl has {len(pairs)} pairs, its arrays {len(val)}; prepare them again")
    return Data(directory, tokenizer, train, val, pairs)


def start_run(
    resolved: Resolved[TrainRecipe],
    data: Path,
    out: Path,
    device: str,
    threads: int | None,
    tracker: str,
    overwrite: bool,
) -> Path:
    """Train on a data directory from the start.

    Raises:
        UserError: bad data, a taken name.
    """
    check_tracker(tracker)
    check_recipe(resolved.recipe)
    check_replaceable(out, TOOL, overwrite=overwrite)
    found = read_data(data.resolve())  # absolute, so that --resume works from any directory
    inputs = [input_record(file, rows=_rows(file, found)) for file in data_files(found.path)]
    device, threads = set_up(device, threads)
    run = Run.create(
        out,
        tool=TOOL,
        version=__version__,
        resolved=resolved,
        seed=resolved.recipe.seed,
        inputs=inputs,
        device=device,
        threads=threads,
        overwrite=overwrite,
    )
    with run:
        found.tokenizer.save(run.path / TOKENIZER_JSON)
        _fit(run, resolved.recipe, found, tracker)
    return run.path


def _rows(file: Path, data: Data) -> int | None:
    return None if file.name == TOKENIZER_JSON else len(data.train if file.name.startswith("train") else data.val)


def resume_run(path: Path, device: str, threads: int | None, tracker: str) -> Path:
    """Go on with a run that was stopped, on the data that it began with.

    Raises:
        UserError: no such run, or the data is not what the run began with.
    """
    run = Run.open(path, tool=TOOL)
    if run.record["status"] == "finished":
        info(f"{path} is finished already")
        return path
    recipe = run.recipe(TrainRecipe)
    check_tracker(tracker)
    check_recipe(recipe)
    for record in run.record["inputs"]:
        if not Path(record["path"]).is_file() or sha256_file(record["path"]) != record["sha256"]:
            raise UserError(f"{record['path']} is not the file that {path} was begun with (SHA-256 differs)")
    found = read_data(Path(run.record["inputs"][0]["path"]).parent)
    environment = run.record["environment"]
    # The order of floating-point sums, and so the last bit, depends on the number of threads.
    set_up(environment["device"] if device == "auto" else device, threads or environment["threads"])
    with Run.resume(path, tool=TOOL) as resumed:
        found.tokenizer.save(path / TOKENIZER_JSON)  # the kill may have come before it was there
        _fit(resumed, recipe, found, tracker)
    return path


def check_recipe(recipe: TrainRecipe) -> None:
    """Refuse what is not installed before anything is written."""
    if recipe.diagnostics.enabled and importlib.util.find_spec("diag") is None:
        raise UserError("--run-diagnostics needs an extra: pip install 'diversity-finetune[diagnostics]'")


def _fit(run: Run, recipe: TrainRecipe, data: Data, tracker: str) -> None:
    from diversity_finetune.generate import Decoder
    from diversity_finetune.train import fit
    from diversity_finetune.trainer import MONITOR, TOP_EPOCHS, Trainer
    from trainworks import keras as core

    steps = recipe.training.epochs * -(-len(data.train) // recipe.training.batch_size)
    trainer = Trainer(recipe, data.tokenizer.size, steps)
    checkpoints = Checkpoints(run.checkpoints_path, top_k=TOP_EPOCHS, monitor=MONITOR)
    trained = Trained(trainer.averaged, data.tokenizer, recipe, run.path)
    decoder, every = Decoder(trained), recipe.diagnostics.sample_interval
    samples, shown = run.path / "samples", data.val_pairs[: recipe.diagnostics.num_samples]
    quality = quality_callback(decoder, recipe, data, run)

    def measure(epoch: int) -> Mapping[str, float]:
        if every and epoch % every == 0:
            write_samples(decoder, shown, samples / f"epoch_{epoch:04d}")
        return quality(epoch)

    with MetricsWriter(run.metrics_path) as metrics, StopFlag() as stop, open_sink(tracker, run) as sink:
        ended = fit(trainer, data.train, data.val, checkpoints, metrics, sink, stop, measure, run.path / "diagnostics")
    write_samples(decoder, shown, samples / "final")
    core.save_weights(run.path / FINAL_WEIGHTS, trainer.averaged)
    plot_curves(run.metrics_path, run.path / "plots", CURVES)
    info(f"best epoch {ended.best_epoch}: valid loss {ended.best[0]:.4f}")
    run.finish({MONITOR: ended.best[0], "best/epoch": ended.best_epoch})


@dataclass(frozen=True)
class Trained:
    """A model, ready to answer.

    Attributes:
        model: a `model.ReplyModel`.
        path: the run directory.
    """

    model: Any
    tokenizer: Tokenizer
    recipe: TrainRecipe
    path: Path


def load_trained(
    path: str | Path, checkpoint: str = "best", device: str = "auto", threads: int | None = None
) -> Trained:
    """A run's model.

    Raises:
        UserError: no run of diversity-finetune, no such checkpoint, a damaged file, a tokenizer of another model.
    """
    run = Run.open(path, tool=TOOL)
    folder, _ = Checkpoints(run.checkpoints_path).load(checkpoint)
    return load_weights(next(folder.glob("*.weights.h5")), run.path / TOKENIZER_JSON, device, threads)


def load_weights(
    weights: str | Path, tokenizer: str | Path, device: str = "auto", threads: int | None = None
) -> Trained:
    """A model of its weights' file, somewhere inside its run directory, and a tokenizer.

    Raises:
        UserError: no such files, no run.json above the weights, a tokenizer of another model.
    """
    set_up(device, threads)
    from diversity_finetune import model
    from trainworks import keras as core

    weights = Path(weights)
    path = next((folder for folder in weights.resolve().parents if (folder / "run.json").is_file()), None)
    if path is None:
        raise UserError(f"no run.json above {weights}: weights are read where training put them, inside the run")
    run = Run.open(path, tool=TOOL)
    recipe, words = run.recipe(TrainRecipe), Tokenizer.load(tokenizer)
    made_with = next(r["sha256"] for r in run.record["inputs"] if Path(r["path"]).name == TOKENIZER_JSON)
    if sha256_file(tokenizer) != made_with:
        raise UserError(f"{tokenizer} is not the tokenizer that {path} was trained with (SHA-256 differs)")
    network = model.build(recipe.model, recipe.vae, words.size, recipe.precision)
    core.load_weights(weights, network)
    return Trained(network, words, recipe, path)


def set_up(device: str, threads: int | None) -> tuple[str, int]:
    """Choose device and threads; returns what was chosen."""
    from trainworks import keras as core

    return core.resolve_device(device), core.set_threads(threads)


def quality_callback(decoder: Any, recipe: TrainRecipe, data: Data, run: Run) -> Callable[[int], Mapping[str, float]]:
    """What measures the quality of validation replies every few epochs."""
    from diversity_finetune.callbacks import DiversityQualityCallback

    log, training = run.path / "logs" / "diversity_quality_log.csv", recipe.training
    return DiversityQualityCallback(decoder, data.val_pairs, log, training.quality_every, training.quality_examples)


def write_samples(decoder: Any, pairs: Sequence[Pair], folder: Path) -> None:
    """Publish `folder`/replies.jsonl: the pairs, each with the model's reply as "response"."""
    from diversity_finetune.decoding import Decoding
    from diversity_finetune.generate import generate_stream

    replies = generate_stream(decoder, pairs, Decoding())
    rows = [{**asdict(pair), "response": reply.text} for pair, reply in zip(pairs, replies, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "replies.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
