"""From a data directory to a finished run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_train import __version__
from qa_train.config import TrainRecipe
from qa_train.data import Example, Metadata, check_disjoint, read_examples
from qa_train.encoding import Encoded, Vocabulary, encode
from qa_train.metrics import Evaluation
from qa_train.report import evaluate_shortcuts, write_report
from qa_train.shortcuts import shortcut_predictions
from qa_train.trainer import MONITOR, TIE_BREAK, TOP_EPOCHS, EpochLogger, Loop, ModelTrainer, score
from trainworks.checkpoint import Checkpoints
from trainworks.config import Resolved
from trainworks.console import UserError, info
from trainworks.files import sha256_file, write_json
from trainworks.metrics import MetricsWriter
from trainworks.plots import plot_curves
from trainworks.run import Run, input_record
from trainworks.signals import StopFlag
from trainworks.tracking import Sink, check_tracker, open_sink

TOOL = "qa-train"
CURVES = {
    "loss": ["metrics/train/loss", "metrics/valid/loss"],
    "accuracy": ["metrics/train/accuracy", "metrics/valid/accuracy"],
    "grad_norm": ["metrics/train/grad_norm"],
}
NO_LIMIT = 10**9


@dataclass(frozen=True)
class Split:
    """A file of examples, read and encoded."""

    examples: list[Example]
    data: Encoded
    metadata: Metadata


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
        UserError: bad data, a taken name, a framework that is not installed.
    """
    recipe = resolved.recipe
    require_framework(recipe.model)
    check_tracker(tracker)
    # Absolute, so that --resume works from any directory.
    files = [split_file(data.resolve(), name) for name in ("train", "valid")]
    examples = read_examples(str(files[0]))
    vocabulary = Vocabulary.of(examples)
    splits = [read_split(file, vocabulary, recipe) for file in files]
    check_disjoint({file.stem: split.examples for file, split in zip(files, splits, strict=True)})
    device, threads = set_up(recipe.model, device, threads)
    run = Run.create(
        out,
        tool=TOOL,
        version=__version__,
        resolved=resolved,
        seed=recipe.seed,
        inputs=[input_record(file, rows=len(split.examples)) for file, split in zip(files, splits, strict=True)],
        device=device,
        threads=threads,
        overwrite=overwrite,
    )
    with run:
        write_json(run.path / "vocabulary.json", {"words": vocabulary.words})
        _fit(run, recipe, vocabulary, splits[0], splits[1], data.resolve().name, device, tracker)
    return run.path


def resume_run(path: Path, device: str, threads: int | None, tracker: str) -> Path:
    """Go on with a run that was stopped, on the data that it began with.

    Raises:
        UserError: no such run, or the data is not what the run began with.
    """
    run = Run.open(path, tool=TOOL)
    if run.record["status"] == "finished":
        info(f"{path} is finished already")
        return path
    recipe = TrainRecipe.model_validate(run.config)
    require_framework(recipe.model)
    check_tracker(tracker)
    files = [Path(record["path"]) for record in run.record["inputs"]]
    for file, record in zip(files, run.record["inputs"], strict=True):
        if sha256_file(split_file(file.parent, file.stem)) != record["sha256"]:
            raise UserError(f"{file} is not the file that {path} was begun with (SHA-256 differs)")
    environment = run.record["environment"]
    # The order of floating-point sums, and so the last bit, depends on the number of threads.
    device, _ = set_up(
        recipe.model, environment["device"] if device == "auto" else device, threads or environment["threads"]
    )
    with Run.resume(path, tool=TOOL) as resumed:
        vocabulary = read_vocabulary(path)
        train, valid = (read_split(file, vocabulary, recipe) for file in files)
        _fit(resumed, recipe, vocabulary, train, valid, files[0].resolve().parent.name, device, tracker)
    return path


def _fit(
    run: Run,
    recipe: TrainRecipe,
    vocabulary: Vocabulary,
    train: Split,
    valid: Split,
    dataset: str,
    device: str,
    tracker: str,
) -> None:
    checkpoints = Checkpoints(run.checkpoints_path, top_k=TOP_EPOCHS, monitor=MONITOR, mode="max", tie_break=TIE_BREAK)
    logger = open_logger(tracker, recipe.model, run)
    try:
        with MetricsWriter(run.metrics_path) as metrics, StopFlag() as stop:
            loop = Loop(run, metrics, checkpoints, stop, dataset, recipe.seed, logger)
            trainer = build_trainer(recipe, device, loop)
            model = build_model(recipe, vocabulary)
            values = trainer.train(
                model, train.data, valid.data, train.metadata, valid.metadata, recipe.training, recipe.training.epochs
            )
            evaluation, _ = report(run.path / "reports" / "valid", "valid", trainer, model, valid, train.examples)
            best = loop.top()[0][0]
            if logger is not None:
                (weights,) = checkpoints.load("best")[0].glob("*_epoch_*")
                logger.on_artifact("weights", weights)
                logger.on_artifact("vocabulary", run.path / "vocabulary.json")
                logger.on_artifact("reports/valid", run.path / "reports" / "valid" / "predictions.jsonl")
    finally:
        if logger is not None:
            logger.close()
    plot_curves(run.metrics_path, run.path / "plots", CURVES)
    info(f"best epoch {best}: valid accuracy {evaluation.overall['accuracy']:.4f}")
    run.finish({MONITOR: values[MONITOR], "metrics/valid/loss": values["metrics/valid/loss"], "best/epoch": best})


@dataclass(frozen=True)
class Trained:
    """A run's model, ready to answer."""

    path: Path
    recipe: TrainRecipe
    vocabulary: Vocabulary
    trainer: ModelTrainer
    model: Any


