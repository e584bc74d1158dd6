"""From a data directory to a finished run."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_train import __version__
from qa_train.config import TrainRecipe
from qa_train.data import read_splits, split_file
from qa_train.encoding import Encoded, Vocabulary, encode
from qa_train.examples import Example, Metadata, read_examples
from qa_train.metrics import Evaluation
from qa_train.report import Judged, evaluate_shortcuts, write_report
from qa_train.shortcuts import majority_answer, shortcut_answers
from qa_train.trainer import MONITOR, TIE_BREAK, TOP_EPOCHS, EpochLogger, Loop, ModelTrainer, score
from trainworks.checkpoint import Checkpoints
from trainworks.config import Resolved
from trainworks.console import UserError, info
from trainworks.files import sha256_file, write_json
from trainworks.metrics import MetricsWriter
from trainworks.plots import plot_curves
from trainworks.run import Run
from trainworks.signals import StopFlag
from trainworks.tracking import Sink, check_tracker, open_sink

TOOL = "qa-train"
CURVES = {
    "loss": ["metrics/train/loss", "metrics/valid/loss"],
    "accuracy": ["metrics/train/accuracy", "metrics/valid/accuracy"],
    "grad_norm": ["metrics/train/grad_norm"],
}
VOCABULARY = "vocabulary.json"
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
    examples, inputs = read_splits(data.resolve())
    vocabulary = Vocabulary.of(examples["train"])
    train, valid = (
        encode_split(found, vocabulary, record["path"], recipe)
        for found, record in zip(examples.values(), inputs, strict=True)
    )
    device, threads = set_up(recipe.model, device, threads)
    run = Run.create(
        out,
        tool=TOOL,
        version=__version__,
        resolved=resolved,
        seed=recipe.seed,
        inputs=inputs,
        device=device,
        threads=threads,
        overwrite=overwrite,
    )
    with run:
        write_json(run.path / VOCABULARY, {"words": vocabulary.words})
        _fit(run, recipe, vocabulary, train, valid, data.resolve().name, device, tracker)
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
    recipe = run.recipe(TrainRecipe)
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
        examples = [read_examples(file) for file in files]
        if not (path / VOCABULARY).exists():  # killed before it was written
            write_json(path / VOCABULARY, {"words": Vocabulary.of(examples[0]).words})
        vocabulary = read_vocabulary(path)
        train, valid = (
            encode_split(found, vocabulary, str(file), recipe) for found, file in zip(examples, files, strict=True)
        )
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
    checkpoints = Checkpoints(
        run.checkpoints_path,
        top_k=TOP_EPOCHS,
        monitor=MONITOR,
        mode="max",
        tie_break=TIE_BREAK,
        beside=[run.path / VOCABULARY],
    )
    logger = open_logger(tracker, recipe.model, run)
    try:
        with MetricsWriter(run.metrics_path) as metrics, StopFlag() as stop:
            loop = Loop(run, metrics, checkpoints, stop, dataset, recipe.seed, logger)
            trainer = build_trainer(recipe, device, loop)
            model = build_model(recipe, vocabulary)
            values = trainer.train(
                model, train.data, valid.data, train.metadata, valid.metadata, recipe.training, recipe.training.epochs
            )
            best, meta = checkpoints.load("best")
            judged = Judged(
                run=run.record["id"],
                checkpoint="best",
                step=meta["step"],
                epoch=meta["epoch"],
                data=run.record["inputs"][1],
                majority=majority_answer(Counter(example.answer for example in train.examples)),
                majority_of="training data",
            )
            evaluation = report_valid(run, trainer, model, valid, judged)
            if logger is not None:
                (weights,) = best.glob("*_epoch_*")
                logger.on_artifact("weights", weights)
                logger.on_artifact("vocabulary", run.path / VOCABULARY)
                logger.on_artifact("reports/valid", run.path / "reports" / "valid" / "predictions.jsonl")
    finally:
        if logger is not None:
            logger.close()
    plot_curves(run.metrics_path, run.path / "plots", CURVES)
    info(f"best epoch {judged.epoch}: valid accuracy {evaluation.overall['accuracy']:.4f}")
    headline = {name: values[name] for name in (MONITOR, TIE_BREAK)}
    run.finish(headline | {"best/epoch": judged.epoch})


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
    recipe = run.recipe(TrainRecipe)
    require_framework(recipe.model)
    folder, _ = Checkpoints(run.checkpoints_path).load(checkpoint)
    vocabulary = read_vocabulary(path)
    device, _ = set_up(recipe.model, device, threads)
    trainer = build_trainer(recipe, device)
    model = build_model(recipe, vocabulary)
    trainer.load(model, folder)
    return Trained(path, recipe, vocabulary, trainer, model)


def report_valid(run: Run, trainer: ModelTrainer, model: Any, valid: Split, judged: Judged) -> Evaluation:
    """Evaluate the finished model on the validation set, beside the shortcuts, and write reports/valid."""
    probabilities = trainer.predict(model, valid.data)
    evaluation = score(probabilities, valid.data, valid.metadata, "valid")
    shortcuts = evaluate_shortcuts(valid.examples, shortcut_answers(valid.examples, judged.majority))
    write_report(run.path / "reports" / "valid", evaluation, valid.examples, probabilities, shortcuts, judged)
    return evaluation


def encode_split(examples: list[Example], vocabulary: Vocabulary, source: str, recipe: TrainRecipe) -> Split:
    """Examples with their answers, encoded for the recipe's network; `source` is their file, for errors."""
    return Split(examples, encode(examples, vocabulary, source, max_words(recipe)), Metadata.of(examples))


def max_words(recipe: TrainRecipe) -> int:
    """Words of a sentence that the network can read."""
    return recipe.network.max_words if recipe.network.architecture == "pointer" else NO_LIMIT


def read_vocabulary(path: Path) -> Vocabulary:
    file = path / VOCABULARY
    try:
        return Vocabulary(tuple(json.loads(file.read_text(encoding="utf-8"))["words"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
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