def load_trained(path: Path, checkpoint: str = "best", device: str = "auto", threads: int | None = None) -> Trained:
    """A run's model.

    Raises:
        UserError: no run of qa-train, no such checkpoint, a damaged file, a framework that is not installed.
    """
    run = Run.open(path, tool=TOOL)
    recipe = TrainRecipe.model_validate(run.config)
    require_framework(recipe.model)
    folder, _ = Checkpoints(run.checkpoints_path).load(checkpoint)
    vocabulary = read_vocabulary(path)
    device, _ = set_up(recipe.model, device, threads)
    trainer = build_trainer(recipe, device)
    model = build_model(recipe, vocabulary)
    trainer.load(model, folder)
    return Trained(path, recipe, vocabulary, trainer, model)


def report(
    folder: Path, name: str, trainer: ModelTrainer, model: Any, split: Split, train_examples: Sequence[Example] | None
) -> tuple[Evaluation, dict[str, Evaluation]]:
    """Evaluate a split, beside the shortcuts, and write the report into the folder."""
    probabilities = trainer.predict(model, split.data)
    evaluation = score(probabilities, split.data, split.metadata, name)
    shortcuts = evaluate_shortcuts(split.examples, shortcut_predictions(split.examples, train_examples))
    write_report(folder, evaluation, split.examples, probabilities, shortcuts)
    return evaluation, shortcuts


def split_file(data: Path, name: str) -> Path:
    """A split's file in a data directory; UserError if it isn't there."""
    file = data / f"{name}.jsonl"
    if not file.is_file():
        raise UserError(f"no {name}.jsonl in {data}; make one with qa-train make-stories or qa-train prepare")
    return file


def read_split(file: Path, vocabulary: Vocabulary, recipe: TrainRecipe) -> Split:
    """A file of examples with their answers, encoded for the recipe's network."""
    examples = read_examples(str(file))
    return Split(examples, encode(examples, vocabulary, str(file), max_words(recipe)), Metadata.of(examples))


def max_words(recipe: TrainRecipe) -> int:
    """Words of a sentence that the network can read."""
    return recipe.network.max_words if recipe.network.architecture == "pointer" else NO_LIMIT


def read_vocabulary(path: Path) -> Vocabulary:
    file = path / "vocabulary.json"
    try:
        return Vocabulary(tuple(json.loads(file.read_text(encoding="utf-8"))["words"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file} is missing or damaged") from None


def require_framework(model: str) -> None:
    """UserError, with the extra to install, if the framework of the model is not there."""
    needed, framework = {"lstm": ("keras", "TensorFlow"), "transformer": ("torch", "PyTorch")}[model]
    if importlib.util.find_spec(needed) is None:
        raise UserError(f"model {model} needs {framework}: install qa-train[{model}]")


def set_up(model: str, device: str, threads: int | None) -> tuple[str, int]:
    """Choose device and threads for the model's framework."""
    if model == "lstm":
        from trainworks import keras as core

        return core.resolve_device(device), core.set_threads(threads)
    from trainworks import torch as torch_core

    return torch_core.resolve_device(device).type, torch_core.set_threads(threads)


def build_model(recipe: TrainRecipe, vocabulary: Vocabulary) -> Any:
    """A model that has learned nothing yet; its first weights follow from the seed."""
    if recipe.model == "lstm":
        from qa_train import lstm
        from trainworks.keras import seed_keras

        seed_keras(recipe.seed, "init")
        return lstm.build(len(vocabulary), recipe.network)
    from qa_train import transformer
    from trainworks.torch import seed_torch

    seed_torch(recipe.seed, "init")
    return transformer.build(len(vocabulary), recipe.network)


def build_trainer(recipe: TrainRecipe, device: str, loop: Loop | None = None) -> ModelTrainer:
    """The trainer of the recipe's framework."""
    if recipe.model == "lstm":
        from qa_train.lstm_trainer import LSTMTrainer

        return LSTMTrainer(recipe.network, loop)
    from qa_train.transformer_trainer import TransformerTrainer

    return TransformerTrainer(recipe.network, loop, device, recipe.precision, recipe.grad_accum)


class SinkLogger:
    """A tracker of the core as an epoch logger."""

    def __init__(self, sink: Sink):
        self.sink = sink

    def on_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        self.sink.log(epoch, values)

    def on_best(self, epoch: int, accuracy: float) -> None:
        self.sink.log(epoch, {"best/epoch": epoch, "best/accuracy": accuracy})

    def on_top_epochs(self, top: Sequence[tuple[int, float]]) -> None:
        for rank, (epoch, accuracy) in enumerate(top, start=1):
            named = {f"top_epochs/{rank}/epoch": epoch, f"top_epochs/{rank}/accuracy": accuracy}
            self.sink.log(max(epoch for epoch, _ in top), named)

    def on_artifact(self, name: str, path: Path) -> None:
        """The sinks of the core keep numbers alone."""

    def close(self) -> None:
        self.sink.close()


def open_logger(tracker: str, model: str, run: Run) -> EpochLogger | None:
    """The logger for `--tracker NAME`; for Neptune the one of the model's framework."""
    if tracker == "none":
        return None
    if tracker == "trackio":
        return SinkLogger(open_sink(tracker, run))
    if model == "lstm":
        from qa_train.neptune_log_keras import LSTMNeptuneLogger

        return LSTMNeptuneLogger(run)
    from qa_train.neptune_log import TransformerNeptuneLogger

    return TransformerNeptuneLogger(run)
